"""Greedy accumulation: which few configurations already reach most of the best case (ITD paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.oracle import correctness
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class GreedyStep:
    """The k-th configuration added, and the best-case accuracy of the first k together."""

    k: int
    config: int
    settings: dict[str, dict[str, float]]
    accuracy: float


@dataclass(frozen=True)
class GreedyCurve:
    """The whole accumulation of one result, from one to all configurations."""

    result: str
    n: int
    static: float | None
    steps: tuple[GreedyStep, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        steps = [{"k": s.k, "config": s.config, "settings": s.settings, "accuracy": s.accuracy} for s in self.steps]
        return {"result": self.result, "n": self.n, "steps": steps}


def greedy(result: Result, *, partial: bool = False) -> GreedyCurve:
    """Adds, one after another, the configuration that is right on most of the samples that no earlier one is right on.

    Ties go to the higher mean quality, then the default configuration, then the lower number. Configurations that add
    nothing follow in the same order. partial: also read a result whose sweep is not finished.

    >>> [step.config for step in greedy(open_result("results/resnet50-stride.parquet")).steps[:3]]  # doctest: +SKIP
    [34, 118, 7]
    """
    if result.partial and not partial:
        raise ResultError(
            f"{result.path} is not finished: {result.images_done} of {result.images_requested} images are there; give "
            "its `itd sweep` command again to finish it, or --partial to use what is there"
        )
    quality = result.matrix("quality")
    correct = correctness(result, quality)
    mean = quality.mean(1, dtype=np.float64)
    del quality
    is_default = result.config_numbers == (-1 if result.default is None else result.default)
    priority = np.lexsort((result.config_numbers, ~is_default, -mean))
    chosen, covered = accumulate(correct, priority)
    default = result.default_index
    steps = tuple(
        GreedyStep(k, int(result.config_numbers[c]), result.setting(c), count / result.n)
        for k, (c, count) in enumerate(zip(chosen, covered, strict=True), start=1)
    )
    return GreedyCurve(result.path, result.n, None if default is None else float(correct[default].mean()), steps)


def accumulate(correct: np.ndarray, priority: np.ndarray) -> tuple[list[int], list[int]]:
    """The order of greedy accumulation and how many samples are covered after each step.

    correct: (C, N) bool. priority: (C,) row numbers, first the one that wins a tie.

    Each sample is taken off the gains once, when it is first covered: O(N * C) for the whole curve.
    """
    by_sample = np.ascontiguousarray(correct[priority].T).view(np.uint8)
    gains = correct.sum(1, dtype=np.int64)[priority]
    left = np.ones(len(gains), dtype=bool)
    uncovered = np.ones(correct.shape[1], dtype=bool)
    chosen: list[int] = []
    covered: list[int] = []
    total = 0
    while left.any():
        k = int(np.argmax(np.where(left, gains, -1)))
        if not gains[k]:
            break
        new = np.flatnonzero(correct[priority[k]] & uncovered)
        gains -= count_columns(by_sample, new)
        uncovered[new] = False
        left[k] = False
        total += len(new)
        chosen.append(int(priority[k]))
        covered.append(total)
    rest = priority[left].tolist()
    return chosen + rest, covered + [total] * len(rest)


def count_columns(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Column sums of some rows. rows: (N, C) uint8 of 0 and 1. Returns (C,) int64.

    Sums of at most 255 rows fit a byte, which is what makes it fast.
    """
    total = np.zeros(rows.shape[1], dtype=np.int64)
    for start in range(0, len(which), 255):
        total += np.add.reduce(rows[which[start : start + 255]], axis=0, dtype=np.uint8)
    return total
