"""The bounds of a dynamic network: static, worst, median and best accuracy over all configurations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.errors import EmptyResultError

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class OracleAccuracy:
    """Top-1 accuracy under the oracle's rules, as fractions of n samples (ITD paper, Table 1).

    static: the default configuration's, None where it is not in the space. nulls: samples left out because they have
    null rows. requested: images the sweep was asked for; n + nulls of them are there.
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

    @property
    def partial(self) -> bool:
        """Whether images that were asked for are not there yet."""
        return self.n + self.nulls < self.requested

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def oracle(result: Result) -> OracleAccuracy:
    """Static, worst, median and best accuracy of a result.

    A sample counts under a rule where the quality of the configuration the rule picks is at least 1, which is where
    its prediction is the label (ITD paper, eq. 1). Median is the element `(C - 1) // 2` of the qualities in ascending
    order.

    >>> oracle(open_result("results/resnet50-stride.parquet")).best  # doctest: +SKIP
    0.93
    """
    correct = correctness(result)
    right = correct.sum(0, dtype=np.int32)
    wrong = len(correct) - right
    default = result.default_index
    return OracleAccuracy(
        result=result.path,
        n=result.n,
        configs=result.configs,
        static=None if default is None else float(correct[default].mean()),
        worst=float((wrong == 0).mean()),
        # ascending: the wrong ones (quality < 1) come first, so the element at (C - 1) // 2 is right if they end before
        median=float((wrong <= (result.configs - 1) // 2).mean()),
        best=float((right > 0).mean()),
        nulls=result.nulls,
        requested=result.images_requested,
    )


def correctness(result: Result, quality: np.ndarray | None = None) -> np.ndarray:
    """(C, N) bool: where the prediction is the label. quality: the result's, where it is loaded already."""
    if not result.n:
        raise EmptyResultError(
            f"{result.path} has no images yet (or only null rows), so there is nothing to measure; "
            "give its `itd sweep` command again to go on with it"
        )
    return (result.matrix("quality") if quality is None else quality) >= 1
