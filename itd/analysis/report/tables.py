"""The report's tables: answers as cells that sort."""

from __future__ import annotations

from collections.abc import Sequence

from itd.analysis._greedy import GreedyCurve, GreedyStep
from itd.analysis._oracle import RULES, OracleAccuracy
from itd.analysis._preferences import Preferences
from itd.analysis._unique import UniquePredictions
from itd.analysis.figures import short_names
from itd.analysis.report.parts import Cell, Table
from itd.analysis.rules import BESIDE, rule_of
from itd.analysis.sampling import Estimate
from itd.analysis.subsets import Subsets
from itd.analysis.tables import format_sites, percent, span
from itd.space import format_value

SHOWN_KS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200)
REACHED = (0.8, 0.85, 0.9, 0.95)
ANSWER = ("static", "best", "matched_topk")


def glance_table(rows: Sequence[OracleAccuracy]) -> Table:
    """The oracle's rules and what to hold beside them, of every result; first what answers whether choosing is worth
    anything."""
    others = [key for key in (*RULES, *BESIDE) if key not in ANSWER]
    columns = [("result", "its name"), ("n", "images, and of how many where not all are there")]
    columns += [*map(_rule_column, ANSWER), ("configurations", "how many"), *map(_rule_column, others)]
    cells = []
    for row, name in zip(rows, short_names([r.result for r in rows]), strict=True):
        estimates = _named(row)
        left_out = [f"of {row.requested:,}"] if row.partial else []
        left_out += [f"{row.nulls:,} not decoded"] if row.nulls else []
        head = (Cell(name), Cell(f"{row.n:,}", row.n, ", ".join(left_out)))
        answer, rest = ([estimate_cell(estimates.get(key)) for key in keys] for keys in (ANSWER, others))
        cells.append((*head, *answer, Cell(f"{row.configs:,}", row.configs), *rest))
    return Table("Top-1 accuracy in percent", tuple(columns), tuple(cells))


def baselines_table(rows: Sequence[OracleAccuracy]) -> Table:
    """Every rule that does without the label of the image it classifies, and what guessing is worth."""
    votes = sorted({k for row in rows for k in (row.baselines.vote_greedy if row.baselines else {})})
    named = ("static", "single_best", "most_confident", *(f"vote_first_{k}" for k in votes), "vote_all")
    columns = [("result", "its name"), ("n", "images"), *map(_rule_column, (*named, "matched_topk", "chance"))]
    columns += [
        ("chance, classes alike", "the same if every class were as likely: mean distinct predictions / classes")
    ]
    cells = []
    for row, name in zip(rows, short_names([r.result for r in rows]), strict=True):
        estimates = _named(row)
        alike = row.baselines.chance_uniform if row.baselines else None
        cells.append(
            (
                Cell(name),
                Cell(f"{row.n:,}", row.n),
                *(estimate_cell(estimates.get(key)) for key in (*named, "matched_topk", "chance")),
                Cell("-", "") if alike is None else Cell(percent(alike), alike),
            )
        )
    return Table("Baselines: top-1 accuracy in percent", tuple(columns), tuple(cells))


def _named(row: OracleAccuracy) -> dict[str, Estimate | None]:
    return {**row.intervals, **(row.baselines.named() if row.baselines else {})}


def _rule_column(key: str) -> tuple[str, str]:
    """A rule's head and meaning."""
    rule = rule_of(key)
    return rule.name, rule.meaning


def greedy_tables(curves: Sequence[GreedyCurve]) -> list[Table]:
    """How many configurations reach an accuracy; then some steps of each curve."""
    names = short_names([c.result for c in curves])
    head = (
        ("result", "its name"),
        ("n", "images"),
        *((f"{100 * a:g}%", "configurations that reach it") for a in REACHED),
    )
    rows = []
    for curve, name in zip(curves, names, strict=True):
        reach = curve.reach if curve.held_out is None else curve.reach_held_out
        ks = [reach(a) for a in REACHED]
        rows.append(
            (Cell(name), Cell(f"{curve.n:,}", curve.n), *(Cell("never" if k is None else f"{k}", k) for k in ks))
        )
    tables = [Table("Configurations needed to reach an accuracy, held out", head, tuple(rows))]
    columns = (
        ("k", "configurations"),
        ("held out", "best case of the first k on images that did not choose them"),
        ("guesses", "distinct predictions of those, on average"),
        ("matched top-k", "the static network with as many guesses, held out"),
        ("in-sample", "best case on the images that chose them"),
        ("at most", "no k configurations whatever do better there"),
        ("adds", "the k-th configuration"),
    )
    for curve, name in zip(curves, names, strict=True):
        steps = [s for s in curve.steps if s.k in SHOWN_KS or s.k == len(curve.steps)]
        cells = tuple(_step_cells(curve, s) for s in steps)
        tables.append(Table(f"{name}, n = {curve.n:,}: step by step", columns, cells, folded=True))
    return tables


