"""The bounds of a dynamic network: static, worst, median and best accuracy over all configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._baselines import Baselines, baselines
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.sampling import Estimate, Resamples, as_resamples, proportion
from itd.analysis.scores import correctness, require_result

if TYPE_CHECKING:
    from itd.store import Result

RULES = ("static", "worst", "median", "best")


@dataclass(frozen=True)
class OracleAccuracy(Answer):
    """Top-1 accuracy under the oracle's rules, as fractions of n samples (ITD paper, Table 1).

    static: the default configuration's, None where it is not in the space. nulls: samples left out because they have
    null rows. requested: images the sweep was asked for; n + nulls of them are there. intervals: rule -> its estimate.
    baselines: what to hold beside the best.
    """

    result: str
    n: int
    configs: int
    static: float | None
    worst: float
    median: float
    best: float
    nulls: int = 0
    requested: int = 0
    intervals: Mapping[str, Estimate] = field(default_factory=dict)
    baselines: Baselines | None = None

    @property
    def partial(self) -> bool:
        """Whether images that were asked for are not there yet."""
        return self.n + self.nulls < self.requested

    def rows(self) -> list[Row]:
        """One flat row: each figure with its `_low` and `_high`."""
        row: Row = {"result": self.result, "n": self.n, "configs": self.configs}
        named = {rule: self.intervals.get(rule) for rule in RULES}
        for name, value in {**named, **(self.baselines.named() if self.baselines else {})}.items():
            row |= flat(name, value)
        row["chance_uniform"] = self.baselines.chance_uniform if self.baselines else None
        return [row | {"nulls": self.nulls, "requested": self.requested}]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("result", "n", "configs", *RULES, "nulls", "requested")
        return {
            **{name: getattr(self, name) for name in names},
            "intervals": {rule: [e.low, e.high] for rule, e in self.intervals.items()},
            "baselines": None if self.baselines is None else self.baselines.as_dict(),
        }


def oracle(
    result: Result,
    *,
    vote_ks: Sequence[int] = (),
    resamples: Resamples | int | None = None,
    seed: int = 0,
    num_classes: int | None = None,
) -> OracleAccuracy:
    """Static, worst, median and best accuracy of a result, with intervals and the baselines.

    A sample counts under a rule where the quality of the configuration the rule picks is at least 1, which is where
    its prediction is the label (ITD paper, eq. 1). Median is the element `(C - 1) // 2` of the qualities in ascending
    order.

    Args:
        result: of `open_result`.
        vote_ks: lengths of the greedy lists that vote, of the baselines.
        resamples: how many bootstrap resamples the intervals of the baselines are of, or drawn `Resamples`; default
            1,000.
        seed: of the resamples, and of the halves of the baselines.
        num_classes: of `chance_uniform` of the baselines; default what the result says.

    Returns:
        The accuracies as fractions of n samples.

    Raises:
        ResultError: what is given is no result; EmptyResultError for one without images.

    Example:
        >>> oracle(open_result("results/resnet50-stride.parquet")).best  # doctest: +SKIP
        0.93
    """
    require_result(result, "oracle")
    right = rules_right(correctness(result), result.default_index)
    drawn = as_resamples(resamples, result.n, seed)
    estimates = {rule: proportion(is_right) for rule, is_right in right.items()}
    return OracleAccuracy(
        result=result.path,
        n=result.n,
        configs=result.configs,
        static=estimates["static"].value if "static" in estimates else None,
        worst=estimates["worst"].value,
        median=estimates["median"].value,
        best=estimates["best"].value,
        nulls=result.nulls,
        requested=result.images_requested,
        intervals=estimates,
        baselines=baselines(result, vote_ks=vote_ks, resamples=drawn, num_classes=num_classes),
    )


def rules_right(correct: np.ndarray, default: int | None) -> dict[str, np.ndarray]:
    """Rule -> (N,) bool, whether the configuration that it picks is right. Without a default there is no `static`.

    correct: (C, N) bool.
    """
    configs = len(correct)
    count = correct.sum(0, dtype=np.int32)
    wrong = configs - count
    static = {} if default is None else {"static": correct[default]}
    return {
        **static,
        "worst": wrong == 0,
        # ascending: the wrong ones (quality < 1) come first, so the element at (C - 1) // 2 is right if they end before
        "median": wrong <= (configs - 1) // 2,
        "best": count > 0,
    }
