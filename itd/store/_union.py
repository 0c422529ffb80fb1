"""Several results of the same images written as one: their configurations one after another, unit by unit."""

from __future__ import annotations

import datetime
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd import __version__
from itd.errors import ResultError
from itd.space import ATTRIBUTES, SITES
from itd.store import manifest as manifests
from itd.store.claims import leased
from itd.store.existing import check_folder, continued, sound_parts
from itd.store.files import SIDE, disk_errors, remove_stale
from itd.store.identity import identity_differences, with_defaults
from itd.store.index import Index, read_scores
from itd.store.part import list_parts
from itd.store.replaced import remove_notes
from itd.store.result import ORIGIN, Result
from itd.store.samples import Namer, read_samples
from itd.store.schema import SCORES, TYPES, setting_columns, setting_type
from itd.store.writer import ResultWriter, Unit

MOST_CONFIGS = 32_767
"""What the column `config` can number."""


@dataclass(frozen=True)
class UnionSource:
    """A result as a part of a union.

    path: as given. model: its network. first, last: numbers of its configurations in the union. default: the number in
    the union of its default configuration, or None.
    """

    path: str
    model: str | None
    first: int
    last: int
    default: int | None

    @property
    def configs(self) -> int:
        """How many configurations come from it."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Written:
    """A union that is whole. already: images that were there before."""

    path: str
    sources: tuple[UnionSource, ...]
    attributes: tuple[str, ...]
    sites: tuple[str, ...]
    default: int | None
    images: int
    already: int


def write_union(
    path: str | Path,
    results: Sequence[Result],
    rows: Sequence[np.ndarray],
    progress: Callable[[int], Any] | None = None,
) -> Written:
    """Writes results as one whose configurations are theirs, in the order given; goes on with one that is not whole.

    Args:
        path: of the union.
        results: whole ones of the same images, from folders of `itd sweep` or `itd union`.
        rows: for each result the rows of its configurations that are taken, ascending.
        progress: told how many images are there before, where any are, then each time how many were just written.

    Returns:
        What the union holds.

    Raises:
        ResultError: other samples or labels, too many configurations, another result at `path`, or a disk that refuses.
    """
    samples = _same_samples(results)
    sources = _sources(results, rows)
    writer = _open(path, results, _configs_table(results, rows, sources), samples, sources[0].default)
    readers = [_Reader(result, taken) for result, taken in zip(results, rows, strict=True)]
    already = writer.done_images
    if progress is not None and 0 < already < len(samples):
        progress(already)
    for unit in writer.todo():
        read = [reader.read(unit) for reader in readers]
        scores: dict[str, Any] = {name: np.concatenate([one[name] for one, _ in read]) for name in SCORES}
        labels = readers[0].labels[unit.first : unit.last + 1]
        writer.write(unit, labels=labels, missing=np.concatenate([missing for _, missing in read]), **scores)
        if progress is not None:
            progress(len(unit))
    return Written(
        path=str(path),
        sources=sources,
        attributes=tuple(writer.manifest["attributes"]),
        sites=tuple(writer.manifest["sites"]),
        default=writer.manifest["default"],
        images=len(samples),
        already=already,
    )


def _sources(results: Sequence[Result], rows: Sequence[np.ndarray]) -> tuple[UnionSource, ...]:
    total = sum(map(len, rows))
    if total > MOST_CONFIGS:
        raise ResultError(f"these results have {total:,} configurations; a union has at most {MOST_CONFIGS:,}")
    sources, first = [], 0
    for result, taken in zip(results, rows, strict=True):
        at = np.flatnonzero(taken == (-1 if result.default_index is None else result.default_index))
        default = first + int(at[0]) if len(at) else None
        model = result.identity.get("model")
        sources.append(UnionSource(result.path, model, first, first + len(taken) - 1, default))
        first += len(taken)
    return tuple(sources)


def _same_samples(results: Sequence[Result]) -> np.ndarray:
    """(N,) the samples of the results; ResultError where they are not the same, in one order and of the same labels."""
    first, *others = results
    here = manifests.from_runs(first.manifest["samples"]) if first.manifest else first.samples
    labels = all_labels(first)
    for other in others:
        there = manifests.from_runs(other.manifest["samples"]) if other.manifest else other.samples
        if not np.array_equal(here, there):
            if np.array_equal(np.sort(here), np.sort(there)):
                orders = [manifests.order_of(result.manifest) or manifests.PATH_ORDER for result in (first, other)]
                raise ResultError(
                    f"cannot unite {first.path} and {other.path}: they have the same images in the orders "
                    f"{orders[0]} and {orders[1]}; sweep one of them into another `out` with `order={orders[0]}`"
                )
            raise ResultError(
                f"cannot unite {first.path} and {other.path}: they differ in samples ({_described(here)} and "
                f"{_described(there)}); sweep both with the same `limit` and `every`"
            )
        wrong = np.flatnonzero(labels != all_labels(other))
        if len(wrong):
            at = int(wrong[0])
            raise ResultError(
                f"cannot unite {first.path} and {other.path}: they differ in labels (sample {here[at]} has "
                f"{labels[at]} and {all_labels(other)[at]}); give results of the same images and class map"
            )
    return here


def all_labels(result: Result) -> np.ndarray:
    """(N,) int16, also of the samples that have null rows, in the order of the selection."""
    return np.concatenate([np.zeros(0, np.int16), *(index.labels for index in result._indices)])


def _described(samples: np.ndarray) -> str:
    return f"{len(samples):,}: {samples[0]} to {samples[-1]}" if len(samples) else "none"


def _configs_table(results: Sequence[Result], rows: Sequence[np.ndarray], sources: Sequence[UnionSource]) -> pa.Table:
    """A row for each configuration: number, settings, MACs, whether it is the default, and where it comes from."""
    count = sources[-1].last + 1
    attributes = [a for a in ATTRIBUTES if any(a in result.attributes for result in results)]
    each = [(result, int(row)) for result, taken in zip(results, rows, strict=True) for row in taken]
    table = {"config": pa.array(range(count), pa.int16())}
    for name in setting_columns(attributes):
        values = [result.settings[name][row] if name in result.settings else None for result, row in each]
        table[name] = pa.array(values, setting_type(name))
    table["macs"] = pa.array([None if r.macs is None else int(r.macs[row]) for r, row in each], pa.int64())
    table["is_default"] = pa.array([number == sources[0].default for number in range(count)])
    columns = (
        pa.array([result.path for result, _ in each]),
        pa.array([int(result.config_numbers[row]) for result, row in each], pa.int16()),
        pa.array(_own_defaults(results, rows, sources), pa.int16()),
    )
    return pa.table(table | dict(zip(ORIGIN, columns, strict=True)))


def _own_defaults(
    results: Sequence[Result], rows: Sequence[np.ndarray], sources: Sequence[UnionSource]
) -> list[int | None]:
    """For each configuration the number of its network's own default, where that is in the union."""
    found = []
    for result, taken, source in zip(results, rows, sources, strict=True):
        number = {int(row): source.first + i for i, row in enumerate(taken)}
        owns = (result.own_default(int(row)) for row in taken)
        found += [None if own is None else number.get(own) for own in owns]
    return found


