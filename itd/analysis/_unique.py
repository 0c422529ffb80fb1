"""How many distinct classes the configurations of a network predict for a sample (ITD paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row
from itd.analysis.predictions import distinct_of
from itd.analysis.sampling import Estimate, Resamples, as_resamples, proportion
from itd.analysis.scores import correctness, require_result

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class UniquePredictions(Answer):
    """The distribution of the number of distinct predictions.

    histogram[u - 1]: on how many samples exactly u classes are predicted. agree: share of samples on which all
    configurations predict one class. mean: distinct classes on average.
    """

    result: str
    n: int
    configs: int
    histogram: tuple[int, ...]
    agree: Estimate
    mean: Estimate
    median: float

    def rows(self) -> list[Row]:
        """One row for each number of distinct predictions."""
        return [
            {"result": self.result, "n": self.n, "distinct": distinct, "samples": samples}
            for distinct, samples in enumerate(self.histogram, start=1)
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "result": self.result,
            "n": self.n,
            "configs": self.configs,
            "agree": self.agree.as_dict(),
            "mean": self.mean.as_dict(),
            "median": self.median,
            "most": len(self.histogram),
            "histogram": {u: samples for u, samples in enumerate(self.histogram, start=1) if samples},
        }


def unique(result: Result, *, resamples: Resamples | int | None = None, seed: int = 0) -> UniquePredictions:
    """The histogram of distinct predictions over the samples, and the share on which all configurations agree.

    >>> unique(open_result("results/resnet50-dilation.parquet")).agree.value  # doctest: +SKIP
    0.21
    """
    require_result(result, "unique")
    correctness(result)  # refuses a result without images
    counts = distinct_of(result)
    drawn = as_resamples(resamples, result.n, seed)
    return UniquePredictions(
        result=result.path,
        n=result.n,
        configs=result.configs,
        histogram=tuple(np.bincount(counts)[1:].tolist()),
        agree=proportion(counts == 1),
        mean=drawn.mean(counts),
        median=float(np.median(counts)),
    )
