"""What a cascade achieves against what it costs, beside the static network and the oracle it is measured by."""

from __future__ import annotations

from itd.analysis.cascade import Cascade
from itd.analysis.figures.bounds import told
from itd.analysis.figures.drawing import COLOURS, Drawing, Mark, legend_style, new_figure, shown_names, tidy


def cascade_figure(found: Cascade) -> Drawing:
    """Accuracy against mean MACs over all thresholds, measured on samples that the list was not chosen on.

    >>> cascade_figure(cascade(open_result("results/resnet50-stride.parquet"))).save("c.png")  # doctest: +SKIP
    """
    figure = new_figure()
    axes = figure.add_subplot()
    xs = [p.macs.value / 1e9 for p in found.curve]
    axes.fill_between(
        xs, [100 * p.accuracy.low for p in found.curve], [100 * p.accuracy.high for p in found.curve],
        color=COLOURS[0], alpha=0.12, linewidth=0,
    )  # fmt: skip
    axes.plot(xs, [100 * p.accuracy.value for p in found.curve], color=COLOURS[0], marker="o", markersize=3,
              label="cascade, threshold 0 to 1")  # fmt: skip
    chosen = found.chosen
    points = (
        ("threshold chosen in the fold", chosen.macs.value, chosen.accuracy, COLOURS[0], "*", 14),
        ("static", found.static_macs, found.static, COLOURS[1], "o", 8),
    )
    marks = [
        Mark(0, p.macs.value / 1e9, 100 * p.accuracy.value, f"threshold {p.threshold:g}: {told(p.accuracy)}")
        for p in found.curve
    ]
    for label, macs, accuracy, colour, marker, size in points:
        x, y = macs / 1e9, 100 * accuracy.value
        axes.plot([x, x], [100 * accuracy.low, 100 * accuracy.high], color=colour, linewidth=1)
        axes.plot(x, y, marker, color=colour, markersize=size, markeredgecolor="white", linestyle="", label=label)
        marks.append(Mark(0, x, y, f"{label}: {told(accuracy)}, {macs / 1e9:.2f} GMAC"))
    axes.axhline(
        100 * found.oracle.value, color="0.35", linestyle="--", linewidth=1, label=f"oracle over the {found.k}"
    )
    axes.set_xlabel("mean multiply-accumulates of one image (G)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"{shown_names([found.result])[0]} (n = {found.n:,})", fontsize=9)
    tidy(axes)
    axes.legend(loc="best", **legend_style())
    rows = [
        {"threshold": p.threshold, "accuracy": p.accuracy.value, "low": p.accuracy.low, "high": p.accuracy.high}
        | {"macs": p.macs.value}
        for p in found.curve
    ]
    caption = (
        f"The first {found.k} of a greedy list, cheapest first, until one is as sure as the threshold; the list is "
        "chosen on other samples. Band: 95% bootstrap interval."
    )
    columns = ("threshold", "accuracy", "low", "high", "macs")
    return Drawing("cascade", "What a cascade achieves", caption, figure, columns, tuple(rows), tuple(marks))