def _open(
    path: str | Path, results: Sequence[Result], configs: pa.Table, samples: np.ndarray, default: int | None
) -> ResultWriter:
    """The union as a result that is being written: begun, or the one that is there."""
    folder = Path(path)
    check_folder(folder)
    fields = _fields(results, configs, default)
    provenance = _provenance(results)
    namer = _namer(results)
    with disk_errors(path):
        (folder / SIDE).mkdir(parents=True, exist_ok=True)
        remove_stale(folder / SIDE)
        manifest = manifests.load_manifest(folder)
        if manifest is not None and list_parts(folder):
            _check_same(folder, manifest, fields["identity"], configs, samples)
            sound_parts(folder, manifest, manifests.load_configs(folder, manifest))
        with leased(folder / SIDE):
            manifest = manifests.load_manifest(folder)
            if manifest is None or not list_parts(folder):
                remove_notes(folder)
                manifest = manifests.begin(folder, configs, samples, fields, provenance, namer)
            else:
                _check_same(folder, manifest, fields["identity"], configs, samples)
                manifest = continued(folder, manifest, samples, provenance, namer)
            configs = manifests.load_configs(folder, manifest)
        return ResultWriter(str(path), manifest, configs, samples, run=provenance["run"])


def _namer(results: Sequence[Result]) -> Namer | None:
    """The names of the images, which all sources share, from the first source that has them."""
    for result in results:
        if result.manifest is not None:
            known = manifests.from_runs(result.manifest["samples"])
            rows = read_samples(Path(result.path), result.manifest, known)
            if rows is not None:
                return partial(_first_of, rows)
    return None


def _first_of(rows: pa.Table, samples: np.ndarray) -> pa.Table:
    """The rows of (n,) samples, which begin or continue those that the rows are of."""
    return rows.slice(0, len(samples))


