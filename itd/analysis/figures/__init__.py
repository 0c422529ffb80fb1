"""Figures from answers, in one style, readable in grey and by colour-blind readers. matplotlib loads when drawing."""

from itd.analysis.figures.bounds import baselines_figure, sites_figure, unique_figure
from itd.analysis.figures.compare import compare_figure
from itd.analysis.figures.drawing import Drawing, Mark, check_figure_path, save_figure
from itd.analysis.figures.efficiency import efficiency_figure
from itd.analysis.figures.gain import gain_figure
from itd.analysis.figures.greedy import greedy_figure
from itd.analysis.figures.preferences import preferences_figure, series_of, variation_figure
from itd.analysis.figures.selection import selection_figure
from itd.analysis.frames import short_names

__all__ = [
    "Drawing",
    "Mark",
    "baselines_figure",
    "check_figure_path",
    "compare_figure",
    "efficiency_figure",
    "gain_figure",
    "greedy_figure",
    "preferences_figure",
    "save_figure",
    "selection_figure",
    "series_of",
    "short_names",
    "sites_figure",
    "unique_figure",
    "variation_figure",
]
