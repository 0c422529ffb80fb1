"""A selector that needs no training: run the cheapest configuration, stop if it is sure enough, else run the next.

Everything that is chosen (the greedy list, the threshold) is chosen on other samples than it is measured on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.efficiency import DynamicPoint
from itd.analysis.greedy import accumulate, greedy_priority
from itd.analysis.sampling import Estimate, Resamples, estimate
from itd.analysis.scores import correctness, require_default, require_whole
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result

THRESHOLDS = (*np.linspace(0, 1, 41).round(3).tolist(), 1.01)
"""Confidences at which to stop; the last is never reached, so every configuration is run."""


@dataclass(frozen=True)
class CascadePoint:
    """The cascade at one threshold, measured on samples that its list was not chosen on. macs: mean of one image."""

    threshold: float
    accuracy: Estimate
    macs: Estimate

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"threshold": self.threshold, "accuracy": self.accuracy.as_dict(), "macs": self.macs.as_dict()}


@dataclass(frozen=True)
class Cascade:
    """What a cascade achieves on the first k configurations of a greedy list.

    chosen: at the threshold that is best in each fold's training part. gap_closed: how much of the way from static to
    the oracle over the same k it goes; None where the oracle is no better. oracle: the best case of the k. single_best:
    the first of the list alone. thresholds, lists: of each fold. curve: every threshold.
    """

    result: str
    n: int
    k: int
    static: Estimate
    static_macs: float
    oracle: Estimate
    single_best: Estimate
    chosen: DynamicPoint
    gap_closed: Estimate | None
    thresholds: tuple[float, ...]
    lists: tuple[tuple[int, ...], ...]
    curve: tuple[CascadePoint, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("static", "oracle", "single_best", "chosen")
        return {
            "result": self.result,
            "n": self.n,
            "k": self.k,
            "static_macs": self.static_macs,
            **{name: getattr(self, name).as_dict() for name in names},
            "gap_closed": None if self.gap_closed is None else self.gap_closed.as_dict(),
            "thresholds": list(self.thresholds),
            "lists": [list(one) for one in self.lists],
            "curve": [point.as_dict() for point in self.curve],
        }


def cascade(
    result: Result, *, k: int = 5, folds: int = 5, partial: bool = False, resamples: Resamples | None = None
) -> Cascade:
    """Cross-validates a cascade of the first k configurations of a greedy list, cheapest first.

    In each fold the list is made, ordered by MACs and given its threshold (of the highest accuracy, then the fewest
    MACs) on the other folds' samples. A sample stops at the first configuration whose largest softmax value reaches the
    threshold, or at the last; what it costs is all that was run. Intervals resample the measured samples; what was
    chosen stays chosen. Raises ResultError without a default configuration or MACs, and for fewer samples than folds.

    >>> cascade(open_result("results/resnet50-stride.parquet"), k=4).chosen.accuracy.value  # doctest: +SKIP
    0.79
    """
    require_whole(result, partial)
    default = require_default(result, "a cascade")
    quality = result.matrix("quality")
    correct, confidence = correctness(result, quality), result.matrix("confidence")
    if result.macs is None:
        raise ResultError(f"{result.path} does not say what its configurations cost; give the folder that it came from")
    if not 2 <= folds <= result.n:
        raise ResultError(f"{result.n} samples cannot be cross-validated in {folds} folds; give 2 to {result.n} folds")
    if not 1 <= k <= result.configs:
        raise ResultError(f"k = {k} is not allowed; give 1 to {result.configs} configurations")
    macs = result.macs.astype(np.float64)
    drawn = resamples or Resamples(result.n)
    right = np.zeros((len(THRESHOLDS), result.n), bool)
    cost = np.zeros((len(THRESHOLDS), result.n))
    best, first = np.zeros(result.n, bool), np.zeros(result.n, bool)
    chosen_right, chosen_cost = np.zeros(result.n, bool), np.zeros(result.n)
    thresholds, lists = [], []
    for held in fold_samples(result.n, folds, drawn.seed):
        others = np.setdiff1d(np.arange(result.n), held)
        listed = accumulate(correct[:, others], greedy_priority(result, quality[:, others]))[0][:k]
        ordered = np.array(sorted(listed, key=lambda c: macs[c]))
        on_others = run(correct[ordered][:, others], confidence[ordered][:, others], macs[ordered])
        right[:, held], cost[:, held] = run(correct[ordered][:, held], confidence[ordered][:, held], macs[ordered])
        at = int(np.lexsort((on_others[1].mean(1), -on_others[0].mean(1)))[0])
        chosen_right[held], chosen_cost[held] = right[at, held], cost[at, held]
        best[held], first[held] = correct[listed][:, held].any(0), correct[listed[0], held]
        thresholds.append(THRESHOLDS[at])
        lists.append(tuple(int(result.config_numbers[c]) for c in ordered))
    static = correct[default]
    return Cascade(
        result=result.path,
        n=result.n,
        k=k,
        static=drawn.mean(static),
        static_macs=float(macs[default]),
        oracle=drawn.mean(best),
        single_best=drawn.mean(first),
        chosen=DynamicPoint(drawn.mean(chosen_right), drawn.mean(chosen_cost)),
        gap_closed=_gap(chosen_right, static, best, drawn),
        thresholds=tuple(thresholds),
        lists=tuple(lists),
        curve=tuple(CascadePoint(t, drawn.mean(right[i]), drawn.mean(cost[i])) for i, t in enumerate(THRESHOLDS)),
    )


def fold_samples(n: int, folds: int, seed: int = 0) -> list[np.ndarray]:
    """The samples 0 to n - 1 in folds at random, each in ascending order, of sizes that differ by at most one.

    >>> [len(fold) for fold in fold_samples(7, 3)]
    [3, 2, 2]
    """
    order = np.random.default_rng((seed, n, folds)).permutation(n)
    return [np.sort(part) for part in np.array_split(order, folds)]


def run(correct: np.ndarray, confidence: np.ndarray, macs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cascade at every threshold: (T, n) whether it is right, and (T, n) what it costs.

    correct, confidence: (k, n) of the configurations in the order they are run. macs: (k,).
    """
    n = correct.shape[1]
    spent = np.cumsum(macs)
    right, cost = np.empty((len(THRESHOLDS), n), bool), np.empty((len(THRESHOLDS), n))
    for i, threshold in enumerate(THRESHOLDS):
        sure = confidence >= threshold
        sure[-1] = True  # there is no further one
        stop = sure.argmax(0)
        right[i], cost[i] = correct[stop, np.arange(n)], spent[stop]
    return right, cost


def _gap(right: np.ndarray, static: np.ndarray, best: np.ndarray, drawn: Resamples) -> Estimate | None:
    """(achieved - static) / (oracle - static), with the interval of the resamples in which the oracle is better."""
    gap = best.mean() - static.mean()
    if gap <= 0:
        return None
    gaps = drawn.means(best.astype(np.float64) - static)
    gains = drawn.means(right.astype(np.float64) - static)
    return estimate(float((right.mean() - static.mean()) / gap), gains[gaps > 0] / gaps[gaps > 0], len(right))
