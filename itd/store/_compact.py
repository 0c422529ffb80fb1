"""The parts of a finished result as one file. Nothing is computed, and no row changes. Not here: several results as one
(`_merge`, `_union`), and one part as several again (`_split`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd.errors import ResultError
from itd.files import temporary
from itd.store import manifest as manifests
from itd.store._rows import common_schema, require_same_rows, write_rows
from itd.store.claims import Claims, leased
from itd.store.files import SIDE, disk_errors, remove_stale
from itd.store.part import (
    Part,
    coverage,
    list_parts,
    list_superseded,
    part_name,
    remove_leftover_records,
    remove_part,
    single_part,
)
from itd.store.record import make_record_of_file, put_part, with_rows
from itd.store.whole import Checked, Damage, check_part, check_present, remove_superseded, require_whole


@dataclass(frozen=True)
class Compacted:
    """What `compact` made of a result.

    parts: that there were. images, rows: that are there. bytes_before, bytes: of the parts, before and after.
    compacted: False where there was one part already.
    """

    path: str
    parts: int
    images: int
    rows: int
    bytes_before: int
    bytes: int
    compacted: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON: {path, parts, images, rows, bytes_before, bytes, compacted}."""
        return asdict(self)


def compact(path: str | Path, *, progress: Callable[[int, int], Any] | None = None) -> Compacted:
    """Makes the parts of a finished result one file with the same rows, by configuration, then order of the images.

    Every part is read with every check, and the file is compared with them row by row before it takes their place. If
    it is ended on the way, the result is whole, and the same call goes on. A larger limit still extends the result.

    Args:
        path: a folder of `itd sweep`, `itd merge` or `itd union`.
        progress: called with how many values were just written or compared, and how many are to be in all.

    Returns:
        What was there and what is there now.

    Raises:
        ResultError: a process works on the result; it is not finished, damaged, or no folder of a sweep; or the disk
            refuses, and nothing is lost.

    Example:
        >>> compact("results/resnet50-stride.parquet").parts  # doctest: +SKIP
        17
    """
    if not isinstance(path, (str, Path)):
        raise ResultError(f"compact takes the path of a result, given {type(path).__name__}")
    folder = Path(path)
    _load(folder)
    with disk_errors(path), Claims(folder) as claims:
        _refuse_at_work(folder, claims)
        remove_stale(folder / SIDE)
        manifest = _load(folder)
        configs = manifests.load_configs(folder, manifest)
        _require_finished(folder, manifest)
        numbers, samples = configs.column("config").to_numpy(), manifests.from_runs(manifest["samples"])
        parts = require_whole(path, check_present(folder, numbers, samples))
        before = sum(one.part.path.stat().st_size for one in parts)
        if len(parts) > 1:
            after = _put_together(folder, manifest, configs, parts, progress)
        else:
            with leased(folder / SIDE):
                after = _remove_rest(folder, len(samples))
    rows = sum(one.rows for one in parts)
    return Compacted(str(path), len(parts), len(samples), rows, before, after, len(parts) > 1)


def _load(folder: Path) -> dict[str, Any]:
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        what = "is no folder that `itd sweep` wrote" if folder.exists() else "does not exist"
        raise ResultError(f"{folder} {what}; give a result's folder, such as results/*.parquet")
    return manifest


def _refuse_at_work(folder: Path, claims: Claims) -> None:
    others = claims.others()
    if others:
        raise ResultError(
            f"process {others[0].pid} on {others[0].host} works on {folder} since {others[0].started}; wait until it "
            "has ended, then give the same command again"
        )


def _require_finished(folder: Path, manifest: Mapping[str, Any]) -> None:
    images = manifest["images"]
    left = images - int(coverage(list_parts(folder), images).sum())
    if left:
        raise ResultError(
            f"{folder} is not finished: {left:,} of {images:,} images are missing; give the command that made it "
            f"again, then `itd compact {folder}`"
        )


def _put_together(
    folder: Path,
    manifest: Mapping[str, Any],
    configs: pa.Table,
    parts: Sequence[Checked],
    progress: Callable[[int, int], Any] | None,
) -> int:
    """Writes parts as one file, compares it with them and puts it in their place; returns its bytes."""
    schema = common_schema(parts, manifest["attributes"])
    target = folder / part_name(parts[0].part.first, parts[-1].part.last)
    runs = {(one.part.record or {}).get("run") for one in parts}
    total = 2 * sum(one.rows for one in parts) * len(schema.names)

    def advance(count: int) -> None:
        if progress is not None:
            progress(count, total)

    with temporary(target, folder=folder / SIDE) as temp:
        try:
            write_rows(temp, parts, schema, configs, advance)
            record = make_record_of_file(temp, runs.pop() if len(runs) == 1 else None)
            record = with_rows(
                record,
                parts[0].index.numbers,
                np.concatenate([one.index.samples for one in parts]),
                [image - parts[0].part.first for one in parts for image in one.null_images],
            )
            require_same_rows(_read_back(temp, target, record, manifest, configs), parts, advance)
        except ResultError:
            _require_unchanged(list_parts(folder), parts)  # what was read may have been another content
            raise
        with leased(folder / SIDE):
            manifests.require_own(folder, manifest)
            _require_unchanged(list_parts(folder), parts)
            if not put_part(temp, target, record):
                raise _changed(target)
            try:
                _require_unchanged([part for part, _ in list_superseded(folder)], parts)
            except ResultError:
                remove_part(single_part(target))  # a part that was computed again counts, and not its copy
                raise
            return _remove_rest(folder, manifest["images"])


def _read_back(
    temp: Path, target: Path, record: dict[str, Any], manifest: Mapping[str, Any], configs: pa.Table
) -> Checked:
    """The written file as it is read with every check, before it has its name."""
    whole = single_part(target)
    numbers, samples = configs.column("config").to_numpy(), manifests.from_runs(manifest["samples"])
    one = check_part(Part(temp, whole.first, whole.last, record=record), numbers, samples)
    if isinstance(one, Damage):
        raise ResultError(
            f"what was written does not read back from {temp.parent} ({one.reason.split('; ')[0]}); nothing already "
            "written is lost: check the disk, then give the same command again"
        )
    return one


def _require_unchanged(now: Sequence[Part], parts: Sequence[Checked]) -> None:
    """ResultError where a part has gone, or has another content, since its rows were copied."""
    there = {part.name: part.records for part in now}
    for one in parts:
        if there.get(one.part.name) != one.part.records:
            raise _changed(one.part.path)


def _changed(path: Path) -> ResultError:
    return ResultError(
        f"{path} was changed by another process in the meantime; nothing already written is lost: give the same "
        "command again once that has ended"
    )


def _remove_rest(folder: Path, images: int) -> int:
    """Removes the parts that are in the one file, which is known to be whole, and what an earlier call that was ended
    has left of such; returns the bytes of the file, 0 where there is none. Under the lease."""
    for part in list_parts(folder):
        if (part.first, part.last) == (0, images - 1):
            remove_superseded(folder, {part.name})
            remove_leftover_records(part)
            return part.path.stat().st_size
    return 0
