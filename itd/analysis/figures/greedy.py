"""Best-case accuracy against the number of configurations (ITD paper, figure 3), beside the matched top-k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis._greedy import GreedyCurve
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    STYLES,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    shown_names,
    tidy,
)
from itd.analysis.frames import columns_of, rows_of


def greedy_figure(curves: Sequence[GreedyCurve]) -> Drawing:
    """Best-case accuracy against the number of configurations, one line for each result.

    The band is the 95% interval; the thin line of the same colour is the matched top-k of the same configurations, and
    the static accuracy is marked at the right edge.

    >>> greedy_figure([greedy(open_result("results/resnet50-size.parquet"))]).save("greedy.png")  # doctest: +SKIP
    """
    figure = new_figure()
    axes = figure.add_subplot()
    names = shown_names([c.result for c in curves])
    marks: list[Mark] = []
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        _draw(axes, curve, name, i)
        _draw_interval(axes, curve, i, band=len(curves) < 3)
        marks += [Mark(0, s.k, 100 * s.accuracy, _say(name, s)) for s in curve.steps]
    if any(curve.static is not None for curve in curves):
        axes.plot([], [], color="0.35", linewidth=0.8, label="matched top-k (thin)")
        axes.plot([], [], color="0.35", linestyle="--", linewidth=0.9, label="static (default configuration)")
    _name_axes(axes)
    if len(curves) > 3:  # or it would hide what it names
        figure.legend(loc="outside lower center", ncols=2, **legend_style())
    else:
        axes.legend(loc="best", **legend_style())
    rows = tuple(rows_of(curves))
    columns = tuple(columns_of(rows))
    caption = (
        "Configurations are added greedily: each is right on most of the samples that no earlier one is right on. "
        "Band, or bar at the end: 95% bootstrap interval, selection repeated. Thin line: the static network allowed as "
        "many guesses for each sample as the same configurations made distinct predictions."
    )
    return Drawing("greedy", "Best case of the first k configurations", caption, figure, columns, rows, tuple(marks))


def _draw(axes: Any, curve: GreedyCurve, name: str, i: int) -> None:
    colour, style, marker = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)], MARKERS[i % len(MARKERS)]
    ks = [s.k for s in curve.steps]
    shown = [j for j in range(len(ks)) if ks[j] & (ks[j] - 1) == 0 or j == len(ks) - 1]
    axes.plot(
        ks,
        [100 * s.accuracy for s in curve.steps],
        color=colour,
        linestyle=style,
        linewidth=1.9,
        label=f"{name} (n = {curve.n:,})",
        marker=marker,
        markersize=4,
        markevery=shown,
    )
    if curve.static is not None:
        axes.plot(ks, [100 * (s.matched_topk or 0) for s in curve.steps], color=colour, linestyle=style, linewidth=0.8)
        side = axes.get_yaxis_transform()  # a static line carries its result's mark at the right edge
        axes.axhline(100 * curve.static, color=colour, linestyle="--", linewidth=0.9, alpha=0.8, zorder=1)
        axes.plot(1, 100 * curve.static, marker, color=colour, markersize=4, transform=side, clip_on=False)


def _draw_interval(axes: Any, curve: GreedyCurve, i: int, band: bool) -> None:
    """A band along the curve, or one bar at its end: many bands hide one another."""
    sure = [(s.k, 100 * s.interval[0], 100 * s.interval[1]) for s in curve.steps if s.interval is not None]
    colour = COLOURS[i % len(COLOURS)]
    if band and sure:
        ks, low, high = zip(*sure, strict=True)
        axes.fill_between(ks, low, high, color=colour, alpha=0.12, linewidth=0)
    elif sure:
        k, lowest, highest = sure[-1]
        axes.plot([k * 1.13**i] * 2, [lowest, highest], color=colour, linewidth=1.4, marker="_", markersize=5)


def _name_axes(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("configurations, added greedily")
    axes.set_ylabel("best-case top-1 accuracy (%)")
    tidy(axes)


def _say(name: str, step: Any) -> str:
    matched = "" if step.matched_topk is None else f", matched top-k {100 * step.matched_topk:.1f}%"
    return f"{name}: k = {step.k}, {100 * step.accuracy:.1f}%{matched}; adds configuration {step.config}"
