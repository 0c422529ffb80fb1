"""Reading all of a result with all checks, to say which parts are damaged and which images are missing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itd.errors import ResultError
from itd.store import manifest as manifests
from itd.store.files import SIDE
from itd.store.index import read_index
from itd.store.part import Part, list_parts, read_columns, read_schema, with_record
from itd.store.result import for_each
from itd.store.samples import FILE, read_samples
from itd.store.schema import check_columns


@dataclass(frozen=True)
class Damage:
    """A part, or the file of the images' names, that cannot be used, and why."""

    part: str
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. missing: (first, last) positions that no part holds."""

    path: str
    parts: int
    rows: int
    images: int
    damaged: tuple[Damage, ...]
    missing: tuple[tuple[int, int], ...]

    @property
    def ok(self) -> bool:
        """Whether every part is whole, and the names of the images, and none is missing."""
        return not self.damaged and not self.missing


def verify(path: str | Path) -> VerifyReport:
    """Reads every column of every part with every check.

    Raises ResultError only where there is no result to verify; what is damaged is reported.

    >>> verify("results/resnet50-stride.parquet").ok  # doctest: +SKIP
    True
    """
    if not isinstance(path, (str, Path)):
        raise ResultError(f"verify takes the path of a result, given {type(path).__name__}")
    root = Path(path)
    manifest = manifests.load_manifest(root) if root.is_dir() else None
    if manifest is None and not root.is_file():
        raise ResultError(f"{path} is not a result folder; give one written by `itd sweep`")
    parts = list_parts(root) if manifest is not None else [Part(root)]
    numbers = samples = None
    if manifest is not None:
        numbers = manifests.load_configs(root, manifest).column("config").to_numpy()
        samples = manifests.from_runs(manifest["samples"])

    checked = for_each(lambda part: _verify_part(part, numbers, samples), parts)
    damaged = [entry for entry in checked if isinstance(entry, Damage)]
    damaged += _overlaps(parts)
    if manifest is not None and samples is not None:
        try:
            read_samples(root, manifest, samples)
        except ResultError as error:
            damaged.append(Damage(f"{SIDE}/{FILE}", str(error)))
    return VerifyReport(
        path=str(path),
        parts=len(parts),
        rows=sum(entry for entry in checked if isinstance(entry, int)),
        images=0 if samples is None else len(samples),
        damaged=tuple(damaged),
        missing=() if samples is None else _missing(parts, len(samples)),
    )


def _verify_part(part: Part, numbers: np.ndarray | None, samples: np.ndarray | None) -> int | Damage:
    """The part's rows, or what is wrong with it."""
    try:
        if samples is not None and not 0 <= part.first <= part.last < len(samples):
            return Damage(part.name, "it is not a part of this result; move it elsewhere")
        part = with_record(part)
        schema, _ = read_schema(part)
        check_columns(schema, str(part.path))
        read_index(part, numbers, None if samples is None else samples[part.first : part.last + 1])
        return read_columns(part, schema.names).num_rows
    except ResultError as error:
        return Damage(part.name, str(error))


def _overlaps(parts: list[Part]) -> list[Damage]:
    placed = [part for part in parts if part.first >= 0]
    pairs = itertools.pairwise(placed)
    return [Damage(b.name, f"it overlaps {a.name}; delete one of them") for a, b in pairs if b.first <= a.last]


def _missing(parts: list[Part], images: int) -> tuple[tuple[int, int], ...]:
    missing, at = [], 0
    for part in parts:
        if part.first > at:
            missing.append((at, min(part.first, images) - 1))
        at = max(at, part.last + 1)
    return (*missing, (at, images - 1)) if at < images else tuple(missing)
