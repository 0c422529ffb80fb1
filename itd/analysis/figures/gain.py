"""What the oracle gains beyond guessing, one line for each result."""

from __future__ import annotations

from collections.abc import Sequence

from itd.analysis._gain import Gain
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import COLOURS, Drawing, Mark, legend_style, new_figure, shown_names, tidy

KINDS = {"over_static": ("over static", "o", "white"), "over_matched": ("over matched top-k", "D", COLOURS[1])}


def gain_figure(rows: Sequence[Gain]) -> Drawing:
    """The gain of each result over the static network and over matched top-k, with 95% intervals.

    >>> gain_figure(gain([open_result("results/resnet50-size.parquet")])).save("gain.png")  # doctest: +SKIP
    """
    figure = new_figure(6.4, 1.5 + 0.42 * len(rows))
    axes = figure.add_subplot()
    names = shown_names([row.result for row in rows])
    marks, numbers = [], []
    axes.axvline(0, color="0.4", linewidth=1)
    for y, (name, row) in enumerate(zip(names, rows, strict=True)):
        for place, (kind, (label, marker, face)) in enumerate(KINDS.items()):
            value, at = getattr(row, kind), y + 0.16 * (2 * place - 1)
            axes.plot([100 * value.low, 100 * value.high], [at, at], color=COLOURS[place], linewidth=1.4)
            axes.plot(
                100 * value.value, at, marker, color=COLOURS[place], markerfacecolor=face, markersize=7, linestyle="",
                label=label if y == 0 else None,
            )  # fmt: skip
            marks.append(Mark(0, 100 * value.value, at, f"{name}, {label}: {with_interval(value)}"))
            numbers.append({"result": row.result, "gain": kind, **value.as_dict()})
    axes.set_yticks(range(len(rows)), [f"{name}\nn = {row.n:,}" for name, row in zip(names, rows, strict=True)])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("oracle best less ... (points of top-1)")
    tidy(axes, "x")
    figure.legend(loc="outside upper center", ncols=2, **legend_style())
    caption = (
        "How far the oracle's best case is above the static network, and above the static network with as many guesses "
        "for each image as the configurations made distinct predictions. Bars: 95% bootstrap intervals, paired."
    )
    columns = ("result", "gain", "value", "low", "high", "n")
    return Drawing("gain", "What the oracle gains", caption, figure, columns, tuple(numbers), tuple(marks))
