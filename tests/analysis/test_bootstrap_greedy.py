"""Resamples, greedy lists and votes for many resamples at once, against one resample after another."""

from __future__ import annotations

import numpy as np
import pytest

from itd.analysis.bootstrap_greedy import greedy_lists, list_votes
from itd.analysis.predictions import distinct, matched_curve, predictions
from itd.analysis.sampling import Resamples, estimate, halves
from support import plain


def coarse(configs: int, n: int, seed: int) -> np.ndarray:
    """Qualities that are exact in binary and often tie."""
    return np.random.default_rng(seed).integers(0, 8, (configs, n)) / 4


def test_resamples_draw_with_replacement_and_repeat_by_seed():
    drawn = Resamples(50, 200, seed=3)
    assert (drawn.weights.sum(1) == 50).all() and drawn.weights.max() > 1 and drawn.weights.min() == 0
    assert (drawn.weights == Resamples(50, 200, seed=3).weights).all()
    assert (drawn.weights != Resamples(50, 200, seed=4).weights).any()
    assert drawn.weights.mean(0) == pytest.approx(1, abs=0.35)


def test_means_are_those_of_the_materialised_resamples():
    values = np.random.default_rng(0).random((30, 2))
    drawn = Resamples(30, 40)
    expected = [values[np.repeat(np.arange(30), w)].mean(0) for w in drawn.weights]
    np.testing.assert_allclose(drawn.means(values), expected, rtol=1e-12)
    found = drawn.mean(values[:, 0])
    assert (found.low, found.high) == pytest.approx(plain.interval([e[0] for e in expected]))
    assert found.value == pytest.approx(values[:, 0].mean()) and found.n == 30


def test_the_interval_of_a_coin_is_about_what_the_binomial_says():
    right = np.arange(400) % 4 == 0
    found = Resamples(400, 2000).mean(right)
    assert (found.low, found.high) == pytest.approx((0.25 - 1.96 * 0.02165, 0.25 + 1.96 * 0.02165), abs=0.006)


def test_one_sample_has_no_width():
    assert Resamples(1, 5).mean(np.array([True])) == estimate(1.0, np.ones(5), 1)
    assert Resamples(300, 2).weights.sum() == 600  # more draws than a byte holds are no trouble


@pytest.mark.parametrize("n", [0, 1, 2, 5, 8, 131])
def test_halves_are_disjoint_whole_and_ordered(n):
    first, second = halves(n, 7)
    assert sorted([*first, *second]) == list(range(n)) and 0 <= len(second) - len(first) <= 1
    assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()
    if n > 100:
        assert not np.array_equal(first, halves(n, 8)[0])


@pytest.mark.parametrize(("configs", "n"), [(1, 1), (1, 6), (6, 1), (5, 9), (8, 12), (60, 15)])
@pytest.mark.parametrize("default", [None, 0, 3])
def test_greedy_lists_equal_greedy_on_each_materialised_resample(configs, n, default):
    if default is not None and default >= configs:
        default = 0
    for seed in range(3):
        quality = coarse(configs, n, seed)
        right = quality >= 1
        weights = np.concatenate([np.ones((1, n), np.uint8), Resamples(n, 12, seed).weights])
        lists, covered = greedy_lists(right, quality, weights, configs, default)
        for w, found, total in zip(weights, lists, covered, strict=True):
            which = np.repeat(np.arange(n), w)
            order = plain.greedy(right[:, which], quality[:, which], default)
            assert found.tolist() == order
            shares = [plain.coverage(right[:, which], order[: k + 1]) for k in range(configs)]
            np.testing.assert_allclose(total / n, shares)


def test_a_weighting_of_nothing_follows_the_ties():
    lists, covered = greedy_lists(np.ones((3, 2), bool), np.ones((3, 2)), np.zeros((1, 2)), 3, 1)
    assert lists.tolist() == [[1, 0, 2]] and covered.tolist() == [[0, 0, 0]]


def test_votes_of_the_first_k_by_counting():
    rng = np.random.default_rng(1)
    pred, labels = rng.integers(0, 3, (7, 40)), rng.integers(0, 3, 40)
    lists = np.array([rng.permutation(7)[:6] for _ in range(9)])
    ks = (1, 2, 3, 6)
    seen = 0
    for part, found in list_votes(pred, pred == labels, lists, ks):
        for k in ks:
            expected = [
                [plain.vote([int(pred[c, i]) for c in chosen[:k]]) == labels[i] for i in range(40)]
                for chosen in lists[part]
            ]
            assert found[k].tolist() == expected
        seen += part.stop - part.start
    assert seen == 9


@pytest.mark.parametrize(("configs", "n"), [(1, 1), (1, 7), (2, 9), (7, 1), (8, 30), (9, 1200)])
@pytest.mark.parametrize("first", [None, 0, 1])
def test_counts_and_majority_by_counting(configs, n, first):
    first = None if first is None else min(first, configs - 1)
    rng = np.random.default_rng(configs)
    pred, labels = rng.integers(0, 5, (configs, n)).astype(np.int16), rng.integers(0, 5, n).astype(np.int16)
    found = predictions(pred, labels, first=first)
    order = list(range(configs)) if first is None else [first, *(c for c in range(configs) if c != first)]
    said = [set(pred[:, i].tolist()) for i in range(n)]
    assert found.unique.tolist() == [len(s) for s in said] == distinct(pred).tolist()
    assert found.vote.tolist() == [plain.vote([int(pred[c, i]) for c in order]) for i in range(n)]
    counts = np.bincount(labels, minlength=5)
    np.testing.assert_allclose(found.chance, [sum(counts[c] for c in s) / n for s in said])


@pytest.mark.parametrize("seed", range(4))
def test_chance_is_the_mean_over_every_dealing_of_the_labels(seed):
    rng = np.random.default_rng(seed)
    pred, labels = rng.integers(0, 4, (3, 5)), rng.integers(0, 4, 5)
    exact = plain.chance(pred, labels.tolist())
    assert predictions(pred, labels).chance.mean() == pytest.approx(float(exact), abs=1e-12)


def test_matched_curve_counts_what_the_first_k_predict():
    rng = np.random.default_rng(2)
    pred, order, rank = rng.integers(0, 6, (9, 50)), rng.permutation(9), rng.integers(0, 6, 50)
    expected = [np.mean([rank[i] < len({int(pred[c, i]) for c in order[:k]}) for i in range(50)]) for k in range(1, 10)]
    np.testing.assert_allclose(matched_curve(pred, order, rank), expected)
