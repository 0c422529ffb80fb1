"""A page of the images of a result: thumbnails where the images are there, else names, and what gets each right."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itd.analysis.frames import short_names
from itd.analysis.images_text import class_text, config_text, more_text
from itd.analysis.report.page import render
from itd.analysis.report.parts import Cell, Link, Section, Table, Tile, Tiles
from itd.analysis.report.tables import estimate_cell
from itd.analysis.tables import percent, span
from itd.errors import DataError

if TYPE_CHECKING:
    from itd.analysis._images import ImageGroup, ImageRow, Images
    from itd.data.images import ImageSet

THUMBNAIL_PX = 160
"""The longer side; about 5 kB as JPEG and 7 in the page, of which 5,000 images make 33 MB."""
_QUALITY = 60
TITLES = {
    "rescued": "Rescued",
    "lost": "Lost",
    "never": "Never right",
    "only_config": "Only the configuration is right",
    "only_default": "Only the default is right",
}
_SORTED = {"few": "first those that the fewest configurations get right", "many": "first those that the most get right"}

Thumbnails = dict[int, "tuple[str, tuple[int, int]] | None"]
"""sample -> (`data:` URI, size in px), or None for an image that cannot be decoded."""


def images_page(answer: Images, progress: Callable[[], Any] | None = None, thumbnails: Thumbnails | None = None) -> str:
    """The images of a result as one HTML page that needs no network.

    Args:
        answer: of `itd.images`; with `data` each image has a thumbnail, an image that cannot be decoded a note.
        progress: called for each image.
        thumbnails: those made before, for another result of the same images; takes up those that are made.

    Returns:
        The page, for `write_page`.

    Example:
        >>> images_page(itd.images(result, "rescued", data="/imagenet/val"))[:15]  # doctest: +SKIP
        '<!doctype html>'
    """
    made: Thumbnails = {} if thumbnails is None else thumbnails
    sections = [Section("Groups", (_shares(answer),))]
    for group in answer.groups:
        tiles = []
        for row in group.images:
            tiles.append(_tile(row, answer, made))
            if progress is not None:
                progress()
        shown = Tiles(tuple(tiles), pictures=answer.originals is not None)
        sections.append(Section(TITLES[group.name], (_lead(group), *([shown] if tiles else []))))
    (name,) = short_names([answer.result])
    default = "no default" if answer.default is None else f"default {answer.default}"
    lead = f"{answer.n:,} images, {answer.configs:,} configurations, {default}."
    return render(f"{name}: images", lead, sections)


def gallery_link(answer: Images, report: str | Path, number: int) -> Link:
    """The link from a report to the page of its number-th result's images, which lies beside it."""
    end = "" if number == 1 else f"-{number}"
    (name,) = short_names([answer.result])
    counts = ", ".join(f"{group.total:,} {TITLES[group.name].lower()}" for group in answer.groups)
    return Link(name, f"{Path(report).stem}-images{end}.html", f": of {answer.n:,} images {counts}.")


def _shares(answer: Images) -> Table:
    columns = (("group", "of images"), ("images", "how many"), ("%", "of all"), ("meaning", "which images"))
    rows = tuple(
        (Cell(TITLES[g.name]), Cell(f"{g.total:,}", g.total), estimate_cell(g.share), Cell(g.meaning))
        for g in answer.groups
    )
    return Table("How many images are in each group", columns, rows)


def _lead(group: ImageGroup) -> str:
    if not group.total:
        return "No image."
    cut = "" if len(group.images) == group.total else f" Here are {len(group.images):,} of them."
    order = "In the order of the selection" if group.name == "never" else _SORTED[group.sort].capitalize()
    words = f"{group.meaning[0].upper()}{group.meaning[1:]}: {group.total:,} images, {percent(group.share.value)}%"
    return f"{words} ({span(group.share)}). {order}.{cut}"


def _tile(row: ImageRow, answer: Images, made: Thumbnails) -> Tile:
    picture = None
    if answer.originals is not None:
        if row.sample not in made:
            made[row.sample] = _thumbnail(answer.originals, row.sample)
        picture = made[row.sample]
    static = () if row.static is None else (f"default: {class_text(row.static, row.static_name)}",)
    right = f"right: {row.right:,} of {answer.configs:,}"
    rest = more_text(row, len(row.configs))
    written = (*map(config_text, row.configs), *([rest] if rest else []))
    return Tile(
        title=class_text(row.label, row.class_name),
        lines=static if written else (*static, right),
        more=(right, written) if written else None,
        name=f"sample {row.sample}" if row.name is None else f"{row.name}, sample {row.sample}",
        picture=None if picture is None else picture[0],
        size_px=(0, 0) if picture is None else picture[1],
    )


def _thumbnail(originals: ImageSet, sample: int) -> tuple[str, tuple[int, int]] | None:
    """(`data:` URI, size) of an image; None where it cannot be decoded."""
    try:
        image = originals.load(sample)
    except DataError:
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}", image.size
