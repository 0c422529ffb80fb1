"""Writing a result: the unit partition, what is left to do, and one part for each unit, whole or absent."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd.errors import ResultError
from itd.files import temporary, write_synced
from itd.space import Space
from itd.store import manifest as manifests
from itd.store._split import split_parts
from itd.store.aside import FailedUnit, failed_unit, failed_units, forget_failed, save_failed
from itd.store.claims import Claims, leased
from itd.store.existing import begins_anew, check_target, clear, continued, refuse_at_work, sound_parts
from itd.store.files import SIDE, disk_errors, remove_stale, side_of
from itd.store.missing import MissingImage, as_parts_say, missing_path, noting, read_missing, save_missing
from itd.store.part import Part, coverage, list_parts, list_superseded, part_name, remove_part
from itd.store.reading import read_columns
from itd.store.record import make_record, put_part, why_unsound, with_rows
from itd.store.replaced import go_on, remove_notes
from itd.store.samples import ImageNames
from itd.store.schema import FLOATS, SCORES, encode, part_schema, part_table, setting_columns
from itd.store.whole import Whole

Again = tuple[int, int, int]
"""A unit that is to do again: first and last position, and when its part was written, in nanoseconds."""
_LOOK_S = 1.0
"""Between two looks of `holds` at the whole list of parts."""


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
    """A result that is being written. Any number of them may work on one folder at the same time.

    parts: those that are there and whole. run: what this run is called in the manifest's provenance. retry_missing: the
    units with null rows are to do again, all or some, and each stays until a new part takes its place, of any run.
    """

    def __init__(
        self,
        path: str,
        manifest: dict[str, Any],
        configs: pa.Table,
        samples: np.ndarray,
        *,
        parts: Sequence[Whole] = (),
        run: str | None = None,
        retry_missing: bool | Collection[Again] = False,
    ) -> None:
        self.path = path
        self.folder = Path(path)
        self.samples = samples
        self.images_per_unit: int = manifest["images_per_unit"]
        self.manifest = manifest
        self._configs = configs.num_rows
        self._settings = {n: configs.column(n).to_pylist() for n in setting_columns(manifest["attributes"])}
        self._schema = part_schema(manifest["attributes"], manifest["default"])
        self._run = run
        self._looked = np.zeros(len(samples), bool), 0.0
        nulls = [one for one in parts if one.null_images and one.part.last < len(samples)]
        self._again = {(one.part.first, one.part.last): one.part for one in nulls if retry_missing}
        self._written_ns = {place: _written_ns(part) for place, part in self._again.items()}
        if not isinstance(retry_missing, bool):
            for place in set(self._again) - {one[:2] for one in set(retry_missing) & set(self.again)}:
                del self._again[place]
        if nulls or missing_path(self.folder).exists():
            as_parts_say(self.folder, [image for one in nulls for image in one.null_images], samples)

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
        retry_missing: bool | Collection[Again] = False,
        claims: Claims | None = None,
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
            retry_missing: the units with null rows are to do again; a longer part with null rows is split into units.
                Or those alone that another writer has to do `again`, as far as nobody has done so since.
            claims: of this run, which is at work already.

        A part that is damaged is moved to `_itd/bad`, with an ItdWarning that names it, and is to do again.

        Raises:
            ResultError: the folder holds another run, whose fields that differ are named, or another process works
                there on one; or it cannot be written.

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
        parts: list[Whole] = []
        with disk_errors(path):
            (folder / SIDE).mkdir(parents=True, exist_ok=True)
            remove_stale(folder / SIDE)
            manifest = manifests.load_manifest(folder)
            if manifest is not None and not begins_anew(folder, manifest, identity):
                configs = manifests.load_configs(folder, manifest)
                manifests.check_same(str(folder), manifest, configs, identity, space, samples)
                parts = sound_parts(folder, manifest, configs)
                if retry_missing and split_parts(folder, manifest, parts, len(samples)):
                    parts = sound_parts(folder, manifest, configs)
            with leased(folder / SIDE):
                manifest = manifests.load_manifest(folder)
                if manifest is not None and not begins_anew(folder, manifest, identity):
                    configs = manifests.load_configs(folder, manifest)
                    manifests.check_same(str(folder), manifest, configs, identity, space, samples)
                    manifest = continued(folder, manifest, samples, provenance, namer)
                else:
                    if manifest is not None:
                        refuse_at_work(folder, claims, identity)
                        clear(folder)
                    remove_notes(folder)
                    manifest = manifests.create(
                        folder, identity, space, macs, samples, images_per_unit, provenance, macs_unknown, order, namer
                    )
                    configs = manifests.load_configs(folder, manifest)
            run = provenance.get("run")
            return cls(str(path), manifest, configs, samples, parts=parts, run=run, retry_missing=retry_missing)

    @property
    def done_images(self) -> int:
        """How many of the selected images are there already, without those that are to do again."""
        return int(self._covered(len(self.samples)).sum()) - self.kept_images

    @property
    def kept_images(self) -> int:
        """How many images are there and to do again."""
        return sum(last - first + 1 for first, last in list(self._again) if not self._is_done_again((first, last)))

    @property
    def again(self) -> tuple[Again, ...]:
        """The units that are to do again, for other processes that share them."""
        return tuple((*place, self._written_ns[place]) for place in sorted(self._again))

    def _is_done_again(self, place: tuple[int, int]) -> bool:
        """Whether another run has written a unit that was to do again, since this one began."""
        part = self._again.get(place)
        return part is None or _written_ns(part) != self._written_ns[place]

    @property
    def null_images(self) -> list[MissingImage]:
        """The images that are there and whose rows are null."""
        covered = self._covered(len(self.samples))
        return [one for one in read_missing(self.folder) if one.image < len(covered) and covered[one.image]]

    @property
    def failed(self) -> list[FailedUnit]:
        """The units that failed, in this run or an earlier one, and are still not there."""
        covered = self._covered(len(self.samples))
        there = [one for one in failed_units(self.folder) if one.last < len(covered)]
        return [
            one for one in there if not covered[one.first : one.last + 1].all() or (one.first, one.last) in self._again
        ]

    def noted_failure(self, first: int, last: int) -> FailedUnit | None:
        """Why a unit could not be computed in the latest run that tried it; None where nothing is noted of it."""
        return failed_unit(self.folder, first, last)

    def set_aside(self, failed: FailedUnit) -> None:
        """Notes in `_itd/failed` that a unit could not be computed; writing it takes the note away."""
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        run = {} if self._run is None else {"run": self._run}
        with disk_errors(self.path):
            save_failed(self.folder, failed, {"time": time, **run})

    def go_on_with(self, identity: Mapping[str, Any], notes: Sequence[MissingImage]) -> None:
        """Gives the result an identity of the same images but for files that were replaced, which had no scores.

        notes: the images without scores, as their files are now.
        """
        with disk_errors(self.path), leased(self.folder / SIDE):
            manifest = manifests.require_own(self.folder, self.manifest)
            self.manifest = go_on(self.folder, manifest, identity, notes)

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
            for start, stop in stretches(~inside):
                units.append(self._unit(first + start, first + stop - 1))
        again = (self._unit(*place) for place in sorted(self._again) if not self._is_done_again(place))
        return units + [unit for unit in again if shard is None or self._is_of(unit, shard)]

    def _unit(self, first: int, last: int) -> Unit:
        return Unit(first, last, self.samples[first : last + 1])

    def _is_of(self, unit: Unit, shard: tuple[int, int]) -> bool:
        return unit.first // self.images_per_unit % shard[1] == shard[0] % shard[1]

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
        missing_images: Sequence[MissingImage] = (),
        most_missing: int | None = None,
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
            missing_images: those of (n,), and why they are missing.
            most_missing: of the whole result, with those that are there.

        Raises:
            ResultError: the disk refuses, and nothing of the unit is left; or a score is not finite.
            TooManyMissingError: it would be more than `most_missing`; nothing of the unit is left.

        Example:
            >>> for unit in writer.todo():  # doctest: +SKIP
            ...     writer.write(unit, **scores_of(unit))
        """
        scores = {"pred": pred, "quality": quality, "nll": nll, "rank": rank, "confidence": confidence}
        missing = np.asarray(missing, dtype=bool)
        self._check(unit, labels, scores, missing)
        table = part_table(self._schema, self._settings, unit.samples, np.asarray(labels), scores, missing)
        data = encode(table)
        nulls = np.flatnonzero(missing if missing.ndim == 1 else missing.any(0))
        record = with_rows(make_record(data, self._run), np.arange(self._configs), unit.samples, nulls)
        target = self.folder / part_name(unit.first, unit.last)
        with disk_errors(target), temporary(target, folder=side_of(target)) as temp:
            write_synced(temp, data)  # before the manifest is read, see `itd.store.existing.clear`
            self._reopen(temp, unit, record)
            manifests.require_own(self.folder, self.manifest)
            place = unit.first, unit.last
            if place in self._again or self._may_write(unit):
                with noting(self.folder, place, missing_images, most_missing, len(self.samples)) as notes:
                    if put_part(temp, target, record, replacing=self._to_replace(unit)) and notes is not None:
                        save_missing(self.folder, notes)
                self._again.pop(place, None)
                self._remove_superseded(unit)
            forget_failed(self.folder, unit.first, unit.last)

    def holds(self, unit: Unit) -> bool:
        """Whether a unit is there, and not to do again."""
        place = unit.first, unit.last
        if place in self._again and not self._is_done_again(place):
            return False
        if (self.folder / part_name(unit.first, unit.last)).exists():
            return True
        covered, until_s = self._looked
        if time.monotonic() > until_s:  # of other sizes of units there are few, and a listing takes long
            began_s = time.monotonic()
            covered = self._covered(len(self.samples))
            now_s = time.monotonic()
            self._looked = covered, now_s + max(_LOOK_S, 50 * (now_s - began_s))
        return bool(covered[unit.first : unit.last + 1].all())

    def _remove_superseded(self, unit: Unit) -> None:
        """Removes the parts in whose place that of a unit came, of runs with a smaller limit; and that of the unit,
        where another run has just put a longer one."""
        name = part_name(unit.first, unit.last)
        hidden = list_superseded(self.folder)
        for part, holder in hidden:
            if holder.name == name:
                remove_part(part)
        if any(part.name == name for part, _ in hidden):
            with leased(self.folder / SIDE):  # the longer one may just be split
                for part, holder in list_superseded(self.folder):
                    if part.name == name and why_unsound(holder) is None:
                        remove_part(part)

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
            table = read_columns(Part(temp, unit.first, unit.last, record=record), self._schema.names)
            whole = table.schema.equals(self._schema) and table.num_rows == self._configs * len(unit)
        except ResultError:
            whole = False
        if not whole:
            raise ResultError(
                f"images {unit.first} to {unit.last} do not read back from {self.path} as they were written; nothing "
                "already written is lost: check the disk, then give the same command again"
            )

    def _to_replace(self, unit: Unit) -> Part | None:
        """The part of a unit that is to do again; ResultError where a longer one took its place meanwhile."""
        old = self._again.get((unit.first, unit.last))
        there = [] if old is None else list_parts(self.folder)
        longer = [part for part in there if part.first <= unit.first and unit.last <= part.last]
        if old is not None and longer and longer[0].name != old.name:
            raise ResultError(
                f"{old.path} was put together with others by `itd compact` in the meantime; nothing already written is "
                "lost: give the same command again"
            )
        return old

    def _may_write(self, unit: Unit) -> bool:
        """Whether a unit is not there. Parts of a piece of it are no hindrance: its part takes their place."""
        parts = [part for part in list_parts(self.folder) if part.first <= unit.last and unit.first <= part.last]
        there = coverage(parts, unit.last + 1)[unit.first :]
        beyond = [part for part in parts if part.first < unit.first or unit.last < part.last]
        if beyond and not there.all():
            raise ResultError(
                f"another run with another `limit` has written a part of images {unit.first} to {unit.last} in the "
                "meantime; nothing already written is lost: give the same command again and it goes on from there"
            )
        return not there.all()

    def _covered(self, images: int) -> np.ndarray:
        return coverage(list_parts(self.folder), images)


def _written_ns(part: Part) -> int:
    """When a part was written, by the clock of the file server; 0 where it is gone."""
    try:
        return part.path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def stretches(chosen: np.ndarray) -> list[tuple[int, int]]:
    """The stretches of what is chosen, as (start, stop). chosen: (n,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
