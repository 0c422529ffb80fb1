"""What selectors achieve against what they cost, beside the static network and the oracle they are measured by."""

from __future__ import annotations

from typing import Any

from itd.analysis.figures.bounds import incomplete, with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    shown_names,
    tidy,
)
from itd.analysis.rules import rule_of
from itd.analysis.sampling import Estimate
from itd.analysis.selection import Selection

BASELINES = {
    **{key: rule_of(key).label for key in ("static", "single_best", "most_confident")},
    "majority_vote": "majority vote",
}


def selection_figure(selection: Selection) -> Drawing:
    """Accuracy against mean MACs: the cascade over all thresholds, every other selector and baseline as a point.

    >>> selection_figure(cascade(open_result("results/resnet50-stride.parquet"))).save("c.png")  # doctest: +SKIP
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    marks = [*_draw_cascade(axes, selection), *_draw_points(axes, selection)]
    oracle = selection.baselines["oracle"].accuracy
    axes.axhline(100 * oracle.value, color="0.35", linestyle="--", linewidth=1, label=f"oracle over the {selection.k}")
    axes.set_xlabel("mean multiply-accumulates of one image (G)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"{shown_names([selection.result])[0]} (n = {selection.n:,})", fontsize=9)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=2, **(legend_style() | {"handlelength": 1.6}))
    rows: list[dict[str, Any]] = [
        {"what": "cascade", "threshold": p.threshold, **_row(p.accuracy, p.macs)} for p in selection.curve
    ]
    rows += [
        {"what": name, **_row(one.accuracy, one.macs)}
        for name, one in (selection.selectors | selection.baselines).items()
    ]
    caption = (
        f"Choosing among the first {selection.k} of a greedy list; the list, the threshold and what is learnt come "
        "from other samples than those measured. Band and bars: 95% bootstrap intervals."
        f"{incomplete(selection.macs_unknown)}"
    )
    columns = ("what", "threshold", "accuracy", "low", "high", "macs")
    return Drawing("selection", "What selectors achieve", caption, figure, columns, tuple(rows), tuple(marks))


def _draw_cascade(axes: Any, selection: Selection) -> list[Mark]:
    """The cascade at every threshold, as a line in its band."""
    curve, colour = selection.curve, COLOURS[0]
    xs = [p.macs.value / 1e9 for p in curve]
    low, high = [100 * p.accuracy.low for p in curve], [100 * p.accuracy.high for p in curve]
    axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
    ys = [100 * p.accuracy.value for p in curve]
    axes.plot(xs, ys, color=colour, linewidth=1.2, label="cascade, threshold 0 to 1")
    texts = [f"threshold {p.threshold:g}: {with_interval(p.accuracy)}" for p in curve]
    return [Mark(0, x, y, text) for x, y, text in zip(xs, ys, texts, strict=True)]


def _draw_points(axes: Any, selection: Selection) -> list[Mark]:
    """Every selector in a colour of its own and every baseline in grey, where its cost is known."""
    named = {
        f"{name}, threshold chosen in the fold" if name == "cascade" else name: (one, COLOURS[i % 6])
        for i, (name, one) in enumerate(selection.selectors.items())
    }
    named |= {label: (selection.baselines[name], "0.45") for name, label in BASELINES.items()}
    marks = []
    for place, (label, (one, colour)) in enumerate(named.items()):
        if one.macs is None:
            continue
        x, y = one.macs.value / 1e9, 100 * one.accuracy.value
        shape = MARKERS[place % len(MARKERS)]
        axes.plot([x, x], [100 * one.accuracy.low, 100 * one.accuracy.high], color=colour, linewidth=0.8)
        axes.plot(x, y, shape, color=colour, markersize=7, markeredgecolor="white", linestyle="", label=label)
        marks.append(Mark(0, x, y, f"{label}: {with_interval(one.accuracy)}, {x:.3g} GMAC"))
    return marks


def _row(accuracy: Estimate, macs: Estimate | None) -> dict[str, Any]:
    mean = None if macs is None else macs.value
    return {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "macs": mean}
