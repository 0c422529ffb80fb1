"""Answers as text: the manner of the paper's Table 1, and greedy curves as a few rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from itd.analysis.greedy import GreedyCurve, GreedyStep
from itd.analysis.oracle import OracleAccuracy
from itd.space import format_value

COLUMNS = ("static", "worst", "median", "best")


def oracle_table(rows: Sequence[OracleAccuracy]) -> str:
    """Accuracies in percent, one line for each result.

    >>> print(oracle_table([OracleAccuracy("r.parquet", 40, 625, 0.5, 0.1, 0.45, 0.925)]))
    result      n  configs  static  worst  median  best
    r.parquet  40      625    50.0   10.0    45.0  92.5
    """
    cells = [[r.result, f"{r.n}", f"{r.configs}", *(percent(getattr(r, c)) for c in COLUMNS)] for r in rows]
    return align([["result", "n", "configs", *COLUMNS], *cells])


def greedy_table(curve: GreedyCurve, shown: Callable[[int, int], bool]) -> str:
    """Some steps of a curve. shown: (k, how many there are) -> whether the row is printed."""
    steps = [s for s in curve.steps if shown(s.k, len(curve.steps))]
    static = "" if curve.static is None else f", static {percent(curve.static)}"
    title = f"{curve.result}: n = {curve.n}, {len(curve.steps)} configurations{static}"
    cells = [[f"{s.k}", percent(s.accuracy), f"{s.config}", format_settings(s)] for s in steps]
    return f"{title}\n" + align([["k", "best", "config", "settings"], *cells], left=(3,))


def format_settings(step: GreedyStep) -> str:
    """`A(stride=2) B(stride=1/2) ...`"""
    parts = []
    for site, setting in step.settings.items():
        inner = ", ".join(f"{name}={format_value(value)}" for name, value in setting.items())
        parts.append(f"{site}({inner})")
    return " ".join(parts)


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal, or a dash.

    >>> percent(0.925), percent(None)
    ('92.5', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows of cells as columns; those in `left` are aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
