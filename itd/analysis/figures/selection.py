"""What selectors achieve against what they cost, beside the static network and the oracle they are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis.figures.bounds import incomplete, with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    shown_names,
    tidy,
    within_percent,
)
from itd.analysis.rules import rule_of
from itd.analysis.sampling import Estimate
from itd.analysis.selection import Outcome, Selection

BASELINES = {
    **{key: rule_of(key).label for key in ("static", "single_best", "most_confident")},
    "majority_vote": "majority vote",
}
THRESHOLD = "cascade, threshold of the fold"
LOOKS = {"selector": (COLOURS[1], "o", "selector"), "baseline": ("0.35", "s", "baseline")}
"""Kind of a row -> its colour, its marker, and what the legend says."""


def selection_figure(selection: Selection) -> Drawing:
    """Every selector and baseline in a row of its own, accuracy beside cost; below, the cascade over all thresholds.

    >>> selection_figure(cascade(open_result("results/resnet50-stride.parquet"))).save("c.png")  # doctest: +SKIP
    """
    named = _named(selection)
    figure = new_figure(7.2, 3.9 + 0.23 * len(named))
    panels = figure.subplot_mosaic(
        [["accuracy", "cost"], ["cascade", "cascade"]],
        width_ratios=(3, 2),
        height_ratios=(0.5 + 0.23 * len(named), 2.4),
    )
    marks = [*_draw_named(panels["accuracy"], panels["cost"], named), *_draw_cascade(panels["cascade"], selection)]
    oracle = 100 * selection.baselines["oracle"].accuracy.value
    look: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1}
    panels["accuracy"].axvline(oracle, label=f"oracle over the {selection.k}", **look)
    panels["cascade"].axhline(oracle, **look)
    within_percent(panels["accuracy"], "x")
    within_percent(panels["cascade"])
    figure.suptitle(f"{shown_names([selection.result])[0]} (n = {selection.n:,})", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, **(legend_style() | {"handlelength": 1.6}))
    rows: list[dict[str, Any]] = [
        {"what": "cascade", "threshold": p.threshold, **_row(p.accuracy, p.macs)} for p in selection.curve
    ]
    rows += [
        {"what": name, **_row(one.accuracy, one.macs)}
        for name, one in (selection.selectors | selection.baselines).items()
    ]
    caption = (
        f"Choosing among the first {selection.k} of a greedy list; the list, the threshold and what is learnt come "
        "from other samples than those measured. Band and bars: 95% intervals."
        f"{incomplete(selection.macs_unknown)}"
    )
    columns = ("what", "threshold", "accuracy", "low", "high", "macs")
    return Drawing("selection", "What selectors achieve", caption, figure, columns, tuple(rows), tuple(marks))


def _named(selection: Selection) -> list[tuple[str, str, Outcome]]:
    """(kind, label, outcome) of each row: selectors, then baselines, the most accurate of each first."""
    groups = (
        ("selector", {THRESHOLD if n == "cascade" else n: one for n, one in selection.selectors.items()}),
        ("baseline", {label: selection.baselines[name] for name, label in BASELINES.items()}),
    )
    return [
        (kind, label, one)
        for kind, group in groups
        for label, one in sorted(group.items(), key=lambda item: -item[1].accuracy.value)
    ]


def _draw_named(accuracy: Any, cost: Any, named: Sequence[tuple[str, str, Outcome]]) -> list[Mark]:
    """Each row's accuracy with its interval, and its cost where it is known."""
    marks = []
    for y, (kind, label, one) in enumerate(named):
        colour, marker, _ = LOOKS[kind]
        x, text = 100 * one.accuracy.value, f"{label}: {with_interval(one.accuracy)}"
        accuracy.plot([100 * one.accuracy.low, 100 * one.accuracy.high], [y, y], color=colour, linewidth=1.3)
        accuracy.plot(x, y, marker, color=colour, markersize=5)
        marks.append(Mark(0, x, y, text))
        if one.macs is not None:
            giga = one.macs.value / 1e9
            cost.plot([one.macs.low / 1e9, one.macs.high / 1e9], [y, y], color=colour, linewidth=1.3)
            cost.plot(giga, y, marker, color=colour, markersize=5)
            marks.append(Mark(1, giga, y, f"{text}, {giga:.3g} GMAC"))
    for colour, marker, text in LOOKS.values():
        accuracy.plot([], [], marker, color=colour, markersize=5, label=text)
    accuracy.plot([], [], color="0.35", linewidth=1.3, label="95% interval")
    for axes in (accuracy, cost):
        axes.set_ylim(len(named) - 0.5, -0.5)
        tidy(axes)
    accuracy.set_yticks(range(len(named)), [label for _, label, _ in named], fontsize=8)
    cost.set_yticks(range(len(named)), [])
    cost.set_xlim(left=0)
    accuracy.set_xlabel("top-1 accuracy (%)", fontsize=9)
    cost.set_xlabel("mean cost (GMAC)", fontsize=9)
    return marks


def _draw_cascade(axes: Any, selection: Selection) -> list[Mark]:
    """The cascade at every threshold, as a line in its band, from what it costs."""
    curve, colour = selection.curve, COLOURS[0]
    xs = [p.macs.value / 1e9 for p in curve]
    low, high = [100 * p.accuracy.low for p in curve], [100 * p.accuracy.high for p in curve]
    axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
    ys = [100 * p.accuracy.value for p in curve]
    axes.plot(xs, ys, color=colour, linewidth=1.2, label="cascade, threshold 0 to 1")
    axes.set_xlabel("mean multiply-accumulates of one image (G)", fontsize=9)
    axes.set_ylabel("top-1 accuracy (%)", fontsize=9)
    tidy(axes)
    texts = [f"threshold {p.threshold:g}: {with_interval(p.accuracy)}" for p in curve]
    return [Mark(2, x, y, text) for x, y, text in zip(xs, ys, texts, strict=True)]


def _row(accuracy: Estimate, macs: Estimate | None) -> dict[str, Any]:
    mean = None if macs is None else macs.value
    return {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "macs": mean}
