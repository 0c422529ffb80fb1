"""Writing a result: the unit partition, what is left to do, and one part for each unit, whole or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd.errors import ResultError
from itd.files import publish, temporary, write_synced
from itd.space import Space
from itd.store import manifest as manifests
from itd.store.files import SIDE, disk_errors, locked, remove_stale, side_of, to_json, write_whole
from itd.store.part import Part, list_parts, make_record, part_name, read_columns, record_path, require_sizes
from itd.store.samples import ImageNames, Namer, brought_up
from itd.store.schema import FLOATS, SCORES, encode, part_schema, part_table, setting_columns


@dataclass(frozen=True)
class Unit:
    """A contiguous range of images times all configurations.

    first, last: positions in the list of selected images, both included. samples: (last - first + 1,) int32.
    """

    first: int
    last: int
    samples: np.ndarray

    def __len__(self) -> int:
        return self.last - self.first + 1


class ResultWriter:
    """A result that is being written. Any number of them may work on one folder at the same time."""

    def __init__(self, path: str, manifest: dict[str, Any], configs: pa.Table, samples: np.ndarray) -> None:
        self.path = path
        self.folder = Path(path)
        self.samples = samples
        self.images_per_unit: int = manifest["images_per_unit"]
        self.manifest = manifest
        self._configs = configs.num_rows
        self._settings = {n: configs.column(n).to_pylist() for n in setting_columns(manifest["attributes"])}
        self._schema = part_schema(manifest["attributes"], manifest["default"])

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        identity: dict[str, Any],
        space: Space,
        macs: Sequence[int],
        samples: np.ndarray,
        images_per_unit: int,
        provenance: dict[str, Any],
        macs_unknown: Sequence[str] = (),
        order: str = manifests.PATH_ORDER,
        names: ImageNames | None = None,
    ) -> ResultWriter:
        """Creates a result, or continues the one that is there.

        Args:
            path: the folder.
            identity: what must be the same to continue; a field that one side lacks has its documented default.
            space: the configurations.
            macs: (C,) multiply-accumulates of each configuration's plain forward of one image.
            samples: (N,) the selected images in order; the ones there must begin the list or continue it.
            images_per_unit: used only where the result is created.
            provenance: of this run; recorded where it adds images, or has a field that no earlier run has.
            macs_unknown: names of the operators that `macs` does not count; used only where the result is created.
            order: of the samples; used only where the result is created.
            names: what the images are called; a result that does not have all of them yet gets them.

        Raises:
            ResultError: the folder holds another run, whose fields that differ are named, or cannot be written.

        Example:
            >>> writer = ResultWriter.open("results/r.parquet", identity=identity, space=space, macs=macs,
            ...     samples=np.arange(100), images_per_unit=8, provenance={"tool": "a test"})  # doctest: +SKIP
        """
        samples = np.asarray(samples, dtype=np.int32)
        if len(macs) != len(space):
            raise ValueError(f"{len(macs)} macs for {len(space)} configurations")
        if images_per_unit < 1:
            raise ValueError(f"images_per_unit is {images_per_unit}")
        folder, namer = Path(path), None if names is None else names.rows
        check_target(folder)
        with disk_errors(path):
            (folder / SIDE).mkdir(parents=True, exist_ok=True)
            remove_stale(folder / SIDE)
            with locked(folder / SIDE):
                manifest = manifests.load_manifest(folder)
                if manifest is not None and not _begins_anew(folder, manifest, identity):
                    manifest = _continued(folder, manifest, identity, space, samples, provenance, namer)
                else:
                    manifest = manifests.create(
                        folder, identity, space, macs, samples, images_per_unit, provenance, macs_unknown, order, namer
                    )
                configs = manifests.load_configs(folder, manifest)
        return cls(str(path), manifest, configs, samples)

    @property
    def done_images(self) -> int:
        """How many of the selected images are there already."""
        return int(self._covered(len(self.samples)).sum())

    def todo(self, shard: tuple[int, int] | None = None) -> list[Unit]:
        """The units that are not there yet, by position.

        shard: (i, n) keeps every n-th cell of the partition, those whose number is i modulo n; so 1..n and 0..n-1 both
        share out all the work, and a shard's cells do not depend on what is done already.
        """
        if shard is not None and not (shard[1] >= 1 and 0 <= shard[0] <= shard[1]):
            raise ResultError(f"no such shard: {shard[0]}/{shard[1]}; allowed is i/n with i from 1 to n")
        covered = self._covered(len(self.samples))
        units = []
        for cell, first in enumerate(range(0, len(self.samples), self.images_per_unit)):
            if shard is not None and cell % shard[1] != shard[0] % shard[1]:
                continue
            inside = covered[first : first + self.images_per_unit]
            for start, stop in _gaps(inside):
                a, b = first + start, first + stop
                units.append(Unit(a, b - 1, self.samples[a:b]))
        return units

    def write(
        self,
        unit: Unit,
        *,
        labels: np.ndarray,
        pred: np.ndarray,
        quality: np.ndarray,
        nll: np.ndarray,
        rank: np.ndarray,
        confidence: np.ndarray,
        missing: np.ndarray,
    ) -> None:
        """Writes one unit; where it is there already, nothing happens.

        Args:
            unit: of `todo`.
            labels: (n,) int16.
            pred: (C, n) top-1 classes.
            quality: (C, n).
            nll: (C, n).
            rank: (C, n).
            confidence: (C, n).
            missing: (n,) bool, images whose scores are null; or (C, n), where some configurations' are.

        Raises:
            ResultError: the disk refuses, and nothing of the unit is left; or a score is not finite.

        Example:
            >>> for unit in writer.todo():  # doctest: +SKIP
            ...     writer.write(unit, **scores_of(unit))
        """
        scores = {"pred": pred, "quality": quality, "nll": nll, "rank": rank, "confidence": confidence}
        missing = np.asarray(missing, dtype=bool)
        self._check(unit, labels, scores, missing)
        table = part_table(self._schema, self._settings, unit.samples, np.asarray(labels), scores, missing)
        data = encode(table)
        record = make_record(data)
        target = self.folder / part_name(unit.first, unit.last)
        with disk_errors(target), temporary(target, folder=side_of(target)) as temp:
            write_synced(temp, data)  # before the lock, which then covers only the renames
            self._reopen(temp, unit, record)
            with locked(self.folder / SIDE):
                manifests.require_own(self.folder, self.manifest)
                if self._may_write(unit):
                    write_whole(record_path(target), to_json(record))
                    publish(temp, target)

    def _check(self, unit: Unit, labels: np.ndarray, scores: dict[str, np.ndarray], missing: np.ndarray) -> None:
        n = len(unit)
        if not np.array_equal(self.samples[unit.first : unit.last + 1], unit.samples):
            raise ValueError(f"unit {unit.first}..{unit.last} is not of this result's images")
        for name, array in {"labels": labels, "missing": missing, **scores}.items():
            each = name in SCORES or (name == "missing" and missing.ndim == 2)
            shape = (self._configs, n) if each else (n,)
            if np.shape(array) != shape:
                raise ValueError(f"{name} has shape {np.shape(array)}, not {shape}")
        for name in FLOATS:
            if not (np.isfinite(scores[name]) | missing).all():
                raise ResultError(
                    f"{name} of images {unit.first} to {unit.last} is not finite, so they are not written; "
                    "run with `precision=fp32`"
                )

    def _reopen(self, temp: Path, unit: Unit, record: dict[str, Any]) -> None:
        """Reads the temporary file back with every check."""
        try:
            table = read_columns(Part(temp, unit.first, unit.last, record), self._schema.names)
            whole = table.schema.equals(self._schema) and table.num_rows == self._configs * len(unit)
        except ResultError:
            whole = False
        if not whole:
            raise ResultError(
                f"images {unit.first} to {unit.last} do not read back from {self.path} as they were written; nothing "
                "already written is lost: check the disk, then give the same command again"
            )

    def _may_write(self, unit: Unit) -> bool:
        there = self._covered(unit.last + 1)[unit.first :]
        if there.any() and not there.all():
            raise ResultError(
                f"another run with another `limit` has written a part of images {unit.first} to {unit.last} in the "
                "meantime; nothing already written is lost: give the same command again and it goes on from there"
            )
        return not there.any()

    def _covered(self, images: int) -> np.ndarray:
        return _coverage(list_parts(self.folder), images)


def done_images(
    path: str | Path, *, identity: dict[str, Any], space: Space, samples: np.ndarray, unknown: Sequence[str] = ()
) -> int:
    """How many of some images a result has that `ResultWriter.open` would go on with; nothing is written.

    unknown: fields of the identity that nobody knows yet and that are not compared. Others, and what is raised, as of
    `ResultWriter.open`.
    """
    folder, samples = Path(path), np.asarray(samples, dtype=np.int32)
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        return 0
    identity = _taken_over(identity, manifest, unknown)
    if _begins_anew(folder, manifest, identity):
        return 0
    manifests.check_same(str(folder), manifest, manifests.load_configs(folder, manifest), identity, space, samples)
    parts = list_parts(folder)
    require_sizes(parts)
    return int(_coverage(parts, len(samples)).sum())


def remove_other(path: str | Path, identity: dict[str, Any], space: Space) -> bool:
    """Throws away what `path` holds where that is another run than the one of this identity and space.

    Of the same run nothing is removed, so that a run which was interrupted goes on. Raises ResultError for a folder
    with other things in it than a result. Returns whether anything was removed.
    """
    folder = Path(path)
    if not folder.is_dir():
        return False
    check_folder(folder)
    with disk_errors(path):
        (folder / SIDE).mkdir(parents=True, exist_ok=True)
        with locked(folder / SIDE):
            other = is_other(path, identity, space)
            if other:
                parts = list_parts(folder)
                manifests.manifest_path(folder).unlink(missing_ok=True)  # first: it says that the parts are a result
                for part in parts:
                    record_path(part.path).unlink(missing_ok=True)
                    part.path.unlink(missing_ok=True)
            return other


def is_other(path: str | Path, identity: dict[str, Any], space: Space, unknown: Sequence[str] = ()) -> bool:
    """Whether `path` holds another run than the one of this identity and space, or parts that nobody knows.

    unknown: as of `done_images`.
    """
    folder = Path(path)
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        return folder.is_dir() and bool(list_parts(folder))
    configs = manifests.load_configs(folder, manifest)
    return bool(manifests.other_run(manifest, configs, _taken_over(identity, manifest, unknown), space))


def order_there(path: str | Path, identity: dict[str, Any], unknown: Sequence[str] = ()) -> str | None:
    """The order of the images of a result that a run with this identity goes on with; None where it begins one.

    unknown: as of `done_images`.
    """
    manifest = manifests.load_manifest(Path(path))
    if manifest is None or _begins_anew(Path(path), manifest, _taken_over(identity, manifest, unknown)):
        return None
    return manifests.order_of(manifest)


def _taken_over(identity: dict[str, Any], manifest: dict[str, Any], unknown: Sequence[str]) -> dict[str, Any]:
    """An identity whose unknown fields are those of a result."""
    return {**identity, **{name: manifest["identity"][name] for name in unknown}}


def _begins_anew(folder: Path, manifest: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a result is of another run and has no part yet: then nothing is lost when this run replaces it."""
    return not list_parts(folder) and bool(manifests.identity_differences(manifest["identity"], identity))


