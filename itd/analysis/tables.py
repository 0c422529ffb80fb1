"""Answers as text for a terminal, in the layouts of the paper's tables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence

from itd.analysis._combine import Combination
from itd.analysis._compare import FIGURES, Comparison
from itd.analysis._efficiency import Efficiency
from itd.analysis._gain import FIGURES as GAIN_FIGURES
from itd.analysis._gain import Gain
from itd.analysis._greedy import GreedyCurve, GreedyStep
from itd.analysis._held_out import HeldOut, HeldOutStep
from itd.analysis._oracle import RULES, OracleAccuracy
from itd.analysis._preferences import ConfigShare, OptionShare, Preferences
from itd.analysis._summary import Summary
from itd.analysis._unique import UniquePredictions
from itd.analysis.classes import ClassAccuracy, Classes
from itd.analysis.frames import short_names
from itd.analysis.rules import in_order, rule_of
from itd.analysis.sampling import Difference, Estimate
from itd.analysis.selection import GAPS, Selection
from itd.analysis.subsets import Subsets
from itd.space import format_value

GAIN_HEADS = dict(
    zip(GAIN_FIGURES, ("static", "best", "top-k", "over static", "over top-k", "against first"), strict=True)
)
"""Figures of a gain, and their column heads."""


WIDTH = 100
"""Columns of a terminal that a table and a sentence fit."""
_NAME = 24
_FIRST = ("static", "best", "matched_topk", "median", "worst")
_WIDE = ("single_best", "most_confident", "vote_all", "chance")


def oracle_table(rows: Sequence[OracleAccuracy], *, wide: bool = False) -> str:
    """Accuracies in percent, two lines for each result: the figures, and their 95% intervals below.

    wide: also what can be had without the label, and chance; else the table fits 100 columns, a name that is too long
    for it standing on a line of its own.

    >>> print(oracle_table([OracleAccuracy("r.parquet", 40, 625, 0.5, 0.1, 0.45, 0.925)]))
    result   n  configs  static  best  top-k  median  worst
    r       40      625    50.0  92.5      -    45.0   10.0
    """
    named = (*_FIRST, *_WIDE) if wide else _FIRST
    cells, own_line = [["result", "n", "configs", *(rule_of(key).head for key in named)]], set()
    for row, name in zip(rows, short_names([row.result for row in rows]), strict=True):
        values = {rule: getattr(row, rule) for rule in RULES}
        sure = {**row.intervals, **(row.baselines.named() if row.baselines else {})}
        figures = [percent(values.get(key, getattr(sure.get(key), "value", None))) for key in named]
        if len(name) > _NAME and not wide:
            own_line.add(len(cells))
            cells.append([name, *[""] * (len(cells[0]) - 1)])
            name = ""
        cells.append([name, f"{row.n}", f"{row.configs}", *figures])
        if row.intervals:
            cells.append(["  95% interval", "", "", *(span(sure.get(key)) for key in named)])
    return align(cells, loose=own_line)


def sentences(rows: Sequence[Summary]) -> str:
    """One paragraph for each result, wrapped."""
    names = short_names([row.result for row in rows])
    return "\n".join(
        "\n".join(textwrap.wrap(row.sentence(name), WIDTH, subsequent_indent="  ", break_on_hyphens=False))
        for row, name in zip(rows, names, strict=True)
    )


def baselines_table(row: OracleAccuracy) -> str:
    """One result: every rule and baseline with its interval, and what each needs."""
    named: dict[str, Estimate | None] = {**row.intervals, **(row.baselines.named() if row.baselines else {})}
    cells = [["rule", "top-1", "95% interval", "needs"]]
    for name in in_order(list(named)):
        value = named.get(name)
        cells.append([name, percent(value.value if value else None), span(value), rule_of(name).needs])
    lines = [f"{row.result}: n = {row.n}, {row.configs} configurations", align(cells, left=(0, 3))]
    beside = row.baselines
    if beside is not None and beside.chance_uniform is not None:
        lines.append(f"chance with every class as likely (mean |U| / K): {percent(beside.chance_uniform)}")
    if beside is not None and beside.single_best_configs:
        lines.append(f"single best on each half: configuration {', '.join(map(str, beside.single_best_configs))}")
    return "\n".join(lines)


def subsets_table(answer: Subsets) -> str:
    """One result: each subset of sites."""
    between = "95%"
    cells = [["sites", "configs", "worst", between, "median", between, "best", between, "top-k", between]]
    for one in answer.subsets:
        figures = (one.worst, one.median, one.best, one.matched_topk)
        cells.append([one.sites, f"{one.configs}", *(c for e in figures for c in (percent(e.value), span(e)))])
    return f"{answer.result}: n = {answer.n}, static {percent(answer.static.value)} {span(answer.static)}\n" + align(
        cells
    )


def classes_table(answer: Classes, most: int) -> str:
    """One result: the classes that gain and lose most, at most `most` of each, or every class where they are few."""
    title = f"{answer.result}: n = {answer.n:,}, {len(answer.classes):,} classes"
    if len(answer.classes) <= 2 * most:
        return f"{title}\n{_classes(answer.classes)}"
    gaining, losing = answer.gaining(most), answer.losing(most)
    parts = [title, f"\nadded most by the oracle:\n{_classes(gaining)}"]
    parts.append(
        f"\nbehind as many guesses of the network by most:\n{_classes(losing)}"
        if losing
        else "\nno class is behind as many guesses of the network"
    )
    return "\n".join(parts)


def _classes(classes: Sequence[ClassAccuracy]) -> str:
    between = "95%"
    cells = [["class", "name", "n", "static", between, "best", between, "top-k", between, "gain", "beyond"]]
    for one in classes:
        figures = (one.static, one.best, one.matched_topk)
        cells.append(
            [f"{one.label}", one.name or "", f"{one.n}", *(c for e in figures for c in (percent(e.value), span(e))),
             f"{100 * one.gain:+.1f}", f"{100 * one.beyond:+.1f}"]
        )  # fmt: skip
    return align(cells)


def unique_table(rows: Sequence[UniquePredictions]) -> str:
    """One line for each result."""
    cells = [["result", "n", "configs", "all agree %", "95% interval", "mean", "95% interval", "median", "most"]]
    for row in rows:
        mean = f"{row.mean.low:.1f}-{row.mean.high:.1f}"
        agree = [percent(row.agree.value), span(row.agree)]
        spread = [f"{row.mean.value:.1f}", mean, f"{row.median:g}", f"{len(row.histogram)}"]
        cells.append([row.result, f"{row.n}", f"{row.configs}", *agree, *spread])
    return align(cells)


def greedy_table(curve: GreedyCurve, shown: Callable[[int, int], bool], reach: Sequence[float] = ()) -> str:
    """Some steps of a curve. shown: (k, how many there are) -> whether the row is printed. reach: accuracies."""
    static = "" if curve.static is None else f", static {percent(curve.static)}"
    lines = [f"{curve.result}: n = {curve.n}, {len(curve.steps)} configurations{static}"]
    lines += [_reached(curve, accuracy) for accuracy in reach]
    if curve.held_out is not None:
        lines += ["", _held_out_table(curve.held_out, shown), ""]
    lines.append("in-sample, the list chosen and measured on the same images:")
    cells = [["k", "best", "at most", "top-k", "config", "settings"]]
    for s in curve.steps:
        if shown(s.k, len(curve.steps)):
            figures = [percent(s.accuracy), percent(s.upper_bound), percent(s.matched_topk)]
            cells.append([f"{s.k}", *figures, f"{s.config}", format_settings(s)])
    return "\n".join(lines) + "\n" + align(cells, left=(5,))


def _reached(curve: GreedyCurve, accuracy: float) -> str:
    def words(k: int | None) -> str:
        return "not reached" if k is None else f"reached with {k} configuration{'s' if k > 1 else ''}"

    held = f"{words(curve.reach_held_out(accuracy))} held out, " if curve.held_out else ""
    return f"{100 * accuracy:g}%: {held}{words(curve.reach(accuracy))} in-sample"


def _held_out_table(curve: HeldOut, shown: Callable[[int, int], bool]) -> str:
    """Accuracy on images that the list was not chosen on, beside as many guesses of the default network."""
    few = f" of {curve.wanted:,}, for the work of more" if curve.resamples < curve.wanted else ""
    lines = [
        f"held out, lists chosen on the other of {curve.folds} folds ({curve.repeats} divisions, {curve.resamples:,} "
        f"resamples{few}):"
    ]
    cells = [["k", "best", "95% interval", "top-k", "guesses"]]
    for s in curve.steps:
        if shown(s.k, len(curve.steps)):
            sure = None if s.low is None or s.high is None else (s.low, s.high)
            cells.append([f"{s.k}", percent(s.accuracy), span(sure), percent(s.matched_topk), f"{s.guesses:.2f}"])
    return "\n".join(lines) + "\n" + align(cells, left=())


def preferences_table(answer: Preferences, top: int = 10) -> str:
    """One result: the options at each site, then the most preferred configurations."""
    varied = "".join(f", {name} {value:g}" for name, value in (answer.variation or {}).items())
    heads = ["preferred by %", "95% interval", "of solved %", "95% interval"]
    cells = [["site", "attribute", "option", *heads]]
    cells += [[o.site, o.attribute, format_value(o.value), *_share_cells(o)] for o in answer.options]
    most = [["config", *heads, "settings"]]
    for c in answer.configs[:top]:
        own = " (default)" if c.config == answer.default else ""
        most.append([f"{c.config}", *_share_cells(c), format_sites(c.settings) + own])
    title = (
        f"{answer.result}: n = {answer.n}{varied}; {len(answer.configs)} configurations are preferred by some sample\n"
        f"solved: {answer.solved} of {answer.n}, those that some configuration gets right"
    )
    return "\n".join([title, align(cells, left=(0, 1)), "", align(most, left=(5,))])


def _share_cells(one: ConfigShare | OptionShare) -> list[str]:
    among = one.share_of_solved
    return [percent(one.share.value), span(one.share), percent(among.value if among else None), span(among)]


def efficiency_table(answer: Efficiency) -> str:
    """One result: the default, the oracle, and the cheapest of the same predictions."""
    names = {
        "static": "static default",
        "cheapest_as_static": "cheapest, same prediction as the default",
        "best": "oracle best",
        "cheapest_as_best": "cheapest, same prediction as the oracle",
    }
    cells = [["", "top-1", "95% interval", "GMAC", "95% interval", "fewer", "95% interval"]]
    for name, label in names.items():
        point = getattr(answer, name)
        macs, factor = point.macs, point.factor
        cells.append(
            [label, percent(point.accuracy.value), span(point.accuracy), f"{macs.value / 1e9:.2f}"]
            + [f"{macs.low / 1e9:.2f}-{macs.high / 1e9:.2f}"]
            + (["", ""] if factor is None else [f"{factor.value:.2f}x", f"{factor.low:.2f}-{factor.high:.2f}"])
        )
    fixed = answer.cheapest_fixed
    if fixed is not None:
        cells.append(
            [
                "cheapest fixed one as accurate as the default, held out",
                percent(fixed.accuracy.value),
                span(fixed.accuracy),
                f"{fixed.macs.value / 1e9:.2f}",
                f"{fixed.macs.low / 1e9:.2f}-{fixed.macs.high / 1e9:.2f}",
                f"{fixed.factor.value:.2f}x",
                f"{fixed.factor.low:.2f}-{fixed.factor.high:.2f}",
            ]
        )
    cells.append(
        ["matched top-k of the default", percent(answer.matched_topk.value), span(answer.matched_topk), *[""] * 4]
    )
    head = f"{answer.result}: n = {answer.n}, {len(answer.points)} configurations\n"
    return head + align(cells) + _last_line(answer.macs_unknown)


def combination_text(answer: Combination) -> str:
    """What each list achieves, on how many images it was chosen, and last how many configurations the space has."""
    lines = []
    for path, n, best, step in zip(answer.results, answer.n, answer.in_sample, answer.held_out, strict=True):
        held = "" if step is None else f", held out {percent(step.accuracy)}"
        if step is not None and step.low is not None and step.high is not None:
            held += f" ({span((step.low, step.high))})"
        lines.append(f"{path}: {answer.per_attribute} chosen on {n} images: best {percent(best)} in-sample{held}")
    lines.append(
        f"{answer.per_attribute} of each of {' and '.join(answer.attributes)}: {len(answer.space.configs)} "
        f"configurations of at most {answer.budget}"
    )
    return "\n".join(lines)


def uncounted(macs_unknown: Sequence[str]) -> str:
    """What to say of costs that leave operators out; empty where all are counted.

    >>> uncounted(["einsum"])
    'multiply-accumulates are incomplete: they do not count einsum'
    """
    return f"multiply-accumulates are incomplete: they do not count {', '.join(macs_unknown)}" if macs_unknown else ""


def _last_line(macs_unknown: Sequence[str]) -> str:
    return f"\n{uncounted(macs_unknown)}" if macs_unknown else ""


def selection_table(selection: Selection) -> str:
    """What each selector achieves, beside what it is measured by."""
    labels = {
        **{key: rule_of(key).name for key in ("static", "single_best")},
        "most_confident": f"most confident of {selection.k}",
        "majority_vote": f"majority vote of {selection.k}",
        "oracle": f"oracle over the same {selection.k}",
    }
    first = {labels[name]: one for name, one in selection.baselines.items() if name != "oracle"}
    named = {**first, **selection.selectors, labels["oracle"]: selection.baselines["oracle"]}
    zeros = {"gap_closed": "gap closed", "gap_from_best_fixed": "from best fixed", "gap_from_before": "from before"}
    gaps = [key for key in GAPS if any(getattr(one, key) for one in named.values())]
    heads = [head for key in gaps for head in (zeros[key], "95% interval")]
    cells = [["", "top-1", "95% interval", "GMAC", *heads]]
    for name, one in named.items():
        macs, closed = one.macs, [getattr(one, key) for key in gaps]
        cells.append(
            [
                name,
                percent(one.accuracy.value),
                span(one.accuracy),
                "-" if macs is None else f"{macs.value / 1e9:.3g}",
                *(cell for gap in closed for cell in ("-" if gap is None else f"{100 * gap.value:.0f}%", span(gap))),
            ]
        )
    thresholds = ", ".join(f"{t:g}" for t in selection.thresholds)
    folds = len(selection.lists)
    return (
        f"{selection.result}: n = {selection.n}, the first {selection.k} of the greedy list, {folds} folds\n"
        f"{align(cells)}\nthresholds of the cascade: {thresholds}{_last_line(selection.macs_unknown)}"
    )


def compare_table(comparison: Comparison) -> str:
    """Table 2's layout: the two results, and the change with its paired interval."""
    names = [name for name in FIGURES if getattr(comparison.before, name) or getattr(comparison.after, name)]
    cells = [["", "configs", *names]]
    for side in (comparison.before, comparison.after):
        values = [getattr(side, name) for name in names]
        cells.append([side.result, f"{side.configs}", *(percent(e.value if e else None) for e in values)])
        cells.append(["  95% interval", "", *map(span, values)])
    change = [comparison.change[name] for name in names]
    cells.append(["change", "", *("-" if e is None else f"{100 * e.value:+.1f}" for e in change)])
    cells.append(["  95% interval, paired", "", *map(span, change)])
    cells.append(["  McNemar's p", "", *(p_value(e.p) if isinstance(e, Difference) else "-" for e in change)])
    common = (
        ""
        if comparison.total == (comparison.n, comparison.n)
        else f", those that both have of {comparison.total[0]} and {comparison.total[1]}"
    )
    differ = comparison.spaces_differ
    spaces = (
        "" if differ is None else f"\nthe spaces differ: {differ}; a part of the change of worst and best is theirs"
    )
    return f"n = {comparison.n}{common}\n" + align(cells) + spaces


