"""How sure a figure is: bootstrap resamples of the samples, and the halves that choosing and measuring are kept to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from itd.analysis.scores import require_number
from itd.errors import ResultError

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
"""The ends of a 95% interval."""
_BLOCK = 4_000_000
"""Weights turned to floats at once: 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A figure measured on n samples with its 95% bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """As JSON has it."""
        return asdict(self)


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
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ResultError(f"resamples is {resamples!r}; give their number, or Resamples({n})")
    require_number(seed, "seed", least=0)
    return Resamples(n, count, seed)
