"""Greedy lists where most gains are never computed, and votes a few lists at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from itd.analysis import Resamples
from itd.analysis.bootstrap_greedy import greedy_lists, list_votes, preferred_order


def lists_of_one(right: np.ndarray, quality: np.ndarray, default: int | None, k: int) -> tuple[list[int], list[int]]:
    """The first k of greedy accumulation on samples of which each counts once, and how many they cover."""
    chosen, seen, covered = [], np.zeros(right.shape[1], bool), []
    for _ in range(min(k, len(right))):
        left = [c for c in range(len(right)) if c not in chosen]
        gain = {c: int((right[c] & ~seen).sum()) for c in left}
        chosen.append(sorted(left, key=lambda c: (-gain[c], -quality[c].sum(), c != default, c))[0])
        seen |= right[chosen[-1]]
        covered.append(int(seen.sum()))
    return chosen, covered


def materialised(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The columns of one resample, each as often as its weight says."""
    return values[:, np.repeat(np.arange(values.shape[1]), weights)]


@pytest.mark.parametrize("default", [None, 0, 120])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.95])
def test_lists_from_many_configurations_equal_greedy_on_each_resample(share, default):
    rng = np.random.default_rng(int(100 * share))
    right = rng.random((150, 24)) < share * 2 * rng.random(24)
    quality = rng.integers(0, 3, right.shape) / 4 + right
    weights = Resamples(24, 8, seed=1).weights
    lists, covered = greedy_lists(right, quality, weights, 12, default)
    for w, found, total in zip(weights, lists, covered, strict=True):
        assert (found.tolist(), total.tolist()) == lists_of_one(
            materialised(right, w), materialised(quality, w), default, 12
        )


@pytest.mark.parametrize("kind", ["all right", "none right", "one sample each", "the same rows"])
@pytest.mark.parametrize("default", [None, 0, 4])
def test_lists_at_the_extremes(kind, default):
    right = {
        "all right": np.ones((7, 7), bool),
        "none right": np.zeros((7, 7), bool),
        "one sample each": np.eye(7, dtype=bool),
        "the same rows": np.tile(np.arange(7) % 2 == 0, (7, 1)),
    }[kind]
    quality = right + np.array([1, 2, 2, 0, 1, 2, 1])[:, None] / 4
    weights = np.concatenate([np.ones((1, 7), np.uint8), Resamples(7, 10).weights])
    for k in (1, 3, 7, 9):
        lists, covered = greedy_lists(right, quality, weights, k, default)
        for w, found, total in zip(weights, lists, covered, strict=True):
            assert (found.tolist(), total.tolist()) == lists_of_one(
                materialised(right, w), materialised(quality, w), default, k
            )


def test_a_sample_that_weighs_much_is_covered_first():
    right = np.array([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]], bool)
    lists, covered = greedy_lists(right, right * 1.0, np.array([[1, 1, 1, 1], [1, 1, 1, 9]]), 2)
    assert lists.tolist() == [[0, 2], [2, 0]] and covered.tolist() == [[3, 4], [10, 12]]


def test_the_best_mean_quality_never_outweighs_one_more_sample():
    right = np.zeros((2, 300), bool)
    right[1, 0] = True
    quality = np.where(right, 1.0, [[0.996], [0.0]])
    assert greedy_lists(right, quality, np.ones((1, 300), np.uint8), 1)[0].tolist() == [[1]]


def test_the_default_comes_first_in_the_order_of_ties():
    assert preferred_order(4, None).tolist() == [0, 1, 2, 3]
    assert preferred_order(4, 2).tolist() == [2, 0, 1, 3]
    assert preferred_order(1, 0).tolist() == [0]


@pytest.mark.parametrize("cells", [1, 100, 2_000_000])
def test_votes_do_not_depend_on_how_many_lists_are_counted_at_once(monkeypatch, cells):
    monkeypatch.setattr("itd.analysis.bootstrap_greedy._VOTE_CELLS", cells)
    rng = np.random.default_rng(4)
    pred, labels = rng.integers(0, 3, (6, 11)), rng.integers(0, 3, 11)
    lists = np.array([rng.permutation(6) for _ in range(7)])
    parts, found = zip(*list_votes(pred, pred == labels, lists, (1, 2, 4, 6)), strict=True)
    assert [b for part in parts for b in range(part.start, part.stop)] == list(range(7))
    for k in (1, 2, 4, 6):
        expected = []
        for chosen in lists:
            said = pred[chosen[:k]].T.tolist()
            wins = [max(range(k), key=lambda j, s=s: (s.count(s[j]), -j)) for s in said]
            expected.append([said[i][wins[i]] == labels[i] for i in range(11)])
        assert np.concatenate([f[k] for f in found]).tolist() == expected


def test_every_order_of_four_that_vote_two_against_two():
    pred = np.array([[1], [1], [2], [2]])
    lists = np.array(list(itertools.permutations(range(4))))
    (_, found), *rest = list_votes(pred, pred == 1, lists, (4,))
    assert not rest and found[4][:, 0].tolist() == [chosen[0] in (0, 1) for chosen in lists.tolist()]


def test_a_later_majority_beats_an_earlier_voice():
    pred = np.array([[1], [2], [2]])
    (_, found), *_ = list_votes(pred, pred == 2, np.array([[0, 1, 2]]), (1, 2, 3))
    assert [found[k].item() for k in (1, 2, 3)] == [False, False, True]


def test_more_votes_than_the_first_voice_are_not_the_most():
    pred = np.array([[1], [2], [2], [2], [3], [3]])
    (_, found), *_ = list_votes(pred, pred == 2, np.arange(6)[None], (6,))
    assert found[6].item()


def test_130_voices_outvote_125():
    pred = np.repeat([2, 1], [125, 130])[:, None]
    (_, found), *_ = list_votes(pred, pred == 1, np.arange(255)[None], (249, 250, 251, 255))
    assert [found[k].item() for k in (249, 250, 251, 255)] == [False, False, True, True]


def test_rows_of_equal_mean_tie_whatever_their_place():
    for seed in range(40):  # values that are not exact in binary: sums of equal rows may differ in their last bit
        row = np.random.default_rng(seed).random(60).astype(np.float32) * 1.9
        quality = np.repeat(row[None], 20, 0)
        weights = Resamples(60, 8, seed).weights
        lists, _ = greedy_lists(quality >= 1, quality, weights, 20, 19)
        assert (lists == [19, *range(19)]).all()


def test_more_votes_than_a_byte_holds_are_counted():
    pred = np.concatenate([np.full((20, 3), 2), np.full((280, 3), 1)])
    ((_, found),) = list_votes(pred, pred == 1, np.arange(300)[None], [300])
    assert found[300].all()
