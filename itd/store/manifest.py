"""The manifest of a result: what it is of, which images were asked for, where it comes from; how it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.checked import BadFile, BadJson
from itd.errors import ResultError
from itd.space import ATTRIBUTES, Space
from itd.store.claims import require_lease
from itd.store.fields import check_manifest
from itd.store.files import OWN_HASH, SIDE, is_sealed, read_beside, read_json, sealed, sha256, to_json, write_whole
from itd.store.identity import OF_DATA, as_json, identity_differences
from itd.store.part import list_parts
from itd.store.samples import HASH, Namer, write_samples
from itd.store.schema import setting_columns, setting_type
from itd.text import one_line, shorten

FORMAT = 2
"""Of a manifest that carries its own hash. One of format 1, from before there was one, is read, and written as 2 when
its result goes on; a version that knew only format 1 would leave the old hash in a manifest that it extends."""
UNSEALED = 1
FIELDS = b"itd"
"""Where the metadata of `_itd/configs.parquet` hold the fields that a manifest begins with."""
PATH_ORDER = "path"
"""The `order` of the images where a manifest does not have the field."""


def manifest_path(folder: Path) -> Path:
    """Where a result's manifest lies."""
    return folder / SIDE / "manifest.json"


def load_manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest, None where it has none; ResultError where it is not one that this version reads."""
    path = manifest_path(folder)
    try:
        return read_json(path, _check_of_its_format)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OtherFormatError as error:
        raise OtherFormatError(f"{path} {error}: use the itd that wrote it") from error


class OtherFormatError(ResultError):
    """A manifest that another version wrote: it says which format it has and which can be read."""


def check(manifest: Mapping[str, Any]) -> None:
    """BadJson for fields with which no reader could go on."""
    check_manifest(as_json(manifest), "")


def _check_of_its_format(manifest: Any, name: str) -> None:
    there = manifest.get("format") if isinstance(manifest, dict) else None
    if there not in (UNSEALED, FORMAT) or isinstance(there, (bool, float)):
        shown = shorten(repr(there if isinstance(manifest, dict) else type(manifest).__name__), 20)
        said = f"has format {shown}; this version reads formats {UNSEALED} and {FORMAT}"
        if not isinstance(there, int) or isinstance(there, bool) or is_sealed({**manifest, "format": FORMAT}):
            raise BadJson(f"it {said}")  # no version writes that, or the hash is of what stood there before
        raise OtherFormatError(said)
    if there == FORMAT and OWN_HASH not in manifest:
        raise BadJson(f"it has no {OWN_HASH}")
    check_manifest(manifest, name)


def is_protected(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest carries its own hash: every one that this version writes does."""
    return OWN_HASH in manifest


def create(
    folder: Path,
    identity: dict[str, Any],
    space: Space,
    macs: Sequence[int],
    samples: np.ndarray,
    images_per_unit: int,
    provenance: dict[str, Any],
    macs_unknown: Sequence[str] = (),
    order: str = PATH_ORDER,
    namer: Namer | None = None,
) -> dict[str, Any]:
    """Writes the configurations and the names, then the manifest: with the manifest the result exists.

    Args:
        folder: the result's, there already.
        identity: what must be the same to continue.
        space: the configurations.
        macs: (C,) multiply-accumulates of each plain forward of one image.
        samples: (N,) the selected images in order.
        images_per_unit: the size of the partition's cells.
        provenance: of the run that creates it.
        macs_unknown: names of the operators that `macs` does not count.
        order: of the images, as of `itd.data.images.select`.
        namer: of a run that knows what the images are called.

    Returns:
        The manifest as it was written.

    Raises:
        ResultError: there are parts already, so the manifest of another result was lost; or the identity has what no
            manifest can hold, such as a name of two lines.
    """
    fields = {
        "identity": identity,
        "images_per_unit": images_per_unit,
        "attributes": list(space.attributes),
        "sites": [site.name for site in space.sites],
        "swept": list(space.swept),
        "default": space.default,
        "removed": dict(space.removed),
        "macs_unknown": sorted(set(macs_unknown)),
        "order": order,
    }
    return begin(folder, _configs_table(space, macs), samples, fields, provenance, namer)


