"""What the oracle gains beyond guessing, result beside result: do networks that already adapt leave less to it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._oracle import rules_right
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import default_rank, distinct
from itd.analysis.sampling import Estimate, Resamples, as_resamples
from itd.analysis.scores import common, correctness, require_default, require_results, require_same_data
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result

FIGURES = ("static", "best", "matched_topk", "over_static", "over_matched", "against_first")


@dataclass(frozen=True)
class Gain(Answer):
    """One result. static, best, matched_topk: accuracies on its n samples. over_static: best - static. over_matched:
    best - matched_topk, what the oracle found beyond as many guesses. against_first: over_matched less that of the
    first result, on the samples that both have; None for the first one and where the images are others, as `apart`
    says. Intervals of differences are paired.
    """

    result: str
    configs: int
    n: int
    static: Estimate
    best: Estimate
    matched_topk: Estimate
    over_static: Estimate
    over_matched: Estimate
    against_first: Estimate | None
    apart: str | None = None

    def rows(self) -> list[Row]:
        """One flat row: each figure with its `_low` and `_high`."""
        row: Row = {"result": self.result, "n": self.n, "configs": self.configs}
        for name in FIGURES:
            row |= flat(name, getattr(self, name))
        return [row]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {
            "result": self.result,
            "configs": self.configs,
            "n": self.n,
            **{name: None if e is None else e.as_dict() for name, e in figures.items()},
        }


def gain(results: Sequence[Result], *, seed: int = 0, resamples: Resamples | int | None = None) -> list[Gain]:
    """The gain of each result, the first one being what the others are held against.

    Raises ResultError for a result without the network's default configuration.

    >>> gain([open_result("results/resnet50-stride.parquet")])[0].over_matched.value  # doctest: +SKIP
    -0.046
    """
    require_results(results, "gain")
    count, seed = (resamples.count, resamples.seed) if isinstance(resamples, Resamples) else (resamples, seed)
    gains: list[Gain] = []
    first: np.ndarray | None = None
    for result in results:
        right = rules_right(correctness(result), require_default(result, "the gain over guessing"))
        best, static = right["best"].astype(np.int8), right["static"]
        matched = default_rank(result) < distinct(result.matrix("pred"))
        beyond = best - matched
        drawn = as_resamples(count, result.n, seed)
        against = None
        apart = None if first is None else _apart(results[0], result)
        if first is None:
            first = beyond
        elif apart is None:
            ours, theirs = common(results[0], result)
            against = as_resamples(count, len(ours), seed).mean(beyond[theirs] - first[ours])
        gains.append(
            Gain(
                result=result.path,
                configs=result.configs,
                n=result.n,
                static=drawn.mean(static),
                best=drawn.mean(best),
                matched_topk=drawn.mean(matched),
                over_static=drawn.mean(best - static),
                over_matched=drawn.mean(beyond),
                against_first=against,
                apart=apart,
            )
        )
    return gains


def _apart(first: Result, other: Result) -> str | None:
    """Why two results cannot be held against each other; None where they can."""
    try:
        require_same_data([first, other], "hold against the first")
    except ResultError as error:
        return str(error)
    shared = len(common(first, other)[0])
    return None if shared else f"{first.path} and {other.path} share no sample; sweep both on the same images"
