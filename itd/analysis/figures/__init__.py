"""Figures from answers, in one style, readable in grey and by colour-blind readers. matplotlib loads when drawing."""

from itd.analysis.figures.drawing import Drawing, Mark, save_figure, short_names
from itd.analysis.figures.greedy import greedy_figure

__all__ = ["Drawing", "Mark", "greedy_figure", "save_figure", "short_names"]
