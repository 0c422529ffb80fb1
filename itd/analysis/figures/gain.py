"""What the first k configurations gain on images that did not choose them, beside as many guesses; and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis._gain import Gain
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    NARROW_IN,
    Drawing,
    Mark,
    legend_style,
    new_figure,
    shown_names,
    tidy,
    within_percent,
)
from itd.analysis.frames import columns_of, rows_of

KINDS = {
    "over_static": ("best over static", "o", "white"),
    "over_matched": ("best over matched top-k", "D", COLOURS[1]),
}


def gain_figure(rows: Sequence[Gain], *, narrow: bool = False) -> Drawing:
    """Left: accuracy against the mean number of distinct guesses, held out, for the first k configurations and for as
    many guesses of the static network. Right: the oracle over the whole space, less static and less matched top-k.

    narrow: one above the other.

    >>> gain_figure(gain([open_result("results/resnet50-size.parquet")])).save("gain.png")  # doctest: +SKIP
    """
    curves = any(row.held_out for row in rows)
    figure, panels = _panels(len(rows), curves, narrow)
    names = shown_names([row.result for row in rows])
    marks: list[Mark] = []
    if curves:
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            marks += _draw_curve(panels[0], name, row, i, labelled=not narrow)
        _name_curves(panels[0])
    marks += _draw_whole(panels[-1], names, rows, len(panels) - 1, above=narrow)
    figure.legend(loc="outside lower center", ncols=2 if curves and not narrow else 1, **legend_style())
    first, second = ("Above", "Below") if narrow else ("Left", "Right")
    caption = (
        f"{first}: the first k configurations of a greedy list on images that it was not chosen on, against how many "
        "distinct classes they predict, marked at k = 1, 2, 3, 5 and 10; dashed, the static network with as many "
        f"guesses. {second}: the oracle over the whole space less the static network, and less matched top-k, with "
        "paired 95% intervals. Matched top-k is a control on the oracle's figure, no bound on what choosing can gain."
    )
    numbers = tuple(rows_of(rows))
    columns = tuple(columns_of(numbers))
    return Drawing("gain", "What the oracle gains", caption, figure, columns, numbers, tuple(marks))


def _panels(rows: int, curves: bool, narrow: bool) -> tuple[Any, Sequence[Any]]:
    """The figure; its panel of curves, where there are any, and that of the whole space."""
    if narrow:
        heights = [3.0] * curves + [0.7 + 0.45 * rows]
        figure = new_figure(NARROW_IN, sum(heights) + 1.2)
        return figure, list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    figure = new_figure(9.6 if curves else 6.4, max(4.2 if curves else 0, 1.9 + 0.42 * rows))
    return figure, figure.subplots(1, 2, width_ratios=(3, 2)) if curves else [figure.add_subplot()]


def _name_curves(axes: Any) -> None:
    axes.plot([], [], color="0.35", marker=".", linewidth=1.6, label="first k configurations (thick)")
    axes.plot([], [], color="0.35", linestyle="--", linewidth=1, label="as many guesses of the static network")
    axes.set_xlabel("distinct guesses for an image, on average")
    axes.set_ylabel("top-1 accuracy, held out (%)")
    axes.set_xscale("log")
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200) if t <= 1.2 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t}" for t in ticks])
    axes.minorticks_off()
    tidy(axes)
    within_percent(axes)


def _draw_curve(axes: Any, name: str, row: Gain, i: int, labelled: bool) -> list[Mark]:
    steps = row.held_out.steps if row.held_out else ()
    if not steps:
        return []
    colour, guesses = COLOURS[i % len(COLOURS)], [s.guesses for s in steps]
    shown = [j for j, s in enumerate(steps) if s.k in (1, 2, 3, 5, 10)]
    axes.plot(
        guesses, [100 * s.accuracy for s in steps], color=colour, linewidth=1.6, marker=MARKERS[i % len(MARKERS)],
        markersize=4, markevery=shown, label=f"{name} (n = {row.n:,})" if labelled else None,
    )  # fmt: skip
    axes.plot(guesses, [100 * (s.matched_topk or 0) for s in steps], color=colour, linewidth=1, linestyle="--")
    return [
        Mark(0, s.guesses, 100 * s.accuracy, f"{name}: k = {s.k}, {100 * s.accuracy:.1f}%, as many guesses "
             f"{100 * (s.matched_topk or 0):.1f}%, {s.guesses:.2f} guesses")
        for s in steps
    ]  # fmt: skip


def _name_above(axes: Any, text: str, y: int, curve: bool) -> None:
    """A name above the bars at y, after a piece of its curve where there is one."""
    side, colour = axes.get_yaxis_transform(), COLOURS[y % len(COLOURS)]
    if curve:
        axes.plot(
            [0.01, 0.045, 0.08], [y - 0.4] * 3, color=colour, linewidth=1.6, marker=MARKERS[y % len(MARKERS)],
            markersize=4, markevery=[1], transform=side, clip_on=False,
        )  # fmt: skip
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    axes.text(0.1 if curve else 0.01, y - 0.4, text, fontsize=7.5, va="center", transform=side, bbox=box, zorder=3)


def _draw_whole(axes: Any, names: Sequence[str], rows: Sequence[Gain], panel: int, above: bool) -> list[Mark]:
    """above: the names stand above their bars, for want of room beside them, and say how the curves look."""
    marks = []
    axes.axvline(0, color="0.4", linewidth=1)
    for y, (name, row) in enumerate(zip(names, rows, strict=True)):
        for place, (kind, (label, marker, face)) in enumerate(KINDS.items()):
            value, at = getattr(row, kind), y + 0.16 * (2 * place - 1)
            axes.plot([100 * value.low, 100 * value.high], [at, at], color=COLOURS[place], linewidth=1.4)
            axes.plot(
                100 * value.value, at, marker, color=COLOURS[place], markerfacecolor=face, markersize=7, linestyle="",
                label=label if y == 0 else None,
            )  # fmt: skip
            marks.append(Mark(panel, 100 * value.value, at, f"{name}, {label}: {with_interval(value)}"))
    if above:
        axes.set_yticks([])
        for y, (name, row) in enumerate(zip(names, rows, strict=True)):
            _name_above(axes, f"{name} (n = {row.n:,})", y, bool(row.held_out))
    else:
        axes.set_yticks(range(len(rows)), [f"{name}\nn = {row.n:,}" for name, row in zip(names, rows, strict=True)])
        axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.7 if above else -0.5)
    axes.set_xlabel("whole space (points of top-1)")
    axes.set_xlim(max(-100, axes.get_xlim()[0]), min(100, axes.get_xlim()[1]))
    tidy(axes, "x")
    return marks
