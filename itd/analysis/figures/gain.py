"""What the first k configurations gain on images that did not choose them, beside as many guesses; and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itd.analysis._gain import Gain
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
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


def gain_figure(rows: Sequence[Gain]) -> Drawing:
    """Left: accuracy against the mean number of distinct guesses, held out, for the first k configurations and for as
    many guesses of the static network. Right: the oracle over the whole space, less static and less matched top-k.

    >>> gain_figure(gain([open_result("results/resnet50-size.parquet")])).save("gain.png")  # doctest: +SKIP
    """
    curves = any(row.held_out for row in rows)
    figure = new_figure(9.6 if curves else 6.4, max(4.2 if curves else 0, 1.9 + 0.42 * len(rows)))
    names = shown_names([row.result for row in rows])
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if curves else [figure.add_subplot()]
    marks: list[Mark] = []
    if curves:
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            marks += _draw_curve(panels[0], name, row, i)
        panels[0].plot([], [], color="0.35", marker=".", linewidth=1.6, label="first k configurations (thick)")
        panels[0].plot([], [], color="0.35", linestyle="--", linewidth=1, label="as many guesses of the static network")
        panels[0].set_xlabel("distinct guesses for an image, on average")
        panels[0].set_ylabel("top-1 accuracy, held out (%)")
        panels[0].set_xscale("log")
        ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200) if t <= 1.2 * panels[0].get_xlim()[1]]
        panels[0].set_xticks(ticks, [f"{t}" for t in ticks])
        panels[0].minorticks_off()
        tidy(panels[0])
        within_percent(panels[0])
    marks += _draw_whole(panels[-1], names, rows, len(panels) - 1)
    figure.legend(loc="outside lower center", ncols=2 if curves else 1, **legend_style())
    caption = (
        "Left: the first k configurations of a greedy list on images that it was not chosen on, against how many "
        "distinct classes they predict, marked at k = 1, 2, 3, 5 and 10; dashed, the static network with as many "
        "guesses. Right: the oracle over the whole space less the static network, and less matched top-k, with paired "
        "95% intervals. Matched top-k is a control on the oracle's figure, no bound on what choosing can gain."
    )
    numbers = tuple(rows_of(rows))
    columns = tuple(columns_of(numbers))
    return Drawing("gain", "What the oracle gains", caption, figure, columns, numbers, tuple(marks))


def _draw_curve(axes: Any, name: str, row: Gain, i: int) -> list[Mark]:
    steps = row.held_out.steps if row.held_out else ()
    if not steps:
        return []
    colour, guesses = COLOURS[i % len(COLOURS)], [s.guesses for s in steps]
    shown = [j for j, s in enumerate(steps) if s.k in (1, 2, 3, 5, 10)]
    axes.plot(
        guesses, [100 * s.accuracy for s in steps], color=colour, linewidth=1.6, marker=MARKERS[i % len(MARKERS)],
        markersize=4, markevery=shown, label=f"{name} (n = {row.n:,})",
    )  # fmt: skip
    axes.plot(guesses, [100 * (s.matched_topk or 0) for s in steps], color=colour, linewidth=1, linestyle="--")
    return [
        Mark(0, s.guesses, 100 * s.accuracy, f"{name}: k = {s.k}, {100 * s.accuracy:.1f}%, as many guesses "
             f"{100 * (s.matched_topk or 0):.1f}%, {s.guesses:.2f} guesses")
        for s in steps
    ]  # fmt: skip


def _draw_whole(axes: Any, names: Sequence[str], rows: Sequence[Gain], panel: int) -> list[Mark]:
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
    axes.set_yticks(range(len(rows)), [f"{name}\nn = {row.n:,}" for name, row in zip(names, rows, strict=True)])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("whole space (points of top-1)")
    axes.set_xlim(max(-100, axes.get_xlim()[0]), min(100, axes.get_xlim()[1]))
    tidy(axes, "x")
    return marks
