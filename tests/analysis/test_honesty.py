"""The baselines, intervals and bounds that stand beside an oracle, against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itd.analysis import Resamples, baselines, greedy, oracle, unique
from itd.analysis.sampling import halves
from itd.errors import EmptyResultError
from itd.store import open_result
from support import intervals, plain, synthetic

SHAPES = [(1, 1), (1, 6), (6, 1), (2, 7), (7, 8), (16, 21)]


def scores(configs: int, n: int, seed: int) -> dict[str, np.ndarray]:
    """Few classes and coarse values, so that everything ties often; rank and quality agree with the prediction."""
    rng = np.random.default_rng(seed)
    labels, pred = rng.integers(0, 4, n), rng.integers(0, 4, (configs, n))
    right = pred == labels
    p = rng.integers(1, 4, (configs, n)) / 8 + right / 2
    return {
        "labels": labels.astype(np.int16),
        "pred": pred.astype(np.int16),
        "quality": (p + right).astype(np.float32),
        "nll": -np.log(p).astype(np.float32),
        "rank": np.where(right, 0, rng.integers(1, 6, (configs, n))).astype(np.int16),
        "confidence": (rng.integers(1, 5, (configs, n)) / 4).astype(np.float32),
    }


def opened(tmp_path: Path, configs: int, n: int, seed: int, default: int | None, missing: np.ndarray | None = None):
    made = scores(configs, n, seed)
    return made, open_result(synthetic.make_result(tmp_path / f"r{seed}", made, default=default, missing=missing))


@pytest.mark.parametrize(("configs", "n"), SHAPES)
@pytest.mark.parametrize("default", [None, 0, 1])
def test_every_baseline_by_its_definition(tmp_path, configs, n, default):
    default = None if default is None else min(default, configs - 1)
    for seed in range(3):
        made, result = opened(tmp_path, configs, n, seed, default)
        pred, labels, right = made["pred"], made["labels"], made["quality"] >= 1
        found = baselines(result, vote_ks=(2, 3), resamples=Resamples(n, 10), num_classes=10)
        said = [set(pred[:, i].tolist()) for i in range(n)]
        if default is None:
            assert found.matched_topk is None
        else:
            matched = [made["rank"][default, i] < len(said[i]) for i in range(n)]
            assert found.matched_topk.value == pytest.approx(np.mean(matched))
        share = [sum((labels == c).sum() for c in s) / n for s in said]
        assert found.chance.value == pytest.approx(np.mean(share))
        assert found.chance_uniform == pytest.approx(np.mean([len(s) for s in said]) / 10)
        first = list(dict.fromkeys(c for c in [default, *range(configs)] if c is not None))
        sure = [max(range(configs), key=lambda c, i=i: (made["confidence"][c, i], -first.index(c))) for i in range(n)]
        assert found.most_confident.value == pytest.approx(np.mean([right[c, i] for i, c in enumerate(sure)]))
        votes = [plain.vote([int(pred[c, i]) for c in first]) for i in range(n)]
        assert found.vote_all.value == pytest.approx(np.mean(votes == labels))


def test_the_vote_of_all_breaks_ties_by_the_default_then_the_order(tmp_path):
    made = scores(4, 2, 0) | {"pred": np.array([[1, 1], [2, 2], [2, 1], [1, 2]], np.int16)}
    made |= {"labels": np.array([2, 2], np.int16), "quality": np.where(made["pred"] == 2, 1.5, 0.5).astype(np.float32)}
    for default, expected in ((None, 0.0), (0, 0.0), (1, 1.0)):
        result = open_result(synthetic.make_result(tmp_path / f"{default}", made, default=default))
        assert baselines(result, resamples=Resamples(2, 5)).vote_all.value == expected


def cross(made: dict[str, np.ndarray], k: int, default: int | None, seed: int, weights: np.ndarray) -> float:
    """Accuracy of the vote of the first k of the greedy list made on the other half, over one resample."""
    n = len(made["labels"])
    first, second = halves(n, seed)
    right, total = made["quality"] >= 1, 0
    for chosen_on, measured_on in ((first, second), (second, first)):
        which = plain.resample(weights, chosen_on)
        order = plain.greedy(right[:, which], made["quality"][:, which], default)[:k]
        for i in plain.resample(weights, measured_on):
            total += plain.vote([int(made["pred"][c, i]) for c in order]) == made["labels"][i]
    return total / n


@pytest.mark.parametrize(("configs", "n"), [(1, 6), (2, 2), (5, 9), (8, 14)])
@pytest.mark.parametrize("default", [None, 1])
def test_what_is_chosen_on_one_half_is_measured_on_the_other_in_every_resample(tmp_path, configs, n, default):
    default = None if default is None else min(default, configs - 1)
    made, result = opened(tmp_path, configs, n, configs, default)
    drawn = Resamples(n, 12, seed=5)
    found = baselines(result, vote_ks=(3, 4), resamples=drawn)
    assert set(found.vote_greedy) == {k for k in (3, 4) if k <= configs}
    for k, value in {1: found.single_best, **found.vote_greedy}.items():
        assert value.value == pytest.approx(cross(made, k, default, 5, np.ones(n, int)))
        resampled = [cross(made, k, default, 5, w) for w in drawn.weights]
        assert (value.low, value.high) == pytest.approx(plain.interval(resampled))
    right = made["quality"] >= 1
    chosen = [plain.greedy(right[:, h], made["quality"][:, h], default)[0] for h in halves(n, 5)]
    assert list(found.single_best_configs) == chosen


def test_one_sample_has_no_halves(tmp_path):
    _, result = opened(tmp_path, 4, 1, 0, 0)
    found = baselines(result, resamples=Resamples(1, 5))
    assert found.single_best is None and not found.vote_greedy and not found.single_best_configs


def test_random_labels_give_the_oracle_no_more_than_chance(tmp_path):
    rng = np.random.default_rng(0)
    made = scores(12, 3000, 0)
    labels = rng.permutation(made["labels"])
    right = made["pred"] == labels
    made |= {"labels": labels, "quality": (0.3 + right).astype(np.float32)}
    result = open_result(synthetic.make_result(tmp_path / "r", made, images_per_unit=500))
    found = oracle(result, resamples=Resamples(3000, 200))
    assert found.best == pytest.approx(found.baselines.chance.value, abs=0.02)
    low, high = found.baselines.single_best.low, found.baselines.single_best.high
    assert low < 0.25 < high  # four classes; what was chosen on one half gains nothing on the other


def test_null_rows_are_in_no_baseline(tmp_path):
    gone = np.arange(21) % 3 == 0
    made, result = opened(tmp_path, 7, 21, 1, 0, missing=gone)
    kept = {name: values[..., ~gone] for name, values in made.items()}
    other = open_result(synthetic.make_result(tmp_path / "kept", kept, default=0))
    drawn = Resamples(14, 20)
    assert baselines(result, resamples=drawn) == baselines(other, resamples=drawn)


@pytest.mark.parametrize(("configs", "n"), [(1, 1), (1, 5), (4, 6), (6, 9), (7, 20)])
@pytest.mark.parametrize("default", [None, 0])
def test_the_upper_bound_by_its_definition_and_above_every_choice(tmp_path, configs, n, default):
    for seed in range(3):
        made, result = opened(tmp_path, configs, n, seed, default)
        right = made["quality"] >= 1
        steps = greedy(result, resamples=Resamples(n, 0)).steps
        order = plain.greedy(right, made["quality"], default)
        assert [s.config for s in steps] == order
        for s in steps:
            assert s.upper_bound == pytest.approx(plain.upper_bound(right, order, s.k))
            best = plain.optimum(right, s.k)
            assert s.accuracy <= best + 1e-12 and best <= s.upper_bound + 1e-12


def test_where_greedy_is_not_optimal_the_bound_says_so(tmp_path):
    right = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]], bool)  # greedy takes 0 first
    made = synthetic.from_quality(np.where(right, 1.5, 0.5)) | {"labels": np.zeros(6, np.int16)}
    steps = greedy(open_result(synthetic.make_result(tmp_path / "r", made))).steps
    assert steps[1].accuracy == pytest.approx(5 / 6) and plain.optimum(right, 2) == 1.0
    assert steps[1].upper_bound == 1.0


def test_reach_and_matched_topk_of_the_curve(tmp_path):
    made, result = opened(tmp_path, 16, 21, 0, 2)
    curve = greedy(result, resamples=Resamples(21, 0))
    order = [s.config for s in curve.steps]
    for s in curve.steps:
        said = [len({int(made["pred"][c, i]) for c in order[: s.k]}) for i in range(21)]
        assert s.matched_topk == pytest.approx(np.mean(made["rank"][2] < said))
    for wanted in (0.1, curve.steps[2].accuracy, 1.0, 1.1):
        ks = [s.k for s in curve.steps if s.accuracy >= wanted]
        assert curve.reach(wanted) == (min(ks) if ks else None)


@pytest.mark.parametrize(("configs", "n"), SHAPES)
def test_unique_predictions_by_sets(tmp_path, configs, n):
    made, result = opened(tmp_path, configs, n, 0, None)
    drawn = Resamples(n, 10)
    found = unique(result, resamples=drawn)
    said = [len(set(made["pred"][:, i].tolist())) for i in range(n)]
    assert list(found.histogram) == [said.count(u) for u in range(1, max(said) + 1)]
    assert found.agree.value == pytest.approx(np.mean([u == 1 for u in said]))
    assert found.mean == drawn.mean(np.array(said)) and found.median == np.median(said)


def test_intervals_of_the_oracles_rules(tmp_path):
    made, result = opened(tmp_path, 6, 17, 0, 1)
    found = oracle(result, resamples=25)
    right = made["quality"] >= 1
    expected = {
        "static": right[1], "worst": right.all(0), "best": right.any(0), "median": np.sort(made["quality"], 0)[2] >= 1
    }  # fmt: skip
    for rule, vector in expected.items():
        value = found.intervals[rule]
        assert value.value == pytest.approx(vector.mean()) and value.n == 17
        assert (value.low, value.high) == pytest.approx(intervals.of_share(vector), abs=1e-9)


def test_a_result_without_images_is_refused_by_all(tmp_path):
    synthetic.open_writer(tmp_path / "empty", 8)
    result = open_result(tmp_path / "empty")
    for ask in (oracle, baselines, unique, lambda result: greedy(result, partial=True)):
        with pytest.raises(EmptyResultError, match="no images"):
            ask(result)
