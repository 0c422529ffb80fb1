"""The images of a result as text for a terminal: the shares of the groups, then a few images of each."""

from __future__ import annotations

import textwrap

from itd.analysis._images import FEW, GROUPS, MANY, ImageGroup, ImageRow, Images, RightConfig
from itd.analysis.frames import short_names
from itd.analysis.tables import WIDTH, align, format_sites, percent, span
from itd.text import shorten, visible

MOST_IMAGES = 20
"""Of each group, unless another number is asked for."""
MOST_IN_SUMMARY = 5
_CLASS = 24
_WRITTEN = 2
"""Configurations that are written out below an image."""
SORTED = {MANY: "those first that most get right", FEW: "those first that fewest get right"}


def images_text(answer: Images, most: int | None = None) -> str:
    """What fits 100 columns: the groups with their shares, and at most `most` images of each.

    Of a summary only the first group's images are shown.
    """
    default = "none" if answer.default is None else f"{answer.default}"
    (name,) = short_names([answer.result])
    lines = [f"{name}: n = {answer.n:,}, {answer.configs:,} configurations (default: {default})", ""]
    lines += [_shares(answer), *(f"  {group.name}: {group.meaning}" for group in answer.groups)]
    summary = [group.name for group in answer.groups] == list(GROUPS)
    for group in answer.groups[:1] if summary else answer.groups:
        lines += ["", _group(group, answer.configs, most or (MOST_IN_SUMMARY if summary else MOST_IMAGES))]
    return "\n".join(lines)


def _shares(answer: Images) -> str:
    cells = [["group", "images", "%", "95% interval"]]
    cells += [[g.name, f"{g.total:,}", percent(g.share.value), span(g.share)] for g in answer.groups]
    return align(cells)


def _group(group: ImageGroup, configs: int, most: int) -> str:
    if not group.total:
        return f"{group.name}: no image"
    shown = group.images[:most]
    order = "" if group.name == "never" else f", {SORTED[group.sort]}"
    title = f"{group.name}: {len(shown):,} of {group.total:,}{order}"
    cells = [["sample", "label", "the default says", "right"]]
    for row in shown:
        label = class_text(row.label, row.class_name, _CLASS)
        static = class_text(row.static, row.static_name, _CLASS)
        cells.append([f"{row.sample}", label, static, f"{row.right:,}/{configs:,}"])
    named = any(row.name for row in shown)
    head, *table = align(cells, left=(1, 2)).splitlines()
    room = WIDTH - 2 - max(map(len, (head, *table)))
    wide = max(map(len, (head, *table)))
    lines = [title, f"{head.ljust(wide)}  name" if named else head]
    for line, row in zip(table, shown, strict=True):
        lines.append(f"{line.ljust(wide)}  {_end(row.name or '-', room)}" if named else line)
        lines += _right(row)
    return "\n".join(lines)


def class_text(label: int | None, name: str | None, most: int = 200) -> str:
    """A class by its name and number, in at most so many characters; by its number alone where that is its name.

    >>> class_text(7, "goldfish"), class_text(7, "7"), class_text(7, "a long name", 12), class_text(None, None)
    ('goldfish (7)', '7', 'a lon... (7)', '-')
    """
    if label is None:
        return "-"
    if name is None or name == str(label):
        return str(label)
    number = f" ({label})"
    return shorten(_one_line(name), most - len(number)) + number


def _one_line(name: str) -> str:
    """A name as a table can hold it, which a file's may not be: without ends of lines and what else moves a cursor."""
    return visible(name).replace("\n", "\\n").replace("\t", "\\t")


def _end(name: str, room: int) -> str:
    """A name that is too long without its beginning: what tells images apart stands at the end."""
    name = _one_line(name)
    return name if len(name) <= room else f"...{name[3 - room :]}"


def _right(row: ImageRow) -> list[str]:
    """The configurations that get an image right, a few of them with their settings."""
    if not row.configs:
        return []
    written = row.configs[:_WRITTEN]
    words = [*map(config_text, written), *filter(None, [more_text(row, len(written))])]
    return [line for text in words for line in textwrap.wrap(text, WIDTH, initial_indent=" " * 8,
                                                             subsequent_indent=" " * 12)]  # fmt: skip


def config_text(one: RightConfig) -> str:
    """`12: A(stride=2) B(stride=1)`, of a union with where it comes from."""
    settings = {site: setting for site, setting in one.settings.items() if setting}
    source = "" if one.source is None else f" of {one.source}"
    return f"{one.config}{source}: {format_sites(settings)}"


def more_text(row: ImageRow, written: int) -> str:
    """How many configurations beside the default and those that are written out get an image right; empty for none."""
    others = row.right - written - (row.static == row.label)
    return f"and {others:,} more" if others else ""
