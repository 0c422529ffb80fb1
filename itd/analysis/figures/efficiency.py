"""Accuracy against MACs: every configuration on its own, and the cheapest for each sample (ITD paper, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis._efficiency import DynamicPoint, Efficiency, StaticPoint
from itd.analysis.figures.bounds import incomplete, with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    NARROW_IN,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    plain_log,
    shown_names,
    tidy,
    within_percent,
)

POINTS = {
    "static": ("static default", COLOURS[1], "o", 8),
    "cheapest_as_static": ("cheapest with the default's prediction", COLOURS[1], "*", 15),
    "best": ("oracle best", COLOURS[0], "s", 7),
    "cheapest_as_best": ("cheapest with the oracle's prediction", COLOURS[0], "*", 15),
}


def efficiency_figure(answer: Efficiency, *, narrow: bool = False) -> Drawing:
    """Static configurations as grey points, the default and the oracle, and the cheapest of the same predictions.

    narrow: for a narrow column.

    >>> efficiency_figure(efficiency(open_result("results/resnet50-stride+size.parquet")))  # doctest: +SKIP
    """
    figure = new_figure(NARROW_IN, 4.4) if narrow else new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    marks = [*_draw_configurations(axes, answer.points), *_draw_dynamic(axes, answer)]
    plain_log(axes)
    axes.set_xlabel("mean multiply-accumulates of one image (G)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"{shown_names([answer.result])[0]} (n = {answer.n:,})", fontsize=9)
    tidy(axes)
    within_percent(axes)
    figure.legend(loc="outside lower center", ncols=1 if narrow else 2, **(legend_style() | {"handlelength": 1.6}))
    caption = (
        "Stars take for each sample the cheapest configuration with the same prediction: a bound, as it knows that "
        "prediction. Bars: 95% intervals. The best of the grey points was chosen on the samples it is shown "
        f"on.{incomplete(answer.macs_unknown)}"
    )
    columns = ("what", "config", "macs", "accuracy", "pareto")
    rows = tuple(answer.rows())
    return Drawing("efficiency", "Accuracy against cost", caption, figure, columns, rows, tuple(marks))


def _draw_configurations(axes: Any, points: Sequence[StaticPoint]) -> list[Mark]:
    """Every configuration used for all samples, and the line of the best at each cost."""
    axes.scatter(
        [p.macs / 1e9 for p in points], [100 * p.accuracy for p in points], s=9, color="0.7", linewidths=0, zorder=1,
        label=f"each of {len(points):,} configurations for every sample", rasterized=len(points) > 1000,
    )  # fmt: skip
    front = sorted((p for p in points if p.pareto), key=lambda p: p.macs)
    axes.step(
        [p.macs / 1e9 for p in front], [100 * p.accuracy for p in front], where="post", color="0.35", linewidth=1,
        label="best of those at the cost",
    )  # fmt: skip
    return [
        Mark(0, p.macs / 1e9, 100 * p.accuracy, f"configuration {p.config}: {100 * p.accuracy:.1f}%, {_giga(p.macs)}")
        for p in front
    ]


def _draw_dynamic(axes: Any, answer: Efficiency) -> list[Mark]:
    """The default, the oracle and the cheapest of the same predictions, with both intervals."""
    marks = []
    for name, (label, colour, marker, size) in POINTS.items():
        point: DynamicPoint = getattr(answer, name)
        x, y = point.macs.value / 1e9, 100 * point.accuracy.value
        axes.plot([point.macs.low / 1e9, point.macs.high / 1e9], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [100 * point.accuracy.low, 100 * point.accuracy.high], color=colour, linewidth=1)
        axes.plot(x, y, marker, color=colour, markersize=size, label=label, linestyle="", markeredgecolor="white")
        factor = "" if point.factor is None else f", {point.factor.value:.1f} times fewer"
        marks.append(Mark(0, x, y, f"{label}: {with_interval(point.accuracy)}, {_giga(point.macs.value)}{factor}"))
    return marks


def _giga(macs: float) -> str:
    return f"{macs / 1e9:.2f} GMAC"
