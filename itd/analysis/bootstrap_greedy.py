"""Greedy lists and majority votes for many resamples at once: selection repeated inside the bootstrap."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from itd.analysis.uncovered import Uncovered

_VOTE_CELLS = 2_000_000
_TIE_CELLS = 4_000_000
_PAIR_OVERHEAD, _PAIR_COST = 5000, 16
"""What one mean costs by itself: as so many more samples would, and in terms of one in a product of matrices."""
_UNLIKELY = 50
"""What is left out has a chance of at most exp(-50), which is 2e-22."""
_TAKEN = -1.0
"""In place of the gain of a configuration that is in the list."""


def preferred_order(configs: int, default: int | None) -> np.ndarray:
    """(C,) rows, the default first: what a tie that nothing else settles goes by."""
    rows = np.arange(configs)
    return rows if default is None else np.concatenate([[default], rows[rows != default]])


def candidates(correct: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The rows that may be right on most of some samples in a resample, in ascending order.

    Of draws with replacement, one configuration is right on no fewer than another with a chance of at most
    exp(-(sqrt(a) - sqrt(b))^2), where the other alone is right on a samples and it alone on b < a (Chernoff's bound of
    the sum of draws of 1, -1 and 0; Annals of Mathematical Statistics 23, 1952). Those are left out that are first in
    less than one of 10^21 resamples.

    correct: (C, N) bool. samples: numbers of those of the N.

    >>> candidates(np.array([[True] * 60, [False] * 60, [True] * 30 + [False] * 30]), np.arange(60))
    array([0, 2])
    """
    right = np.take(correct, samples, axis=1)
    count = np.array([np.count_nonzero(row) for row in right])
    best = right[count.argmax()]
    both = np.array([np.count_nonzero(row & best) for row in right])
    ahead, behind = count.max() - both, count - both
    return np.flatnonzero((np.sqrt(ahead) - np.sqrt(behind)) ** 2 < _UNLIKELY)


