"""What the oracle gains over the static network, beside what as many guesses gain; and what its first k configurations
gain on images that did not choose them.

Best less matched top-k is a control on the oracle's figure: guesses alone would explain as much of it. It is no bound
on what choosing can gain, and in large spaces it saturates, for a static network with half of the classes to guess is
right nearly always. The comparison to read is that of the first k configurations with as many guesses, held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._held_out import FOLDS, REPEATS, HeldOut, HeldOutStep, held_out, scores_of
from itd.analysis._oracle import rules_right
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import distinct_of
from itd.analysis.sampling import Difference, Estimate, Resamples, as_resamples, paired, proportion
from itd.analysis.scores import common, correctness, require_default, require_results, require_same_data
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result

FIGURES = ("static", "best", "matched_topk", "over_static", "over_matched", "against_first")


@dataclass(frozen=True)
class Gain(Answer):
    """One result.

    static, best, matched_topk: accuracies on its n samples. over_static: best - static. over_matched: best -
    matched_topk, a control on the oracle's figure. against_first: over_matched less that of the first result, on the
    samples that both have; None for the first one and where the images are others, as `apart` says. held_out: the first
    k configurations of a greedy list on samples that did not choose them, beside as many guesses of the static network.
    Intervals of differences are paired.
    """

    result: str
    configs: int
    n: int
    static: Estimate
    best: Estimate
    matched_topk: Estimate
    over_static: Difference
    over_matched: Difference
    against_first: Estimate | None
    apart: str | None = None
    held_out: HeldOut | None = field(default=None, repr=False)

    def rows(self) -> list[Row]:
        """A flat row of the whole space, k null: each figure with its `_low` and `_high`; then one for each k held out,
        where `best` is of the first k."""
        row: Row = {"result": self.result, "n": self.n, "configs": self.configs, "k": None, "guesses": None}
        for name in FIGURES:
            row |= flat(name, getattr(self, name))
        rows = [row]
        for step in self.held_out.steps if self.held_out else ():
            rows.append(
                dict.fromkeys(row)
                | {"result": self.result, "n": self.n, "configs": self.configs, "k": step.k, "guesses": step.guesses}
                | {"best": step.accuracy, "best_low": step.low, "best_high": step.high}
                | {"matched_topk": step.matched_topk}
                | flat("over_static", step.over_static)
                | flat("over_matched", step.over_matched)
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {
            "result": self.result,
            "configs": self.configs,
            "n": self.n,
            **{name: None if e is None else e.as_dict() for name, e in figures.items()},
            "held_out": [_step_dict(step) for step in self.held_out.steps] if self.held_out else [],
        }


def _step_dict(step: HeldOutStep) -> dict[str, Any]:
    over = {"over_static": step.over_static, "over_matched": step.over_matched}
    return step.as_dict() | {name: None if e is None else e.as_dict() for name, e in over.items()}


def gain(
    results: Sequence[Result],
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
    resamples: Resamples | int | None = None,
) -> list[Gain]:
    """The gain of each result, the first one being what the others are held against.

    Args:
        results: of `open_result`, each with the network's default configuration.
        folds: of the held-out curve, as `greedy` takes them; 0 leaves it out.
        repeats: divisions into folds that the held-out figures are the mean of.
        seed: of the folds and the resamples.
        resamples: how many bootstrap resamples the intervals of the held-out curve and of `against_first` are of.

    Returns:
        One answer for each result.

    Raises:
        ResultError: for a result without the network's default configuration.

    Example:
        >>> gain([open_result("results/resnet50-stride.parquet")])[0].over_matched.value  # doctest: +SKIP
        -0.046
    """
    require_results(results, "gain")
    gains: list[Gain] = []
    count, seed = (resamples.count, resamples.seed) if isinstance(resamples, Resamples) else (resamples, seed)
    first: np.ndarray | None = None
    for result in results:
        scores = scores_of(result)
        require_default(result, "the gain over guessing")
        curve = held_out(scores, folds, repeats, as_resamples(count, result.n, seed))
        one, beyond = gain_of(result, curve)
        apart = None if first is None else _apart(results[0], result)
        if first is None:
            first = beyond
        elif apart is None:
            ours, theirs = common(results[0], result)
            against = as_resamples(count, len(ours), seed).mean(beyond[theirs] - first[ours])
            one = replace(one, against_first=against)
        gains.append(replace(one, apart=apart))
    return gains


def gain_of(result: Result, curve: HeldOut | None) -> tuple[Gain, np.ndarray]:
    """The gain of one result on its own, and (N,) int8 where best and matched top-k differ: 1, 0 or -1."""
    right = rules_right(correctness(result), require_default(result, "the gain over guessing"))
    best, static = right["best"], right["static"]
    rank = result.row("rank", require_default(result, "the gain over guessing"))
    matched = rank < distinct_of(result)
    gained = Gain(
        result=result.path,
        configs=result.configs,
        n=result.n,
        static=proportion(static),
        best=proportion(best),
        matched_topk=proportion(matched),
        over_static=paired(best, static),
        over_matched=paired(best, matched),
        against_first=None,
        held_out=curve,
    )
    return gained, best.astype(np.int8) - matched


def _apart(first: Result, other: Result) -> str | None:
    """Why two results cannot be held against each other; None where they can."""
    try:
        require_same_data([first, other], "hold against the first")
    except ResultError as error:
        return str(error)
    shared = len(common(first, other)[0])
    return None if shared else f"{first.path} and {other.path} share no sample; sweep both on the same images"