GAIN_STEPS = (1, 2, 3, 5, 10)
"""Steps of a held-out curve that stand in a table."""


def gain_table(rows: Sequence[Gain]) -> str:
    """Accuracies, the oracle's gains in points, and the gain over matched top-k against the first result's; then what
    the first k configurations gain held out."""
    cells = [["result", "n", "configs", *GAIN_HEADS.values()]]
    for row in rows:
        values = [getattr(row, name) for name in GAIN_HEADS]
        accuracies, differences = values[:3], values[3:]
        shown = [percent(e.value) for e in accuracies]
        shown += ["-" if e is None else f"{100 * e.value:+.1f}" for e in differences]
        cells.append([row.result, f"{row.n}", f"{row.configs}", *shown])
        cells.append(["  95% interval", "", "", *map(span, values)])
        cells.append(["  McNemar's p", *[""] * 5, p_value(row.over_static.p), p_value(row.over_matched.p), ""])
    held = [["held out: result", "k", "best", "top-k", "guesses", "over static", "95%", "over top-k", "95%"]]
    for row in rows:
        for step in row.held_out.steps if row.held_out else ():
            if step.k in GAIN_STEPS:
                held.append([row.result, f"{step.k}", *_held_out_cells(step)])
    return align(cells) + ("\n\n" + align(held) if len(held) > 1 else "")


