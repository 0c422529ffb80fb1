"""What selectors achieve, held against what needs none: folds, and the figures that each selector is reported by.

Everything that is chosen (the greedy list, thresholds, whatever was learnt) is chosen on other samples than it is
measured on. The selectors that look at the images are in `itd.selectors`; the cascade is in `cascade`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._baselines import most_confident
from itd.analysis._greedy import accumulate, greedy_priority
from itd.analysis.bootstrap_greedy import list_votes
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.sampling import Estimate, Resamples, estimate, proportion
from itd.analysis.scores import common, correctness, require_default, require_number, require_same_data, require_whole
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result


GAPS = ("gap_closed", "gap_from_best_fixed", "gap_from_before")
"""Fields of an outcome: how much of the way to the oracle, from each of three zeros."""


@dataclass(frozen=True)
class CascadePoint:
    """The cascade at one threshold, measured on samples that its list was not chosen on. macs: mean of one image."""

    threshold: float
    accuracy: Estimate
    macs: Estimate

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"threshold": self.threshold, "accuracy": self.accuracy.as_dict(), "macs": self.macs.as_dict()}


@dataclass(frozen=True, eq=False)
class Fold:
    """held: the samples to measure on. others: those to choose on. rows: (k,) of the greedy list made on the others."""

    held: np.ndarray
    others: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What one way to choose achieves.

    macs: mean of one image, the selector's own included, None where it cannot be told. gap_closed: how much of the way
    from static to the oracle over the same k; None where the oracle is no better. gap_from_best_fixed: the same from
    the best fixed configuration, chosen on other samples: what choosing image by image adds. gap_from_before: the same
    from the network before it was fine-tuned, None where its result is not given; fine-tuning moves the static network,
    so a gap that counts from it may be one that fine-tuning made.
    """

    accuracy: Estimate
    macs: Estimate | None = None
    gap_closed: Estimate | None = None
    gap_from_best_fixed: Estimate | None = None
    gap_from_before: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("accuracy", "macs", *GAPS)
        estimates = {name: getattr(self, name) for name in names}
        return {name: None if value is None else value.as_dict() for name, value in estimates.items()}


@dataclass(frozen=True)
class Selection(Answer):
    """What selectors achieve on the first k configurations of a greedy list, cross-validated by sample.

    baselines: static; single_best, the first of the list; most_confident and majority_vote of the k; oracle, the best
    case of the k. selectors: each by name, `cascade` always. thresholds: of the cascade, for each fold. lists: the
    configurations of each fold, cheapest first. curve: the cascade at every threshold. macs_unknown:
    operators that no figure of cost counts.
    """

    result: str
    n: int
    k: int
    baselines: dict[str, Outcome]
    selectors: dict[str, Outcome]
    thresholds: tuple[float, ...] = ()
    lists: tuple[tuple[int, ...], ...] = ()
    curve: tuple[CascadePoint, ...] = field(default=(), repr=False)
    macs_unknown: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """One row for each way to choose."""
        rows = []
        for kind, named in (("baseline", self.baselines), ("selector", self.selectors)):
            for name, one in named.items():
                row: Row = {"kind": kind, "name": name, "n": self.n, "k": self.k}
                for key in ("accuracy", "macs", *GAPS):
                    row |= flat(key, getattr(one, key))
                rows.append(row)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "result": self.result,
            "n": self.n,
            "k": self.k,
            "baselines": {name: one.as_dict() for name, one in self.baselines.items()},
            "selectors": {name: one.as_dict() for name, one in self.selectors.items()},
            "thresholds": list(self.thresholds),
            "lists": [list(one) for one in self.lists],
            "curve": [point.as_dict() for point in self.curve],
            "macs_unknown": list(self.macs_unknown),
        }


