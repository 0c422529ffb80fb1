"""Greedy lists and majority votes for many resamples at once: selection repeated inside the bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_VOTE_CELLS = 2_000_000


def preferred_order(configs: int, default: int | None) -> np.ndarray:
    """(C,) rows, the default first: what a tie that nothing else settles goes by."""
    rows = np.arange(configs)
    return rows if default is None else np.concatenate([[default], rows[rows != default]])


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
    k = min(k, len(correct))
    order = preferred_order(len(correct), default)
    lists, covered = np.empty((len(weights), k), np.int64), np.zeros((len(weights), k))
    weights = weights.astype(np.float32)
    # Rounded, so that rows of equal mean tie whatever the order of their sums; and less than a half, so that it only
    # decides between equal gains, which are whole numbers.
    mean = weights.astype(np.float64) @ quality[order].T.astype(np.float64)
    tie = np.round(mean / np.maximum(weights.sum(1, keepdims=True), 1), 9) / 4.5
    right = correct[order]
    always = right.all(0)
    useful = np.flatnonzero(right.any(0) & ~always)  # the others change no choice
    base = weights[:, always].sum(1)
    by_config = np.ascontiguousarray(right[:, useful], dtype=np.float32)
    alive = weights[:, useful]
    bounds = (alive @ by_config.T).astype(np.float64)
    rows = np.arange(len(weights))
    pick = np.zeros(len(weights), np.int64)
    for step in range(k):
        if step:
            alive, by_config = _take_out(alive, by_config, pick)
            _freshen(bounds, tie, alive, by_config)
            if not bounds.any():  # nothing is left to gain: the rest follow in the order of ties
                lists[:, step:] = order[np.argsort(-tie, axis=1, kind="stable")[:, : k - step]]
                covered[:, step:] = covered[:, step - 1 : step]
                break
        pick = np.argmax(bounds + tie, axis=1)
        lists[:, step] = order[pick]
        covered[:, step] = (covered[:, step - 1] if step else base) + bounds[rows, pick]
        tie[rows, pick] = -np.inf
    return lists, covered


def _take_out(alive: np.ndarray, by_config: np.ndarray, pick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights not covered yet after each weighting picked a configuration, without samples that nobody has left."""
    alive = alive * (1 - by_config[pick])
    left = alive.any(axis=0)
    return (alive, by_config) if np.count_nonzero(left) > 0.9 * alive.shape[1] else (alive[:, left], by_config[:, left])


def _freshen(bounds: np.ndarray, tie: np.ndarray, alive: np.ndarray, by_config: np.ndarray, chunk: int = 48) -> None:
    """Computes the gains that may be a weighting's largest; the others keep an upper bound, which is smaller.

    A gain never grows as samples are covered, so an earlier one bounds it from above (lazy greedy: Minoux, Accelerated
    greedy algorithms for maximizing submodular set functions, 1978).
    """
    todo = np.arange(bounds.shape[1])
    best = np.full(len(bounds), -np.inf)
    while len(todo):
        now = todo[np.argsort(-bounds[:, todo].mean(0), kind="stable")[:chunk]]
        bounds[:, now] = alive @ by_config[now].T
        best = np.maximum(best, (bounds[:, now] + tie[:, now]).max(1))
        todo = np.setdiff1d(todo, now, assume_unique=True)
        todo = todo[(bounds[:, todo] + tie[:, todo] >= best[:, None]).any(0)]


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
