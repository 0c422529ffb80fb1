"""Answers from results alone, without running a network: oracle accuracy, greedy accumulation, figures. No torch."""

from itd.analysis.greedy import GreedyCurve, GreedyStep, greedy
from itd.analysis.oracle import OracleAccuracy, oracle

__all__ = ["GreedyCurve", "GreedyStep", "OracleAccuracy", "greedy", "oracle"]
