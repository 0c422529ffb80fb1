"""A selector that needs no training: run the cheapest configuration, stop if it is sure enough, else run the next.

From the rows of a result alone. Everything that is chosen (the greedy list, the threshold) is chosen on other samples
than it is measured on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from itd.analysis.sampling import Resamples, as_resamples, proportion
from itd.analysis.scores import require_result
from itd.analysis.selection import CascadePoint, CrossValidation, Selection

if TYPE_CHECKING:
    from itd.store import Result

THRESHOLDS = (*np.linspace(0, 1, 41).round(3).tolist(), 1.01)
"""Confidences at which to stop; the last is never reached, so every configuration is run."""


def cascade(
    result: Result,
    *,
    k: int = 5,
    folds: int = 5,
    partial: bool = False,
    resamples: Resamples | int | None = None,
    seed: int = 0,
    before: Result | None = None,
) -> Selection:
    """Cross-validates a cascade of the first k configurations of a greedy list, cheapest first.

    In each fold the list is made, ordered by MACs and given its threshold (of the highest accuracy, then the fewest
    MACs) on the other folds' samples. A sample stops at the first configuration whose largest softmax value reaches the
    threshold, or at the last; what it costs is all that was run. Intervals resample the measured samples; what was
    chosen stays chosen.

    Args:
        result: of `open_result`.
        k: the length of the greedy list.
        folds: of the cross-validation.
        partial: also read a result whose sweep is not finished.
        resamples: how many bootstrap resamples the intervals are of, or drawn `Resamples`; default 1,000.
        seed: of the resamples and the folds.
        before: a result of the network before it was fine-tuned, from which the gap is closed too.

    Returns:
        The cascade's outcome beside the baselines, and its curve over all thresholds.

    Raises:
        ResultError: no default configuration, no MACs, or fewer samples than folds.

    Example:
        >>> selection = cascade(open_result("results/resnet50-stride.parquet"), k=4)  # doctest: +SKIP
        >>> selection.selectors["cascade"].accuracy.value  # doctest: +SKIP
        0.79
    """
    require_result(result, "cascade")
    return cascade_of(CrossValidation(result, k, folds, as_resamples(resamples, result.n, seed), partial, before))


def cascade_of(validation: CrossValidation) -> Selection:
    """The cascade of a cross-validation, beside its baselines."""
    result, drawn = validation.result, validation.drawn
    right = np.zeros((len(THRESHOLDS), result.n), bool)
    cost = np.zeros((len(THRESHOLDS), result.n))
    chosen_right, chosen_cost = np.zeros(result.n, bool), np.zeros(result.n)
    thresholds, lists = [], []
    for fold in validation.folds:
        ordered, held = cheapest_first(validation, fold.rows), fold.held
        right[:, held], cost[:, held] = _run(validation, ordered, held)
        at = best_threshold(*_run(validation, ordered, fold.others))
        chosen_right[held], chosen_cost[held] = right[at, held], cost[at, held]
        thresholds.append(THRESHOLDS[at])
        lists.append(tuple(int(result.config_numbers[c]) for c in ordered))
    return Selection(
        result=result.path,
        n=result.n,
        k=validation.k,
        baselines=validation.baselines(),
        selectors={"cascade": validation.outcome(chosen_right, chosen_cost)},
        thresholds=tuple(thresholds),
        lists=tuple(lists),
        curve=tuple(CascadePoint(t, proportion(right[i]), drawn.mean(cost[i])) for i, t in enumerate(THRESHOLDS)),
        macs_unknown=result.macs_unknown,
    )


def fitted(validation: CrossValidation) -> tuple[np.ndarray, float]:
    """The cascade to use on other images, from all samples: its rows, cheapest first, and its threshold."""
    every = np.arange(validation.result.n)
    ordered = cheapest_first(validation, validation.rows(every))
    return ordered, THRESHOLDS[best_threshold(*_run(validation, ordered, every))]


def cheapest_first(validation: CrossValidation, rows: np.ndarray) -> np.ndarray:
    """The rows by what they cost, in the order of the list where they cost the same."""
    return np.array(sorted(rows, key=lambda c: validation.macs[c]))


def best_threshold(right: np.ndarray, cost: np.ndarray) -> int:
    """Which threshold has the highest accuracy, then the lowest cost, then is lowest. right, cost: (T, n)."""
    return int(np.lexsort((cost.mean(1), -right.mean(1)))[0])


def _run(validation: CrossValidation, ordered: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return run(
        validation.correct[ordered][:, samples], validation.confidence[ordered][:, samples], validation.macs[ordered]
    )


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
