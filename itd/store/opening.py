"""Opening a result: which parts it has, which rows they hold, and whether each row is there exactly once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd.errors import ResultError
from itd.space import SITES
from itd.store import manifest as manifests
from itd.store.blocks import for_each
from itd.store.index import Index, as_numpy, read_index
from itd.store.part import Part, all_there, list_parts, read_latest, single_part
from itd.store.reading import read_columns, read_schema
from itd.store.record import require_record, with_record
from itd.store.result import ORIGIN, Origin, Result
from itd.store.schema import check_columns, default_of, plain, setting_columns


def open_result(path: str | Path) -> Result:
    """Opens a folder of `itd sweep`, or a single Parquet file with the same columns.

    Raises ResultError where it is absent, not a result, damaged, or where a (sample, config) row is missing or there
    twice.

    >>> open_result("results/resnet50-stride.parquet").n  # doctest: +SKIP
    1000
    """
    if not isinstance(path, (str, Path)):
        raise ResultError(f"a result is opened by its path, given {type(path).__name__}; give a folder of `itd sweep`")
    name, root = str(path), Path(path)
    if not root.exists():
        raise ResultError(
            f"no such result: {name}; give a folder or file written by `itd sweep`, such as results/*.parquet"
        )
    try:
        parts = list_parts(root) if root.is_dir() else [single_part(root)]  # before the manifest, which grows first
        manifest = manifests.load_manifest(root) if root.is_dir() else None
    except OSError as error:
        raise ResultError(f"{name} cannot be read: {error.strerror}; make it readable") from error
    if manifest is not None:
        return _open_present(name, root, manifest, parts)
    if not parts:
        raise ResultError(
            f"{name} is not a result: the folder holds no Parquet file; make one with `itd sweep --out {name}`"
        )
    return _open_files(name, parts)


def _open_present(path: str, root: Path, manifest: dict[str, Any], parts: list[Part]) -> Result:
    """`_open_folder`, once more where a part went away since it was listed, as a longer one took its place."""
    result = None
    try:
        result = _open_folder(path, root, manifest, parts)
        if not result.partial:
            return result
    except ResultError:
        if all_there(parts):
            raise
    now = list_parts(root)  # of a listing while parts come and go, some may be missing
    if result is not None and {part.name for part in parts} <= {part.name for part in now}:
        return result
    return _open_folder(path, root, manifests.load_manifest(root) or manifest, now)


def _open_folder(path: str, root: Path, manifest: dict[str, Any], parts: list[Part]) -> Result:
    configs = manifests.load_configs(root, manifest)
    samples = manifests.from_runs(manifest["samples"])
    check_partition(path, parts, len(samples))
    numbers = as_numpy(configs.column("config"))

    def read(part: Part) -> Index:
        return read_index(require_record(part), numbers, samples[part.first : part.last + 1])

    columns = setting_columns(manifest["attributes"])
    return _assemble(
        path,
        for_each(lambda part: read_latest(part, read), parts),
        attributes=manifest["attributes"],
        sites=manifest["sites"],
        numbers=numbers,
        settings={name: [plain(v) for v in configs.column(name).to_pylist()] for name in columns},
        macs=as_numpy(configs.column("macs")),
        default=manifest["default"],
        requested=len(samples),
        manifest=manifest,
        origins=tuple(Origin(*row) for row in zip(*(configs.column(name).to_pylist() for name in ORIGIN), strict=True))
        if manifests.is_union(manifest)
        else (),
    )


def check_partition(path: str, parts: list[Part], images: int) -> None:
    """ResultError where a Parquet file is not a part, or parts overlap or go beyond the images."""
    for part in parts:
        if part.first < 0:
            raise ResultError(f"{path} holds {part.name}, which is not a part of the result; move it elsewhere")
        if part.last >= images or part.last < part.first:
            raise ResultError(f"{path} holds {part.name}, but the result has {images} images; move it elsewhere")
    for before, after in itertools.pairwise(parts):
        if after.first <= before.last:
            raise ResultError(
                f"{path}: {before.name} and {after.name} overlap; delete one, then give the same `itd sweep` or "
                "`itd union` again"
            )


def _open_files(path: str, parts: list[Part]) -> Result:
    """Parquet files without a manifest: everything comes from their rows."""
    indices: list[Index] = []
    for part in map(with_record, parts):
        schema, meta = read_schema(part)
        attributes = check_columns(schema, str(part.path))
        indices.append(read_index(part, indices[0].numbers if indices else None, None))
        if len(indices) == 1:
            first_attributes, columns = attributes, setting_columns(attributes)
            settings = _settings_from_rows(indices[0], columns)
            default = default_of(schema, meta, str(part.path))
        elif attributes != first_attributes:
            raise ResultError(
                f"{path}: {part.name} varies {', '.join(attributes)}, the others {', '.join(first_attributes)}"
            )
    sites = [s for s in SITES if any(v is not None for c in columns if c.endswith(s) for v in settings[c])]
    return _assemble(
        path,
        indices,
        attributes=first_attributes,
        sites=sites,
        numbers=indices[0].numbers,
        settings=settings,
        macs=None,
        default=default,
        requested=sum(len(index.samples) for index in indices),
        manifest=None,
    )


def _settings_from_rows(index: Index, columns: list[str]) -> dict[str, list[float | None]]:
    """Each configuration's settings; ResultError where its rows do not agree on them."""
    settings = {}
    for name in columns:
        table = read_columns(index.part, [name], threads=True)
        values = index.grid(table.column(0).cast(pa.float32()).to_numpy())
        same = (values == values[:, :1]) | (np.isnan(values) & np.isnan(values[:, :1]))
        if not same.all():
            number = index.numbers[np.flatnonzero(~same.all(1))[0]]
            raise ResultError(f"{index.part.path}: rows of config {number} have different {name}; write the file again")
        settings[name] = [plain(v) for v in values[:, 0].tolist()] if values.shape[1] else []
    return settings


def _assemble(
    path: str,
    indices: list[Index],
    *,
    attributes: list[str],
    sites: list[str],
    numbers: np.ndarray,
    settings: dict[str, list[float | None]],
    macs: np.ndarray | None,
    default: int | None,
    requested: int,
    manifest: dict[str, Any] | None,
    origins: tuple[Origin, ...] = (),
) -> Result:
    every = np.concatenate([np.zeros(0, np.int32), *(index.samples for index in indices)])
    distinct, counts = np.unique(every, return_counts=True)
    if len(distinct) != len(every):
        raise ResultError(f"{path}: rows of sample {distinct[counts > 1][0]} are there twice; write the rows once")
    nulls = sum(len(index.samples) - index.kept for index in indices)
    return Result(
        path=path,
        attributes=tuple(attributes),
        sites=tuple(sites),
        config_numbers=numbers,
        settings=settings,
        macs=macs,
        default=default,
        samples=np.concatenate([np.zeros(0, np.int32), *(index.keep(index.samples) for index in indices)]),
        labels=np.concatenate([np.zeros(0, np.int16), *(index.keep(index.labels) for index in indices)]),
        images_requested=requested,
        nulls=nulls,
        manifest=manifest,
        _indices=indices,
        origins=origins,
    )
