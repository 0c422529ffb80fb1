"""Greedy accumulation: which few configurations already reach most of the best case (ITD paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._held_out import FOLDS, REPEATS, HeldOut, held_out, scores_of
from itd.analysis.frames import Answer, Row, flat_settings
from itd.analysis.predictions import matched_curve
from itd.analysis.sampling import Resamples, as_resamples
from itd.analysis.scores import correctness, require_result, require_whole

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class GreedyStep:
    """The k-th configuration added, and the best-case accuracy of the first k together, in-sample: on the very samples
    that the list was chosen on.

    upper_bound: on these samples no k configurations whatever have a higher best-case accuracy. matched_topk: accuracy
    of the default network that may guess as many classes for a sample as the first k configurations predict there; None
    without a default.
    """

    k: int
    config: int
    settings: dict[str, dict[str, float]]
    accuracy: float
    upper_bound: float | None = None
    matched_topk: float | None = None


@dataclass(frozen=True)
class GreedyCurve(Answer):
    """The whole accumulation of one result, from one to all configurations.

    steps: the list, chosen and measured on all samples. held_out: what such a list achieves on samples that it was not
    chosen on; None where it was not asked for or there is one sample.
    """

    result: str
    n: int
    static: float | None
    steps: tuple[GreedyStep, ...]
    held_out: HeldOut | None = None

    def reach(self, accuracy: float) -> int | None:
        """How many configurations reach an accuracy in-sample, or None where all together do not."""
        return next((s.k for s in self.steps if s.accuracy >= accuracy - 1e-12), None)

    def reach_held_out(self, accuracy: float) -> int | None:
        """How many configurations reach an accuracy on samples that did not choose them, None where none do."""
        steps = self.held_out.steps if self.held_out else ()
        return next((s.k for s in steps if s.accuracy >= accuracy - 1e-12), None)

    def rows(self) -> list[Row]:
        """One row for each step of the held-out curve, then one for each step of the in-sample curve."""
        head: Row = {"result": self.result, "n": self.n}
        empty: Row = dict.fromkeys(("low", "high", "guesses"))
        rows: list[Row] = []
        for held in self.held_out.steps if self.held_out else ():
            added = self.steps[held.k - 1]
            rows.append(
                head | {"curve": "held-out", "k": held.k, "config": added.config, **flat_settings(added.settings)}
                | {name: value for name, value in held.as_dict().items() if name != "k"} | {"upper_bound": None}
            )  # fmt: skip
        for s in self.steps:
            row: Row = head | {"curve": "in-sample", "k": s.k, "config": s.config, **flat_settings(s.settings)}
            rows.append(
                row | {"accuracy": s.accuracy, **empty, "matched_topk": s.matched_topk, "upper_bound": s.upper_bound}
            )
        return rows

    def as_dict(self, reach: Sequence[float] = ()) -> dict[str, Any]:
        """As JSON has it. reach: accuracies to be told of."""
        steps = [
            {
                "k": s.k,
                "config": s.config,
                "settings": s.settings,
                "accuracy": s.accuracy,
                "upper_bound": s.upper_bound,
                "matched_topk": s.matched_topk,
            }
            for s in self.steps
        ]
        reached = {f"{100 * a:.10g}": self.reach(a) for a in reach}
        return {
            "result": self.result,
            "n": self.n,
            "static": self.static,
            "reach": reached,
            "held_out": [step.as_dict() for step in self.held_out.steps] if self.held_out else [],
            "steps": steps,
        }


def greedy(
    result: Result,
    *,
    partial: bool = False,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    resamples: Resamples | int | None = None,
    seed: int = 0,
) -> GreedyCurve:
    """Adds, one after another, the configuration that is right on most of the samples that no earlier one is right on.

    Ties go to the higher mean quality, then the default configuration, then the lower number. Configurations that add
    nothing follow in the same order. The upper bound at k is `min over j of [f(S_j) + the k largest marginal gains at
    S_j]`, S_j the greedy sets: best-case accuracy is submodular, so no k configurations can add more to S_j (Nemhauser,
    Wolsey, Fisher, 1978).

    The list is chosen on all samples, so its accuracy on them is too high. `held_out` is what it achieves on others, by
    cross-validation: lists chosen on all folds but one are measured on that one, which estimates the accuracy of the
    printed list on samples that did not choose it.

    Args:
        result: of `open_result`.
        partial: also read a result whose sweep is not finished.
        folds: of the cross-validation, as many as there are samples at most; 0 leaves it out.
        repeats: divisions into folds that the held-out figures are the mean of.
        resamples: how many bootstrap resamples the intervals of the held-out curve are of, or drawn `Resamples`;
            default 1,000, fewer where a fixed budget of work allows no more, 0 for none.
        seed: of the folds and the resamples.

    Returns:
        The whole curve, from one to all configurations, in-sample; and the held-out curve.

    Raises:
        ResultError: the sweep is not finished, or what is given is no result.

    Example:
        >>> [step.config for step in greedy(open_result("results/resnet50-stride.parquet")).steps[:3]]  # doctest: +SKIP
        [34, 118, 7]
    """
    require_result(result, "greedy")
    require_whole(result, partial)
    scores = scores_of(result)
    correct, default, rank = scores.correct, scores.default, scores.rank
    chosen, covered, bounds = accumulate(correct, greedy_priority(result, scores.quality))
    matched = None if rank is None else matched_curve(scores.pred, np.array(chosen), rank).tolist()
    crossed = held_out(scores, folds, repeats, as_resamples(resamples, result.n, seed))
    steps = tuple(
        GreedyStep(
            k=k + 1,
            config=int(result.config_numbers[c]),
            settings=result.setting(c),
            accuracy=covered[k] / result.n,
            upper_bound=bounds[k] / result.n,
            matched_topk=matched[k] if matched else None,
        )
        for k, c in enumerate(chosen)
    )
    static = None if default is None else float(correct[default].mean())
    return GreedyCurve(result.path, result.n, static, steps, crossed)


def greedy_priority(result: Result, quality: np.ndarray) -> np.ndarray:
    """(C,) rows, the one that wins a tie first: by mean quality, the default, the number."""
    is_default = result.config_numbers == (-1 if result.default is None else result.default)
    return np.lexsort((result.config_numbers, ~is_default, -quality.mean(1, dtype=np.float64)))


def first_rows(result: Result, k: int, *, partial: bool = False) -> list[int]:
    """The rows of the first k configurations of `greedy`."""
    require_whole(result, partial)
    quality = result.matrix("quality")
    return accumulate(correctness(result, quality), greedy_priority(result, quality))[0][:k]


def accumulate(correct: np.ndarray, priority: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """The order of greedy accumulation, how many samples are covered after each step, and the upper bound on it.

    correct: (C, N) bool. priority: (C,) row numbers, first the one that wins a tie.

    Each sample is taken off the gains once, when it is first covered: O(N * C) for the whole curve.
    """
    by_sample = np.ascontiguousarray(correct[priority].T).view(np.uint8)
    gains = correct.sum(1, dtype=np.int64)[priority]
    left = np.ones(len(gains), dtype=bool)
    uncovered = np.ones(correct.shape[1], dtype=bool)
    chosen: list[int] = []
    covered: list[int] = []
    bounds = np.full(len(gains), correct.any(0).sum())
    total = 0
    while left.any():
        bounds = np.minimum(bounds, total + np.cumsum(np.sort(gains)[::-1]))
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
    return chosen + rest, covered + [total] * len(rest), bounds.tolist()


def count_columns(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Column sums of some rows. rows: (N, C) uint8 of 0 and 1. Returns (C,) int64.

    Sums of at most 255 rows fit a byte, which is what makes it fast.
    """
    total = np.zeros(rows.shape[1], dtype=np.int64)
    for start in range(0, len(which), 255):
        total += np.add.reduce(rows[which[start : start + 255]], axis=0, dtype=np.uint8)
    return total