def _step_cells(curve: GreedyCurve, step: GreedyStep) -> tuple[Cell, ...]:
    steps = curve.held_out.steps if curve.held_out else ()
    held = steps[step.k - 1] if step.k <= len(steps) else None
    sure = span((held.low, held.high)) if held and held.low is not None and held.high is not None else ""
    return (
        Cell(f"{step.k}", step.k),
        Cell(percent(held.accuracy), held.accuracy, sure) if held else Cell("-"),
        Cell(f"{held.guesses:.2f}", held.guesses) if held else Cell("-"),
        Cell(percent(held.matched_topk), held.matched_topk) if held else Cell("-"),
        Cell(percent(step.accuracy), step.accuracy),
        Cell(percent(step.upper_bound), step.upper_bound),
        Cell(f"{step.config}: {format_sites(step.settings)}"),
    )


def subsets_tables(answers: Sequence[Subsets]) -> list[Table]:
    """Every subset of each result."""
    columns = (
        ("sites", "dynamic ones"),
        ("configurations", "how many"),
        *map(_rule_column, (*RULES[1:], "matched_topk")),
    )
    tables = []
    for one, name in zip(answers, short_names([f.result for f in answers]), strict=True):
        rows = tuple(
            (
                Cell(s.sites),
                Cell(f"{s.configs:,}", s.configs),
                *map(estimate_cell, (s.worst, s.median, s.best, s.matched_topk)),
            )
            for s in one.subsets
        )
        caption = f"{name}, n = {one.n:,}, static {percent(one.static.value)}: every subset"
        tables.append(Table(caption, columns, rows, folded=True))
    return tables


def unique_tables(answers: Sequence[UniquePredictions]) -> list[Table]:
    """One row for each result."""
    columns = (
        ("result", "its name"),
        ("n", "images"),
        ("configurations", "how many"),
        ("all agree %", "images for which every configuration predicts one class"),
        ("mean", "distinct predictions"),
        ("median", "distinct predictions"),
        ("most", "distinct predictions"),
    )
    rows = tuple(
        (
            Cell(name),
            Cell(f"{u.n:,}", u.n),
            Cell(f"{u.configs:,}", u.configs),
            estimate_cell(u.agree),
            Cell(f"{u.mean.value:.1f}", u.mean.value, f"{u.mean.low:.1f}-{u.mean.high:.1f}"),
            Cell(f"{u.median:g}", u.median),
            Cell(f"{len(u.histogram)}", len(u.histogram)),
        )
        for u, name in zip(answers, short_names([f.result for f in answers]), strict=True)
    )
    return [Table("Distinct predictions of an image", columns, rows)]


def preferences_tables(answers: Sequence[Preferences], top: int = 5) -> list[Table]:
    """The options of every result at each site, and the configurations that most images prefer."""
    names = short_names([f.result for f in answers])
    columns = (
        ("result", "its name"),
        ("n", "images"),
        ("site", "A to D"),
        ("option", "its value"),
        ("preferred by %", "of the images"),
    )
    options = tuple(
        (
            Cell(name),
            Cell(f"{one.n:,}", one.n),
            Cell(o.site),
            Cell(f"{o.attribute} {format_value(o.value)}"),
            estimate_cell(o.share),
        )
        for one, name in zip(answers, names, strict=True)
        for o in one.options
    )
    columns_most = (("result", "its name"), ("configuration", "and its settings"), ("preferred by %", "of the images"))
    most = tuple(
        (
            Cell(name),
            Cell(f"{c.config}: {format_sites(c.settings)}{' (default)' if c.config == one.default else ''}"),
            estimate_cell(c.share),
        )
        for one, name in zip(answers, names, strict=True)
        for c in one.configs[:top]
    )
    return [
        Table(f"The {top} configurations that the most images prefer", columns_most, most, folded=True),
        Table("Preferred options at each site", columns, options, folded=True),
    ]


def estimate_cell(value: Estimate | None) -> Cell:
    """An accuracy or share in percent with its interval below."""
    return Cell("-", "") if value is None else Cell(percent(value.value), value.value, span(value))
