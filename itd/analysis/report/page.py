"""A page of sections: tables that sort, figures that say what is under the pointer, numbers as CSV. It knows nothing of
what the numbers mean; `sections` does."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from itd.analysis.figures import Drawing
from itd.errors import ResultError

MOST_ROWS = 300
"""Rows of a figure's numbers that the page shows as a table; the CSV has all."""
MOST_MARKS = 1500


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
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n<style>\n{style}</style></head>\n'
        f"<body><main>\n<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p></header>\n"
        f'<nav aria-label="Contents"><ul>{toc}</ul></nav>\n{body}\n</main>\n'
        f'<div id="tip" role="status" hidden></div>\n<script>\n{script}</script></body></html>\n'
    )


def write_page(page: str, path: str | Path) -> None:
    """Writes a page, whole or not at all; ResultError where the path cannot be written."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResultError(f"cannot write the report {path}: {error.strerror or error}; give another --out") from error


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
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" title="{html.escape(meaning)}">{html.escape(name)}'
        "</button></th>"
        for name, meaning in table.columns
    )
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    caption, kind = html.escape(table.caption), ' class="prose"' if table.prose else ""
    shown = (
        f'<div class="scroll"><table{kind}><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>"
    )
    return f"<details><summary>{caption}</summary>{shown}</details>" if table.folded else shown


def _cell(cell: Cell) -> str:
    key = cell.text if cell.key is None else cell.key
    number = isinstance(key, (int, float))
    below = f"<small>{html.escape(cell.below)}</small>" if cell.below else ""
    kind = ' class="number"' if number else ""
    return f'<td{kind} data-key="{html.escape(str(key))}">{html.escape(cell.text)}{below}</td>'


def _figure(drawing: Drawing, name: str) -> str:
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
        f"{_own_ids(drawing.svg(), name)}</div>\n"
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


def _own_ids(svg: str, name: str) -> str:
    """The picture with ids of its own: several stand on one page. What names other places is taken out."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', svg)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )


def _asset(name: str) -> str:
    return resources.files("itd.analysis.report").joinpath(name).read_text(encoding="utf-8")
