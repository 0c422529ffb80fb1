"""Fewer dynamic sites out of a sweep of all: every subset of A to D from the rows that are there (ITD paper, 4.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._oracle import rules_right
from itd.analysis.frames import Answer, Row, interval
from itd.analysis.predictions import distinct
from itd.analysis.sampling import Estimate, proportion
from itd.analysis.scores import correctness, require_default, require_result

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class SubsetAccuracy:
    """The oracle's rules where only some sites are dynamic; the others hold their default."""

    sites: str
    configs: int
    worst: Estimate
    median: Estimate
    best: Estimate
    matched_topk: Estimate

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        rules = ("worst", "median", "best", "matched_topk")
        return {"sites": self.sites, "configs": self.configs, **{r: getattr(self, r).as_dict() for r in rules}}


@dataclass(frozen=True)
class Subsets(Answer):
    """Every non-empty subset of a result's swept sites, smaller ones first. static: of no dynamic site."""

    result: str
    n: int
    static: Estimate
    subsets: tuple[SubsetAccuracy, ...]

    def rows(self) -> list[Row]:
        """One row for each subset of the sites and rule."""
        return [
            {"result": self.result, "n": self.n, "sites": subset.sites, "configs": subset.configs, "rule": rule}
            | interval("accuracy", getattr(subset, rule))
            for subset in self.subsets
            for rule in ("best", "median", "worst", "matched_topk")
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "result": self.result,
            "n": self.n,
            "static": self.static.as_dict(),
            "subsets": [s.as_dict() for s in self.subsets],
        }


def by_sites(result: Result) -> Subsets:
    """Worst, median and best accuracy with each non-empty subset of the sites dynamic, from one sweep.

    A subset's configurations are those in which every other site holds its default. matched_topk: of the same subset
    (see `baselines`). Raises ResultError without a default configuration.

    >>> [s.sites for s in by_sites(open_result("results/resnet50-stride.parquet")).subsets][:5]  # doctest: +SKIP
    ['A', 'B', 'C', 'D', 'AB']
    """
    require_result(result, "by_sites")
    default = require_default(result, "`by_sites`")
    correct, pred = correctness(result), result.matrix("pred")
    rank = result.row("rank", default)
    accuracies = []
    for sites, rows in subset_rows(result, default):
        rules = {rule: proportion(right) for rule, right in rules_right(correct[rows], None).items()}
        unique = distinct(pred[rows])
        matched = proportion(rank < unique)
        accuracies.append(SubsetAccuracy(sites, len(rows), rules["worst"], rules["median"], rules["best"], matched))
    return Subsets(result.path, result.n, proportion(correct[default]), tuple(accuracies))


def subset_rows(result: Result, default: int) -> list[tuple[str, np.ndarray]]:
    """(subset, rows of its configurations) for every non-empty subset of the sites that vary, smaller ones first.

    In a union a site holds its default where it is as in the default configuration of the same source.
    """
    settings = [result.setting(i) for i in range(result.configs)]
    rows = [result.own_default(i) for i in range(result.configs)]
    own = [settings[default if row is None else row] for row in rows]
    at_default = {site: np.array([s[site] == o[site] for s, o in zip(settings, own, strict=True)])
                  for site in result.sites}  # fmt: skip
    varied = [site for site in result.sites if not at_default[site].all()]
    return [("".join(sites), _rows(at_default, sites)) for size in range(1, len(varied) + 1)
            for sites in itertools.combinations(varied, size)]  # fmt: skip


def _rows(at_default: dict[str, np.ndarray], dynamic: Sequence[str]) -> np.ndarray:
    fixed = [held for site, held in at_default.items() if site not in dynamic]
    if not fixed:
        return np.arange(len(next(iter(at_default.values()))))
    return np.flatnonzero(np.logical_and.reduce(fixed))
