"""The cheapest fixed configuration that is as accurate as the default, chosen on other images than it is measured on.

On the images that chose it, such a configuration looks as accurate as the default by construction; held out it need not
be. Folds and intervals are those of `_held_out`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itd.analysis._held_out import FOLDS, REPEATS, divisions_into, in_parts, of_others
from itd.analysis.sampling import Estimate, Resamples, Z, widened, wilson
from itd.analysis.uncovered import Uncovered


@dataclass(frozen=True)
class CheapestFixed:
    """accuracy, macs: of one image, on images that did not choose. factor: how many times fewer MACs than the default.
    choices: configurations that some fold chose, the most often chosen first."""

    accuracy: Estimate
    macs: Estimate
    factor: Estimate
    choices: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """As JSON has it."""
        figures = {"accuracy": self.accuracy, "macs": self.macs, "factor": self.factor}
        return {**{name: value.as_dict() for name, value in figures.items()}, "choices": list(self.choices)}


def cheapest_fixed(
    correct: np.ndarray,
    macs: np.ndarray,
    default: int,
    resamples: Resamples,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
) -> CheapestFixed | None:
    """Cross-fits the choice; None for a single image.

    Args:
        correct: (C, N) bool.
        macs: (C,) int64.
        default: its row.
        resamples: of the N images, for the intervals: estimate ± 1.96 standard deviations of the resampled figures.
        folds: at most N are used.
        repeats: divisions into folds that the figures are the mean of.
    """
    n = correct.shape[1]
    folds = min(folds, n)
    if folds < 2:
        return None
    rows, order = np.lexsort((np.arange(len(macs)), macs)), np.random.default_rng((resamples.seed, n, folds))
    divisions = divisions_into(folds, n, repeats, order)
    ones = np.ones((repeats, n), np.uint8)
    right, cost, chosen = _measured(correct[rows], macs[rows], rows, default, ones, divisions, folds)
    drawn = np.random.default_rng((resamples.seed, n, folds, resamples.count))
    again = divisions_into(folds, n, resamples.count, drawn)
    figures = _measured(correct[rows], macs[rows], rows, default, resamples.weights, again, folds)
    accuracy, mean = float(right.mean()), float(cost.mean())
    own, spread = (float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in figures[:2])
    often = np.bincount(chosen.ravel(), minlength=len(macs))
    return CheapestFixed(
        widened(wilson(accuracy * n, n), own, 0.0),
        Estimate(mean, mean - Z * spread, mean + Z * spread, n),
        Estimate(macs[default] / mean, macs[default] / (mean + Z * spread), macs[default] / (mean - Z * spread), n),
        tuple(int(c) for c in np.argsort(-often, kind="stable") if often[c]),
    )


def _measured(
    correct: np.ndarray,
    macs: np.ndarray,
    rows: np.ndarray,
    default: int,
    weights: np.ndarray,
    divisions: np.ndarray,
    folds: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B,) accuracy and mean MACs of each weighting, and (B, folds) the row that each fold chose.

    correct, macs: cheapest first. rows: their rows. weights, divisions: (B, N).
    """
    n, images = correct.shape[1], np.arange(correct.shape[1])
    own = int(np.flatnonzero(rows == default)[0])
    accuracy, cost = np.zeros(len(weights)), np.zeros(len(weights))
    chosen = np.zeros((len(weights), folds), np.int64)
    for part in in_parts(len(weights), folds, correct):
        division, weight = divisions[part], weights[part]
        others = Uncovered(of_others(weight, division, folds), correct)
        counts = others.gains().reshape(len(weight), folds, -1)
        place = np.argmax(counts >= counts[..., own : own + 1], axis=2)  # the first, which is the cheapest
        chosen[part] = rows[place]
        at = place[np.arange(len(place))[:, None], division]
        accuracy[part] = (weight * correct[at, images]).sum(1) / n
        cost[part] = (weight * macs[at].astype(np.float64)).sum(1) / n
    return accuracy, cost, chosen
