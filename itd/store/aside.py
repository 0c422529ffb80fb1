"""What a result holds beside its parts: units that failed, and parts that were damaged. Both are in the side folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from itd.checked import fields, text, whole
from itd.errors import ResultError
from itd.files import fsync_folder
from itd.store.files import SIDE, read_json, sealed, to_json, write_whole
from itd.store.missing import MissingImage, check_images, images_of
from itd.store.part import Part, part_name

FAILED = "failed"
"""The folder of units that could not be computed: a JSON file each, until the unit is written."""
BAD = "bad"
"""The folder of parts that were damaged, with their records: nothing reads them, and nothing removes them."""

_LAST = 2**31 - 1
_check_failed = fields(
    {"first": whole(0, _LAST), "last": whole(0, _LAST), "kind": text, "reason": text, "attempts": whole(1, _LAST)},
    {"images": check_images, "time": text, "run": text, "sha256": text},
)


@dataclass(frozen=True)
class FailedUnit:
    """A unit that could not be computed.

    first, last: its positions in the list of selected images. kind: undecodable, refused, not-finite, io or memory.
    reason: one line. attempts: how many there were in the last run that tried it. images: those it failed for, where it
    is for images.
    """

    first: int
    last: int
    kind: str
    reason: str
    attempts: int = 1
    images: tuple[MissingImage, ...] = ()


def failed_units(folder: Path) -> list[FailedUnit]:
    """The units that failed, by position; what is damaged among them is left out, as its unit is only not there."""
    found = map(_read_failed, sorted((folder / SIDE / FAILED).glob("part-*.json")))
    return [one for one in found if one is not None]


def failed_unit(folder: Path, first: int, last: int) -> FailedUnit | None:
    """What is noted of a unit that failed, if anything is."""
    return _read_failed(_failed_path(folder, first, last))


def _read_failed(path: Path) -> FailedUnit | None:
    with contextlib.suppress(ResultError, OSError):
        value = read_json(path, _check_failed)
        plain = {name: value[name] for name in ("first", "last", "kind", "reason", "attempts")}
        return FailedUnit(**plain, images=tuple(images_of(value.get("images", ()))))
    return None


def _failed_path(folder: Path, first: int, last: int) -> Path:
    return folder / SIDE / FAILED / f"{Path(part_name(first, last)).stem}.json"


def save_failed(folder: Path, failed: FailedUnit, more: Mapping[str, str]) -> Path:
    """Notes that a unit failed; returns where. more: of the run that tried it."""
    path = _failed_path(folder, failed.first, failed.last)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(sealed({**asdict(failed), **more})))
    return path


def update_failed(folder: Path, images: Mapping[int, MissingImage]) -> None:
    """Brings the notes of failed units up to what the files of some images, by position, are now."""
    for path in sorted((folder / SIDE / FAILED).glob("part-*.json")):
        with contextlib.suppress(ResultError, FileNotFoundError):
            value = read_json(path, _check_failed)
            noted = images_of(value.get("images", ()))
            if any(images.get(one.image, one) != one for one in noted):
                now = [asdict(images.get(one.image, one)) for one in noted]
                write_whole(path, to_json(sealed({**value, "images": now})))


def forget_failed(folder: Path, first: int, last: int) -> None:
    """Removes the notes of units that failed within a unit, as of its images with a smaller limit."""
    for path in (folder / SIDE / FAILED).glob("part-*.json"):
        place = path.stem.split("-")[1:]
        if all(number.isdecimal() for number in place) and first <= int(place[0]) and int(place[-1]) <= last:
            path.unlink(missing_ok=True)


def put_aside(part: Part) -> Path:
    """Moves a damaged part and its records into `_itd/bad`; returns where the part is."""
    target = put_file_aside(part.path, part.path.parent / SIDE)
    for record in part.records:
        with contextlib.suppress(FileNotFoundError):
            put_file_aside(record, part.path.parent / SIDE)
    return target


def put_file_aside(path: Path, side: Path) -> Path:
    """Moves a file into `_itd/bad`, under a name that is free there; returns where."""
    bad = side / BAD
    bad.mkdir(parents=True, exist_ok=True)
    target = _free(bad / path.name)
    os.rename(path, target)
    fsync_folder(bad)
    fsync_folder(path.parent)
    return target


def _free(path: Path) -> Path:
    number = 0
    target = path
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{number}")
    return target
