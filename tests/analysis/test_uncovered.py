"""Weighted counts of two weightings in one product are those of whole numbers, and few configurations can be first."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from itd.analysis import Resamples, _baselines, uncovered
from itd.analysis.bootstrap_greedy import GreedyLists, candidates
from itd.analysis.uncovered import Uncovered


def counted(weights: np.ndarray, right: np.ndarray) -> list[list[int]]:
    """The same in Python's whole numbers."""
    return [[sum(w for w, r in zip(each, row, strict=True) if r) for row in right.tolist()]
            for each in weights.astype(int).tolist()]  # fmt: skip


@pytest.mark.parametrize("samples", [1, 7, 10**6])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
@pytest.mark.parametrize("weightings", [1, 2, 5, 8])
def test_gains_are_sums_of_whole_numbers_and_fall_as_samples_are_covered(weightings, dtype, samples, monkeypatch):
    monkeypatch.setattr(uncovered, "_SAMPLES", samples)
    monkeypatch.setattr(uncovered, "_FEWEST", 1)
    rng = np.random.default_rng(weightings)
    weights, right = rng.poisson(1, (weightings, 40)).astype(dtype), rng.random((6, 40)) < 0.35
    left = Uncovered(weights.copy(), right)
    some = np.array([4, 0, 3])
    widths = [left._weights.shape[1]]
    for step in range(4):
        expected = counted(weights, right)
        assert left.gains().tolist() == expected
        assert left.gains(some).tolist() == [[row[c] for c in some] for row in expected]
        pick = (np.arange(weightings) + step) % 2 if step < 3 else np.full(weightings, 5)
        left.take_out(pick)
        weights[right[pick]] = 0
        widths.append(left._weights.shape[1])
    assert widths[-1] < widths[0], "what all have covered is shed"


@pytest.mark.parametrize("total", [4095, 4096, 9000, 65_636])
def test_weightings_that_are_too_heavy_for_half_a_row_have_one_each(total, monkeypatch):
    monkeypatch.setattr(uncovered, "_SAMPLES", 300)
    monkeypatch.setattr(uncovered, "_FEWEST", 50)
    weights = np.ones((3, 350), np.uint8)
    weights[:, :300] = 0
    places, rest = divmod(total, 255)
    weights[:2, :places], weights[:2, places] = 255, rest
    right = np.vstack([np.ones(350, bool), np.arange(350) % 2 == 0])
    left = Uncovered(weights, right)
    assert [paired for _, paired in left._blocks] == [total < 4096, True]
    assert left.gains().tolist() == counted(weights, right) and left.gains()[0, 0] == total + 50


def test_what_cannot_share_a_row_is_told_before_the_sums_are_wrong(monkeypatch):
    monkeypatch.setattr(uncovered, "_FEWEST", 1)
    weights, right = np.full((2, 17), 255, np.uint8), np.ones((1, 17), bool)
    assert Uncovered(weights, right).gains().tolist() == [[4335], [4335]]


@pytest.mark.parametrize(("draws", "ahead", "behind"), [(30, 20, 2), (30, 12, 12), (60, 50, 0), (200, 120, 30)])
def test_the_chance_of_being_first_is_within_chernoffs_bound(draws, ahead, behind):
    """Exactly: the sum of n draws of 1, -1 and 0, one after the other."""
    up, down = behind / draws, ahead / draws
    chances = np.zeros(2 * draws + 1)
    chances[draws] = 1
    for _ in range(draws):
        chances = chances * (1 - up - down) + up * np.roll(chances, 1) + down * np.roll(chances, -1)
    exact = chances[draws:].sum()
    bound = math.exp(-((math.sqrt(ahead) - math.sqrt(behind)) ** 2))
    assert 0 < exact <= bound


