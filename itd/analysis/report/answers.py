"""Every question of the analysis asked of one result, each once. How the answers are shown it does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from itd.analysis._efficiency import Efficiency, efficiency
from itd.analysis._gain import Gain, gain_of
from itd.analysis._greedy import GreedyCurve, greedy
from itd.analysis._oracle import OracleAccuracy, oracle
from itd.analysis._preferences import Preferences, preferences
from itd.analysis._summary import Summary, of_gain, without_curve
from itd.analysis._unique import UniquePredictions, unique
from itd.analysis.sampling import RESAMPLES, as_resamples
from itd.analysis.subsets import Subsets, by_sites

if TYPE_CHECKING:
    from itd.store import Result

HELD_OUT_RESAMPLES = 100
"""At most so many are behind an interval of what is held out, which takes of them a standard deviation alone: known to
7% of itself. Choosing the lists again in each is what a report spends most of its time on."""
VOTE_KS = (3, 5, 10)


@dataclass(frozen=True)
class Answers:
    """Everything asked of one result; None where it cannot say."""

    oracle: OracleAccuracy
    curve: GreedyCurve | None
    subsets: Subsets | None
    unique: UniquePredictions
    preferences: Preferences
    efficiency: Efficiency | None
    gain: Gain | None

    @property
    def summary(self) -> Summary:
        """What it comes to, for a sentence."""
        return without_curve(self.oracle) if self.gain is None else of_gain(self.gain)


def ask(result: Result, partial: bool, count: int | None, seed: int, skipped: list[str]) -> Answers:
    """Asks everything of a result.

    Args:
        result: that keeps what it has read; see `Result.kept`.
        partial: the greedy curve also of one that is not finished.
        count: of the resamples; None for as many as everywhere.
        seed: of the resamples.
        skipped: is told what was left out and why.

    Raises:
        EmptyResultError: it has no images.
    """
    drawn = as_resamples(count, result.n, seed)
    measured = oracle(result, vote_ks=VOTE_KS, resamples=drawn)
    curve = subsets = cheap = gained = None
    if result.partial and not partial:
        coverage = f"{result.images_done} of {result.images_requested} images are there"
        skipped.append(f"{result.path}: the greedy curve, because {coverage}; `partial` draws it all the same")
    else:
        fewer = min(RESAMPLES if count is None else count, HELD_OUT_RESAMPLES)
        curve = greedy(result, partial=partial, resamples=fewer, seed=seed)
    if result.default_index is None:
        skipped.append(f"{result.path}: subsets of sites and efficiency, because it has no default configuration")
    else:
        subsets = by_sites(result)
        gained, _ = gain_of(result, None if curve is None else curve.held_out)
        if "stride" in result.attributes and result.macs is not None:
            cheap = efficiency(result, resamples=drawn)
        elif "stride" in result.attributes:
            skipped.append(f"{result.path}: efficiency, because it does not say what its configurations cost")
    return Answers(measured, curve, subsets, unique(result, resamples=drawn), preferences(result), cheap, gained)
