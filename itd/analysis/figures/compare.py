"""Two results before and after: worst, median, best and what stands beside them (ITD paper, table 2)."""

from __future__ import annotations

from typing import Any

from itd.analysis._compare import Comparison
from itd.analysis._oracle import RULES
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    tidy,
    within_percent,
)
from itd.analysis.frames import short_names
from itd.analysis.rules import rule_of

FIGURES = (*RULES, "matched_topk")


def compare_figure(comparison: Comparison) -> Drawing:
    """Each figure before and after, with 95% intervals, joined by a line.

    >>> compare_figure(compare(open_result("before.parquet"), open_result("after.parquet")))  # doctest: +SKIP
    """
    figure = new_figure(5.2, 3.9)
    axes = figure.add_subplot()
    names = [name for name in FIGURES if getattr(comparison.before, name) and getattr(comparison.after, name)]
    marks: list[Mark] = []
    rows: list[dict[str, Any]] = []
    labels = short_names([comparison.before.result, comparison.after.result])
    for place, side in enumerate((comparison.before, comparison.after)):
        for x, name in enumerate(names):
            value = getattr(side, name)
            at, y = x + 0.22 * (place - 0.5), 100 * value.value
            axes.plot([at, at], [100 * value.low, 100 * value.high], color=COLOURS[place], linewidth=1.2)
            axes.plot(
                at, y, MARKERS[place], color=COLOURS[place], markersize=7, markeredgecolor="white", linestyle="",
                label=labels[place] if x == 0 else None,
            )  # fmt: skip
            marks.append(Mark(0, at, y, f"{labels[place]}, {name}: {with_interval(value)}"))
            rows.append({"what": name, "result": side.result, **value.as_dict()})
    for x, name in enumerate(names):
        ends = [100 * getattr(side, name).value for side in (comparison.before, comparison.after)]
        axes.plot([x - 0.11, x + 0.11], ends, color="0.6", linewidth=0.8, zorder=1)
    axes.set_xticks(range(len(names)), [rule_of(name).name.replace(" ", "\n") for name in names])
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_ylim(0, 100)
    within_percent(axes)
    axes.set_title(f"n = {comparison.n:,}", fontsize=9)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=1, **legend_style())
    caption = "Accuracies before and after, on the same images. Bars: 95% intervals."
    columns = ("what", "result", "value", "low", "high", "n")
    return Drawing("compare", "Before and after", caption, figure, columns, tuple(rows), tuple(marks))
