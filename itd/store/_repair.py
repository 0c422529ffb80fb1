"""Mending what can be mended of a result: lost records, a lost manifest, missing hashes. What is damaged is put aside.

Nothing is invented: what no file says any more is left out, and said to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.checked import BadJson, anything, parse_json
from itd.errors import ResultError
from itd.space import ATTRIBUTES, SITES
from itd.store import manifest as manifests
from itd.store.aside import put_file_aside
from itd.store.claims import leased
from itd.store.files import (
    SIDE,
    UnreadableError,
    disk_errors,
    is_sealed,
    read_beside,
    remove_stale,
    sha256,
)
from itd.store.missing import as_parts_say, missing_path
from itd.store.part import Part, list_parts
from itd.store.reading import read_columns
from itd.store.record import make_record, require_record, with_rows, write_record
from itd.store.replaced import FILE as REPLACED
from itd.store.replaced import read_replaced, save_replaced
from itd.store.samples import FILE as SAMPLES
from itd.store.samples import HASH, read_samples, samples_path
from itd.store.schema import setting_columns
from itd.store.whole import Damage, check_part, gaps, whole_parts

_TROUBLE = (OSError, pa.ArrowException, ValueError, KeyError, MemoryError, ResultError)


def repair(path: str | Path) -> tuple[str, ...]:
    """Mends what can be mended of a result; returns a line for each thing that was done, or could not be.

    A manifest that is lost or damaged is made anew from the configurations, the names of the images and the parts; one
    without a hash gets it. A lost record is made anew from its part, once that has passed every other check. A part
    that is damaged goes to `_itd/bad`, and the command that made the result computes it again.

    Raises ResultError for what is no folder of a result, and where the disk refuses.

    >>> repair("results/resnet50-stride.parquet")  # doctest: +SKIP
    ()
    """
    root = Path(path)
    if not (root / SIDE).is_dir():
        raise ResultError(
            f"{path} has no folder {SIDE} to mend it from; give a result's folder, as `itd sweep` writes it"
        )
    notes: list[str] = []
    with disk_errors(root):
        remove_stale(root / SIDE)
        with leased(root / SIDE):
            manifest = _manifest(root, notes)
            configs = None if manifest is None else _configs(root, manifest, notes)
            if manifest is None or configs is None:
                return tuple(notes)
            _mend_replaced(root, manifest, notes)
            samples = manifests.from_runs(manifest["samples"])
            for part in list_parts(root):
                _mend_record(root, part, configs, samples, notes)
        parts, moved = whole_parts(root, manifest, configs.column("config").to_numpy())
        nulls = [image for one in parts for image in one.null_images]
        if nulls or missing_path(root).exists():
            as_parts_say(root, nulls, samples)
        try:
            read_samples(root, manifest, samples)
        except ResultError as error:
            notes.append(f"cannot be mended from the result alone: {error}")
    return (*notes, *moved)


def _manifest(root: Path, notes: list[str]) -> dict[str, Any] | None:
    """The manifest with its hash, made anew where there is none that can be read."""
    path = manifests.manifest_path(root)
    try:
        manifest = manifests.load_manifest(root)
    except (manifests.OtherFormatError, UnreadableError):
        raise
    except ResultError as error:
        manifest = None
        notes.append(f"{error.args[0].split('; ')[0]}; it was moved to {put_file_aside(path, root / SIDE)}")
    if manifest is None:
        return _made_anew(root, notes)
    if not manifests.is_protected(manifest):
        manifest = manifests.save(root, manifest)
        notes.append(f"{path} has a hash of its own now; before, nothing would have shown a change of it")
    return manifest


def _configs(root: Path, manifest: dict[str, Any], notes: list[str]) -> pa.Table | None:
    try:
        return manifests.load_configs(root, manifest)
    except ResultError as error:
        notes.append(f"cannot be mended, as nothing else holds the multiply-accumulates: {error}")
        return None


def _made_anew(root: Path, notes: list[str]) -> dict[str, Any] | None:
    """A manifest of what configurations, names and parts say; None where they do not say enough."""
    path = manifests.manifest_path(root)
    try:
        data = read_beside(root / SIDE / "configs.parquet")
        configs = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
        fields = _fields(root, configs, notes)
        named, samples = _samples(root)
        images = {"images": len(samples), "samples": manifests.to_runs(samples), **named}
        manifest = {**fields, **images, "configs": configs.num_rows, "configs_sha256": sha256(data)}
        manifests.check(manifest)
    except (*_TROUBLE, BadJson) as error:
        notes.append(f"{path} cannot be made anew: {' '.join(str(error).split())}; restore it from a copy")
        return None
    notes.append(f"{path} was made anew, of {len(samples)} images; which runs added them is not known any more")
    return manifests.save(root, manifest)


def _fields(root: Path, configs: pa.Table, notes: list[str]) -> dict[str, Any]:
    """The manifest's fields that the configurations keep in their metadata, or else what their columns say."""
    kept = (configs.schema.metadata or {}).get(manifests.FIELDS)
    if kept is not None:
        fields = parse_json(kept, anything)
        if isinstance(fields, dict) and is_sealed(fields):
            fields.pop("sha256")
            return {**fields, "identity": {**fields["identity"], **_replaced(root, notes)}}
    notes.append(
        f"{root}: nothing says any more which network, weights and data it is of, so its figures can be read and "
        "no sweep can go on with it"
    )
    attributes = [a for a in ATTRIBUTES if f"{a}_{SITES[0]}" in configs.column_names]
    columns = setting_columns(attributes)
    varied = {name[-1] for name in columns if configs.column(name).null_count < configs.num_rows}
    marked = [
        n for n, own in zip(*(configs.column(c).to_pylist() for c in ("config", "is_default")), strict=True) if own
    ]
    return {
        "identity": {},
        "images_per_unit": max((part.last - part.first + 1 for part in list_parts(root)), default=1),
        "attributes": attributes,
        "sites": [site for site in SITES if site in varied],
        "default": marked[0] if marked else None,
        "provenance": [{"itd": None}],
    }


