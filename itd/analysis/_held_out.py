"""What a greedy list achieves on images that it was not chosen on: repeated cross-validation, and how sure it is.

The list that `greedy` prints is chosen on all images, so its accuracy on those is too high. Lists chosen on nine of ten
folds and measured on the tenth estimate what the printed list achieves on other images.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from itd.analysis.bootstrap_greedy import GreedyLists
from itd.analysis.predictions import default_rank
from itd.analysis.sampling import Estimate, Resamples, paired_counts, widened, wilson
from itd.analysis.scores import correctness, require_number
from itd.analysis.threads import side_by_side
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result

FOLDS = 10
REPEATS = 20
MOST_REPEATS = 1000
INTERVAL_STEPS = 10
"""Steps of a list that get an interval."""
INTERVAL_WORK = 6e10
"""Multiply-accumulates that the resamples of the intervals may cost: about 8 seconds on two cores."""
CURVE_WORK = 2e10
"""The same for the curve itself; where all its steps would cost more, it has the first ten."""
LEAST_RESAMPLES = 50
COMPARED_STEPS = 12
"""In lists that are no longer, guesses are compared with each other; in longer ones they are marked in a table."""
OVERHEAD = 300
"""What keeping a configuration's gain costs, as so many images would."""
_CELLS = 10_000_000
"""Weights of other folds' images at once, a byte each."""
_NUMBERED_CELLS = 4_000_000
"""Predictions that are sorted at once, with an order of eight bytes each."""


