"""The definitions of the analysis, spelled out sample by sample in plain Python: what the tests hold it against."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np


def greedy(right: np.ndarray, quality: np.ndarray, default: int | None) -> list[int]:
    """Every configuration in the order of greedy accumulation, trying each at each step. right, quality: (C, n)."""
    covers = [{i for i in range(right.shape[1]) if right[c, i]} for c in range(len(right))]
    mean = [sum(Fraction(float(q)) for q in quality[c]) for c in range(len(right))]
    left, covered, order = list(range(len(right))), set(), []
    while left:
        best = max(left, key=lambda c: (len(covered | covers[c]), mean[c], c == default, -c))
        covered |= covers[best]
        left.remove(best)
        order.append(best)
    return order


def coverage(right: np.ndarray, rows: list[int]) -> float:
    """The share of samples that any of some configurations is right on."""
    return sum(any(right[c, i] for c in rows) for i in range(right.shape[1])) / right.shape[1]


def upper_bound(right: np.ndarray, order: list[int], k: int) -> float:
    """min over j of f(S_j) + the k largest marginal gains at S_j, S_j the first j of the greedy order."""
    found = []
    for j in range(len(order) + 1):
        f = coverage(right, order[:j])
        gains = sorted((coverage(right, [*order[:j], c]) - f for c in range(len(right))), reverse=True)
        found.append(f + sum(gains[:k]))
    return min(found)


def optimum(right: np.ndarray, k: int) -> float:
    """The best coverage of any k configurations."""
    return max(coverage(right, list(rows)) for rows in itertools.combinations(range(len(right)), k))


def vote(classes: list[int]) -> int:
    """The class with the most votes; of several, the one that comes first."""
    counts = Counter(classes)
    return next(c for c in classes if counts[c] == max(counts.values()))


def chance(pred: np.ndarray, labels: list[int]) -> Fraction:
    """The mean, over every way to deal the labels to the samples, of the best-case accuracy."""
    n = len(labels)
    said = [set(pred[:, i].tolist()) for i in range(n)]
    ways = list(itertools.permutations(labels))
    return Fraction(sum(label in said[i] for way in ways for i, label in enumerate(way)), len(ways) * n)


def preferred(quality: np.ndarray, nll: np.ndarray, default: int | None) -> list[int]:
    """Each sample's configuration: highest quality, smaller nll, the default, the lower number."""
    return [
        max(range(len(quality)), key=lambda c: (quality[c, i], -nll[c, i], c == default, -c))
        for i in range(quality.shape[1])
    ]


def resample(weights: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The samples of one resample, each as often as its weight says."""
    return np.repeat(samples, weights[samples])


def interval(values: list[float]) -> tuple[float, float]:
    """The 95% percentile interval."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