class CrossValidation:
    """One cross-validation: what its folds are, and how a selector's outcome on them is measured.

    correct, quality, confidence: (C, N) of the result. macs: (C,) float64. static, single_best, best: (N,) bool, the
    default's, the first's and the oracle's over each fold's list. before: (N,) bool, the default's of the network
    before it was fine-tuned, or None.
    """

    def __init__(
        self,
        result: Result,
        k: int,
        folds: int,
        resamples: Resamples,
        partial: bool = False,
        before: Result | None = None,
    ) -> None:
        """before: a result of the network before it was fine-tuned, on the same samples. Raises ResultError without a
        default configuration or MACs, for a k or folds that cannot be, and for a `before` of other samples."""
        require_whole(result, partial)
        default = require_default(result, "a selector")
        self.result, self.k, self.drawn = result, k, resamples
        self.quality, self.confidence = result.matrix("quality"), result.matrix("confidence")
        self.correct = correctness(result, self.quality)
        if result.macs is None:
            raise ResultError(
                f"{result.path} does not say what its configurations cost; give the folder that it came from"
            )
        require_number(k, "k", least=1)
        require_number(folds, "folds", least=2)
        if folds > result.n:
            raise ResultError(
                f"{result.n} samples cannot be cross-validated in {folds} folds; give 2 to {result.n} folds"
            )
        if k > result.configs:
            raise ResultError(f"k = {k} is not allowed; give 1 to {result.configs} configurations")
        self.macs = result.macs.astype(np.float64)
        self.default = default
        self.folds = [self._fold(held) for held in fold_samples(result.n, folds, resamples.seed)]
        self.static = self.correct[default]
        self.before = None if before is None else _static_before(before, result)
        self.single_best = self._on_folds(lambda fold: self.correct[fold.rows[0], fold.held])
        self.best = self._on_folds(lambda fold: self.correct[fold.rows][:, fold.held].any(0))

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """(k,) the greedy list made on these samples."""
        priority = greedy_priority(self.result, self.quality[:, samples])
        return np.array(accumulate(self.correct[:, samples], priority)[0][: self.k])

    def _fold(self, held: np.ndarray) -> Fold:
        others = np.setdiff1d(np.arange(self.result.n), held)
        return Fold(held, others, self.rows(others))

    def _on_folds(self, measure: Any) -> np.ndarray:
        first = measure(self.folds[0])
        out = np.zeros(self.result.n, first.dtype)
        for fold in self.folds:
            out[fold.held] = measure(fold)
        return out

    def outcome(self, right: np.ndarray, macs: np.ndarray | None) -> Outcome:
        """What a way to choose achieves. right: (N,) bool. macs: (N,) of each sample."""
        return Outcome(
            proportion(right),
            None if macs is None else self.drawn.mean(macs),
            *(
                None if zero is None else _gap(right, zero, self.best, self.drawn)
                for zero in (self.static, self.single_best, self.before)
            ),
        )

    def baselines(self) -> dict[str, Outcome]:
        """What stands beside every selector."""
        n, drawn = self.result.n, self.drawn
        pred = self.result.matrix("pred")

        def vote(fold: Fold) -> np.ndarray:
            listed = fold.rows[None]
            ((_, right_by_k),) = list_votes(pred[:, fold.held], self.correct[:, fold.held], listed, [len(fold.rows)])
            return right_by_k[len(fold.rows)][0]

        def confident(fold: Fold) -> np.ndarray:
            place = np.flatnonzero(fold.rows == self.default)
            return most_confident(
                self.confidence[fold.rows][:, fold.held],
                self.correct[fold.rows][:, fold.held],
                int(place[0]) if len(place) else None,
            )

        together = self._on_folds(lambda fold: np.full(len(fold.held), self.macs[fold.rows].sum()))
        first = self._on_folds(lambda fold: np.full(len(fold.held), self.macs[fold.rows[0]]))
        return {
            "static": Outcome(proportion(self.static), drawn.mean(np.full(n, self.macs[self.default]))),
            "single_best": self.outcome(self.single_best, first),
            "most_confident": self.outcome(self._on_folds(confident), together),
            "majority_vote": self.outcome(self._on_folds(vote), together),
            "oracle": Outcome(proportion(self.best)),
        }

    def chosen(self, place: Sequence[np.ndarray], own_macs: float = 0.0) -> Outcome:
        """What choosing one configuration for each held sample achieves.

        place: for each fold (held,), the place in the fold's list. own_macs: what choosing costs.
        """
        rows = np.zeros(self.result.n, np.int64)
        for fold, at in zip(self.folds, place, strict=True):
            rows[fold.held] = fold.rows[at]
        return self.outcome(self.correct[rows, np.arange(self.result.n)], self.macs[rows] + own_macs)


def _static_before(before: Result, result: Result) -> np.ndarray:
    """(N,) bool: where the default configuration of another result is right on this result's samples."""
    require_same_data([result, before], "hold against")
    default = require_default(before, "the gap from before")
    ours, theirs = common(result, before)
    if len(ours) < result.n:
        raise ResultError(
            f"{before.path} lacks {result.n - len(ours)} of the {result.n} samples of {result.path}; sweep "
            "it on all of them"
        )
    return correctness(before)[default, theirs]


def fold_samples(n: int, folds: int, seed: int = 0) -> list[np.ndarray]:
    """The samples 0 to n - 1 in folds at random, each in ascending order, of sizes that differ by at most one.

    >>> [len(fold) for fold in fold_samples(7, 3)]
    [3, 2, 2]
    """
    order = np.random.default_rng((seed, n, folds)).permutation(n)
    return [np.sort(part) for part in np.array_split(order, folds)]


def _gap(right: np.ndarray, static: np.ndarray, best: np.ndarray, drawn: Resamples) -> Estimate | None:
    """(achieved - zero) / (oracle - zero), zero being `static`, with the interval of the resamples in which the oracle
    is better."""
    gap = best.mean() - static.mean()
    if gap <= 0:
        return None
    gaps = drawn.means(best.astype(np.float64) - static)
    gains = drawn.means(right.astype(np.float64) - static)
    return estimate(float((right.mean() - static.mean()) / gap), gains[gaps > 0] / gaps[gaps > 0], len(right))
