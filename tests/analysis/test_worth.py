"""What one more choice is worth for each guess, against a plain loop over images."""

from __future__ import annotations

import numpy as np
import pytest

from itd.analysis.sampling import halves
from itd.analysis.worth import added, worth_per_guess, worth_table
from itd.errors import ResultError
from itd.store import open_result
from support import synthetic


@pytest.fixture
def result(tmp_path):
    scores = synthetic.make_ties(6, 31, seed=5)
    return open_result(synthetic.make_result(tmp_path / "r.parquet", scores, default=2))


def by_hand(result, most: int, seeds: list[int]) -> list[tuple[float, float, float]]:
    """For k = 1 to `most`: best case, guesses, matched top-k; image by image."""
    pred, quality, rank = (result.matrix(name).tolist() for name in ("pred", "quality", "rank"))
    labels = result.labels.tolist()
    sums = np.zeros((most, 3))
    for seed in seeds:
        first, second = halves(result.n, seed)
        for chosen, measured in ((first, second), (second, first)):
            order = [2]
            while len(order) < most:
                others = [c for c in range(6) if c not in order]
                unsolved = [i for i in chosen if all(pred[c][i] != labels[i] for c in order)]
                gain = {c: sum(pred[c][i] == labels[i] for i in unsolved) for c in others}
                mean = {c: np.mean([quality[c][i] for i in chosen]) for c in others}
                order.append(max(others, key=lambda c: (gain[c], mean[c], -c)))
            for i in measured:
                for k in range(1, most + 1):
                    said = {pred[c][i] for c in order[:k]}
                    sums[k - 1] += labels[i] in said, len(said), rank[2][i] < len(said)
    return [tuple(row) for row in sums / (result.n * len(seeds))]


def test_figures_are_those_of_a_plain_loop(result):
    found = worth_per_guess(result, most=4, halvings=3, seed=7)
    expected = by_hand(result, 4, [7, 8, 9])
    assert [one.k for one in found] == [1, 2, 3, 4] and {one.n for one in found} == {31}
    for one, figures in zip(found, expected, strict=True):
        assert (one.accuracy, one.guesses, one.matched_topk) == pytest.approx(figures)
        assert one.over_matched.value == pytest.approx(figures[0] - figures[2])
        assert one.over_matched.low <= one.over_matched.value <= one.over_matched.high


def test_the_first_is_the_default_alone(result):
    (first, *_, last) = worth_per_guess(result, most=99, halvings=1)
    assert first.accuracy == first.matched_topk == (result.matrix("pred")[2] == result.labels).mean()
    assert first.guesses == 1 and first.per_guess(first) is None
    assert last.k == 6 and last.accuracy == (result.matrix("pred") == result.labels).any(0).mean()
    assert last.per_guess(first) == pytest.approx((last.accuracy - first.accuracy) / (last.guesses - 1))


def test_ties_go_to_the_higher_mean_quality_then_the_lower_number():
    correct = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    quality = np.array([[1.5, 0, 0], [0, 1.2, 0], [0, 0, 1.4], [0, 0, 1.4]])
    assert list(added(correct, quality, 0, 4)) == [0, 2, 1, 3]


def test_the_table_is_markdown(result):
    figures = worth_per_guess(result, most=2, halvings=2)
    head, rule, one, two = worth_table([("strides", figures)]).splitlines()
    assert head.count("|") == rule.count("|") == one.count("|") == two.count("|") == 9
    assert one.startswith(f"| strides: 1 | 31 | {100 * figures[0].accuracy:.1f} | 1.00 |")
    assert f"| {100 * figures[1].per_guess(figures[0]):.1f} |" in two


def test_a_result_that_cannot_be_halved_or_has_no_default_is_refused(tmp_path):
    one = synthetic.make_result(tmp_path / "one.parquet", synthetic.make_ties(3, 1))
    with pytest.raises(ResultError, match="number of images is 1"):
        worth_per_guess(open_result(one))
    none = synthetic.make_result(tmp_path / "none.parquet", synthetic.make_ties(3, 9), default=None)
    with pytest.raises(ResultError, match="default configuration, which worth_per_guess needs"):
        worth_per_guess(open_result(none))
