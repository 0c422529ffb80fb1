"""What the configurations say about each sample: how many classes, how often each, and which the most of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from itd.store import Result

_CELLS = 500_000
"""Counters at once, so that they stay in cache."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What all configurations say about each of N samples.

    unique: (N,) how many distinct classes. vote: (N,) the class that the most configurations predict. chance: (N,) how
    likely one of the classes is right, if the N labels were dealt to the samples at random.
    """

    unique: np.ndarray
    vote: np.ndarray
    chance: np.ndarray


def predictions(pred: np.ndarray, labels: np.ndarray, *, first: int | None = None) -> Predictions:
    """Counts the classes that configurations predict.

    pred: (C, N) classes. labels: (N,). first: the row that comes first where several classes have the most votes; the
    others follow in order.

    A sample's chance is the sum over its distinct predictions c of n_c / N, n_c being how many samples have label c.

    >>> found = predictions(np.array([[1, 2], [1, 3], [4, 3]]), np.array([1, 2]))
    >>> found.unique.tolist(), found.vote.tolist(), found.chance.tolist()
    ([2, 2], [1, 3], [0.5, 0.5])
    """
    n = pred.shape[1]
    classes = int(max(pred.max(initial=0), labels.max(initial=0))) + 1
    share = np.bincount(labels, minlength=classes) / n
    unique, vote, chance = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n)
    step = max(1, _CELLS // classes)
    for start in range(0, n, step):
        part, here = pred[:, start : start + step], slice(start, start + step)
        size = part.shape[1]
        flat = part.T.astype(np.int64) + classes * np.arange(size)[:, None]
        counts = np.bincount(flat.ravel(), minlength=size * classes).reshape(size, classes)
        there = counts > 0
        unique[here], vote[here], chance[here] = there.sum(1), _majority(part, counts, first), there @ share
    return Predictions(unique, vote, chance)


def distinct(pred: np.ndarray) -> np.ndarray:
    """(N,) how many distinct classes are predicted for each sample. pred: (C, N).

    >>> distinct(np.array([[1, 2], [1, 3]])).tolist()
    [1, 2]
    """
    by_sample = np.sort(pred.T, axis=1)
    return 1 + np.count_nonzero(by_sample[:, 1:] != by_sample[:, :-1], axis=1)


def distinct_of(result: Result, counted: np.ndarray | None = None) -> np.ndarray:
    """(N,) `distinct` of a result's predictions, counted once where it keeps what it reads. counted: the same, where
    it is there already."""
    return result.keep("distinct", lambda: distinct(result.matrix("pred")) if counted is None else counted)


def _majority(pred: np.ndarray, counts: np.ndarray, first: int | None) -> np.ndarray:
    """(n,) the class with the most votes; among several, the one whose supporter comes first."""
    top = counts.max(1)
    winner = counts.argmax(1)
    tied = np.flatnonzero((counts == top[:, None]).sum(1) > 1)
    if len(tied):
        votes = counts[tied, pred[:, tied]]  # (C, tied)
        at = np.argmax(votes == top[tied], axis=0)
        if first is not None:
            at = np.where(votes[first] == top[tied], first, at)
        winner[tied] = pred[at, tied]
    return winner


def matched_curve(pred: np.ndarray, order: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(C,) accuracy of a static network that may guess as many classes as the first k configurations predict.

    pred: (C, N). order: (C,) rows of pred. rank: (N,) of the label in the static network's logits, from 0.
    """
    unique = np.zeros(pred.shape[1], np.int32)
    right = np.empty(len(order))
    for row, is_new in enumerate(_news(pred, order)):
        unique += is_new
        right[row] = np.count_nonzero(rank < unique)
    return right / pred.shape[1]


def _news(pred: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """For each configuration of an order, (N,) bool: where its prediction is one that none before it made."""
    n = pred.shape[1]
    seen = np.zeros((n, int(pred.max(initial=0)) + 1), bool)
    rows = np.arange(n)
    for config in order:
        said = pred[config]
        is_new = ~seen[rows, said]
        seen[rows, said] = True
        yield is_new


def default_rank(result: Result) -> np.ndarray | None:
    """(N,) the label's rank in the default configuration's logits, from 0; None without a default configuration, and
    for labels other than the data's own, of which no rank is kept."""
    default = result.default_index
    return None if default is None or result.truth != "label" else result.row("rank", default)
