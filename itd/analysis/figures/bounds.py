"""The oracle's bounds as pictures: beside the baselines, for each subset of sites, and the number of predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from itd.analysis._oracle import RULES, OracleAccuracy
from itd.analysis._unique import UniquePredictions
from itd.analysis.figures.drawing import (
    COLOURS,
    NARROW_IN,
    Drawing,
    Mark,
    grid,
    legend_style,
    name_panel,
    shown_names,
    tidy,
    within_percent,
)
from itd.analysis.frames import rows_of
from itd.analysis.rules import in_order, rule_of
from itd.analysis.sampling import Estimate
from itd.analysis.subsets import Subsets
from itd.analysis.tables import uncounted


def baselines_figure(rows: Sequence[OracleAccuracy], *, narrow: bool = False) -> Drawing:
    """The oracle's rules and every baseline of each result, with 95% intervals, one panel for each result.

    narrow: the panels below one another.

    >>> baselines_figure([oracle(open_result("results/resnet50-size.parquet"))]).save("b.png")  # doctest: +SKIP
    """
    named = [_named(row) for row in rows]
    order = [k for k in in_order([key for one in named for key in one]) if any(k in estimates for estimates in named)]
    across, width = _across(narrow, 3.3)
    height = 0.9 + 0.24 * len(order)
    figure, panels = grid(len(rows), columns=across, width=width, height=height, sharey=True, sharex=True)
    marks, numbers = [], []
    for i, (axes, row, name, estimates) in enumerate(
        zip(panels, rows, shown_names([r.result for r in rows]), named, strict=True)
    ):
        for y, key in enumerate(reversed(order)):
            value = estimates.get(key)
            if value is None:
                continue
            _dot(axes, value, y, *_look(key))
            marks.append(Mark(i, 100 * value.value, y, f"{name}, {rule_of(key).label}: {with_interval(value)}"))
            numbers.append({"result": row.result, "n": row.n, "rule": key, **_interval(value)})
        name_panel(axes, name, row.n)
        axes.set_yticks(range(len(order)), [rule_of(key).label for key in reversed(order)], fontsize=8)
        axes.set_xlim(0, 100)
        within_percent(axes, "x")
        tidy(axes, "x")
    _label_bottom(panels, "top-1 accuracy (%)", across)
    _baselines_legend(figure, min(across, len(rows)))
    caption = (
        "Squares pick with the label in hand; circles do without it; diamonds say what guessing is worth: matched "
        "top-k is right wherever the static network's first |U| guesses hold the label, |U| being the number of "
        "distinct predictions. Bars: 95% intervals."
    )
    columns = ("result", "n", "rule", "accuracy", "low", "high")
    return Drawing(
        "baselines", "The oracle beside the baselines", caption, figure, columns, tuple(numbers), tuple(marks)
    )


def sites_figure(answers: Sequence[Subsets], *, narrow: bool = False) -> Drawing:
    """Worst, median and best accuracy of every subset of sites, one panel for each result (ITD paper, figure 4).

    narrow: for a narrow column.

    >>> sites_figure([by_sites(open_result("results/resnet50-stride.parquet"))]).save("sites.png")  # doctest: +SKIP
    """
    figure, panels = grid(len(answers), columns=1, width=NARROW_IN if narrow else 6.8, height=2.5, sharey=True)
    marks = []
    look = {"best": (COLOURS[0], "^"), "median": (COLOURS[2], "o"), "worst": (COLOURS[1], "v")}
    for i, (axes, one, name) in enumerate(zip(panels, answers, shown_names([f.result for f in answers]), strict=True)):
        values = {rule: [getattr(subset, rule) for subset in one.subsets] for rule in (*look, "matched_topk")}
        _draw_subsets(axes, values, look)
        for x, subset in enumerate(one.subsets):
            for rule, estimates in values.items():
                text = f"{name}, {subset.sites} ({subset.configs} configurations): {rule_of(rule).label}"
                marks.append(Mark(i, x, 100 * estimates[x].value, f"{text} {with_interval(estimates[x])}"))
        axes.axhline(100 * one.static.value, color="0.35", linestyle="--", linewidth=0.9)
        axes.set_xticks(range(len(one.subsets)), [s.sites for s in one.subsets], fontsize=8, rotation=90 * narrow)
        axes.set_ylim(0, 100)
        within_percent(axes)
        axes.set_ylabel("top-1 (%)", fontsize=9)
        axes.set_title(f"{name} (n = {one.n:,})", fontsize=9)
        tidy(axes, "y")
    _sites_legend(figure, panels[0], look, ncols=3 if narrow else 5)
    caption = (
        "Dynamic sites; the others hold their default. Error bars: 95% intervals. Matched top-k: the static "
        "network with as many guesses for each sample as the subset made distinct predictions."
    )
    columns = ("result", "n", "sites", "configs", "rule", "accuracy", "low", "high")
    return Drawing("sites", "Fewer dynamic sites", caption, figure, columns, tuple(rows_of(answers)), tuple(marks))


def unique_figure(answers: Sequence[UniquePredictions], *, narrow: bool = False) -> Drawing:
    """How many distinct classes are predicted for a sample, one histogram for each result (ITD paper, figure 2).

    narrow: the panels below one another.

    >>> unique_figure([unique(open_result("results/resnet50-stride.parquet"))]).save("unique.png")  # doctest: +SKIP
    """
    ranges = _ranges([len(one.histogram) for one in answers])
    alike = len(set(ranges)) == 1
    across, width = _across(narrow, 3.1)
    figure, panels = grid(len(answers), columns=across, width=width, height=2.5, sharex=alike, sharey=alike)
    marks, heights = [], []
    for i, (axes, one, name) in enumerate(zip(panels, answers, shown_names([f.result for f in answers]), strict=True)):
        heights.append(_histogram(axes, one, ranges[i]))
        marks += [Mark(i, x, share, f"{name}: {which} distinct on {share:.1f}%") for x, share, which in heights[-1]]
        name_panel(axes, name, one.n, pad_pt=15)
        tidy(axes, "y")
    for axes, most in zip(panels, ranges, strict=True):
        tallest = max(share for bars, own in zip(heights, ranges, strict=True) if own == most for _, share, _ in bars)
        axes.set_ylim(0, min(100, 1.08 * tallest))
    for axes in panels[::across]:
        axes.set_ylabel("samples (%)", fontsize=9)
    _label_bottom(panels, "distinct predictions", across)
    widest = max(map(_bin_width, ranges))
    caption = "Distinct classes predicted for a sample by all configurations" + (
        "." if widest == 1 else f"; more than {BARS} of them in bins, here of up to {widest}."
    )
    columns = ("result", "n", "distinct", "samples")
    return Drawing("unique", "Distinct predictions", caption, figure, columns, tuple(rows_of(answers)), tuple(marks))


BARS = 50
"""So many counts have a bar each; more are put in bins."""


def _ranges(counts: Sequence[int]) -> list[int]:
    """How far each panel's axis goes. Those alike go equally far; few counts are no sliver of an axis made for many.

    >>> _ranges([102, 66, 7, 5])
    [102, 102, 7, 7]
    """
    ends: list[int] = []
    for count in sorted(counts, reverse=True):
        if not ends or 3 * count <= ends[-1]:
            ends.append(count)
    return [min(end for end in ends if end >= count) for count in counts]


def _bin_width(most: int) -> int:
    return max(1, math.ceil(most / BARS))


def _histogram(axes: Any, one: UniquePredictions, most: int) -> list[tuple[float, float, str]]:
    """Draws the bars of counts 1 to most; (middle, percent, which counts) of each."""
    from matplotlib.ticker import MaxNLocator

    width = _bin_width(most)
    bars = []
    for start in range(1, most + 1, width):
        share = 100 * sum(one.histogram[start - 1 : start - 1 + width]) / one.n
        bars.append((start + (width - 1) / 2, share, f"{start}" if width == 1 else f"{start} to {start + width - 1}"))
    axes.bar([x for x, _, _ in bars], [share for _, share, _ in bars], width=0.9 * width, color=COLOURS[0])
    axes.set_xlim(0, bars[-1][0] + width / 2 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if most > 12 else 12))
    text = f"all agree: {with_interval(one.agree)}; mean {one.mean.value:.1f} of {one.configs}"
    axes.annotate(text, (0.5, 1), (0, 3), "axes fraction", "offset points", ha="center", va="bottom", fontsize=7)
    return bars


def incomplete(macs_unknown: Sequence[str]) -> str:
    """The sentence of a caption that says which operators the costs leave out; empty where they leave out none."""
    return f" Note: {uncounted(macs_unknown)}." if macs_unknown else ""


def with_interval(value: Estimate) -> str:
    """`93.1% (88.5 to 96.9)`."""
    return f"{100 * value.value:.1f}% ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _named(row: OracleAccuracy) -> dict[str, Estimate | None]:
    return {**row.intervals, **(row.baselines.named() if row.baselines else {})}


def _interval(value: Estimate) -> dict[str, float]:
    return {"accuracy": value.value, "low": value.low, "high": value.high}


LOOKS = {
    "label": (COLOURS[0], "s", "picks with the label in hand: a bound"),
    "none": (COLOURS[1], "o", "picks without the label"),
    "guess": ("black", "D", "what guessing is worth"),
}
"""Kind of a rule -> its colour and marker, and what a legend says of it."""


def _look(key: str) -> tuple[str, str]:
    """Colour and marker of a rule."""
    if key in ("matched_topk", "chance"):
        return LOOKS["guess"][:2]
    return LOOKS["label" if key in RULES and key != "static" else "none"][:2]


def _dot(axes: Any, value: Estimate, y: float, colour: str, marker: str) -> None:
    axes.plot([100 * value.low, 100 * value.high], [y, y], color=colour, linewidth=1.3)
    axes.plot(100 * value.value, y, marker, color=colour, markersize=4.5)


def _draw_subsets(axes: Any, values: dict[str, list[Estimate]], look: dict[str, tuple[str, str]]) -> None:
    """The span from worst to best of every subset, and each rule with its interval; a rule at once, which is faster."""
    xs = range(len(values["best"]))
    ends = ([100 * value.value for value in values[rule]] for rule in ("worst", "best"))
    axes.vlines(xs, *ends, color="0.75", linewidth=5, zorder=1)
    matched = [100 * value.value for value in values["matched_topk"]]
    axes.plot(xs, matched, "_", color="black", markersize=11, markeredgewidth=1.6)
    for rule, (colour, marker) in look.items():
        low, high = ([100 * getattr(value, end) for value in values[rule]] for end in ("low", "high"))
        axes.vlines(xs, low, high, color=colour, linewidth=1, zorder=2)
        axes.plot(xs, [100 * value.value for value in values[rule]], marker, color=colour, markersize=5)


def _baselines_legend(figure: Any, across: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4.5, label=text)
        for colour, marker, text in LOOKS.values()
    ]
    handles.append(Line2D([], [], color="0.35", linewidth=1.3, label="95% interval"))
    style = legend_style() | {"handlelength": 1.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=4 if across > 2 else 1, **style)


def _sites_legend(figure: Any, axes: Any, look: dict[str, tuple[str, str]], ncols: int) -> None:
    for rule, (colour, marker) in look.items():
        axes.plot([], [], marker, color=colour, markersize=5, label=rule_of(rule).label)
    axes.plot([], [], "_", color="black", markersize=11, markeredgewidth=1.6, label="matched top-k")
    axes.plot([], [], color="0.35", linestyle="--", linewidth=0.9, label="static")
    figure.legend(loc="outside upper center", ncols=ncols, **(legend_style() | {"handlelength": 1.6}))


def _across(narrow: bool, width: float) -> tuple[int, float]:
    """How many panels stand side by side, and how wide each is, in inches."""
    return (1, NARROW_IN) if narrow else (3, width)


def _label_bottom(panels: Sequence[Any], text: str, across: int) -> None:
    """Names the x axis of the panels that have none below them."""
    for axes in panels:
        if axes.get_subplotspec().is_last_row() or axes in panels[-across:]:
            axes.set_xlabel(text, fontsize=9)
            axes.tick_params(labelbottom=True)