def begin(
    folder: Path,
    configs: pa.Table,
    samples: np.ndarray,
    fields: Mapping[str, Any],
    provenance: Mapping[str, Any],
    namer: Namer | None = None,
) -> dict[str, Any]:
    """`create` of a configuration table, (C,) rows, and the manifest's other fields."""
    parts = list_parts(folder)
    if parts:
        raise ResultError(
            f"{folder} holds {parts[0].name} but no {SIDE}/manifest.json, so it cannot be continued; mend it with "
            f"`itd verify --repair {folder}`, or give another `out`"
        )
    fields = {**fields, "identity": as_json(fields["identity"])}
    data = _encode_configs(configs, {**fields, "provenance": [as_json(provenance)]})
    manifest = {
        "identity": fields["identity"],
        "images": len(samples),
        "samples": to_runs(samples),
        **{name: value for name, value in fields.items() if name != "identity"},
        "configs": configs.num_rows,
        "configs_sha256": sha256(data),
        "provenance": [as_json(provenance)],
    }
    try:
        check(manifest)
    except BadJson as error:
        raise ResultError(f"no result can be of this run: {error}; give another") from error
    write_whole(folder / SIDE / "configs.parquet", data)
    if namer is not None:
        manifest[HASH] = write_samples(folder, namer(samples))
    return save(folder, manifest)


def order_of(manifest: Mapping[str, Any] | None) -> str | None:
    """The order of a result's images, path where its manifest is older than the field; None without a manifest."""
    return None if manifest is None else manifest.get("order", PATH_ORDER)


def is_union(manifest: Mapping[str, Any] | None) -> bool:
    """Whether a result was put together from others by `itd union`."""
    return manifest is not None and "union" in manifest["identity"]


