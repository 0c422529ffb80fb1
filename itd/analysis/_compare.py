"""Two results of the same images against each other, in the layout of the paper's Table 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._oracle import RULES, rules_right
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import distinct
from itd.analysis.sampling import Estimate, Resamples, as_resamples, paired, proportion
from itd.analysis.scores import common, correctness, require_images, require_result, require_same_data
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result

FIGURES = (*RULES, "volatility", "matched_topk", "agree")


@dataclass(frozen=True)
class Side:
    """One result's figures on the common samples; None where it has no default configuration. volatility: best - worst.
    agree: share of samples on which all configurations predict one class."""

    result: str
    configs: int
    static: Estimate | None
    worst: Estimate
    median: Estimate
    best: Estimate
    volatility: Estimate
    matched_topk: Estimate | None
    agree: Estimate

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {
            "result": self.result,
            "configs": self.configs,
            **{name: None if e is None else e.as_dict() for name, e in figures.items()},
        }


@dataclass(frozen=True)
class Comparison(Answer):
    """Two results on the n samples they share, and after - before with paired intervals.

    total: samples of each. change: of a share of the samples a `Difference`, with McNemar's p. spaces_differ: how the
    two spaces differ, None where they are the same: then a part of the change of worst and best is that of the spaces.
    """

    n: int
    total: tuple[int, int]
    before: Side
    after: Side
    change: dict[str, Estimate | None]
    spaces_differ: str | None = None

    def rows(self) -> list[Row]:
        """One row for each figure."""
        return [
            {"n": self.n, "figure": name}
            | flat("before", getattr(self.before, name))
            | flat("after", getattr(self.after, name))
            | flat("change", self.change[name])
            | {"p": getattr(self.change[name], "p", None)}
            for name in FIGURES
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "n": self.n,
            "total": list(self.total),
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "change": {name: None if e is None else e.as_dict() for name, e in self.change.items()},
            "spaces_differ": self.spaces_differ,
        }


def compare(before: Result, after: Result, *, seed: int = 0, resamples: Resamples | int | None = None) -> Comparison:
    """Worst, median, best and volatility of two results, and the change, on the samples that both have.

    Intervals of the change are paired: of shares of the samples as `paired` has them, of the volatility by resamples
    that are the same for both.

    Args:
        before: a result.
        after: another of the same images, of any network and space.
        seed: of the resamples.
        resamples: how many bootstrap resamples the interval of the volatility is of, or drawn `Resamples` of the
            common samples; default 1,000.

    Returns:
        The figures of each on the common samples, and after - before.

    Raises:
        ResultError: the results are of different images or labels, or share no sample.

    Example:
        >>> compare(open_result("before.parquet"), open_result("after.parquet")).change["worst"].value  # doctest: +SKIP
        0.31
    """
    require_result(before, "compare")
    require_result(after, "compare")
    require_same_data([before, after], "compare")
    ours, theirs = common(before, after)
    if not len(ours):
        require_images(before)
        require_images(after)
        raise ResultError(f"{before.path} and {after.path} share no sample; sweep both on the same images")
    drawn = as_resamples(resamples, len(ours), seed)
    sides, vectors = zip(*(_side(result, at, drawn) for result, at in ((before, ours), (after, theirs))), strict=True)
    change = {
        name: None
        if vectors[0].get(name) is None or vectors[1].get(name) is None
        else _change(vectors[1][name], vectors[0][name], drawn)
        for name in FIGURES
    }
    return Comparison(
        len(ours), (before.n, after.n), sides[0], sides[1], change, spaces_differ=_spaces_differ(before, after)
    )


def _change(after: np.ndarray, before: np.ndarray, drawn: Resamples) -> Estimate:
    if after.dtype == bool:
        return paired(after, before)
    return drawn.mean(after.astype(np.float64) - before)


def _share(values: np.ndarray, drawn: Resamples) -> Estimate:
    return proportion(values) if values.dtype == bool else drawn.mean(values)


def _spaces_differ(before: Result, after: Result) -> str | None:
    """In what the configurations of two results differ, or None."""
    if before.attributes != after.attributes or before.sites != after.sites:
        return f"{_space_words(before)} and {_space_words(after)}"
    here, there = ({str(r.setting(i)) for i in range(r.configs)} for r in (before, after))
    if here == there:
        return None
    return f"{len(here)} and {len(there)} configurations, {len(here & there)} of them in both"


def _space_words(result: Result) -> str:
    return f"{result.configs} configurations of {'+'.join(result.attributes)} at {''.join(result.sites)}"


def _side(result: Result, at: np.ndarray, drawn: Resamples) -> tuple[Side, dict[str, np.ndarray]]:
    """The figures on the samples at these places, and what each of them is the mean of: (N,) each."""
    correct = correctness(result)[:, at]
    vectors = rules_right(correct, result.default_index)
    vectors["volatility"] = vectors["best"].astype(np.int8) - vectors["worst"]
    unique = distinct(result.matrix("pred")[:, at])
    vectors["agree"] = unique == 1
    if result.default_index is not None:
        vectors["matched_topk"] = result.matrix("rank")[result.default_index, at] < unique
    estimates = {name: _share(values, drawn) for name, values in vectors.items()}
    side = Side(
        result=result.path,
        configs=result.configs,
        static=estimates.get("static"),
        worst=estimates["worst"],
        median=estimates["median"],
        best=estimates["best"],
        volatility=estimates["volatility"],
        matched_topk=estimates.get("matched_topk"),
        agree=estimates["agree"],
    )
    return side, vectors
