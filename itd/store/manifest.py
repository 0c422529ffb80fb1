"""The manifest of a result: what it is of, which images were asked for, where it comes from; how it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.checked import BadJson, anything
from itd.errors import ResultError
from itd.space import Space
from itd.store.fields import check_manifest
from itd.store.files import SIDE, read_json, sha256, to_json, write_whole
from itd.store.part import list_parts
from itd.store.samples import HASH, Namer, write_samples
from itd.store.schema import setting_columns, setting_type
from itd.text import one_line, shorten

FORMAT = 1
ABSENT = "(absent)"
PATH_ORDER = "path"
"""The `order` of the images where a manifest does not have the field."""

IDENTITY_DEFAULTS: Mapping[str, Any] = {
    "engine": 1,
    "network_sha256": None,
    "every": 1,
    "class_subset": None,
    "variation": None,
    "recalibration": None,
    "choices": {"size_scale": "area", "align_corners": False, "shortcut": "zero", "pool_half": "nearest"},
}
"""What a field of the identity is where a manifest does not have it: sweeps before the field existed did just that.

engine: 2 where size 1 of aligned corners is the kernel's centre tap, as it is now; before, it was the top left one.
every: each image of the data was selected. class_subset: predictions are among all classes. variation: the images are
as they are. recalibration: the normalisation statistics are the weights' own. choices: the readings of the paper that
come first in `itd.space.Conventions`. A field that is added to the identity later gets its default here, so that
`FORMAT` stays 1 and older results go on."""


def manifest_path(folder: Path) -> Path:
    """Where a result's manifest lies."""
    return folder / SIDE / "manifest.json"


def load_manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest, None where it has none; ResultError where it is not one that this version reads."""
    path = manifest_path(folder)
    try:
        manifest = read_json(path, anything)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        there = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        there = shorten(repr(there), 20)
        raise ResultError(f"{path} has format {there}; this version reads format {FORMAT}: use the itd that wrote it")
    try:
        check_manifest(manifest, "")
    except BadJson as error:
        raise ResultError(f"{path} is damaged: {error}; restore it from a copy") from error
    return manifest


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
        ResultError: there are parts already, so the manifest of another result was lost.
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
            f"{folder} holds {parts[0].name} but no {SIDE}/manifest.json, so it cannot be continued; give another `out`"
        )
    data = _encode_configs(configs)
    write_whole(folder / SIDE / "configs.parquet", data)
    named = {} if namer is None else {HASH: write_samples(folder, namer(samples))}
    manifest = {
        "format": FORMAT,
        "identity": as_json(fields["identity"]),
        "images": len(samples),
        "samples": to_runs(samples),
        **named,
        **{name: value for name, value in fields.items() if name != "identity"},
        "configs": configs.num_rows,
        "configs_sha256": sha256(data),
        "provenance": [as_json(provenance)],
    }
    save(folder, manifest)
    return manifest


def order_of(manifest: Mapping[str, Any] | None) -> str | None:
    """The order of a result's images, path where its manifest is older than the field; None without a manifest."""
    return None if manifest is None else manifest.get("order", PATH_ORDER)


def is_union(manifest: Mapping[str, Any] | None) -> bool:
    """Whether a result was put together from others by `itd union`."""
    return manifest is not None and "union" in manifest["identity"]


def save(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest."""
    write_whole(manifest_path(folder), to_json(manifest))


def load_configs(folder: Path, manifest: dict[str, Any]) -> pa.Table:
    """The configurations of a result: config, settings, macs, is_default."""
    path = folder / SIDE / "configs.parquet"
    try:
        data = path.read_bytes()
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
    wanted = ["config", "macs", "is_default", *setting_columns(manifest["attributes"])]
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
    if why is not None:
        raise ResultError(f"{path} is damaged: {why}; restore it from a copy")


def _configs_table(space: Space, macs: Sequence[int]) -> pa.Table:
    table = {"config": pa.array(range(len(space)), pa.int16())}
    for name, values in space.columns().items():
        table[name] = pa.array(values, setting_type(name))
    table["macs"] = pa.array([int(m) for m in macs], pa.int64())
    table["is_default"] = pa.array([i == space.default for i in range(len(space))])
    return pa.table(table)


def _encode_configs(table: pa.Table) -> bytes:
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


def with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the fields that it lacks at their defaults, those of its own first and in their order.

    >>> with_defaults({"model": "resnet18", "choices": {"shortcut": "nearest"}})["choices"]["shortcut"]
    'nearest'
    """
    return _filled(identity, IDENTITY_DEFAULTS)


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(values)
    for name, default in defaults.items():
        if name not in filled:
            filled[name] = dict(default) if isinstance(default, dict) else default
        elif isinstance(default, dict) and isinstance(filled[name], dict):
            filled[name] = _filled(filled[name], default)
    return filled


def identity_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """`differences` of two identities of results, a field that one of them lacks compared as its default.

    A preprocessing of which one of them says nothing is not compared where the data are the same: they then cover it.
    """
    filled = [with_defaults(as_json(identity)) for identity in (there, here)]
    if None in (one.get("preprocess") for one in filled) and filled[0].get("data") == filled[1].get("data"):
        for one in filled:
            one.pop("preprocess", None)
    return differences(*filled)


def differences(there: Any, here: Any) -> list[tuple[str, str, str]]:
    """The fields in which two identities differ: (dotted name, value there, value here), values shortened.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', '2', '3')]
    """
    return list(_compare("", as_json(there), as_json(here)))


def _compare(name: str, there: Any, here: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            inner = f"{name}.{key}" if name else str(key)
            yield from _compare(inner, there.get(key, ABSENT), here.get(key, ABSENT))
    elif there != here:
        yield name, _shown(there), _shown(here)


def _shown(value: Any) -> str:
    return shorten(value if value is ABSENT else json.dumps(value))


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are strings."""
    return json.loads(to_json(value))


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


def require_own(folder: Path, manifest: dict[str, Any]) -> None:
    """ResultError where another run has begun the result anew since this one opened it."""
    now = load_manifest(folder)
    if now is None or now["identity"] != manifest["identity"] or now["configs_sha256"] != manifest["configs_sha256"]:
        raise ResultError(f"{folder} was begun anew by another run in the meantime; give another `out`")
