"""How long all configurations take, told from some of them by their multiply-accumulates, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Extrapolated:
    """Seconds of all configurations. low_s, high_s: a 95% interval, None where one configuration alone was timed.

    half_error: how far off each half of the timed ones is where it is told from the other half; the larger share.
    """

    total_s: float
    low_s: float | None
    high_s: float | None
    half_error: float | None


def drawn(macs: Sequence[int], wanted: int, seed: int = 0) -> list[int]:
    """Numbers of some configurations, or of all: at even distances in the order of their costs, from a random place.

    Each is as likely to be among them. Evenly spaced numbers would fall in step with the options of a site, which
    repeat among the configurations: of MobileNetV2's 370 strides every 16th makes the whole look 1.6 times as slow as
    it is.

    >>> drawn([10, 20, 30], 3)
    [0, 1, 2]
    """
    count = len(macs)
    if wanted >= count:
        return list(range(count))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(count)  # those of equal costs in any order
    order = shuffled[np.argsort(np.array(macs)[shuffled], kind="stable")]
    places = ((np.arange(wanted) + rng.random()) * count / wanted).astype(int)
    return sorted(order[places].tolist())


def extrapolate(seconds: Sequence[float], timed: Sequence[int], macs: Sequence[int]) -> Extrapolated:
    """All configurations from some, by the ratio estimator (Cochran, Sampling Techniques, 3rd edition, eq. 6.13).

    The interval is Student's. It widens with how much the timed ones differ in their seconds for each
    multiply-accumulate, and is of no width where all were timed. It takes them for drawn at random, so that it is too
    wide for those of `drawn`, which are spread over the costs.

    Args:
        seconds: of each timed configuration.
        timed: their numbers.
        macs: of every configuration.

    Example:
        >>> extrapolate([1.0, 2.0], [0, 1], [10, 20, 30]).total_s
        6.0
    """
    s, m = np.array(seconds, float), np.array([macs[c] for c in timed], float)
    n, rate = len(s), s.sum() / m.sum()
    total = rate * float(np.sum(np.array(macs, float)))
    if n == len(macs):
        return Extrapolated(total, total, total, _half_error(s, m))
    if n < 2:
        return Extrapolated(total, None, None, None)
    from scipy import stats

    spread = np.sqrt((1 - n / len(macs)) / n * np.sum((s - rate * m) ** 2) / (n - 1)) / m.mean()
    half = float(stats.t.ppf(0.975, n - 1) * spread / rate) * total
    return Extrapolated(total, max(0.0, total - half), total + half, _half_error(s, m))


def _half_error(s: np.ndarray, m: np.ndarray) -> float | None:
    if len(s) < 2:
        return None
    rates = [s[first::2].sum() / m[first::2].sum() for first in (0, 1)]
    return float(max(rates) / min(rates) - 1)
