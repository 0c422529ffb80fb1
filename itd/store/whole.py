"""Whether a part is what it should be, and putting those aside that are not. What `verify` finds, a sweep finds too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from itd.errors import ResultError
from itd.store import manifest as manifests
from itd.store.aside import put_aside
from itd.store.blocks import for_each
from itd.store.claims import leased
from itd.store.files import SIDE, UnreadableError
from itd.store.index import ROWS_AT_ONCE, Index, read_index
from itd.store.part import Part, all_there, list_parts, list_superseded, read_latest, remove_part
from itd.store.reading import read_columns, read_schema
from itd.store.record import is_unchanged, require_record, rows_sha256, with_record
from itd.store.schema import check_columns

F = TypeVar("F", bound="Checked | Unchanged")


@dataclass(frozen=True)
class Damage:
    """A file of a result that cannot be used, and why. file: its path within the result."""

    file: str
    reason: str


class Unreadable(Damage):
    """A file that cannot be read now: it may be whole, and stays where it is."""


@dataclass(frozen=True)
class Checked:
    """A part that is whole: its rows, and where it has null ones."""

    part: Part
    rows: int
    index: Index

    @property
    def null_images(self) -> list[int]:
        """The positions of its images with null rows."""
        mask = self.index.mask
        return [] if mask is None else (self.part.first + np.flatnonzero(~mask)).tolist()


@dataclass(frozen=True)
class Unchanged:
    """A part that is whole, as every bit of it is what its record says; its rows are not looked at."""

    part: Part
    rows: int
    null_images: list[int]


Whole = Checked | Unchanged


def check_part(
    part: Part, numbers: np.ndarray | None, samples: np.ndarray | None, *, recorded: bool = True
) -> Checked | Damage:
    """Reads every column of a part with every check.

    numbers: (C,) of the configurations. samples: (N,) the result's; None where that is not known. recorded: it
    must have a record.
    """
    try:
        if samples is not None and not 0 <= part.first <= part.last < len(samples):
            return Damage(part.name, "it is not a part of this result; move it elsewhere")
        return read_latest(part, lambda one: _checked(one, numbers, samples, recorded))
    except UnreadableError as error:
        return Unreadable(part.name, str(error))
    except ResultError as error:
        return Damage(part.name, str(error))


def _checked(part: Part, numbers: np.ndarray | None, samples: np.ndarray | None, recorded: bool) -> Checked:
    part = require_record(part) if recorded else with_record(part)
    schema, _ = read_schema(part)
    check_columns(schema, str(part.path))
    here = None if samples is None else samples[part.first : part.last + 1]
    if part.record is not None and part.record["rows"] <= ROWS_AT_ONCE:  # most are, and reading one twice takes long
        return Checked(part, part.record["rows"], read_index(part, numbers, here, read_columns(part, schema.names)))
    index = read_index(part, numbers, here)
    rows = len(index.numbers) * len(index.samples)
    for names in columns_at_once(rows, schema.names):
        read_columns(part, names)
    return Checked(part, rows, index)


def columns_at_once(rows: int, names: Sequence[str]) -> list[list[str]]:
    """Which columns of a part with so many rows are read together."""
    return [list(names)] if rows <= ROWS_AT_ONCE else [[name] for name in names]


def check_parts(
    parts: Sequence[Part], numbers: np.ndarray | None, samples: np.ndarray | None, *, recorded: bool = True
) -> list[Checked | Damage]:
    """`check_part` of each, and of two that overlap the later one is damage."""
    return _without_overlaps(parts, lambda part: check_part(part, numbers, samples, recorded=recorded))


def look_at_parts(parts: Sequence[Part], numbers: np.ndarray, samples: np.ndarray) -> list[Whole | Damage]:
    """`check_parts`, without reading the rows of parts that are what their record says, bit by bit: where ten thousand
    are there, that takes seconds in place of half a minute."""
    return _without_overlaps(
        parts, lambda part: _unchanged(part, numbers, samples) or check_part(part, numbers, samples)
    )


def _unchanged(part: Part, numbers: np.ndarray, samples: np.ndarray) -> Unchanged | None:
    if not 0 <= part.first <= part.last < len(samples):
        return None
    try:
        part = with_record(part)
    except ResultError:
        return None
    if not is_unchanged(part, rows_sha256(numbers, samples[part.first : part.last + 1])):
        return None
    record = part.record or {}
    return Unchanged(part, record["rows"], [part.first + place for place in record["nulls"]])


def _without_overlaps(parts: Sequence[Part], look: Callable[[Part], F | Damage]) -> list[F | Damage]:
    """What a look at each part finds; of two that overlap the later one is damage."""
    found: list[F | Damage] = for_each(look, parts)
    before: Part | None = None
    for place, (part, one) in enumerate(zip(parts, found, strict=True)):
        if isinstance(one, Damage) or part.first < 0:
            continue
        if before is not None and part.first <= before.last:
            found[place] = Damage(part.name, f"it overlaps {before.name}; delete one of them")
        else:
            before = part
    return found


def check_present(folder: Path, numbers: np.ndarray | None, samples: np.ndarray | None) -> list[Checked | Damage]:
    """`check_parts` of a folder, once more where a part went away meanwhile, as a longer one took its place."""
    parts = list_parts(folder)
    found = check_parts(parts, numbers, samples)
    return found if all_there(parts) else check_parts(list_parts(folder), numbers, samples)


def require_whole(path: str | Path, found: Sequence[Checked | Damage]) -> list[Checked]:
    """The parts of a result, all of which are whole; ResultError that names the first that is not."""
    for one in found:
        if isinstance(one, Damage):
            mend = "" if isinstance(one, Unreadable) else f"; `itd verify --repair {path}` puts it aside"
            raise ResultError(f"{path}: {one.file}: {one.reason}{mend}")
    return [one for one in found if isinstance(one, Checked)]


def remove_superseded(folder: Path, whole: Collection[str]) -> None:
    """Removes the parts whose place was taken by one of those named, which are known to be whole. Under the lease, as a
    part may be split into smaller ones again."""
    for part, holder in list_superseded(folder):
        if holder.name in whole:
            remove_part(part)


def whole_parts(folder: Path, manifest: Mapping[str, Any], numbers: np.ndarray) -> tuple[list[Whole], list[str]]:
    """`_whole_parts`, once more where a part was moved that had taken the place of others, which are seen again then.

    What a longer part has taken the place of is removed, once that one is known to be whole.
    """
    hidden = list_superseded(folder)
    found, notes = _whole_parts(folder, manifest, numbers)
    if notes and hidden:
        found, more = _whole_parts(folder, manifest, numbers)
        notes += more
    if hidden:
        with leased(folder / SIDE):
            remove_superseded(folder, {one.part.name for one in found})
    return found, notes


def _whole_parts(folder: Path, manifest: Mapping[str, Any], numbers: np.ndarray) -> tuple[list[Whole], list[str]]:
    """The parts of a result that are whole, the others moved to `_itd/bad`; and a note for each that was moved.

    The parts are read without the lock; under it only what was damaged is looked at once more, by the manifest as it
    is then: another run may have gone on to more images, or begun the result anew. What cannot be read is no damage but
    an UnreadableError.
    """
    found = _look_at_present(folder, numbers, manifests.from_runs(manifest["samples"]))
    damaged = {one.file for one in found if isinstance(one, Damage)}
    notes = []
    if damaged:
        with leased(folder / SIDE):
            samples = manifests.from_runs(manifests.require_own(folder, manifest)["samples"])
            for part in list_parts(folder):
                if part.name not in damaged:
                    continue
                (one,) = check_parts([part], numbers, samples)
                if isinstance(one, Checked) and not _overlaps(one.part, found):
                    found.append(one)  # another run has made it anew in the meantime
                    continue
                if isinstance(one, Unreadable):
                    raise UnreadableError(one.reason)
                notes.append(_moved(part, one))
    return sorted((one for one in found if isinstance(one, Whole)), key=lambda one: one.part.first), notes


def _look_at_present(folder: Path, numbers: np.ndarray, samples: np.ndarray) -> list[Whole | Damage]:
    """`look_at_parts` of a folder, once more where a part went away meanwhile, as a longer one took its place."""
    parts = list_parts(folder)
    found = look_at_parts(parts, numbers, samples)
    return found if all_there(parts) else look_at_parts(list_parts(folder), numbers, samples)


def _overlaps(part: Part, found: Sequence[Whole | Damage]) -> bool:
    others = [one.part for one in found if isinstance(one, Whole) and one.part.name != part.name]
    return any(other.first <= part.last and part.first <= other.last for other in others)


def _moved(part: Part, one: Checked | Damage) -> str:
    """Moves a part that cannot be used to `_itd/bad`; returns a note of it."""
    moved = put_aside(part)
    why = one.reason.split("; ")[0] if isinstance(one, Damage) else "it overlaps another part"
    why = why.removeprefix(f"{part.path} is damaged: ").removeprefix(f"{part.path} ").removeprefix(f"{part.path}: ")
    return (
        f"{part.path} is damaged: {why}; it was moved to {SIDE}/{moved.parent.name}/{moved.name}, and its images are "
        "to be computed again"
    )


def gaps(parts: Sequence[Part], images: int) -> tuple[tuple[int, int], ...]:
    """(first, last) positions that no part holds. parts: by position."""
    missing, at = [], 0
    for part in parts:
        if part.first > at:
            missing.append((at, min(part.first, images) - 1))
        at = max(at, part.last + 1)
    return (*missing, (at, images - 1)) if at < images else tuple(missing)