def test_only_those_are_left_out_that_are_never_first():
    rng = np.random.default_rng(0)
    n, share = 4000, np.linspace(0.9, 0.2, 60)
    right = rng.random((60, n)) < share[:, None]
    half = np.sort(rng.permutation(n)[: n // 2])
    rows = candidates(right, half)
    best = right[:, half].sum(1).argmax()
    for row in range(60):
        ahead = sum(bool(a and not b) for a, b in zip(right[best, half], right[row, half], strict=True))
        behind = sum(bool(b and not a) for a, b in zip(right[best, half], right[row, half], strict=True))
        assert (row in rows) == (ahead <= behind or (math.sqrt(ahead) - math.sqrt(behind)) ** 2 < 50)
    assert 1 < len(rows) < 30
    drawn = Resamples(n, 300)
    firsts = (drawn.weights[:, half].astype(float) @ right[:, half].T).argmax(1)
    assert len(set(firsts.tolist())) > 1 and set(firsts.tolist()) <= set(rows.tolist())


@pytest.mark.parametrize("default", [None, 1, 50])
def test_the_best_fixed_configuration_is_chosen_as_if_none_were_left_out(default, monkeypatch):
    rng = np.random.default_rng(1)
    n = 1500
    right = rng.random((60, n)) < np.concatenate([np.full(8, 0.7), np.linspace(0.7, 0.1, 52)])[:, None]
    quality, pred = right + rng.integers(0, 3, right.shape) / 4, np.where(right, 1, rng.integers(2, 9, right.shape))
    drawn = Resamples(n, 200, seed=3)
    found = _baselines.cross_measured(right, quality, pred, [1], drawn, default)
    monkeypatch.setattr(_baselines, "candidates", lambda correct, samples: np.arange(len(correct)))
    assert found == _baselines.cross_measured(right, quality, pred, [1], drawn, default)
    assert all(len(candidates(right, half)) < 60 for half in _baselines.halves(n, 3))


def test_who_may_be_first_is_asked_of_the_half_that_chooses():
    first, second = _baselines.halves(2000, 0)
    right = np.zeros((2, 2000), bool)
    right[0, first], right[1, second] = True, True  # each half chooses what is wrong on all of the other
    found, rows = _baselines.cross_measured(right, right * 1.0, np.where(right, 1, 2), [1], Resamples(2000, 20), None)
    assert rows == (0, 1) and found[1].value == found[1].high == 0


def test_weightings_begin_with_each_sample_once():
    resampled = np.arange(12, dtype=np.uint8).reshape(3, 4)
    weightings = _baselines._Weightings(SimpleNamespace(weights=resampled), np.array([1, 3]))
    assert len(weightings) == 4
    assert weightings.of(np.array([2, 0, 1])).tolist() == [[5, 7], [1, 1], [1, 3]]
    assert weightings.of(np.array([0])).tolist() == [[1, 1]]


def test_lists_do_not_change_the_weights_they_are_made_with():
    rng = np.random.default_rng(2)
    right = rng.random((5, 30)) < 0.4
    right[0, ~right.any(0)], right[:2, right.all(0)] = True, False  # all samples change the choice: none is taken out
    weights = Resamples(30, 6).weights.copy()
    before = weights.copy()
    GreedyLists(right, right * 1.0).of(weights, 4)
    assert (weights == before).all()


def test_blocks_are_looked_at_anew_once_samples_are_shed(monkeypatch):
    monkeypatch.setattr(uncovered, "_SAMPLES", 20)
    monkeypatch.setattr(uncovered, "_FEWEST", 1)
    weights = np.full((2, 80), 255, np.uint8)
    weights[:, np.arange(80) % 20 > 7] = 1  # each block weighs 2,052, and what is left of all four together 8,160
    right = np.vstack([weights[0] == 1, np.ones(80, bool)])
    left = Uncovered(weights, right)
    assert all(paired for _, paired in left._blocks)
    left.take_out(np.array([0, 0]))
    assert left._weights.shape[1] == 32 and [paired for _, paired in left._blocks] == [False, True]
    assert left.gains().tolist() == [[0, 8160], [0, 8160]]


@pytest.mark.parametrize(("default", "first"), [(None, 1), (3, 3), (0, 1)])
def test_lists_of_some_rows_have_the_default_first_where_they_hold_it(default, first):
    right = np.ones((4, 6), bool)
    right[:, 0] = False
    right[2, 0] = True  # it would be the first, and is left out
    chooser = GreedyLists(right, np.ones((4, 6)), default, rows=np.array([1, 3]))
    lists, _ = chooser.of(np.ones((1, 6), np.uint8), 4)
    assert lists.tolist() == [[first, 4 - first]]