def _check_same(
    folder: Path, manifest: dict[str, Any], identity: Mapping[str, Any], configs: pa.Table, samples: np.ndarray
) -> None:
    """ResultError where what is there is no union of these results, naming what differs."""
    if not manifests.is_union(manifest):
        raise ResultError(f"{folder} holds a result of `itd sweep`; give another `out`")
    lines = [
        f"{name} is {there}, given {here}"
        for name, there, here in identity_differences(_filled(manifest["identity"]), _filled(identity))
    ]
    there = manifests.load_configs(folder, manifest)
    if not lines and not there.drop_columns([ORIGIN[0]]).equals(configs.drop_columns([ORIGIN[0]])):
        lines.append(f"configurations is {there.num_rows}, given {configs.num_rows}, or their settings or MACs differ")
    lines += manifests.other_samples(manifest, samples)
    if lines:
        raise ResultError(f"{folder} holds another union: {'; '.join(lines)}; give another `out`")


def _filled(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity whose sources', too, have the fields that they lack at their defaults."""
    filled = with_defaults(identity)
    if "union" in filled:
        filled["union"] = {name: _filled(source) for name, source in filled["union"].items()}
    return filled


def _fields(results: Sequence[Result], configs: pa.Table, default: int | None) -> dict[str, Any]:
    """The manifest's fields beside images, configurations and provenance."""
    attributes = [a for a in ATTRIBUTES if any(a in result.attributes for result in results)]
    sites = [s for s in SITES if any(s in result.sites for result in results)]
    known = [result.manifest or {} for result in results]
    swept = {site for manifest in known for site in manifest.get("swept", manifest.get("sites", ()))}
    return {
        "identity": _identity(results, attributes, configs.num_rows),
        "images_per_unit": min(manifest["images_per_unit"] for manifest in known),
        "attributes": attributes,
        "sites": sites,
        "swept": [site for site in sites if site in swept],
        "default": default,
        "removed": {},
        "order": manifests.order_of(results[0].manifest),
        "macs_unknown": sorted({name for result in results for name in result.macs_unknown}),
    }


def _identity(results: Sequence[Result], attributes: list[str], configs: int) -> dict[str, Any]:
    """What the union is of: each field that all sources agree on, null where they do not; and each source's own."""
    own = [result.identity for result in results]
    names = dict.fromkeys(name for identity in own for name in identity if name not in ("union", "space"))
    common = {name: _agreed([identity.get(name) for identity in own]) for name in names}
    models = dict.fromkeys(str(identity.get("model")) for identity in own)
    return {
        **common,
        "model": ", ".join(models),
        "space": {"attributes": attributes, "configurations": configs},
        "union": {f"R{i}": identity for i, identity in enumerate(own, start=1)},
    }


def _agreed(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _provenance(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "run": secrets.token_hex(8),
        "itd": __version__,
        "python": platform.python_version(),
        "union": ", ".join(os.fspath(result.path) for result in results),
        "classes": _agreed([result.num_classes for result in results]),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


@dataclass
class _Reader:
    """Some configurations of a result, by ranges of its images in ascending order: holds one part at a time."""

    result: Result
    rows: np.ndarray
    labels: np.ndarray = field(init=False)
    _held: tuple[int, dict[str, np.ndarray]] = field(default=(-1, {}), init=False)

    def __post_init__(self) -> None:
        self.labels = all_labels(self.result)

    def read(self, unit: Unit) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The scores of a unit's images, (c, n) each, and where they are null: (c, n) bool."""
        pieces = list(self._pieces(unit.first, unit.last))
        joined = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in (*SCORES, "missing")}
        return {name: joined[name] for name in SCORES}, joined["missing"]

    def _pieces(self, first: int, last: int) -> Iterator[dict[str, np.ndarray]]:
        for number, index in enumerate(self.result._indices):
            start, stop = max(first, index.part.first), min(last, index.part.last) + 1
            if start < stop:
                here = slice(start - index.part.first, stop - index.part.first)
                yield {name: values[:, here] for name, values in self._part(number, index).items()}

    def _part(self, number: int, index: Index) -> dict[str, np.ndarray]:
        if self._held[0] != number:
            read = {name: values[self.rows] for name, values in read_scores(index).items()}
            typed = {name: read[name].astype(TYPES[name].to_pandas_dtype(), copy=False) for name in SCORES}
            self._held = number, {**typed, "missing": read["missing"]}
        return self._held[1]
