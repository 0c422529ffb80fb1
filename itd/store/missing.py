"""Which images of a result have null rows and why: `_itd/missing.json`. The rows themselves say that they are null."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import numpy as np

from itd.checked import fields, listing, maybe, text, whole
from itd.errors import ResultError, TooManyMissingError
from itd.store.claims import leased, require_lease
from itd.store.files import SIDE, UnreadableError, read_json, sealed, to_json, write_whole
from itd.store.index import read_index
from itd.store.part import coverage, list_parts
from itd.store.record import require_record

FILE = "missing.json"
NOT_KNOWN = "not known: it was recorded before reasons were"
_LAST = 2**31 - 1
check_images = listing(
    fields(
        {"image": whole(0, _LAST), "sample": whole(0, _LAST), "name": text, "reason": text},
        {"bytes": maybe(whole(0, 2**53)), "contents_sha256": maybe(text)},
    )
)
_check = fields({"missing": check_images}, {"sha256": text})


@dataclass(frozen=True)
class MissingImage:
    """An image of which there are no scores: its rows are null, or its unit was set aside.

    image: its position in the list of selected images. sample: its number in the data. name: what it is called there.
    reason: one line. bytes, contents_sha256: of its file then, where that is known.
    """

    image: int
    sample: int
    name: str
    reason: str
    bytes: int | None = None
    contents_sha256: str | None = None


def missing_path(folder: Path) -> Path:
    """Where a result says which images are missing."""
    return folder / SIDE / FILE


def read_missing(folder: Path) -> list[MissingImage]:
    """The images that are said to be missing, by position; ResultError for a damaged file."""
    try:
        value = read_json(missing_path(folder), _check)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(images_of(value["missing"]), key=lambda one: one.image)


def images_of(values: Iterable[Mapping[str, Any]]) -> list[MissingImage]:
    """The images of a checked list of a JSON file."""
    names = [field.name for field in dataclass_fields(MissingImage)]
    known: Iterable[dict[str, Any]] = ({name: value.get(name) for name in names} for value in values)
    return [MissingImage(**fields_of_one) for fields_of_one in known]


def save_missing(folder: Path, missing: Iterable[MissingImage]) -> None:
    """Writes which images are missing, each once; the later of two entries of one image stands."""
    each = {one.image: one for one in missing}
    entries = [asdict(each[image]) for image in sorted(each)]
    require_lease(folder / SIDE)
    write_whole(missing_path(folder), to_json(sealed({"missing": entries})))


def as_parts_say(folder: Path, null_images: Sequence[int], samples: np.ndarray) -> None:
    """Brings the file up to the images whose rows are null, each with its reason where that is known.

    null_images: their positions, as the parts have them. samples: (N,) of the selected images. Of an image that no part
    holds a reason stays: another run may be about to write it.
    """
    with leased(folder / SIDE):
        try:
            noted, whole_file = read_missing(folder), True
        except UnreadableError:
            raise
        except ResultError:
            noted, whole_file = [], False
        reasons = {one.image: one for one in noted}
        # another run may have scored an image since the parts were listed, and have taken it off the file
        listed = set(null_images) if missing_path(folder).exists() else reasons.keys()
        scored = with_scores(folder, reasons.keys() ^ listed)
        found = [
            reasons.get(image) or MissingImage(image, int(samples[image]), f"sample {samples[image]}", NOT_KNOWN)
            for image in sorted(set(null_images) - scored)
        ]
        if not whole_file or scored or not set(found) <= set(noted):
            save_missing(folder, [*(one for one in noted if one.image not in scored), *found])


def with_scores(folder: Path, images: Iterable[int]) -> set[int]:
    """Those of some positions of which a part can be read whose rows of them are not null."""
    wanted = np.array(sorted(images), np.int64)
    found: set[int] = set()
    for part in list_parts(folder) if len(wanted) else ():
        here = wanted[(wanted >= part.first) & (wanted <= part.last)] - part.first
        if not len(here):
            continue
        try:
            index = read_index(require_record(part), None, None)
        except ResultError:
            continue  # its images are to be computed again
        if len(index.samples) == part.last - part.first + 1:
            known = here if index.mask is None else here[index.mask[here]]
            found.update((known + part.first).tolist())
    return found


@contextlib.contextmanager
def noting(
    folder: Path, place: tuple[int, int], missing: Sequence[MissingImage], most: int | None, images: int
) -> Iterator[list[MissingImage] | None]:
    """Notes which images of a unit are missing, before its part is written within the block.

    The lease is held until the end of the block, but for a unit of which nothing is or was noted. place: the unit's
    first and last position. most: missing images of the result's first `images`, with those that are there. Gives what
    to save once the part is there, as an earlier part or run had others, or None.

    Raises TooManyMissingError where it would be more than `most`; then nothing is noted.
    """
    if not missing and not any(place[0] <= one.image <= place[1] for one in read_missing(folder)):
        yield None
        return
    with leased(folder / SIDE):
        noted = read_missing(folder)
        others = [one for one in noted if not place[0] <= one.image <= place[1]]
        if missing:
            covered = coverage(list_parts(folder), images)
            there = sum(1 for one in others if one.image < images and covered[one.image])
            if most is not None and there + len(missing) > most:
                raise TooManyMissingError(
                    f"{missing[0].reason}; {there + len(missing)} of {images} images would be missing, and "
                    f"`allow_missing` lets {most} be"
                )
            save_missing(folder, [*noted, *missing])
        now = [*others, *missing]
        yield now if {one.image for one in noted} - {one.image for one in now} else None
