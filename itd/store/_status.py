"""How far results are and who works on them, from the names, times and notes in their folders. No part is read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itd.errors import ResultError
from itd.store import manifest as manifests
from itd.store.aside import failed_units
from itd.store.claims import AtWork, at_work
from itd.store.files import SIDE, unreadable
from itd.store.missing import read_missing
from itd.store.part import Part, coverage, list_parts

RECENT_S = 600.0
"""The rate is that of the parts of so many seconds, up to the newest one."""


@dataclass(frozen=True)
class Status:
    """How far a result is.

    images: selected; None while a sweep has claimed the folder and not yet written what the result is of. done: in
    parts. failed: units that were set aside and are not there. nulls: images that are there with null rows.
    rows_per_s: of the recent parts; None where nobody works on it, or fewer than two are recent. seconds_left: at that
    rate; 0 where it is complete. writers: the processes that work on it, with those that may be gone.
    """

    path: str
    images: int | None
    done: int
    failed: int
    nulls: int
    rows_per_s: float | None
    seconds_left: float | None
    writers: tuple[AtWork, ...]

    @property
    def missing(self) -> int | None:
        """How many images are not there yet; None where nobody knows yet how many there are to be."""
        return None if self.images is None else self.images - self.done

    @property
    def complete(self) -> bool:
        """Whether every image is there."""
        return self.missing == 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON: {path, images, done, missing, failed, nulls, rows_per_s, seconds_left, writers: [{host, pid,
        started, unit, stale}], complete}."""
        return {
            "path": self.path,
            "images": self.images,
            "done": self.done,
            "missing": self.missing,
            "failed": self.failed,
            "nulls": self.nulls,
            "rows_per_s": self.rows_per_s,
            "seconds_left": self.seconds_left,
            "writers": [
                {
                    "host": one.host,
                    "pid": one.pid,
                    "started": one.started,
                    "unit": None if one.unit is None else list(one.unit),
                    "stale": one.stale,
                }
                for one in self.writers
            ],
            "complete": self.complete,
        }


def status(path: str | Path) -> Status:
    """How far a result is and who works on it; nothing is computed, and no part is read.

    Raises ResultError for what is no result, and where its manifest or `_itd/missing.json` is damaged.

    >>> status("results/resnet50-stride.parquet").missing  # doctest: +SKIP
    0
    """
    if not isinstance(path, (str, Path)):
        raise ResultError(f"status takes the path of a result, given {type(path).__name__}")
    folder = Path(path)
    if not os.path.exists(folder):
        raise _no_result(path)
    try:
        writers = tuple(at_work(folder))
        parts = list_parts(folder)  # before the manifest, which grows first
        manifest = manifests.load_manifest(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_result(path) from error
    except OSError as error:
        raise unreadable(folder, error) from error
    if manifest is None:
        return _begun(path, parts, writers)
    covered = coverage(parts, manifest["images"])
    done = int(covered.sum())
    missing = len(covered) - done
    rows_per_s = _rows_per_s(parts, manifest) if any(not one.stale for one in writers) else None
    left_s = None if rows_per_s is None else missing * manifest["configs"] / rows_per_s
    return Status(
        path=str(path),
        images=len(covered),
        done=done,
        failed=_failed(folder, covered),
        nulls=sum(1 for one in read_missing(folder) if one.image < len(covered) and covered[one.image]),
        rows_per_s=rows_per_s,
        seconds_left=left_s if missing else 0.0,
        writers=writers,
    )


def _begun(path: str | Path, parts: Sequence[Part], writers: tuple[AtWork, ...]) -> Status:
    """Of a folder without a manifest: a result that is just being made, or none."""
    if writers:
        return Status(str(path), None, 0, 0, 0, None, None, writers)
    side = Path(path) / SIDE
    if parts and side.is_dir():
        raise ResultError(
            f"{path} holds {parts[0].name} but no {SIDE}/manifest.json, so nobody knows how many images it is to have; "
            f"mend it with `itd verify --repair {path}`"
        )
    if side.is_dir():
        raise ResultError(
            f"{path} is not a result yet: a run ended while it began it; give the same `itd sweep` command again"
        )
    raise _no_result(path)


def _no_result(path: str | Path) -> ResultError:
    what = "is not a result" if os.path.exists(path) else "does not exist"
    return ResultError(f"{path} {what}; give a folder written by `itd sweep`, such as results/*.parquet")


def _failed(folder: Path, covered: np.ndarray) -> int:
    """How many units were set aside and are not there. covered: (N,) bool, the images that are."""
    noted = [one for one in failed_units(folder) if one.last < len(covered)]
    return sum(1 for one in noted if not covered[one.first : one.last + 1].all())


def _rows_per_s(parts: Sequence[Part], manifest: Mapping[str, Any]) -> float | None:
    """Rows a second of the recent parts, without the first of them, of which nobody knows when it was begun.

    A part of more images than a unit was put together from others, and its time says nothing.
    """
    written: list[tuple[float, int]] = []
    for part in parts:
        images = part.last - part.first + 1
        if part.first >= 0 and images <= manifest["images_per_unit"]:
            with contextlib.suppress(OSError):  # another part has taken its place in the meantime
                written.append((part.path.stat().st_mtime, images))
    if not written:
        return None
    written.sort()
    newest_s = written[-1][0]
    recent = [(time_s, images) for time_s, images in written if newest_s - time_s <= RECENT_S]
    spent_s = newest_s - recent[0][0]
    rows = manifest["configs"] * sum(images for _, images in recent[1:])
    return rows / spent_s if spent_s > 0 else None
