"""Counts of classes over many samples, and what the chance of an oracle is, to the last fraction."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from itd.analysis.predictions import default_rank, distinct, matched_curve, predictions
from itd.store import open_result
from support import synthetic


def winner(said: list[int], first: int | None) -> int:
    """The class with the most supporters; of several, the one whose supporter comes first, `first` before all."""
    supporters = {c: [row for row, other in enumerate(said) if other == c] for c in said}
    most = max(len(rows) for rows in supporters.values())
    tied = [c for c, rows in supporters.items() if len(rows) == most]
    return min(tied, key=lambda c: -1 if first in supporters[c] else supporters[c][0])


def best_case_over_all_dealings(pred: np.ndarray, labels: np.ndarray) -> Fraction:
    """The mean, over all permutations of the labels, of the share of samples on which any configuration is right."""
    n = len(labels)
    shares = [
        Fraction(sum(any(said == label for said in pred[:, i]) for i, label in enumerate(dealt)), n)
        for dealt in itertools.permutations(labels.tolist())
    ]
    return sum(shares, Fraction(0)) / len(shares)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("configs", [1, 2, 5])
def test_chance_is_exactly_the_mean_best_case_over_all_dealings(configs, n):
    rng = np.random.default_rng(10 * n + configs)
    for classes in (1, 2, 4):
        pred, labels = rng.integers(0, classes, (configs, n)), rng.integers(0, classes, n)
        found = sum((Fraction(c).limit_denominator(n) for c in predictions(pred, labels).chance.tolist()), Fraction(0))
        assert found / n == best_case_over_all_dealings(pred, labels)


def test_chance_by_hand():
    # labels 7, 7, 8: the first sample's {7, 9} is right for 2 of 3 labels, {8} for 1 of 3, {7, 8} always
    found = predictions(np.array([[7, 8, 7], [9, 8, 8]]), np.array([7, 7, 8]))
    assert found.chance == pytest.approx([2 / 3, 1 / 3, 1])


def test_a_class_that_is_no_samples_label_has_no_chance():
    assert predictions(np.array([[5, 5]]), np.array([0, 1])).chance.tolist() == [0, 0]
    assert predictions(np.array([[0, 0]]), np.array([5, 5])).chance.tolist() == [0, 0]


@pytest.mark.parametrize("cells", [1, 13, 500_000])
@pytest.mark.parametrize("first", [None, 0, 3])
def test_counts_do_not_depend_on_how_many_samples_are_counted_at_once(monkeypatch, cells, first):
    monkeypatch.setattr("itd.analysis.predictions._CELLS", cells)
    rng = np.random.default_rng(0)
    pred, labels = rng.integers(0, 4, (6, 25)), rng.integers(0, 4, 25)
    found = predictions(pred, labels, first=first)
    assert found.unique.tolist() == [len(set(pred[:, i].tolist())) for i in range(25)]
    assert found.vote.tolist() == [winner(pred[:, i].tolist(), first) for i in range(25)]
    counts = [labels.tolist().count(c) for c in range(4)]
    assert found.chance == pytest.approx([sum(counts[c] for c in set(pred[:, i].tolist())) / 25 for i in range(25)])


def test_a_thousand_classes_and_samples_by_counting():
    rng = np.random.default_rng(1)
    near = rng.integers(0, 998, 1100)
    pred, labels = (near + rng.integers(0, 3, (5, 1100))).astype(np.int16), near.astype(np.int16)
    found = predictions(pred, labels, first=2)
    assert found.unique.tolist() == [len(set(pred[:, i].tolist())) for i in range(1100)] == distinct(pred).tolist()
    assert found.vote.tolist() == [winner(pred[:, i].tolist(), 2) for i in range(1100)]


@pytest.mark.parametrize(("said", "first", "wins"), [
    ([3, 1, 1, 3], None, 3),  # a tie: the one whose supporter comes first, not the lower class
    ([3, 1, 1, 3], 2, 1),  # the default supports 1
    ([3, 1, 1, 2], 3, 1),  # the default's own class is not among those with the most
    ([2, 1, 1, 2, 3, 3], 4, 3),
    ([1, 1, 2, 2, 0], 4, 1),
    ([4], 0, 4),
])  # fmt: skip
def test_the_majority_by_hand(said, first, wins):
    assert predictions(np.array(said)[:, None], np.array([0]), first=first).vote.tolist() == [wins]


def test_distinct_from_one_to_all():
    assert distinct(np.array([[1, 1, 1], [1, 2, 1], [1, 3, 2]])).tolist() == [1, 3, 2]
    assert distinct(np.array([[4, 9]])).tolist() == [1, 1]


def test_the_matched_curve_never_falls_and_ends_at_all_configurations():
    rng = np.random.default_rng(3)
    pred, rank = rng.integers(0, 5, (8, 40)), rng.integers(0, 6, 40)
    curve = matched_curve(pred, rng.permutation(8), rank)
    assert (np.diff(curve) >= 0).all()
    assert curve[0] == np.mean(rank == 0) and curve[-1] == np.mean(rank < distinct(pred))


def test_the_matched_curve_by_hand():
    pred = np.array([[1, 1, 1], [2, 1, 1], [2, 3, 1]])
    curve = matched_curve(pred, np.array([1, 2, 0]), np.array([1, 1, 1]))
    # in this order: {2}, {1}, {1}; then {2}, {1, 3}, {1}; then {1, 2}, {1, 3}, {1}
    assert curve.tolist() == [0, 1 / 3, 2 / 3]


@pytest.mark.parametrize("default", [None, 0, 2])
def test_the_defaults_ranks_without_null_rows(tmp_path, default):
    scores, gone = synthetic.make_ties(4, 10), np.arange(10) % 4 == 1
    result = open_result(synthetic.make_result(tmp_path / "r", scores, default=default, missing=gone))
    found = default_rank(result)
    assert found is None if default is None else found.tolist() == scores["rank"][default, ~gone].tolist()
