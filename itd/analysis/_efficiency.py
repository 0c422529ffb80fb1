"""How cheap a dynamic network can be at the same predictions (ITD paper, section 4.6). Costs are MACs, not seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._fixed import CheapestFixed, cheapest_fixed
from itd.analysis.frames import Answer, Row
from itd.analysis.predictions import distinct_of
from itd.analysis.sampling import Estimate, Resamples, as_resamples, estimate, proportion
from itd.analysis.scores import correctness, preferred, require_default, require_result
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class StaticPoint:
    """One configuration used for every sample. macs: of one image. pareto: none is both cheaper and as accurate."""

    config: int
    settings: dict[str, dict[str, float]]
    macs: int
    accuracy: float
    pareto: bool


@dataclass(frozen=True)
class DynamicPoint:
    """A configuration for each sample. macs: mean over the samples. factor: how many times fewer MACs than what it is
    compared with: the default for `cheapest_as_static`, the oracle's own configurations for `cheapest_as_best`."""

    accuracy: Estimate
    macs: Estimate
    factor: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        factor = None if self.factor is None else self.factor.as_dict()
        return {"accuracy": self.accuracy.as_dict(), "macs": self.macs.as_dict(), "factor": factor}


@dataclass(frozen=True)
class Efficiency(Answer):
    """Accuracy against mean MACs of one image.

    static: the default configuration. best: each sample's preferred configuration (the oracle). cheapest_as_static,
    cheapest_as_best: for each sample the cheapest configuration with the same prediction as those. matched_topk: of the
    default (see `baselines`). points: every configuration on its own, in-sample: the best of them was chosen on these
    samples. cheapest_fixed: the cheapest configuration that is as accurate as the default, chosen on other samples than
    it is measured on; None for a single one. macs_unknown: operators that no figure of cost
    counts.
    """

    result: str
    n: int
    static: DynamicPoint
    best: DynamicPoint
    cheapest_as_static: DynamicPoint
    cheapest_as_best: DynamicPoint
    matched_topk: Estimate
    points: tuple[StaticPoint, ...]
    cheapest_fixed: CheapestFixed | None = None
    macs_unknown: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """One row for each configuration on its own, and one for each dynamic point."""
        rows: list[Row] = [
            {"what": "configuration", "config": p.config, "macs": p.macs, "accuracy": p.accuracy, "pareto": p.pareto}
            for p in self.points
        ]
        for name in ("static", "cheapest_as_static", "best", "cheapest_as_best"):
            point = getattr(self, name)
            rows.append({"what": name, "macs": point.macs.value, "accuracy": point.accuracy.value})
        if self.cheapest_fixed is not None:
            fixed = self.cheapest_fixed
            rows.append({"what": "cheapest_fixed", "macs": fixed.macs.value, "accuracy": fixed.accuracy.value})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("static", "best", "cheapest_as_static", "cheapest_as_best")
        return {
            "result": self.result,
            "n": self.n,
            **{name: getattr(self, name).as_dict() for name in names},
            "cheapest_fixed": None if self.cheapest_fixed is None else self.cheapest_fixed.as_dict(),
            "matched_topk": self.matched_topk.as_dict(),
            "points": [
                {"config": p.config, "settings": p.settings, "macs": p.macs, "accuracy": p.accuracy, "pareto": p.pareto}
                for p in self.points
            ],
            "macs_unknown": list(self.macs_unknown),
        }


def efficiency(result: Result, *, resamples: Resamples | int | None = None, seed: int = 0) -> Efficiency:
    """The cheapest configurations that predict the same as the static default, and as the oracle.

    Both are bounds: they pick with the other's prediction in hand. MACs are of the plain forward of one configuration.
    Raises ResultError for a result that has no default configuration or no MACs.

    >>> efficiency(open_result("results/resnet50-stride+size.parquet")).best.macs.value  # doctest: +SKIP
    5182718976.0
    """
    require_result(result, "efficiency")
    default = require_default(result, "itd efficiency")
    if result.macs is None:
        raise ResultError(f"{result.path} does not say what its configurations cost; give the folder that it came from")
    macs = result.macs.astype(np.int64)
    quality, pred = result.matrix("quality"), result.matrix("pred")
    correct = correctness(result, quality)
    drawn = as_resamples(resamples, result.n, seed)
    samples = np.arange(result.n)
    best = preferred(quality, result.matrix("nll"), default)
    as_static = cheapest(pred, pred[default], macs)
    as_best = cheapest(pred, pred[best, samples], macs)
    rank = result.row("rank", default)
    return Efficiency(
        result=result.path,
        n=result.n,
        static=_dynamic(correct, macs, np.full(result.n, default), drawn),
        best=_dynamic(correct, macs, best, drawn),
        cheapest_as_static=_dynamic(correct, macs, as_static, drawn, than=np.full(result.n, default)),
        cheapest_as_best=_dynamic(correct, macs, as_best, drawn, than=best),
        matched_topk=proportion(rank < distinct_of(result)),
        points=_static_points(result, correct, macs),
        cheapest_fixed=_numbered(result, cheapest_fixed(correct, macs, default, drawn)),
        macs_unknown=result.macs_unknown,
    )


def _numbered(result: Result, found: CheapestFixed | None) -> CheapestFixed | None:
    """With the configurations' numbers in place of rows."""
    if found is None:
        return None
    return replace(found, choices=tuple(int(result.config_numbers[c]) for c in found.choices))


def cheapest(pred: np.ndarray, wanted: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """(N,) the row of the cheapest configuration that predicts `wanted`; of equal cost the lower row.

    pred: (C, N). wanted: (N,), each the prediction of some row. macs: (C,).
    """
    rows = np.full(pred.shape[1], -1)
    for row in np.argsort(macs, kind="stable"):
        rows[(rows < 0) & (pred[row] == wanted)] = row
        if (rows >= 0).all():
            break
    return rows


def _dynamic(
    correct: np.ndarray, macs: np.ndarray, rows: np.ndarray, drawn: Resamples, than: np.ndarray | None = None
) -> DynamicPoint:
    right = correct[rows, np.arange(len(rows))]
    cost = macs[rows]
    point = DynamicPoint(proportion(right), drawn.mean(cost))
    if than is None:
        return point
    other = macs[than]
    factor = estimate(float(other.mean() / cost.mean()), drawn.sums(other) / drawn.sums(cost), len(rows))
    return DynamicPoint(point.accuracy, point.macs, factor)


def _static_points(result: Result, correct: np.ndarray, macs: np.ndarray) -> tuple[StaticPoint, ...]:
    accuracy = correct.mean(1)
    best_so_far = -1.0
    pareto = np.zeros(len(macs), bool)
    for row in np.lexsort((np.arange(len(macs)), -accuracy, macs)):
        pareto[row] = accuracy[row] > best_so_far
        best_so_far = max(best_so_far, accuracy[row])
    numbers = result.config_numbers
    return tuple(
        StaticPoint(int(numbers[i]), result.setting(i), int(macs[i]), float(accuracy[i]), bool(pareto[i]))
        for i in range(len(macs))
    )