def save(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest with its hash, and returns it."""
    manifest = sealed({**manifest, "format": FORMAT})
    require_lease(folder / SIDE)
    write_whole(manifest_path(folder), to_json(manifest))
    return manifest


def load_configs(folder: Path, manifest: dict[str, Any]) -> pa.Table:
    """The configurations of a result: config, settings, macs, is_default."""
    path = folder / SIDE / "configs.parquet"
    try:
        data = read_beside(path)
    except BadFile as error:
        raise ResultError(f"{path} is damaged: {error}; restore it from a copy") from error
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from error
    if sha256(data) != manifest["configs_sha256"]:
        raise ResultError(f"{path} is damaged: it does not match {SIDE}/manifest.json; restore it from a copy")
    try:
        configs = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ResultError(f"{path} is damaged: {one_line(error)}; restore it from a copy") from error
    _check_configs(path, configs, manifest)
    return configs


def _check_configs(path: Path, configs: pa.Table, manifest: Mapping[str, Any]) -> None:
    """ResultError for a table that does not have the rows and columns that the manifest speaks of."""
    own = setting_columns(manifest["attributes"])
    wanted = ["config", "macs", "is_default", *own]
    wanted += ["source", "source_config", "source_default"] if is_union(manifest) else []
    absent = [name for name in wanted if configs.column_names.count(name) != 1]
    why = f"it has no column {', '.join(absent)}" if absent else None
    if why is None and configs.num_rows != manifest["configs"]:
        why = f"it has {configs.num_rows} rows, and there are {manifest['configs']} configurations"
    if why is None:
        kinds = {name: configs.schema.field(name).type for name in wanted if not name.startswith("source")}
        odd = [name for name, kind in kinds.items() if not (pa.types.is_integer(kind) or pa.types.is_floating(kind))]
        nulls = [name for name in ("config", "macs") if configs.column(name).null_count]
        if nulls or set(odd) - {"is_default"} or not pa.types.is_integer(kinds["config"]):
            why = "its columns are of other types"
    why = why or _contradiction(configs, manifest, own)
    if why is not None:
        raise ResultError(f"{path} is damaged: {why}; restore it from a copy")


def _contradiction(configs: pa.Table, manifest: Mapping[str, Any], own: Sequence[str]) -> str | None:
    """What a manifest and its configurations do not say alike: default, attributes, sites; None where they agree."""
    marked = [row for row, is_default in enumerate(configs.column("is_default").to_pylist()) if is_default]
    numbers = configs.column("config").to_pylist()
    if [numbers[row] for row in marked] != [n for n in [manifest["default"]] if n is not None]:
        return f"its default is not configuration {manifest['default']}"
    others = [name for name in configs.column_names if name in setting_columns(ATTRIBUTES) and name not in own]
    if others:
        return f"it has the column {others[0]} of an attribute that is not varied"
    varied = {name[-1] for name in own if configs.column(name).null_count < configs.num_rows}
    if varied != set(manifest["sites"]):
        return f"its sites are {', '.join(sorted(varied))}, and {', '.join(manifest['sites'])} are said to be"
    return None


def _configs_table(space: Space, macs: Sequence[int]) -> pa.Table:
    table = {"config": pa.array(range(len(space)), pa.int16())}
    for name, values in space.columns().items():
        table[name] = pa.array(values, setting_type(name))
    table["macs"] = pa.array([int(m) for m in macs], pa.int64())
    table["is_default"] = pa.array([i == space.default for i in range(len(space))])
    return pa.table(table)


def _encode_configs(table: pa.Table, fields: Mapping[str, Any]) -> bytes:
    """The configurations as Parquet. fields: of the manifest, kept in the metadata for when that is lost."""
    table = table.replace_schema_metadata({FIELDS: to_json(sealed(fields))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def check_same(
    path: str,
    manifest: dict[str, Any],
    configs: pa.Table,
    identity: dict[str, Any],
    space: Space,
    samples: np.ndarray,
) -> None:
    """Refuses to continue a result as another one, naming each field that differs.

    Args:
        path: of the result, for the message.
        manifest: what is there.
        configs: the configurations that are there.
        identity: of the run that wants to continue.
        space: its configurations.
        samples: (N,) its images in order; one list must begin the other.

    Raises:
        ResultError: another run.
    """
    lines = other_run(manifest, configs, identity, space)
    lines += other_samples(manifest, samples)
    if lines:
        raise ResultError(
            f"{path} holds another run: {'; '.join(lines)}; give another `out`, or the options that it was made with"
        )


def other_run(manifest: Mapping[str, Any], configs: pa.Table, identity: Mapping[str, Any], space: Space) -> list[str]:
    """What makes a result another run than that of an identity and a space: a line for each field, or none."""
    differing = identity_differences(manifest["identity"], identity)
    lines = [f"{name} is {there}, given {here}" for name, there, here in differing]
    return lines or _other_configs(configs, space)


def other_samples(manifest: Mapping[str, Any], samples: np.ndarray) -> list[str]:
    """What keeps (N,) samples from beginning or continuing those of a result: at most one line."""
    known = from_runs(manifest["samples"])
    both = min(len(known), len(samples))
    other = np.flatnonzero(known[:both] != samples[:both])
    if not len(other):
        return []
    at = int(other[0])
    return [f"image {at} of the selection is sample {known[at]}, given {samples[at]}"]


def _other_configs(configs: pa.Table, space: Space) -> list[str]:
    if configs.num_rows != len(space):
        return [f"configurations is {configs.num_rows}, given {len(space)}"]
    lines = []
    for name, values in space.columns().items():
        there = configs.column(name).to_pylist() if name in configs.column_names else None
        if there != list(values):
            lines.append(f"the settings in {name} differ")
    default = configs.column("is_default").to_pylist()
    if default != [i == space.default for i in range(len(space))]:
        lines.append("the default configuration differs")
    return lines


def to_runs(samples: np.ndarray) -> list[list[int]]:
    """Sample numbers as runs [start, step, count].

    >>> to_runs(np.array([0, 5, 10, 11]))
    [[0, 5, 3], [11, 1, 1]]
    """
    runs: list[list[int]] = []
    for sample in np.asarray(samples).tolist():
        if runs:
            start, step, count = runs[-1]
            if count == 1 or sample == start + step * count:
                runs[-1] = [start, sample - start if count == 1 else step, count + 1]
                continue
        runs.append([sample, 1, 1])
    return runs


def from_runs(runs: Sequence[Sequence[int]]) -> np.ndarray:
    """The sample numbers of runs: (N,) int32."""
    pieces = [start + step * np.arange(count) for start, step, count in runs]
    return np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, np.int32)


def extend(manifest: dict[str, Any], samples: np.ndarray, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with one more run, and with more images where the run asks for more."""
    more = len(samples) > manifest["images"]
    images = {"images": len(samples), "samples": to_runs(samples)} if more else {}
    return {**manifest, **images, "provenance": [*manifest["provenance"], as_json(provenance)]}


def records_more(manifest: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    """Whether a run's provenance has a field that no earlier run of the result has: a later version records more."""
    recorded = {name for run in manifest["provenance"] for name in run}
    return not recorded.issuperset(provenance)


_BEGUN_ANEW = "{} was begun anew by another run in the meantime; give another `out`"


def require_own(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as it is now; ResultError where another run has begun the result anew since this one opened it."""
    now = load_manifest(folder)
    if now is None or now["configs_sha256"] != manifest["configs_sha256"]:
        raise ResultError(_BEGUN_ANEW.format(folder))
    there, own = now["identity"], manifest["identity"]
    others = [name for name in {*there, *own} if there.get(name) != own.get(name)]
    if others and set(others) <= set(OF_DATA):
        raise ResultError(
            f"{folder} goes on with files that were replaced while this run was at work; nothing already written is "
            "lost: give the same command again"
        )
    if others:
        raise ResultError(_BEGUN_ANEW.format(folder))
    return now