def _replaced(root: Path, notes: list[str]) -> dict[str, Any]:
    """The fields of the identity that became others as files were replaced."""
    try:
        return read_replaced(root)
    except UnreadableError:
        raise
    except ResultError as error:
        notes.append(f"{error}: no sweep can go on with the files that were replaced since")
        return {}


def _samples(root: Path) -> tuple[dict[str, str], np.ndarray]:
    """(the field of the names' hash, where they are there, (N,) the selected images)."""
    parts = list_parts(root)
    try:
        data = read_beside(samples_path(root))
        rows = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
        return {HASH: sha256(data)}, rows.column("sample").to_numpy().astype(np.int32)
    except FileNotFoundError:
        pass
    if not parts or gaps(parts, parts[-1].last + 1):
        raise ResultError(f"neither {SIDE}/{SAMPLES} nor the parts say which images were selected")
    found = []
    for part in parts:
        rows = read_columns(part, ["sample"]).column(0).to_numpy()
        found.append(rows[: part.last - part.first + 1])
    return {}, np.concatenate(found).astype(np.int32)


def _mend_replaced(root: Path, manifest: dict[str, Any], notes: list[str]) -> None:
    try:
        read_replaced(root)
    except UnreadableError:
        raise
    except ResultError:
        save_replaced(root, manifest["identity"])
        notes.append(f"{root / SIDE / REPLACED} was made anew from the manifest")


def _mend_record(root: Path, part: Part, configs: pa.Table, samples: np.ndarray, notes: list[str]) -> None:
    """Makes the record of a part anew that has none, where all else of the part is as it must be."""
    try:
        require_record(part)
        return
    except UnreadableError:
        raise
    except ResultError:
        pass
    alone = Part(part.path, part.first, part.last)
    found = check_part(alone, configs.column("config").to_numpy(), samples, recorded=False)
    if isinstance(found, Damage) or not _has_settings(alone, configs, len(found.index.samples)):
        return  # it is put aside with the others
    nulls = [image - part.first for image in found.null_images]
    record = with_rows(make_record(part.path.read_bytes()), found.index.numbers, found.index.samples, nulls)
    for lost in part.records:
        put_file_aside(lost, root / SIDE)
    target, _ = write_record(part.path, record)
    notes.append(f"{target} was made anew: the part passes the checksums of its pages, and nothing else vouches for it")


def _has_settings(part: Part, configs: pa.Table, images: int) -> bool:
    """Whether a part's rows have the settings of their configurations."""
    for name in (name for name in configs.column_names if name in setting_columns(ATTRIBUTES)):
        there = read_columns(part, [name]).column(0).to_pylist()
        if there != [value for value in configs.column(name).to_pylist() for _ in range(images)]:
            return False
    return True
