"""What a result says, in one sentence: the oracle against the network as it is, against guessing, and held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis._gain import Gain, gain_of
from itd.analysis._held_out import FOLDS, REPEATS, HeldOutStep, held_out, scores_of
from itd.analysis._oracle import OracleAccuracy
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.sampling import Estimate, Resamples, as_resamples, paired, proportion
from itd.analysis.scores import correctness, require_result

if TYPE_CHECKING:
    from itd.store import Result

FIRST = 5
"""Configurations of the greedy list that the sentence is of."""
SENTENCE_WORK = 5e9
"""Multiply-accumulates that its interval may cost: a second or two."""


@dataclass(frozen=True)
class Summary(Answer):
    """One result in a sentence.

    over_static, over_matched: the oracle's best less the default network and less as many guesses of it. first: the
    first five configurations of a greedy list, held out; None for a single image. All None without a default
    configuration; then `best` is what there is to say. truth: as of `Result`; of any but `label` nothing is known of
    guesses.
    """

    result: str
    n: int
    best: Estimate
    static: Estimate | None = None
    over_static: Estimate | None = None
    over_matched: Estimate | None = None
    first: HeldOutStep | None = None
    truth: str = "label"

    def sentence(self, name: str | None = None) -> str:
        """What there is to say. name: of the result, in place of its path."""
        name = name or self.result
        if self.over_static is not None and self.over_matched is None:
            return (
                f"{name}: by {self.truth} labels the oracle is {_points(self.over_static, 'the network as it is')}; "
                "what as many guesses of that network give is not known by them."
            )
        if self.over_static is None or self.over_matched is None:
            return (
                f"{name}: the oracle is right on {100 * self.best.value:.1f}% ({_ends(self.best)}); the space does not "
                "hold the network as it is, so nothing says what choosing adds to it."
            )
        parts = [f"{name}: the oracle is {_points(self.over_static, 'the network as it is')}"]
        parts.append(f"as many guesses of that network are {_points(_turned(self.over_matched), 'the oracle')}")
        if self.first is not None and self.first.over_static is not None:
            gained, guessed = self.first.over_static, self.first.over_static.value
            if self.first.over_matched is not None:
                guessed -= self.first.over_matched.value
            which = f"first {self.first.k} configurations" if self.first.k > 1 else "first configuration"
            parts.append(f"held out, its {which} {_gains(gained)}, as many guesses {100 * guessed:.1f}")
        return "; ".join(parts) + "."

    def rows(self) -> list[Row]:
        """One flat row."""
        row: Row = {"result": self.result, "n": self.n, **flat("best", self.best), **flat("static", self.static)}
        row |= flat("over_static", self.over_static) | flat("over_matched", self.over_matched)
        first = self.first
        over_static, over_matched = (first.over_static, first.over_matched) if first else (None, None)
        row |= {"first": first.k if first else None, **flat("first_over_static", over_static)}
        return [row | flat("first_over_matched", over_matched)]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.rows()[0] | {"sentence": self.sentence()}


def summary(result: Result, *, resamples: Resamples | int | None = None, seed: int = 0) -> Summary:
    """The sentence of a result.

    Args:
        result: of `open_result`.
        resamples: how many bootstrap resamples the held-out interval is of, or drawn `Resamples`; default 1,000, fewer
            where a fixed budget of work allows no more.
        seed: of the folds and the resamples, as of `greedy`, whose figures these are.

    Raises:
        ResultError: what is given is no result; EmptyResultError for one without images.

    Example:
        >>> print(summary(open_result("results/resnet50-stride-val1300.parquet")).sentence("r"))  # doctest: +SKIP
        r: the oracle is 14.6 points above the network as it is (8.0 to 20.7); ...
    """
    require_result(result, "summary")
    right = correctness(result)
    best = np.any(right, axis=0)
    if result.default_index is None:
        return Summary(result.path, result.n, proportion(best))
    if result.truth != "label":
        static = right[result.default_index]
        return Summary(
            result.path, result.n, proportion(best), proportion(static), paired(best, static), truth=result.truth
        )
    drawn = as_resamples(resamples, result.n, seed)
    curve = held_out(scores_of(result), FOLDS, REPEATS, drawn, length=FIRST, work=SENTENCE_WORK)
    return of_gain(gain_of(result, curve)[0])


def of_gain(gained: Gain) -> Summary:
    """The same from an answer of `gain` that is there already."""
    steps = gained.held_out.steps if gained.held_out else ()
    first = steps[min(FIRST, len(steps)) - 1] if steps else None
    return Summary(gained.result, gained.n, gained.best, gained.static, gained.over_static, gained.over_matched, first)


def without_curve(row: OracleAccuracy) -> Summary:
    """Of a result without a default configuration, from its oracle."""
    return Summary(row.result, row.n, row.intervals["best"])


def _turned(value: Estimate) -> Estimate:
    return Estimate(-value.value, -value.high, -value.low, value.n)


def _ends(value: Estimate) -> str:
    return " to ".join(f"{round(100 * end, 1) + 0.0:.1f}" for end in (value.low, value.high))  # never -0.0


def _points(value: Estimate, other: str) -> str:
    """`14.6 points above the network (9.2 to 20.8)`; below with the interval turned round; level where neither."""
    points = round(100 * value.value, 1)
    if points == 0:
        return f"level with {other} ({_ends(value)})"
    shown = value if points > 0 else _turned(value)
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {other} ({_ends(shown)})"


def _gains(value: Estimate) -> str:
    shown, verb = (value, "gain") if value.value >= 0 else (_turned(value), "lose")
    return f"{verb} {100 * shown.value:.1f} points ({_ends(shown)})"
