"""How sure a figure is: intervals of shares and of differences, resamples, and halves to choose and to measure on.

A share of the images has Wilson's interval, also at 0 and 100%; the difference of two shares of the same images has a
paired interval and McNemar's p. Means of other figures, and whatever is chosen on the images, have bootstrap intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from itd.analysis.scores import require_number
from itd.errors import ResultError
from itd.text import shorten

RESAMPLES = 1000
MOST_RESAMPLES = 100_000
MOST_SEED = 2**32 - 1
"""scikit-learn's, whose learners get the same one."""
PERCENTILES = (2.5, 97.5)
"""The ends of a 95% interval."""
_BLOCK = 4_000_000
"""Weights turned to floats at once: 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A figure measured on n samples with its 95% interval."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Difference(Estimate):
    """The difference of two shares of the same n samples. p: McNemar's exact two-sided p of no difference."""

    p: float


Z = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


def wilson(count: float, n: int) -> Estimate:
    """The share count / n with Wilson's 95% score interval (Wilson, Journal of the American Statistical Association 22,
    1927). count may be a mean of counts.

    >>> wilson(0, 130)
    Estimate(value=0.0, low=0.0, high=0.02870..., n=130)
    """
    share, z2 = count / n, Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if count <= 0 else max(0.0, middle - half)
    return Estimate(share, low, 1.0 if count >= n else min(1.0, middle + half), n)


def proportion(right: np.ndarray) -> Estimate:
    """The share of samples where `right` holds, with Wilson's interval. right: (N,) bool.

    >>> proportion(np.array([True, True, False, True])).value
    0.75
    """
    return wilson(int(np.count_nonzero(right)), len(right))


def paired_counts(wins: float, losses: float, n: int) -> Estimate:
    """The difference of two shares of the same n samples, (wins - losses) / n, with the interval of Bonett and Price
    (Journal of Educational and Behavioral Statistics 37, 2012): one more win and one more loss, then Wald's.

    wins: on how many samples only the first is right. losses: only the second.
    """
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = Z * math.sqrt(max(0.0, up + down - (up - down) ** 2) / (n + 2))
    return Estimate((wins - losses) / n, max(-1.0, up - down - half), min(1.0, up - down + half), n)


def widened(plain: Estimate, spread: float, least: float = -1.0) -> Estimate:
    """An estimate whose interval is the wider of its own and value ± 1.96 spread, which stays within `least` and 1.

    spread: standard deviation of the resampled figure. least: 0 for a share, -1 for a difference of shares.

    >>> widened(Estimate(0.5, 0.4, 0.6, 9), 0.1, 0.0)
    Estimate(value=0.5, low=0.30..., high=0.69..., n=9)
    """
    low, high = max(least, plain.value - Z * spread), min(1.0, plain.value + Z * spread)
    return Estimate(plain.value, min(plain.low, low), max(plain.high, high), plain.n)


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """The share of samples where `first` holds less that of `second`, with its paired interval. Both: (N,) bool.

    >>> paired(np.array([True, True, True]), np.array([True, False, False])).p
    0.5
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    wins, losses = int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))
    found = paired_counts(wins, losses, len(first))
    return Difference(found.value, found.low, found.high, found.n, mcnemar(wins, losses))


def mcnemar(wins: int, losses: int) -> float:
    """The exact two-sided p of McNemar's test: how likely a division as uneven is, if each of the samples on which two
    rules differ were as likely to go either way (McNemar, Psychometrika 12, 1947).

    >>> mcnemar(0, 5), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    total, few = wins + losses, min(wins, losses)
    logs = [math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1) for i in range(few + 1)]
    tail = math.fsum(math.exp(value - total * math.log(2)) for value in logs)
    return min(1.0, round(2 * tail, 12))


@dataclass(frozen=True, eq=False)
class Resamples:
    """Resamples of N samples, drawn with replacement: `weights[b, i]` is how often sample i is in resample b.

    The same n, count and seed give the same resamples, so that figures of the same samples can be compared in pairs.
    Intervals are percentiles of the resampled figures (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    section 13.3).

    >>> Resamples(4, 3).weights.sum(1).tolist()
    [4, 4, 4]
    """

    n: int
    count: int = RESAMPLES
    seed: int = 0
    weights: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        weights = np.empty((self.count, self.n), np.uint8 if self.n > 1 else np.int64)
        for b in range(self.count):
            weights[b] = np.bincount(rng.integers(0, self.n, self.n, dtype=np.int32), minlength=self.n)
        object.__setattr__(self, "weights", weights)

    def blocks(self, dtype: type = np.float64, columns: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights a few resamples at a time: (which resamples, (b, N) of dtype). columns: only these samples."""
        size = max(1, _BLOCK // max(1, self.n))
        for start in range(0, self.count, size):
            part = slice(start, min(start + size, self.count))
            block = self.weights[part] if columns is None else self.weights[part][:, columns]
            yield part, block.astype(dtype)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Each resample's sum of values. values: (N,) or (N, M) -> (B,) or (B, M) float64."""
        values = np.asarray(values, np.float64)
        out = np.empty((self.count, *values.shape[1:]))
        for part, weights in self.blocks():
            out[part] = weights @ values
        return out

    def means(self, values: np.ndarray) -> np.ndarray:
        """Each resample's mean of values. values: (N,) or (N, M) -> (B,) or (B, M) float64."""
        return self.sums(values) / self.n

    def mean(self, values: np.ndarray) -> Estimate:
        """The mean of values and its interval. values: (N,)."""
        return estimate(float(np.mean(values, dtype=np.float64)), self.means(values), self.n)


def estimate(value: float, resampled: np.ndarray, n: int) -> Estimate:
    """A figure with the percentile interval of its resampled values. resampled: (B,)."""
    if not len(resampled):
        raise ResultError("an interval needs resamples; give at least 1")
    low, high = np.percentile(resampled, PERCENTILES)
    return Estimate(value, float(low), float(high), n)


def halves(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The samples 0 to n - 1 in two halves at random, each in ascending order; the second has the odd one.

    >>> [len(half) for half in halves(5)]
    [2, 3]
    """
    order = np.random.default_rng((seed, n)).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def as_resamples(resamples: Resamples | int | None, n: int, seed: int = 0) -> Resamples:
    """What a verb's `resamples` and `seed` say, for n samples: how many to draw (default 1,000), or drawn ones.

    Drawn ones have their own seed. Raises ResultError for a number below 0, or resamples of another number of samples.

    >>> as_resamples(20, 5).weights.shape
    (20, 5)
    """
    if isinstance(resamples, Resamples):
        if resamples.n != n:
            raise ResultError(
                f"resamples are of {resamples.n} samples, the result has {n}; draw them with Resamples({n})"
            )
        return resamples
    count = RESAMPLES if resamples is None else resamples
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_RESAMPLES:
        raise ResultError(
            f"resamples is {shorten(repr(resamples))}; give their number, 0 to {MOST_RESAMPLES}, or Resamples({n})"
        )
    require_number(seed, "seed", least=0, most=MOST_SEED)
    return Resamples(n, count, seed)
