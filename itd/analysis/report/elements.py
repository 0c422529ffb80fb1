"""The HTML of each part of a page. What the numbers mean it does not know."""

from __future__ import annotations

import base64
import csv
import gzip
import html
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from itd.analysis.figures import Drawing
from itd.analysis.report.parts import Card, Cards, Cell, Fold, Link, Plot, Section, Table, Tile, Tiles
from itd.analysis.report.picture import own_picture

MOST_ROWS = 100
"""Rows of a figure's numbers that the page shows as a table; the CSV has all."""
MOST_MARKS = 400
"""Where a figure has more, those that nobody could point at apart are left out."""
MARK_CELLS = 200
"""So many places along a side can be pointed at apart."""
PX_PER_INCH = 96

NUMBER = ' class="number"'


class Elements:
    """Makes the parts of one page; figures are numbered in the order they come. progress: called with the section's
    title before each figure is made."""

    def __init__(self, progress: Callable[[str], Any] | None = None) -> None:
        self._progress = progress
        self._numbers = itertools.count(1)
        self._section = ""

    def section(self, section: Section) -> str:
        """A section with its head. Figures that follow one another stand side by side where there is room."""
        self._section = section.title
        parts = []
        for figures, group in itertools.groupby(section.parts, key=lambda part: isinstance(part, Plot)):
            shown = "\n".join(map(self._part, group))
            parts.append(f'<div class="figures">{shown}</div>' if figures else shown)
        head = f'<section id="{section.anchor}"><h2>{html.escape(section.title)}</h2>\n'
        return head + "\n".join(parts) + "</section>"

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            return f"<p>{text(part)}</p>"
        if isinstance(part, Fold):
            return fold(part)
        if isinstance(part, Table):
            return table(part)
        if isinstance(part, Link):
            return link(part)
        if isinstance(part, Tiles):
            return tiles(part)
        return self._cards(part) if isinstance(part, Cards) else self._figure(part)

    def _cards(self, part: Cards) -> str:
        if part.beside is None:
            return _card_list(part.cards)
        first, others = part.cards[: part.of_figure], part.cards[part.of_figure :]
        top = f'<div class="first">{_card_list(first)}{self._figure(part.beside)}</div>'
        return top + (_card_list(others) if others else "")

    def _figure(self, plot: Plot) -> str:
        if self._progress is not None:
            self._progress(self._section)
        return figure(plot.draw(), f"f{next(self._numbers)}")