def greedy_lists(
    correct: np.ndarray, quality: np.ndarray, weights: np.ndarray, k: int, default: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy accumulation of k configurations on each of B weightings of n samples.

    Ties go to the higher weighted mean quality, then the default configuration, then the lower row, as in `greedy`.

    Args:
        correct: (C, n) bool.
        quality: (C, n).
        weights: (B, n), how often each sample counts.
        k: the length of the lists; at most C.
        default: the row of the default configuration, or None.

    Returns:
        (B, k) rows in the order they are added, and (B, k) how much weight they cover together.
    """
    return GreedyLists(correct, quality, default).of(weights, k)


class GreedyLists:
    """`greedy_lists` of many weightings of the same samples, some at a time: what they share is made once."""

    def __init__(
        self,
        correct: np.ndarray,
        quality: np.ndarray,
        default: int | None = None,
        samples: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        """correct: (C, N) bool. quality: (C, N). default: the row of the default configuration, or None. samples: (n,)
        numbers of those of the N that lists are chosen on; default all. rows: which of the C they are of; default all.
        """
        order = preferred_order(len(correct), default)
        self._order = order if rows is None else order[np.isin(order, rows)]
        self._quality, self._samples = quality, slice(None) if samples is None else samples
        every: np.ndarray = np.all(correct, axis=0)
        some: np.ndarray = np.any(correct, axis=0)
        self._always = every[self._samples]
        useful = some[self._samples] & ~self._always  # the others change no choice
        self._useful = None if useful.all() else np.flatnonzero(useful)
        right = correct if np.array_equal(self._order, range(len(correct))) else correct[self._order]
        right = right if samples is None else np.take(right, samples, axis=1)
        self._right = right if self._useful is None else np.take(right, self._useful, axis=1)

    def of(self, weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The lists of B weightings. weights: (B, n). Returns what `greedy_lists` does."""
        order = self._order
        k = min(k, len(order))
        lists, covered = np.empty((len(weights), k), np.int64), np.zeros((len(weights), k))
        base = weights[:, self._always].sum(1)
        # Not weights[:, useful], which would lie sample by sample and make each step slow.
        chosen_on = weights.copy() if self._useful is None else np.take(weights, self._useful, axis=1)
        left = Uncovered(chosen_on, self._right)
        bounds = left.gains().astype(np.float64)
        ties = _Ties(self._quality, order, weights, self._samples)
        rows = np.arange(len(weights))
        pick = np.zeros(len(weights), np.int64)
        for step in range(k):
            if step:
                left.take_out(pick)
                _freshen(bounds, ties.known, left)
                if not (bounds > 0).any():  # nothing is left to gain: the rest follow in the order of ties
                    last = np.where(bounds < 0, -np.inf, ties.all())
                    lists[:, step:] = order[np.argsort(-last, axis=1, kind="stable")[:, : k - step]]
                    covered[:, step:] = covered[:, step - 1 : step]
                    break
            pick = ties.first(bounds)
            lists[:, step] = order[pick]
            covered[:, step] = (covered[:, step - 1] if step else base) + bounds[rows, pick]
            bounds[rows, pick] = _TAKEN
        return lists, covered


class _Ties:
    """What decides between equal gains: weighted mean qualities, computed one by one while few gains are equal.

    They are rounded, so that rows of equal mean tie whatever the order of their sums, and less than a half, so that,
    added to a gain, which is a whole number, they only decide between equal ones.
    """

    def __init__(
        self, quality: np.ndarray, order: np.ndarray, weights: np.ndarray, samples: np.ndarray | slice
    ) -> None:
        """quality: (C, N). order: (C,) rows of it. weights: (B, n). samples: which n of the N."""
        self._quality, self._order, self._weights, self._samples = quality, order, weights, samples
        self._pairs = 0
        self.known: np.ndarray | None = None

    @functools.cached_property
    def _total(self) -> np.ndarray:
        return np.maximum(self._weights.sum(1, dtype=np.float64), 1)

    def first(self, gains: np.ndarray) -> np.ndarray:
        """(B,) the place of the largest gain; of several the one of highest mean, then the first. gains: (B, C)."""
        if self.known is None:
            pick = np.argmax(gains, axis=1)
            equal = gains == gains[np.arange(len(gains)), pick][:, None]
            several = np.flatnonzero(np.count_nonzero(equal, axis=1) > 1)
            which, places = np.nonzero(equal[several])
            if self._are_few(len(which)):
                means = np.full((len(several), gains.shape[1]), -np.inf)
                means[which, places] = self._some(several[which], places)
                pick[several] = np.argmax(means, axis=1)
                return pick
        return np.argmax(gains + self.all(), axis=1)

    def _are_few(self, pairs: int) -> bool:
        """Whether so many more means are computed faster one by one than all by one product of matrices."""
        self._pairs += pairs
        samples = self._weights.shape[1]
        one_by_one = self._pairs * (samples + _PAIR_OVERHEAD) * _PAIR_COST
        return not pairs or one_by_one < samples * len(self._weights) * len(self._order)

    def all(self) -> np.ndarray:
        """(B, C) of every configuration, computed when they are first asked for; then they are `known`."""
        if self.known is None:
            weights = self._weights.astype(np.float64)
            sums = np.empty((len(weights), len(self._order)))
            size = max(1, _TIE_CELLS // max(1, weights.shape[1]))
            for start in range(0, len(self._order), size):
                block = self._quality[self._order[start : start + size]][:, self._samples].astype(np.float64)
                sums[:, start : start + size] = weights @ block.T
            self.known = np.round(sums / self._total[:, None], 9) / 4.5
        return self.known

    def _some(self, which: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(p,) of some pairs of weighting and configuration."""
        sums = np.empty(len(which))
        for i, (weighting, place) in enumerate(zip(which.tolist(), places.tolist(), strict=True)):
            row = self._quality[self._order[place]][self._samples].astype(np.float64)
            sums[i] = self._weights[weighting].astype(np.float64) @ row
        return np.round(sums / self._total[which], 9) / 4.5


def _freshen(bounds: np.ndarray, tie: np.ndarray | None, left: Uncovered, chunk: int = 48) -> None:
    """Computes the gains that may be a weighting's largest; the others keep an upper bound, which is smaller.

    A gain never grows as samples are covered, so an earlier one bounds it from above (lazy greedy: Minoux, Accelerated
    greedy algorithms for maximizing submodular set functions, 1978). tie: what decides between equal gains, where it
    is known; else all that may be equal are computed. What is taken stays so.
    """
    todo = np.arange(bounds.shape[1])
    best = np.zeros(len(bounds))
    while len(todo):
        now = todo[np.argsort(-bounds[:, todo].mean(0), kind="stable")[:chunk]]
        fresh = np.where(bounds[:, now] == _TAKEN, _TAKEN, left.gains(now))
        bounds[:, now] = fresh
        best = np.maximum(best, (fresh if tie is None else fresh + tie[:, now]).max(1))
        todo, chunk = np.setdiff1d(todo, now, assume_unique=True), 2 * chunk
        most = bounds[:, todo] if tie is None else bounds[:, todo] + tie[:, todo]
        todo = todo[(most >= best[:, None]).any(0)]


def list_votes(
    pred: np.ndarray, correct: np.ndarray, lists: np.ndarray, ks: Sequence[int]
) -> Iterator[tuple[slice, dict[int, np.ndarray]]]:
    """Whether the majority of the first k configurations of each list is right, a few lists at a time.

    Where several classes have the most votes, the one that the earliest configuration of the list predicts wins.

    Args:
        pred: (C, n) classes.
        correct: (C, n) bool.
        lists: (B, K) rows.
        ks: how many of a list vote, each at most K.

    Returns:
        An iterator of (which lists, k -> (b, n) bool).
    """
    n = pred.shape[1]
    depth = max(ks)
    size = max(1, _VOTE_CELLS // max(1, n * depth))
    for start in range(0, len(lists), size):
        part = slice(start, min(start + size, len(lists)))
        said, right = pred[lists[part, :depth]], correct[lists[part, :depth]]  # (b, depth, n)
        votes = np.ones(said.shape, np.uint8 if depth < 256 else np.uint16)
        right_by_k: dict[int, np.ndarray] = {}
        for j in range(depth):
            if j:
                same = (said[:, :j] == said[:, j : j + 1]).view(np.uint8)
                votes[:, :j] += same
                votes[:, j] += np.add.reduce(same, axis=1, dtype=votes.dtype)
            if j + 1 in ks:
                right_by_k[j + 1] = _winners(votes[:, : j + 1], right[:, : j + 1])
        yield part, right_by_k


def _winners(votes: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(b, n): whether the first entry along the middle axis with the most votes is right."""
    most, winner = votes[:, 0].copy(), right[:, 0].copy()
    for j in range(1, votes.shape[1]):
        more = votes[:, j] > most
        most = np.maximum(most, votes[:, j])
        winner = np.where(more, right[:, j], winner)
    return winner
