"""Intervals by other means than the library's: scipy's, closed forms written out, and materialised resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def of_share(values: Sequence[bool]) -> tuple[float, float]:
    """Wilson's interval of a share, as scipy has it. values: (N,)."""
    count = int(np.count_nonzero(np.asarray(values)))
    found = stats.binomtest(count, len(values)).proportion_ci(0.95, method="wilson")
    return found.low, found.high


def of_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """The interval of Bonett and Price, and McNemar's exact p. first, second: (N,)."""
    change = np.asarray(first, int) - np.asarray(second, int)
    wins, losses, n = int((change > 0).sum()), int((change < 0).sum()), len(change)
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = stats.norm.ppf(0.975) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return max(-1.0, up - down - half), min(1.0, up - down + half), p


def of_mean(values: Sequence[float], weights: np.ndarray) -> tuple[float, float]:
    """Percentiles of the mean of samples drawn with replacement, one resample after the other. weights: (B, N)."""
    low, high = np.percentile([np.mean(np.repeat(values, counts)) for counts in weights], (2.5, 97.5))
    return low, high