def _continued(
    folder: Path,
    manifest: dict[str, Any],
    identity: dict[str, Any],
    space: Space,
    samples: np.ndarray,
    provenance: dict[str, Any],
    namer: Namer | None,
) -> dict[str, Any]:
    """The manifest of a result that a run goes on with, with that run in it; ResultError where it is of another run."""
    manifests.check_same(str(folder), manifest, manifests.load_configs(folder, manifest), identity, space, samples)
    return continued(folder, manifest, samples, provenance, namer)


def continued(
    folder: Path,
    manifest: dict[str, Any],
    samples: np.ndarray,
    provenance: dict[str, Any],
    namer: Namer | None = None,
) -> dict[str, Any]:
    """The manifest with one more run, which goes on to (N,) samples, where that run has something to add; and with the
    names of its images, where the run knows more of them."""
    before = manifest
    parts = list_parts(folder)
    require_sizes(parts)
    if not _coverage(parts, len(samples)).all() or manifests.records_more(manifest, provenance):
        manifest = manifests.extend(manifest, samples, provenance)
    manifest = brought_up(folder, manifest, manifests.from_runs(manifest["samples"]), namer)
    if manifest is not before:
        manifests.save(folder, manifest)
    return manifest


def _coverage(parts: Sequence[Part], images: int) -> np.ndarray:
    """Which of the first images are in a part: (images,) bool."""
    covered = np.zeros(images, dtype=bool)
    for part in parts:
        if part.first >= 0:
            covered[part.first : part.last + 1] = True
    return covered


def check_target(path: str | Path) -> None:
    """ResultError where a sweep's result cannot be there: a union, or what `check_folder` refuses."""
    check_folder(path)
    if manifests.is_union(manifests.load_manifest(Path(path))):
        raise ResultError(f"{path} is a union of results, which no sweep can extend; give another `out`")


def check_folder(path: str | Path) -> None:
    """ResultError where a result cannot be there: a folder with other things in it, or one that cannot be written."""
    folder = Path(path)
    with disk_errors(path):
        there = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
        foreign = [name for name in there if name != SIDE and not name.startswith(("part-", "."))]
        if foreign:
            raise ResultError(
                f"{path} is a folder with other things in it ({foreign[0]}); give as `out` a new folder or a "
                "result's own"
            )
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _gaps(covered: np.ndarray) -> list[tuple[int, int]]:
    """The stretches that are not covered, as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], covered, [True]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
