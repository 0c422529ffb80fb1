"""Answers from results alone, without running a network: the ITD paper's section 4, and the baselines. No torch."""

from itd.analysis._baselines import Baselines, baselines
from itd.analysis._combine import Combination, combine
from itd.analysis._compare import Comparison, compare
from itd.analysis._efficiency import Efficiency, efficiency
from itd.analysis._gain import Gain, gain
from itd.analysis._greedy import GreedyCurve, GreedyStep, greedy
from itd.analysis._images import Images, images
from itd.analysis._oracle import OracleAccuracy, oracle
from itd.analysis._preferences import Preferences, preferences
from itd.analysis._union import Union, union
from itd.analysis._unique import UniquePredictions, unique
from itd.analysis.classes import Classes, by_class
from itd.analysis.real_labels import with_real_labels
from itd.analysis.sampling import Estimate, Resamples
from itd.analysis.subsets import Subsets, by_sites

__all__ = [
    "Baselines",
    "Classes",
    "Combination",
    "Comparison",
    "Efficiency",
    "Estimate",
    "Gain",
    "GreedyCurve",
    "GreedyStep",
    "Images",
    "OracleAccuracy",
    "Preferences",
    "Resamples",
    "Subsets",
    "Union",
    "UniquePredictions",
    "baselines",
    "by_class",
    "by_sites",
    "combine",
    "compare",
    "efficiency",
    "gain",
    "greedy",
    "images",
    "oracle",
    "preferences",
    "union",
    "unique",
    "with_real_labels",
]
