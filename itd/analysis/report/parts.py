"""What a page is made of: sections of paragraphs, tables, figures and cards. How they look is `elements`' business."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from itd.analysis.figures import Drawing


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
class Fold:
    """Paragraphs that are shown when their summary is clicked."""

    summary: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A figure, which is made and drawn only when the page is."""

    draw: Callable[[], Drawing]


@dataclass(frozen=True)
class Card:
    """One result in brief. sentence: what it says, without its name. facts: (what, value)."""

    name: str
    sentence: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cards:
    """Some results in brief. beside: a figure of the first `of_figure` of them."""

    cards: tuple[Card, ...]
    beside: Plot | None = None
    of_figure: int = 0


@dataclass(frozen=True)
class Link:
    """A paragraph that leads to another file beside the page. file: its name. after: what stands behind the link."""

    text: str
    file: str
    after: str = ""


@dataclass(frozen=True)
class Tile:
    """An image in brief. picture: a `data:` URI of `size_px`, or none. title: below it. lines: then, one below the
    other. more: a line, and what is shown when it is clicked. name: of the image, at the end."""

    title: str
    lines: tuple[str, ...]
    more: tuple[str, tuple[str, ...]] | None = None
    name: str = ""
    picture: str | None = None
    size_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Tiles:
    """Many images, of which a browser lays out and decodes only those that are looked at. pictures: whether any of
    them has a picture."""

    tiles: tuple[Tile, ...]
    pictures: bool = True


Part = str | Fold | Table | Plot | Cards | Link | Tiles


@dataclass(frozen=True)
class Section:
    """A part of the page. parts: in order; a text is a paragraph, in which `backticks` mark code."""

    title: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """Its place in the page's address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def figures(self) -> int:
        """How many there are to draw."""
        return sum(isinstance(p, Plot) or (isinstance(p, Cards) and p.beside is not None) for p in self.parts)