def text(words: str) -> str:
    """Escaped, with what stands in backticks as code.

    >>> text("a < b; `partial` draws it")
    'a &lt; b; <code>partial</code> draws it'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))


def fold(part: Fold) -> str:
    """Paragraphs behind their summary."""
    inside = "".join(f"<p>{text(paragraph)}</p>" for paragraph in part.paragraphs)
    return f"<details><summary>{text(part.summary)}</summary>{inside}</details>"


def link(part: Link) -> str:
    """A paragraph that leads to a file beside the page.

    >>> link(Link("a & b", "50% of.html", ", 3 images"))
    '<p><a href="50%25%20of.html">a &amp; b</a>, 3 images</p>'
    """
    address = quote(part.file.encode("utf-8", "surrogateescape"))
    return f'<p><a href="{html.escape(address)}">{html.escape(part.text)}</a>{html.escape(part.after)}</p>'


SMALL_PX = 100
"""Pictures of fewer pixels are shown with their pixels, not blurred."""


def tiles(part: Tiles) -> str:
    """Images side by side."""
    kind = "tiles" if part.pictures else "tiles bare"
    return f'<ul class="{kind}">\n' + "\n".join(_tile(one, part.pictures) for one in part.tiles) + "</ul>"


def _tile(tile: Tile, pictures: bool) -> str:
    shown = _picture(tile) if pictures else ""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in tile.lines)
    if tile.more is not None:
        inside = "".join(f"<p>{html.escape(line)}</p>" for line in tile.more[1])
        lines += f"<details><summary>{html.escape(tile.more[0])}</summary>{inside}</details>"
    name = f'<p class="name">{html.escape(tile.name)}</p>' if tile.name else ""
    return f"<li>{shown}<p><b>{html.escape(tile.title)}</b></p>{lines}{name}</li>"


def _picture(tile: Tile) -> str:
    if tile.picture is None:
        return '<div class="none">cannot be decoded</div>'
    width, height = tile.size_px
    kind = ' class="small"' if max(tile.size_px) < SMALL_PX else ""
    return (
        f'<img{kind} src="{html.escape(tile.picture)}" alt="{html.escape(tile.name or tile.title)}" width="{width}" '
        f'height="{height}" loading="lazy" decoding="async">'
    )


def table(part: Table) -> str:
    """A table in a box of its own that scrolls, and what its columns mean."""
    numeric = [any(isinstance(row[i].key, (int, float)) for row in part.rows) for i in range(len(part.columns))]
    head = "".join(_head(*column, number) for column, number in zip(part.columns, numeric, strict=True))
    rows = "\n".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in part.rows)
    caption, kind = html.escape(part.caption), ' class="prose"' if part.prose else ""
    shown = (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{caption}"><table{kind}>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )
    shown += "" if part.prose else _legend(part.columns)
    return f"<details><summary>{caption}</summary>{shown}</details>" if part.folded else shown


def _legend(columns: Sequence[tuple[str, str]]) -> str:
    """What the columns mean, for those who cannot hover; nothing where their names say it."""
    meanings = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in columns if name != meaning
    )
    return f'<details class="legend"><summary>The columns</summary><dl>{meanings}</dl></details>' if meanings else ""


def _head(name: str, meaning: str, number: bool) -> str:
    return (
        f'<th scope="col"{NUMBER if number else ""} aria-sort="none">'
        f'<button type="button" title="{html.escape(meaning)}">{html.escape(name)}</button></th>'
    )


def _cell(cell: Cell, number: bool) -> str:
    key = cell.text if cell.key is None else cell.key
    below = f"<small>{html.escape(cell.below)}</small>" if cell.below else ""
    return f'<td{NUMBER if number else ""} data-key="{html.escape(str(key))}">{html.escape(cell.text)}{below}</td>'


def _card_list(cards: Sequence[Card]) -> str:
    return '<ul class="cards">' + "\n".join(map(_card, cards)) + "</ul>"


def _card(card: Card) -> str:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in card.facts
    )
    return f"<li><p><b>{html.escape(card.name)}</b>: {html.escape(card.sentence)}</p><dl>{facts}</dl></li>"


def figure(drawing: Drawing, name: str) -> str:
    """A figure with its caption, what it says under the pointer, and its numbers. name: the id of its element."""
    svg, marks = drawing.drawn()
    data = {"file": f"{drawing.name}.csv", "csv": _packed(_csv(drawing)), "marks": list(_shown_marks(marks))}
    width_px = PX_PER_INCH * drawing.figure.get_size_inches()[0]
    numbers = _numbers(drawing) if len(drawing.rows) <= MOST_ROWS else ""
    return (
        f'<figure id="{name}" style="--natural: {width_px:.0f}px">'
        f'<div class="picture" role="img" aria-label="{html.escape(f"{drawing.title}. {drawing.caption}")}" '
        f'tabindex="0">{own_picture(svg, name)}</div>\n'
        f"<figcaption><b>{html.escape(drawing.title)}</b> "
        f'<button type="button" class="csv">CSV ({len(drawing.rows):,} rows)</button>'
        f"{fold(Fold('How to read it', (drawing.caption,)))}</figcaption>{numbers}\n"
        f'<script type="application/json" class="data">{_json(data)}</script></figure>'
    )


def _shown_marks(marks: Sequence[tuple[float, float, str]]) -> Iterator[list[float | str]]:
    """Those of a crowd that can be pointed at apart, the first of each place."""
    taken: set[tuple[int, int]] = set()
    for x, y, said in marks:
        place = (round(MARK_CELLS * x), round(MARK_CELLS * y))
        if len(marks) <= MOST_MARKS or place not in taken:
            taken.add(place)
            yield [round(x, 4), round(y, 4), said]


def _numbers(drawing: Drawing) -> str:
    rows = tuple(tuple(_plain_cell(row.get(column)) for column in drawing.columns) for row in drawing.rows)
    return table(Table("The numbers", tuple((column, column) for column in drawing.columns), rows, folded=True))


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


def _packed(words: str) -> str:
    """Text as gzip in base64: numbers of whole curves take a seventh."""
    return base64.b64encode(gzip.compress(words.encode("utf-8", "replace"), mtime=0)).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