def _held_out_cells(step: HeldOutStep) -> list[str]:
    over = [cell for e in (step.over_static, step.over_matched)
            for cell in ("-" if e is None else f"{100 * e.value:+.1f}", span(e))]  # fmt: skip
    return [percent(step.accuracy), percent(step.matched_topk), f"{step.guesses:.2f}", *over]


def p_value(p: float) -> str:
    """A p with two significant digits.

    >>> p_value(0.0312), p_value(1e-9)
    ('0.031', '<0.0001')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def format_settings(step: GreedyStep) -> str:
    """`A(stride=2) B(stride=1/2) ...`"""
    return format_sites(step.settings)


def format_sites(settings: Mapping[str, Mapping[str, float]]) -> str:
    """`A(stride=2) B(stride=1/2) ...`"""
    parts = []
    for site, setting in settings.items():
        inner = ", ".join(f"{name}={format_value(value)}" for name, value in setting.items())
        parts.append(f"{site}({inner})")
    return " ".join(parts)


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal, or a dash.

    >>> percent(0.925), percent(None)
    ('92.5', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def span(interval: Estimate | Sequence[float] | None) -> str:
    """An interval in percent, or a dash.

    >>> span((0.885, 0.969))
    '88.5-96.9'
    """
    if interval is None:
        return "-"
    low, high = (interval.low, interval.high) if isinstance(interval, Estimate) else interval
    return f"{100 * low:.1f}-{100 * high:.1f}" if low >= 0 else f"{100 * low:+.1f} to {100 * high:+.1f}"


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), loose: Collection[int] = ()) -> str:
    """Rows of cells as columns; those in `left` are aligned to the left, the others to the right. The rows numbered in
    `loose` make no column wider."""
    fitted = [row for number, row in enumerate(rows) if number not in loose]
    widths = [max(len(row[i]) for row in fitted) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
