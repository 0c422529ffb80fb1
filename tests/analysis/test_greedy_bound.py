"""The bound on every choice, the intervals, and what a greedy curve reaches, by brute force and by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from itd.analysis import GreedyCurve, Resamples, baselines, greedy
from itd.analysis._greedy import accumulate, first_rows
from itd.errors import ResultError
from itd.store import Result, open_result
from support import synthetic


def opened(path: Path, right, default: int | None = 0, **more) -> Result:
    """A result whose configurations are right there, all of equal quality where they are."""
    scores = synthetic.from_quality(np.asarray(right) + 0.25)
    return open_result(synthetic.make_result(path, scores, default=default, **more))


def optimum(covers: list[set[int]], k: int) -> int:
    """The most samples that any k of some sets cover."""
    return max(len(set().union(*some)) for some in itertools.combinations(covers, k))


def bound(covers: list[set[int]], order: list[int], k: int) -> int:
    """min over j of how many the first j cover, and the k largest gains over them."""
    least = []
    for j in range(len(order) + 1):
        have = set().union(*(covers[c] for c in order[:j]))
        least.append(len(have) + sum(sorted((len(cover - have) for cover in covers), reverse=True)[:k]))
    return min(least)


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_k_is_above_the_bound(seed):
    rng = np.random.default_rng(seed)
    configs, n = int(rng.integers(1, 9)), int(rng.integers(1, 25))
    right = rng.random((configs, n)) < rng.uniform(0.1, 0.6)
    covers = [set(np.flatnonzero(row).tolist()) for row in right]
    order, covered, bounds = accumulate(right, np.arange(configs))
    assert sorted(order) == list(range(configs))
    for k in range(1, configs + 1):
        assert covered[k - 1] == len(set().union(*(covers[c] for c in order[:k])))
        assert bounds[k - 1] == bound(covers, order, k)
        assert covered[k - 1] <= optimum(covers, k) <= bounds[k - 1] <= len(set().union(*covers))


def test_the_bound_of_disjoint_configurations_is_the_curve(tmp_path):
    steps = greedy(opened(tmp_path / "r", np.repeat(np.eye(4), [4, 3, 2, 1], axis=1))).steps
    assert [s.accuracy for s in steps] == [s.upper_bound for s in steps] == [0.4, 0.7, 0.9, 1.0]


def test_the_bound_of_the_first_is_the_best_configuration(tmp_path):
    for seed in range(5):
        right = np.random.default_rng(seed).random((6, 10)) < 0.4
        first = greedy(opened(tmp_path / f"{seed}", right), resamples=Resamples(10, 0)).steps[0]
        assert first.accuracy == first.upper_bound == right.mean(1).max()


def test_the_bound_after_the_first_is_lower_than_before_it_and_than_all_together(tmp_path):
    right = np.zeros((6, 15), bool)
    for c, samples in enumerate((range(10), range(1, 11), [11], [12], [13], [14])):
        right[c, samples] = True
    steps = greedy(opened(tmp_path / "r", right)).steps
    assert [round(15 * s.accuracy) for s in steps] == [10, 11, 12, 13, 14, 15]
    # for two: 10 + 10 before the first, 10 + 1 + 1 after it, 11 + 1 + 1 after the second; 15 are all that can be had
    assert [round(15 * s.upper_bound) for s in steps] == [10, 12, 13, 14, 15, 15]


@pytest.mark.parametrize("default", [0, 5])
def test_guesses_matched_to_the_curve(tmp_path, default):
    scores = synthetic.make_ties(9, 13, seed=default, classes=6)
    result = open_result(synthetic.make_result(tmp_path / "r", scores, default=default))
    drawn = Resamples(13, 5)
    steps = greedy(result, resamples=drawn).steps
    for s in steps:
        rows = [other.config for other in steps[: s.k]]
        guesses = [len({int(scores["pred"][c, i]) for c in rows}) for i in range(13)]
        assert s.matched_topk == sum(scores["rank"][default, i] < g for i, g in enumerate(guesses)) / 13
    assert steps[-1].matched_topk == pytest.approx(baselines(result, resamples=drawn).matched_topk.value)


def test_without_a_default_no_guesses_are_matched(tmp_path):
    curve = greedy(opened(tmp_path / "r", np.eye(3), None), resamples=Resamples(3, 5))
    assert curve.static is None and [s.matched_topk for s in curve.steps] == [None] * 3


def test_what_the_curve_reaches_by_hand(tmp_path):
    right = np.repeat(np.eye(4), [4, 3, 2, 1], axis=1)
    right[3] = 0  # 0.4, 0.7, 0.9 and no more
    curve: GreedyCurve = greedy(opened(tmp_path / "r", right), resamples=Resamples(10, 0))
    found = {accuracy: curve.reach(accuracy) for accuracy in (0.0, 0.4, 0.41, 0.7, 1.1 - 0.2, 0.901, 1.0)}
    assert found == {0.0: 1, 0.4: 1, 0.41: 2, 0.7: 2, 1.1 - 0.2: 3, 0.901: None, 1.0: None}
    assert curve.as_dict(reach=(0.4, 0.905))["reach"] == {"40": 1, "90.5": None}


def test_the_first_rows_are_those_of_the_curve(tmp_path):
    result = open_result(synthetic.make_result(tmp_path / "r", synthetic.make_ties(9, 7), default=4))
    rows = [s.config for s in greedy(result, resamples=Resamples(7, 0)).steps]
    assert [first_rows(result, k) for k in (1, 4, 9, 20)] == [rows[:1], rows[:4], rows, rows]
    writer = synthetic.open_writer(tmp_path / "half", 8)
    writer.write(writer.todo()[0], missing=np.zeros(4, bool), **synthetic.make_ties(6, 4))
    with pytest.raises(ResultError, match="not finished"):
        first_rows(open_result(tmp_path / "half"), 2)
    assert len(first_rows(open_result(tmp_path / "half"), 2, partial=True)) == 2


def test_null_rows_change_no_bound_and_no_interval(tmp_path):
    scores, gone, drawn = synthetic.make_ties(7, 16, seed=3), np.arange(16) % 5 == 0, Resamples(12, 20)
    found = greedy(open_result(synthetic.make_result(tmp_path / "a", scores, missing=gone)), resamples=drawn)
    kept = {name: values[..., ~gone] for name, values in scores.items()}
    assert found.steps == greedy(open_result(synthetic.make_result(tmp_path / "b", kept)), resamples=drawn).steps
