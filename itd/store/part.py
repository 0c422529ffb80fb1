"""A part of a result, one Parquet file: its name, which of them a folder has, and which count.

Not here: what is kept about a part (`record`), and reading one (`reading`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from itd.errors import ResultError
from itd.store.files import SIDE

T = TypeVar("T")

_NAME = re.compile(r"^part-(\d{8,})-(\d{8,})\.parquet$")
_RECORD = re.compile(r"^(part-\d{8,}-\d{8,})(?:\.[0-9a-f]{16})?\.json$")
"""Before the content was in its name, a part had one record, named as the part."""


def part_name(first: int, last: int) -> str:
    """The name of the part that holds positions first..last.

    >>> part_name(0, 7)
    'part-00000000-00000007.parquet'
    """
    return f"part-{first:08d}-{last:08d}.parquet"


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a result.

    first, last: its positions, or -1 where the name does not say. records: the files that may be its record.
    record: the one that is, once it is read.
    """

    path: Path
    first: int = -1
    last: int = -1
    records: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    record: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.path.name


def list_parts(folder: Path) -> list[Part]:
    """The parts of a folder by position; a Parquet file of another name has none. Records are not read yet.

    A part whose images another one holds as well is left out: the longer one took its place.
    """
    return [part for part, holder in _list_all(folder) if holder is None]


def list_superseded(folder: Path) -> list[tuple[Part, Part]]:
    """The parts that `list_parts` leaves out, each with the one that took its place."""
    return [(part, holder) for part, holder in _list_all(folder) if holder is not None]


def single_part(path: Path) -> Part:
    """A file that is read by itself, with the records that it has where it lies in a result."""
    return _part(path, _list_records(path.parent / SIDE))


def remove_part(part: Part) -> None:
    """Removes a part, then its records."""
    part.path.unlink(missing_ok=True)
    for record in part.records:
        record.unlink(missing_ok=True)


def remove_leftover_records(holder: Part) -> None:
    """Removes the records of parts that are gone and whose images a longer part holds, as a process leaves them that
    was ended between a part and its record."""
    folder = holder.path.parent
    for stem, records in _list_records(folder / SIDE).items():
        part = _part(folder / f"{stem}.parquet", {})
        inside = holder.first <= part.first and part.last <= holder.last and part.name != holder.name
        if inside and not os.path.lexists(part.path):
            for record in records:
                record.unlink(missing_ok=True)


def all_there(parts: Iterable[Part]) -> bool:
    """Whether no part has gone since it was listed, as one does in whose place a longer one came."""
    return all(os.path.lexists(part.path) for part in parts)


def is_replaced(part: Part) -> bool:
    """Whether a part has other records than when it was listed, as one has that a run made again."""
    return part.first >= 0 and single_part(part.path).records != part.records


def read_latest(part: Part, read: Callable[[Part], T]) -> T:
    """What `read` gives of a part; once more where another run has given it another record since it was listed."""
    try:
        return read(part)
    except ResultError:
        if not is_replaced(part):
            raise
        return read(single_part(part.path))


def damaged(part: Part, why: str) -> ResultError:
    """What is raised where a part is not what it should be."""
    if part.first < 0:
        return ResultError(
            f"{part.path} cannot be read as Parquet: {why}; it is truncated, damaged or not Parquet: give a folder or "
            "file written by `itd sweep`"
        )
    return ResultError(
        f"{part.path} is damaged: {why}; give the same `itd sweep` or `itd union` command again, which puts it aside "
        "and makes it anew"
    )


def _list_all(folder: Path) -> tuple[tuple[Part, Part | None], ...]:
    """All parts of a folder, each with the part that took its place, if one did: one with a record, whose images are
    more and begin no later."""
    names = [name for name in os.listdir(folder) if name.endswith(".parquet") and not name.startswith((".", "_"))]
    beside = _names_beside(folder / SIDE)  # after the parts, which come later than their records
    return _arranged(folder, tuple(names), beside)


@functools.lru_cache(maxsize=2)
def _arranged(folder: Path, names: tuple[str, ...], beside: tuple[str, ...]) -> tuple[tuple[Part, Part | None], ...]:
    """`_list_all` of the names that a folder and its side folder have. Kept, as a run that goes on lists ten thousand
    parts half a dozen times."""
    records = _by_stem(folder / SIDE, beside)
    found: list[tuple[Part, Part | None]] = []
    longest: Part | None = None
    for part in sorted((_part(folder / name, records) for name in names), key=lambda p: (p.first, -p.last, p.name)):
        inside = longest is not None and part.first >= 0 and part.last <= longest.last
        found.append((part, longest if inside else None))
        if not inside and part.first >= 0 and part.records:
            longest = part
    return tuple(found)


def _part(path: Path, records: Mapping[str, list[Path]]) -> Part:
    match = _NAME.match(path.name)
    first, last = (int(match[1]), int(match[2])) if match else (-1, -1)
    return Part(path, first, last, tuple(records.get(path.stem, ())))


def _list_records(side: Path) -> dict[str, list[Path]]:
    """The records of each part, by the part's stem."""
    return _by_stem(side, _names_beside(side))


def _names_beside(side: Path) -> tuple[str, ...]:
    """What the side folder holds: records, and other files."""
    try:
        return tuple(sorted(os.listdir(side)))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _by_stem(side: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """`_list_records` of the names that the side folder holds."""
    found: dict[str, list[Path]] = {}
    for name in names:
        match = _RECORD.match(name)
        if match:
            found.setdefault(match[1], []).append(side / name)
    return found


def coverage(parts: Sequence[Part], images: int) -> np.ndarray:
    """Which of the first images are in a part: (images,) bool."""
    covered = np.zeros(images, dtype=bool)
    for part in parts:
        if part.first >= 0:
            covered[part.first : part.last + 1] = True
    return covered