@dataclass(frozen=True)
class HeldOutStep:
    """The first k configurations of a list, measured on images that the list was not chosen on.

    accuracy: best-case accuracy, with an interval for k <= 10. matched_topk: of the default network with as many
    guesses for an image as the k configurations make distinct predictions. guesses: how many those are, on average.
    over_static, over_matched: accuracy less the default network's and less matched_topk, with paired intervals.
    """

    k: int
    accuracy: float
    low: float | None
    high: float | None
    matched_topk: float | None
    guesses: float
    over_static: Estimate | None = None
    over_matched: Estimate | None = None

    def as_dict(self) -> dict[str, float | None]:
        """As JSON has it."""
        names = ("k", "accuracy", "low", "high", "matched_topk", "guesses")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class HeldOut:
    """A cross-fitted curve. folds, repeats: of the cross-validation. resamples: of the intervals, fewer than were asked
    for where `wanted` would take too long."""

    folds: int
    repeats: int
    resamples: int
    wanted: int
    steps: tuple[HeldOutStep, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """What lists are chosen and measured by.

    correct: (C, N) bool. quality: (C, N). pred: (C, N). rank: (N,) of the label in the default's logits, or None.
    default: its row, or None.
    """

    correct: np.ndarray
    quality: np.ndarray
    pred: np.ndarray
    rank: np.ndarray | None
    default: int | None

    @functools.cached_property
    def chooser(self) -> GreedyLists:
        """What lists are chosen with, made when it is first asked for."""
        return GreedyLists(self.correct, self.quality, self.default)


def scores_of(result: Result) -> Scores:
    """What lists of a result are chosen and measured by."""
    quality = result.matrix("quality")
    return Scores(
        correctness(result, quality), quality, result.matrix("pred"), default_rank(result), result.default_index
    )


def held_out(
    scores: Scores,
    folds: int,
    repeats: int,
    resamples: Resamples,
    *,
    length: int | None = None,
    sure: int = INTERVAL_STEPS,
    work: float | None = None,
) -> HeldOut | None:
    """Cross-fits greedy lists; None for `folds` 0 or a single image.

    Each of `repeats` random divisions into folds gives every image a list that was chosen on the other folds; figures
    are means over images and divisions. An interval comes from resamples of the images, each with one division of its
    own in which all copies of an image are in one fold. A resample holds fewer distinct images than there are, so its
    lists are worse and its figures lower: of the resampled figures only the spread is used, as estimate ± 1.96 standard
    deviations (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.2), and no interval is narrower
    than Wilson's for a share of as many images.

    Args:
        scores: of C configurations and N images.
        folds: at most N are used.
        repeats: divisions that the estimate is the mean of.
        resamples: of the N images; as many of them are used as a fixed budget of work allows.
        length: how many steps are wanted; default all.
        sure: how many of them get an interval.
        work: multiply-accumulates that the resamples may cost; default INTERVAL_WORK.

    Raises:
        ResultError: folds or repeats that cannot be.
    """
    require_number(folds, "folds", least=0)
    if folds == 1:
        raise ResultError(
            "folds is 1, and a list has to be chosen on other folds; give 2 or more, or 0 to leave it out"
        )
    require_number(repeats, "repeats", least=1, most=MOST_REPEATS)
    configs, n = scores.correct.shape
    folds = min(folds, n)
    if folds < 2:
        return None
    whole = repeats * folds * n * configs * 4 <= CURVE_WORK
    length = min(configs, length or configs, configs if whole else INTERVAL_STEPS)
    if length > COMPARED_STEPS:
        scores = replace(scores, pred=numbered(scores.pred))
    counts = _counts(scores, folds, repeats, length, resamples.seed)
    used = _affordable(resamples.count, work or INTERVAL_WORK, folds * configs * (n + OVERHEAD))
    spread = _spread(scores, folds, resamples, used, min(length, sure)) if used else None
    steps = [_step(k, counts[k], repeats, scores, None if spread is None else spread[k : k + 1]) for k in range(length)]
    return HeldOut(folds, repeats, used, resamples.count, tuple(steps))


def numbered(pred: np.ndarray) -> np.ndarray:
    """Classes numbered anew for each image, from 0 in ascending order, so that few numbers are needed.

    pred: (C, N). Returns (C, N).

    >>> numbered(np.array([[7, 2], [9, 2], [7, 5]])).tolist()
    [[0, 0], [1, 0], [0, 1]]
    """
    numbers = np.empty(pred.shape, np.int16)
    size = max(1, _NUMBERED_CELLS // len(pred))
    for start in range(0, pred.shape[1], size):
        part = pred[:, start : start + size]
        order = np.argsort(part, axis=0, kind="stable")
        ascending = np.take_along_axis(part, order, axis=0)
        new = np.diff(ascending, axis=0, prepend=ascending[:1]) != 0
        np.put_along_axis(numbers[:, start : start + size], order, np.cumsum(new, axis=0, dtype=np.int16), axis=0)
    return numbers


def _affordable(count: int, work: float, each: int) -> int:
    return min(count, max(LEAST_RESAMPLES, int(work / each)))


def divisions_into(folds: int, n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, N) the fold of each image in random divisions into folds of sizes that differ by at most one."""
    return rng.permuted(np.tile(np.arange(n, dtype=np.int16) % folds, (count, 1)), axis=1)


def of_others(weights: np.ndarray, division: np.ndarray, folds: int) -> np.ndarray:
    """(B * folds, N) for each weighting and fold the weights of the images outside it. weights, division: (B, N)."""
    return (weights[:, None, :] * (division[:, None, :] != np.arange(folds)[:, None])).reshape(-1, weights.shape[1])


def in_parts(count: int, folds: int, correct: np.ndarray) -> Iterator[slice]:
    """A few weightings at a time, so that all folds of them do not fill the memory. correct: (C, N)."""
    parts = max(1, -(-count * folds * max(correct.shape) // _CELLS))
    size = max(1, -(-count // (parts + parts % 2)))  # no single one at the end, where there are two threads
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _lists(chooser: GreedyLists, weights: np.ndarray, division: np.ndarray, folds: int, length: int) -> np.ndarray:
    """(B, folds, length) rows: for each weighting and fold, the list chosen on the other folds' images.

    weights, division: (B, N).
    """
    others = of_others(weights, division, folds)
    lists, _ = chooser.of(others, length)
    return lists.reshape(len(weights), folds, -1)


def _steps(
    scores: Scores, lists: np.ndarray, division: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
    """For k = 1, 2, ...: (B, N) whether the first k of an image's list hold a right one, whether as many guesses of the
    default network do, and how many distinct guesses those are."""
    n = division.shape[1]
    right = np.zeros(division.shape, bool)
    guesses = np.zeros(division.shape, np.int16)
    is_new = _Compared() if lists.shape[2] <= COMPARED_STEPS else _Marked(division.size, int(scores.pred.max()) + 1)
    of_fold = lists.shape[1] * np.arange(len(lists))[:, None] + division
    for k in range(lists.shape[2]):
        places = (lists[:, :, k] * n).take(of_fold)
        places += np.arange(n)
        right |= scores.correct.take(places)
        guesses += is_new(scores.pred.take(places))
        yield right, None if scores.rank is None else scores.rank < guesses, guesses


class _Marked:
    """Whether a guess is one that was not made before, by a mark for each image and class. Of many guesses."""

    def __init__(self, images: int, classes: int) -> None:
        self._first = classes * np.arange(images)
        self._said = np.zeros(images * classes, bool)

    def __call__(self, said: np.ndarray) -> np.ndarray:
        """said: the next guess on each image. Returns bool of its shape."""
        at = self._first.reshape(said.shape) + said
        new = ~self._said[at]
        self._said[at] = True
        return new


class _Compared:
    """The same by comparing with each guess before, which needs no table. Of few guesses."""

    def __init__(self) -> None:
        self._before: list[np.ndarray] = []

    def __call__(self, said: np.ndarray) -> np.ndarray:
        """said: the next guess on each image. Returns bool of its shape."""
        new = np.ones(said.shape, bool)
        for other in self._before:
            new &= said != other
        self._before.append(said)
        return new


def _counts(scores: Scores, folds: int, repeats: int, length: int, seed: int) -> np.ndarray:
    """(length, 3, N) for each image in how many divisions it is right, the same for as many guesses, and the sum of how
    many guesses those are."""
    n, chooser = scores.correct.shape[1], scores.chooser
    counts = np.zeros((length, 3, n), np.int32)
    divisions = divisions_into(folds, n, repeats, np.random.default_rng((seed, n, folds)))
    alone = threading.Lock()

    def count(part: slice) -> None:
        division = divisions[part]
        lists = _lists(chooser, np.ones(division.shape, np.uint8), division, folds, length)
        for k, (right, matched, guesses) in enumerate(_steps(scores, lists, division)):
            guessed = 0 if matched is None else matched.sum(0)
            sums = right.sum(0), guessed, guesses.sum(0)
            with alone:
                for figure, more in enumerate(sums):
                    counts[k, figure] += more

    side_by_side(count, in_parts(repeats, folds, scores.correct))
    return counts


def _spread(scores: Scores, folds: int, resamples: Resamples, used: int, length: int) -> np.ndarray:
    """(length, 3) the standard deviation over resamples of the accuracy, of that less the default's, and of that less
    as many guesses'."""
    n, chooser = scores.correct.shape[1], scores.chooser
    figures = np.zeros((used, length, 3))
    divisions = divisions_into(folds, n, used, np.random.default_rng((resamples.seed, n, folds, used)))
    static = np.zeros(n, bool) if scores.default is None else scores.correct[scores.default]

    def measure(part: slice) -> None:
        weights = resamples.weights[part]
        lists = _lists(chooser, weights, divisions[part], folds, length)
        fixed = weights @ static.astype(np.float64)
        for k, (right, matched, _) in enumerate(_steps(scores, lists, divisions[part])):
            total = np.einsum("bn,bn->b", weights, right, dtype=np.float64)
            guessed = 0 if matched is None else np.einsum("bn,bn->b", weights, matched, dtype=np.float64)
            figures[part, k] = np.stack([total, total - fixed, total - guessed], axis=1)

    side_by_side(measure, in_parts(used, folds, scores.correct))
    return np.std(figures / n, axis=0, ddof=1) if used > 1 else np.zeros((length, 3))


def _step(k: int, counts: np.ndarray, repeats: int, scores: Scores, spread: np.ndarray | None) -> HeldOutStep:
    """counts: (3, N) of `_counts`. spread: (1, 3) of `_spread`, or (0, 3) beyond the steps that have one."""
    n = counts.shape[1]
    right, matched, guesses = counts
    accuracy = int(right.sum()) / (n * repeats)
    low = high = over_static = over_matched = None
    if spread is not None and len(spread):
        own, against_static, against_matched = spread[0].tolist()
        share = widened(wilson(accuracy * n, n), own, 0.0)
        low, high = share.low, share.high
        if scores.default is not None:
            static = scores.correct[scores.default].astype(np.int32) * repeats
            over_static = _over((right - static) / repeats, against_static)
            over_matched = _over((right - matched) / repeats, against_matched)
    return HeldOutStep(
        k=k + 1,
        accuracy=accuracy,
        low=low,
        high=high,
        matched_topk=None if scores.rank is None else int(matched.sum()) / (n * repeats),
        guesses=int(guesses.sum()) / (n * repeats),
        over_static=over_static,
        over_matched=over_matched,
    )


def _over(difference: np.ndarray, spread: float) -> Estimate:
    """A difference of shares, the wider of the spread's interval and that of paired shares. difference: (N,)."""
    wins, losses = float(np.maximum(difference, 0).sum()), float(np.maximum(-difference, 0).sum())
    return widened(paired_counts(wins, losses, len(difference)), spread)
