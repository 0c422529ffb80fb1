"""A page of sections: tables that sort, figures that say what is under the pointer, numbers as CSV. It knows nothing of
what the numbers mean; `sections` does."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from itd.analysis.figures import Drawing
from itd.analysis.report.picture import own_picture
from itd.errors import ResultError
from itd.files import temporary, write_atomic

MOST_ROWS = 300
"""Rows of a figure's numbers that the page shows as a table; the CSV has all."""
MOST_MARKS = 1500

NUMBER = ' class="number"'


@dataclass(frozen=True)
class Cell:
    """What a table shows, what it sorts by, and what stands below it in small type."""

    text: str
    key: float | str | None = None
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a head that sorts. columns: (name, what it means). rows: as many cells each. folded: shown when its
    caption is clicked. prose: of words, not of numbers."""

    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    prose: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page. parts: paragraphs (text), tables and drawings, in order."""

    title: str
    parts: tuple[str | Table | Drawing, ...]

    @property
    def anchor(self) -> str:
        """Its place in the page's address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML with everything inside: style, script, pictures and numbers.

    >>> render("A page", "Its lead.", [Section("One", ("A paragraph.",))]).startswith("<!doctype html>")
    True
    """
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    toc = "".join(f'<li><a href="#{s.anchor}">{html.escape(s.title)}</a></li>' for s in sections)
    numbers = iter(range(1, 10_000))
    body = "\n".join(_section(section, numbers) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n<style>\n{style}</style></head>\n'
        f"<body><main>\n<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p></header>\n"
        f'<nav aria-label="Contents"><ul>{toc}</ul></nav>\n{body}\n</main>\n'
        f'<div id="ring" hidden></div><div id="tip" role="status" hidden></div>\n'
        f"<script>\n{script}</script></body></html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a path may hold bytes that are no text


def write_page(page: str, path: str | Path) -> None:
    """Writes a page, whole or not at all; ResultError where the path cannot be written."""
    _check_name(path)
    try:
        write_atomic(path, page)
    except OSError as error:
        raise ResultError(_refusal(path, error.strerror or str(error))) from error


def check_page_path(path: str | Path) -> None:
    """ResultError where `write_page` could not write: to be asked before anything is computed."""
    _check_name(path)
    try:
        with temporary(path) as temp:
            temp.touch()
    except OSError as error:
        raise ResultError(_refusal(path, error.strerror or str(error))) from error


def _check_name(path: str | Path) -> None:
    target = Path(path)
    if not target.name or "\0" in str(path) or target.is_dir():
        raise ResultError(_refusal(path, "it is a folder, or names no file"))


def _refusal(path: str | Path, why: str) -> str:
    return f"cannot write the report {str(path)!r}: {why}; give another `out`, such as report.html"


def _section(section: Section, numbers: Iterable[int]) -> str:
    parts = []
    for part in section.parts:
        if isinstance(part, str):
            parts.append(f"<p>{html.escape(part)}</p>")
        elif isinstance(part, Table):
            parts.append(_table(part))
        else:
            parts.append(_figure(part, f"f{next(iter(numbers))}"))
    return f'<section id="{section.anchor}"><h2>{html.escape(section.title)}</h2>\n' + "\n".join(parts) + "</section>"


def _table(table: Table) -> str:
    numeric = [any(isinstance(row[i].key, (int, float)) for row in table.rows) for i in range(len(table.columns))]
    head = "".join(_head(*column, number) for column, number in zip(table.columns, numeric, strict=True))
    rows = "\n".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in table.rows)
    caption, kind = html.escape(table.caption), ' class="prose"' if table.prose else ""
    shown = (
        f'<div class="scroll"><table{kind}><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>"
    )
    return f"<details><summary>{caption}</summary>{shown}</details>" if table.folded else shown


def _head(name: str, meaning: str, number: bool) -> str:
    return (
        f'<th scope="col"{NUMBER if number else ""} aria-sort="none">'
        f'<button type="button" title="{html.escape(meaning)}">{html.escape(name)}</button></th>'
    )


def _cell(cell: Cell, number: bool) -> str:
    key = cell.text if cell.key is None else cell.key
    below = f"<small>{html.escape(cell.below)}</small>" if cell.below else ""
    return f'<td{NUMBER if number else ""} data-key="{html.escape(str(key))}">{html.escape(cell.text)}{below}</td>'


def _figure(drawing: Drawing, name: str) -> str:
    picture = own_picture(drawing.svg(), name)  # before the marks: drawing is what lays the panels out
    marks = drawing.placed_marks()
    marks = marks[:: -(-len(marks) // MOST_MARKS)] if len(marks) > MOST_MARKS else marks
    data = {
        "file": f"{drawing.name}.csv",
        "csv": _csv(drawing),
        "marks": [[round(x, 4), round(y, 4), t] for x, y, t in marks],
    }
    label = html.escape(f"{drawing.title}. {drawing.caption}")
    width = round(96 * drawing.figure.get_size_inches()[0])
    details = _numbers(drawing) if len(drawing.rows) <= MOST_ROWS else ""
    return (
        f'<figure id="{name}"><div class="picture" style="max-width: {width}px" role="img" aria-label="{label}" '
        f'tabindex="0">'
        f"{picture}</div>\n"
        f"<figcaption><b>{html.escape(drawing.title)}.</b> {html.escape(drawing.caption)} "
        f'<button type="button" class="csv">CSV ({len(drawing.rows):,} rows)</button></figcaption>{details}\n'
        f'<script type="application/json" class="data">{_json(data)}</script></figure>'
    )


def _numbers(drawing: Drawing) -> str:
    rows = tuple(tuple(_plain_cell(row.get(column)) for column in drawing.columns) for row in drawing.rows)
    return _table(Table("The numbers", tuple((column, column) for column in drawing.columns), rows, folded=True))


def _plain_cell(value: Any) -> Cell:
    if value is None:
        return Cell("")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Cell(str(value))
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)


def _csv(drawing: Drawing) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, drawing.columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(drawing.rows)
    return out.getvalue()


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files("itd.analysis.report").joinpath(name).read_text(encoding="utf-8")
