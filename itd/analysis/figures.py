"""Figures from answers. matplotlib is imported only when one is drawn, and no global state of it is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from itd.analysis.greedy import GreedyCurve
from itd.errors import ResultError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours without yellow: told apart by colour-blind readers. Line styles tell them apart in grey."""

STYLES = ("-", (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
FORMATS = (".png", ".svg", ".pdf")


def greedy_figure(curves: Sequence[GreedyCurve]) -> Figure:
    """Best-case accuracy against the number of configurations, one line for each result (ITD paper, figure 3).

    A result's static accuracy is the thin horizontal line of its colour and style.

    >>> greedy_figure([greedy(open_result("results/resnet50-size.parquet"))]).savefig("greedy.png")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    side = axes.get_yaxis_transform()  # a static line carries its result's mark at the right edge
    for i, (curve, name) in enumerate(zip(curves, short_names([c.result for c in curves]), strict=True)):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
        ks = [s.k for s in curve.steps]
        accuracy = [100 * s.accuracy for s in curve.steps]
        marks = [j for j in range(len(ks)) if ks[j] & (ks[j] - 1) == 0 or j == len(ks) - 1]
        axes.plot(
            ks,
            accuracy,
            color=colour,
            linestyle=style,
            linewidth=1.9,
            label=f"{name} (n = {curve.n:,})",
            marker=MARKERS[i % 7],
            markersize=4,
            markevery=marks,
        )
        if curve.static is not None:
            axes.axhline(100 * curve.static, color=colour, linestyle="--", linewidth=0.9, alpha=0.8, zorder=1)
            axes.plot(1, 100 * curve.static, MARKERS[i % 7], color=colour, markersize=4, transform=side, clip_on=False)
    if any(curve.static is not None for curve in curves):
        axes.plot([], [], color="0.35", linestyle="--", linewidth=0.9, label="static (default configuration)")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("configurations, added greedily")
    axes.set_ylabel("best-case top-1 accuracy (%)")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="best", handlelength=3.2, facecolor="white", edgecolor="none", framealpha=0.92)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, SVG or PDF, by the path's suffix; ResultError where that cannot be."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ResultError(f"cannot write a figure as {path}; its name must end in {', '.join(FORMATS)}")
    try:
        figure.savefig(path)
    except OSError as error:
        raise ResultError(f"cannot write the figure {path}: {error.strerror or error}; give another path") from error


def short_names(paths: Sequence[str]) -> list[str]:
    """The results' names without folder and suffix, where that tells them apart.

    >>> short_names(["results/a-stride.parquet", "results/a-size.parquet"])
    ['a-stride', 'a-size']
    """
    names = [Path(p).name.removesuffix(".parquet") or p for p in paths]
    return names if len(set(names)) == len(names) else list(paths)
