"""Best-case accuracy against the number of configurations (ITD paper, figure 3), beside the matched top-k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis._greedy import GreedyCurve
from itd.analysis._held_out import HeldOutStep
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
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
from itd.analysis.frames import columns_of, rows_of


def greedy_figure(curves: Sequence[GreedyCurve], *, narrow: bool = False) -> Drawing:
    """Best-case accuracy against the number of configurations, one colour for each result.

    The thick line is held out, its band the 95% interval; the dotted line is in-sample. The thin line is the static
    network with as many guesses, held out, and the static accuracy is marked at the right edge. narrow: for a narrow
    column.

    >>> greedy_figure([greedy(open_result("results/resnet50-size.parquet"))]).save("greedy.png")  # doctest: +SKIP
    """
    figure = new_figure(NARROW_IN, 3.8 + 0.17 * len(curves)) if narrow else new_figure(6.4, 4.6)
    axes = figure.add_subplot()
    names = shown_names([c.result for c in curves])
    marks: list[Mark] = []
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        _draw(axes, curve, name, i)
        _draw_interval(axes, curve, i, band=len(curves) < 3)
        marks += [Mark(0, s.k, 100 * s.accuracy, _say_held(name, s)) for s in _held(curve)]
        marks += [Mark(0, s.k, 100 * s.accuracy, _say(name, s)) for s in curve.steps]
    _name_lines(axes, curves)
    _name_axes(axes)
    ncols = 1 if narrow else 2
    figure.legend(loc="outside lower center", ncols=ncols, **legend_style())  # outside, where it hides no curve
    rows = tuple(rows_of(curves))
    columns = tuple(columns_of(rows))
    caption = (
        "Configurations are added greedily: each is right on most of the samples that no earlier one is right on. "
        "Held out: lists chosen on nine of ten folds and measured on the tenth; band, or bar: 95% interval of the "
        "first ten steps. Dotted, in-sample: measured on the images that chose the list, too high. Thin: the static "
        "network with as many guesses for each sample as the held-out configurations made distinct predictions."
    )
    return Drawing("greedy", "Best case of the first k configurations", caption, figure, columns, rows, tuple(marks))


def _held(curve: GreedyCurve) -> tuple[HeldOutStep, ...]:
    return curve.held_out.steps if curve.held_out else ()


def _draw(axes: Any, curve: GreedyCurve, name: str, i: int) -> None:
    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    in_sample, held = [(s.k, s.accuracy, s.matched_topk) for s in curve.steps], _held(curve)
    main = [(s.k, s.accuracy, s.matched_topk) for s in held] or in_sample
    ks = [k for k, _, _ in main]
    shown = [j for j in range(len(ks)) if ks[j] & (ks[j] - 1) == 0 or j == len(ks) - 1]
    axes.plot(
        ks, [100 * accuracy for _, accuracy, _ in main], color=colour, linewidth=1.9,
        label=f"{name} (n = {curve.n:,})", marker=marker, markersize=4, markevery=shown,
    )  # fmt: skip
    if held:
        axes.plot(*zip(*[(k, 100 * a) for k, a, _ in in_sample], strict=True), color=colour, linestyle=":", linewidth=1)
    if curve.static is not None:
        axes.plot(ks, [100 * (m or 0) for _, _, m in main], color=colour, linewidth=0.8)
        side = axes.get_yaxis_transform()  # a static line carries its result's mark at the right edge
        axes.axhline(100 * curve.static, color=colour, linestyle="--", linewidth=0.9, alpha=0.8, zorder=1)
        axes.plot(1, 100 * curve.static, marker, color=colour, markersize=4, transform=side, clip_on=False)


def _draw_interval(axes: Any, curve: GreedyCurve, i: int, band: bool) -> None:
    """A band along the curve, or one bar at its end: many bands hide one another."""
    sure = [(s.k, 100 * s.low, 100 * s.high) for s in _held(curve) if s.low is not None and s.high is not None]
    colour = COLOURS[i % len(COLOURS)]
    if band and sure:
        ks, low, high = zip(*sure, strict=True)
        axes.fill_between(ks, low, high, color=colour, alpha=0.12, linewidth=0)
    elif sure:
        k, lowest, highest = sure[-1]
        axes.plot([k * 1.06**i] * 2, [lowest, highest], color=colour, linewidth=1.4, marker="_", markersize=5)


def _name_lines(axes: Any, curves: Sequence[GreedyCurve]) -> None:
    if any(curve.held_out for curve in curves):
        axes.plot([], [], color="0.35", linewidth=1.9, label="held out (thick)")
        axes.plot([], [], color="0.35", linestyle=":", linewidth=1, label="in-sample (dotted)")
    if any(curve.static is not None for curve in curves):
        axes.plot([], [], color="0.35", linewidth=0.8, label="as many guesses of the static network (thin)")
        axes.plot([], [], color="0.35", linestyle="--", linewidth=0.9, label="static (default configuration)")


def _name_axes(axes: Any) -> None:
    plain_log(axes)
    axes.set_xlabel("configurations, added greedily")
    axes.set_ylabel("best-case top-1 accuracy (%)")
    tidy(axes)
    within_percent(axes)


def _say(name: str, step: Any) -> str:
    matched = "" if step.matched_topk is None else f", matched top-k {100 * step.matched_topk:.1f}%"
    return f"{name}, in-sample: k = {step.k}, {100 * step.accuracy:.1f}%{matched}; adds configuration {step.config}"


def _say_held(name: str, step: HeldOutStep) -> str:
    matched = "" if step.matched_topk is None else f", as many guesses {100 * step.matched_topk:.1f}%"
    return f"{name}, held out: k = {step.k}, {100 * step.accuracy:.1f}%{matched}; {step.guesses:.2f} guesses"
