"""The baselines by hand, their intervals from materialised resamples, and how they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itd.analysis import Resamples, baselines, oracle
from itd.analysis._baselines import most_confident
from itd.analysis.sampling import halves
from itd.store import Result, open_result
from support import intervals, plain, synthetic


def opened(path: Path, scores: dict[str, np.ndarray], default: int | None = 0, **more) -> Result:
    return open_result(synthetic.make_result(path, scores, default=default, **more))


def right_where(right: np.ndarray, part: np.ndarray | float = 0.25) -> dict[str, np.ndarray]:
    """Scores of configurations that predict the label, 0, where they are right, and else each a class of its own."""
    right = np.asarray(right, bool)
    own = np.arange(1, len(right) + 1)[:, None]
    scores = synthetic.from_quality(right + np.asarray(part))
    return scores | {"pred": np.where(right, 0, own).astype(np.int16), "rank": np.where(right, 0, 1).astype(np.int16)}


def per_sample(scores: dict[str, np.ndarray], default: int) -> dict[str, list[float]]:
    """What each baseline that chooses nothing is the mean of, sample by sample."""
    pred, labels = scores["pred"].tolist(), scores["labels"].tolist()
    first = [default, *(c for c in range(len(pred)) if c != default)]
    found: dict[str, list[float]] = {"matched_topk": [], "chance": [], "most_confident": [], "vote_all": []}
    for i, label in enumerate(labels):
        said = [pred[c][i] for c in first]
        sure = max(first, key=lambda c, i=i: (scores["confidence"][c, i], -first.index(c)))
        found["matched_topk"].append(scores["rank"][default, i] < len(set(said)))
        found["chance"].append(sum(labels.count(c) for c in set(said)) / len(labels))
        found["most_confident"].append(pred[sure][i] == label)
        found["vote_all"].append(plain.vote(said) == label)
    return found


@pytest.mark.parametrize(("configs", "n", "default"), [(1, 1, 0), (1, 6, 0), (4, 1, 3), (4, 9, 1), (7, 16, 6)])
def test_the_intervals_of_what_chooses_nothing(tmp_path, configs, n, default):
    scores = synthetic.make_ties(configs, n, seed=n)
    drawn = Resamples(n, 30, seed=2)
    found = baselines(opened(tmp_path / "r", scores, default), resamples=drawn).named()
    for name, values in per_sample(scores, default).items():
        expected = intervals.of_mean(values, drawn.weights) if name == "chance" else intervals.of_share(values)
        assert found[name].value == pytest.approx(np.mean(values)), name
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), name
        assert found[name].n == n


def chosen_and_voted(scores: dict[str, np.ndarray], k: int, default: int | None, seed: int, w: np.ndarray) -> float:
    """One resample written out: a greedy list of one half's copies, its vote counted over the other half's."""
    right, hits = scores["quality"] >= 1, 0
    one, two = halves(len(w), seed)
    for choose, measure in ((one, two), (two, one)):
        copies = np.repeat(choose, w[choose])
        rows = plain.greedy(right[:, copies], scores["quality"][:, copies], default)[:k]
        said = [plain.vote(scores["pred"][rows, i].tolist()) for i in measure]
        hits += sum(int(w[i]) for i, c in zip(measure, said, strict=True) if c == scores["labels"][i])
    return hits / len(w)


@pytest.mark.parametrize("cells", [1, 60, 2_000_000])
@pytest.mark.parametrize(("configs", "n", "default"), [(1, 2, 0), (5, 7, None), (6, 13, 2)])
def test_choosing_is_repeated_in_every_resample_however_many_are_counted_at_once(
    tmp_path, monkeypatch, cells, configs, n, default
):
    monkeypatch.setattr("itd.analysis.bootstrap_greedy._VOTE_CELLS", cells)
    scores = synthetic.make_ties(configs, n, seed=configs, classes=3)
    drawn = Resamples(n, 30, seed=4)
    found = baselines(opened(tmp_path / "r", scores, default), vote_ks=(2, 5), resamples=drawn)
    for k, value in {1: found.single_best, **found.vote_greedy}.items():
        resampled = [chosen_and_voted(scores, k, default, 4, w) for w in drawn.weights]
        assert value.value == pytest.approx(chosen_and_voted(scores, k, default, 4, np.ones(n, int)))
        assert (value.low, value.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))


def test_what_is_right_on_the_half_it_was_chosen_on_alone_is_worth_nothing(tmp_path):
    one, two = halves(10, 3)
    right = np.array([np.isin(np.arange(10), two), np.isin(np.arange(10), one)])
    found = baselines(opened(tmp_path / "r", right_where(right), None), resamples=Resamples(10, 5, seed=3))
    assert found.single_best_configs == (1, 0) and found.single_best.value == 0


def test_both_halves_are_measured(tmp_path):
    one, two = halves(11, 0)
    right = np.array([np.ones(11), np.isin(np.arange(11), two), np.isin(np.arange(11), one)])
    found = baselines(opened(tmp_path / "r", right_where(right)), resamples=Resamples(11, 20))
    assert found.single_best_configs == (0, 0)
    assert (found.single_best.value, found.single_best.low, found.single_best.high, found.single_best.n) == (
        1,
        1,
        1,
        11,
    )


@pytest.mark.parametrize(("part", "default", "chosen"), [
    ([0.25, 0.25, 0.5, 0.25], 0, 2),  # equally often right: the higher mean quality
    ([0.25, 0.25, 0.25, 0.25], 2, 2),  # then the default
    ([0.25, 0.25, 0.25, 0.25], None, 0),  # then the lower number
    ([0.25, 0.5, 0.5, 0.5], 0, 1),
])  # fmt: skip
def test_the_single_best_of_equals_by_hand(tmp_path, part, default, chosen):
    scores = right_where(np.tile(np.arange(8) % 2 == 0, (4, 1)), np.array(part)[:, None])
    assert baselines(opened(tmp_path / "r", scores, default)).single_best_configs == (chosen, chosen)


def test_the_most_confident_of_equals_by_hand():
    confidence = np.array([[0.5, 0.5, 0.75], [0.5, 0.75, 0.75], [0.25, 0.75, 0.5]])
    rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    # the most confident: 0 or 1; 1 or 2; 0 or 1
    assert most_confident(confidence, rows, None).tolist() == [True, True, False]
    assert most_confident(confidence, rows, 1).tolist() == [False, True, False]
    assert most_confident(confidence, rows, 2).tolist() == [True, False, False]


def test_matched_guesses_by_hand(tmp_path):
    scores = right_where(np.zeros((3, 4), bool))
    scores |= {"pred": np.array([[1, 1, 1, 1], [2, 1, 1, 1], [3, 3, 1, 1]], np.int16)}
    scores["rank"] = np.array([[2, 2, 1, 0], [9, 9, 9, 9], [9, 9, 9, 9]], np.int16)
    # 3, 2, 1 and 1 distinct predictions: rank 2 < 3, but not 2 < 2 nor 1 < 1; 0 < 1
    assert baselines(opened(tmp_path / "r", scores)).matched_topk.value == 0.5


def test_lengths_of_lists_are_sorted_and_only_those_that_can_be_are_there(tmp_path):
    result = opened(tmp_path / "r", synthetic.make_ties(4, 9))
    drawn = Resamples(9, 5)
    assert list(baselines(result, vote_ks=(9, 4, 1, 4, 0, 2), resamples=drawn).vote_greedy) == [1, 2, 4]
    none = baselines(result, vote_ks=(), resamples=drawn)
    assert not none.vote_greedy and none.single_best is not None
    assert baselines(result, vote_ks=(1,), resamples=drawn).vote_greedy[1] == none.single_best


def test_uniform_chance_is_of_the_networks_classes_unless_told(tmp_path):
    scores = synthetic.make_ties(5, 8)
    unique = np.mean([len(set(scores["pred"][:, i].tolist())) for i in range(8)])
    for name, provenance, expected in (("a", {"classes": 20}, unique / 20), ("b", {"tool": "tests"}, None)):
        writer = synthetic.open_writer(tmp_path / name, 8, space=synthetic.make_space(5), provenance=provenance)
        synthetic.write_units(writer, scores)
        result = open_result(tmp_path / name)
        assert baselines(result).chance_uniform == (expected and pytest.approx(expected))
        assert baselines(result, num_classes=4).chance_uniform == pytest.approx(unique / 4)


def test_every_figure_is_told_as_json(tmp_path):
    result = opened(tmp_path / "r", synthetic.make_ties(6, 9), None)
    found = baselines(result, vote_ks=(2, 3), resamples=Resamples(9, 5), num_classes=4)
    told = found.as_dict()
    assert list(told) == [
        "matched_topk", "chance", "single_best", "most_confident", "vote_all", "vote_first_2", "vote_first_3",
        "chance_uniform", "single_best_configs",
    ]  # fmt: skip
    assert told["matched_topk"] is None and told["single_best_configs"] == list(found.single_best_configs)
    assert told["chance_uniform"] == found.chance_uniform > 0
    assert told["vote_first_3"] == found.vote_greedy[3].as_dict() and told["chance"] == found.chance.as_dict()


def test_the_oracle_has_the_same_baselines_of_the_same_resamples(tmp_path):
    result, drawn = opened(tmp_path / "r", synthetic.make_ties(6, 9)), Resamples(9, 20, seed=8)
    assert oracle(result, vote_ks=(2,), resamples=drawn, num_classes=7).baselines == baselines(
        result, vote_ks=(2,), resamples=drawn, num_classes=7
    )


def test_no_baseline_is_above_the_oracle(tmp_path):
    for seed in range(8):
        result = opened(tmp_path / f"{seed}", synthetic.make_ties(6, 12, seed))
        found = oracle(result, vote_ks=(3, 5), resamples=Resamples(12, 2))
        told = found.baselines.named()
        chosen = ("single_best", "most_confident", "vote_all", "vote_first_3", "vote_first_5")
        assert max(told[name].value for name in chosen) <= found.best
