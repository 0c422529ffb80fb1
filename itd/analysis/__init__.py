"""Answers from results alone, without running a network: the ITD paper's section 4, and the baselines. No torch."""

from itd.analysis.baselines import Baselines, baselines
from itd.analysis.combine import Combination, combine
from itd.analysis.compare import Comparison, compare
from itd.analysis.efficiency import Efficiency, efficiency
from itd.analysis.gain import Gain, gain
from itd.analysis.greedy import GreedyCurve, GreedyStep, greedy
from itd.analysis.oracle import OracleAccuracy, oracle
from itd.analysis.preferences import Preferences, preferences
from itd.analysis.sampling import Estimate, Resamples
from itd.analysis.subsets import Subsets, by_sites
from itd.analysis.unique import UniquePredictions, unique

__all__ = [
    "Baselines",
    "Combination",
    "Comparison",
    "Efficiency",
    "Estimate",
    "Gain",
    "GreedyCurve",
    "GreedyStep",
    "OracleAccuracy",
    "Preferences",
    "Resamples",
    "Subsets",
    "UniquePredictions",
    "baselines",
    "by_sites",
    "combine",
    "compare",
    "efficiency",
    "gain",
    "greedy",
    "oracle",
    "preferences",
    "unique",
]
