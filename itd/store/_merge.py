"""Parts of one result that were computed in several folders, put together as one. Nothing is computed.

Of shards on machines that share no file system, or of a run that was begun in two places. Not here: several results
side by side as one space (`_union`).
"""

from __future__ import annotations

import datetime
import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd import __version__
from itd.errors import ResultError
from itd.files import temporary, write_synced
from itd.store import manifest as manifests
from itd.store.claims import Claims, leased
from itd.store.existing import check_folder, sound_parts
from itd.store.files import SIDE, disk_errors, remove_stale, side_of
from itd.store.identity import as_json, identity_differences, identity_sha256
from itd.store.index import read_scores
from itd.store.missing import MissingImage, read_missing, save_missing
from itd.store.part import coverage, list_parts, part_name
from itd.store.record import make_record, put_part, with_rows
from itd.store.replaced import remove_notes
from itd.store.samples import read_samples
from itd.store.whole import Checked, check_present, require_whole
from itd.store.writer import ResultWriter, Unit, stretches


@dataclass(frozen=True)
class Merged:
    """What `merge` wrote. images: that are there now. of: how many were selected. rows: that are there. duplicates:
    images that more than one input has, the same in every row. already: images that were there before."""

    out: str
    images: int
    of: int
    rows: int
    duplicates: int
    already: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON: {out, images, of, rows, duplicates, already}."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Source:
    path: str
    manifest: dict[str, Any]
    configs: pa.Table
    parts: tuple[Checked, ...]

    @property
    def samples(self) -> np.ndarray:
        return manifests.from_runs(self.manifest["samples"])


def merge(
    results: Sequence[str | Path], out: str | Path, *, progress: Callable[[int, int], Any] | None = None
) -> Merged:
    """Puts parts of one result together that were computed in several folders, as shards on several machines are.

    The inputs stay as they are. What was interrupted goes on when it is given again. A sweep with the same options
    extends what it makes, and computes what no input has.

    Args:
        results: two or more folders of the same sweep: the same identity, configurations and order of images. Where
            one selects more images than another, the longer selection is taken.
        out: the folder to write.
        progress: called with how many images were just written, and how many are to be in all.

    Raises:
        ResultError: other runs, named by field; an image that two inputs have with other rows; a damaged part; an
            input that is no result of a sweep; another result at `out`; a disk that refuses.

    Example:
        >>> merge(["a.parquet", "b.parquet"], "whole.parquet").duplicates  # doctest: +SKIP
        0
    """
    _require_paths(results, out)
    sources = sorted(map(_source, results), key=lambda source: -source.manifest["images"])
    for other in sources[1:]:
        _require_same(sources[0], other)
    check_folder(out)
    with Claims(Path(out), of=identity_sha256(sources[0].manifest["identity"])):  # nobody begins another result there
        return _merged(sources, out, progress)


def _merged(sources: Sequence[_Source], out: str | Path, progress: Callable[[int, int], Any] | None) -> Merged:
    """sources: the one with the longest selection first."""
    own = [_own(out, sources[0])] if manifests.load_manifest(Path(out)) is not None else []
    owners = _owners([*own, *sources], len(sources[0].samples))
    writer = _opened(out, sources)
    already = writer.done_images
    for number, source in enumerate(sources, start=len(own)):
        for one in source.parts:
            mine = owners[one.part.first : one.part.last + 1] == number
            for first, stop in stretches(mine):
                _place(writer, source, one, one.part.first + first, one.part.first + stop - 1)
                if progress is not None:
                    progress(stop - first, int((owners >= len(own)).sum()))
    images = writer.done_images
    held = sum(coverage([one.part for one in source.parts], len(owners)).astype(int) for source in sources)
    rows = images * int(writer.manifest["configs"])
    return Merged(str(out), images, len(writer.samples), rows, int(np.sum(held > 1)), already)


def _require_paths(results: Sequence[str | Path], out: str | Path) -> None:
    """ResultError for fewer than two results, for one that is there twice, and for an `out` that is one of them."""
    for path in (*results, out):
        if not isinstance(path, (str, Path)):
            raise ResultError(f"merge takes paths of results, given {type(path).__name__}")
    if len(results) < 2:
        raise ResultError("one result is nothing to merge; give two or more")
    target, seen = os.path.realpath(out), set[str]()
    for path in results:
        real = os.path.realpath(path)
        if real == target:
            raise ResultError(f"{path} is given, and is where the merged result is to be written; give another `out`")
        if real in seen:
            raise ResultError(f"{path} is given twice; give each result once")
        seen.add(real)


def _source(path: str | Path) -> _Source:
    """An input with every part read with every check."""
    folder = Path(path)
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        raise ResultError(f"{path} is no folder that `itd sweep` wrote; give those whose parts are to be put together")
    if manifests.is_union(manifest):
        raise ResultError(f"{path} is a union; merge the results that it is made of, then give `itd union` again")
    configs = manifests.load_configs(folder, manifest)
    numbers, samples = configs.column("config").to_numpy(), manifests.from_runs(manifest["samples"])
    parts = require_whole(path, check_present(folder, numbers, samples))
    return _Source(str(path), manifest, configs, tuple(parts))


def _own(out: str | Path, longest: _Source) -> _Source:
    """What is at `out` already, of a merge that was interrupted; ResultError where it is another result."""
    there = _source(out)
    _require_own(longest, there)
    return there


def _require_own(longest: _Source, there: _Source) -> None:
    """ResultError where what is at `out` is another result than the merged one."""
    try:
        _require_same(longest, there)
    except ResultError as error:
        raise ResultError(f"{there.path} holds another result ({error}); give another `out`") from error


def _require_same(one: _Source, other: _Source) -> None:
    differing = identity_differences(one.manifest["identity"], other.manifest["identity"])
    lines = [f"{name} is {here} and {there}" for name, here, there in differing]
    if not lines and not one.configs.equals(other.configs):
        lines.append("their configurations, settings or MACs differ")
    orders = [manifests.order_of(source.manifest) for source in (one, other)]
    if orders[0] != orders[1]:
        lines.append(f"order is {orders[0]} and {orders[1]}")
    else:
        lines += manifests.other_samples(one.manifest, other.samples)
    if lines:
        raise ResultError(
            f"cannot merge {one.path} and {other.path}: {'; '.join(lines)}; give folders of the same sweep"
        )


# -- who has what -----------------------------------------------------------------------------------------------------


def _owners(sources: Sequence[_Source], images: int) -> np.ndarray:
    """(images,) the number of the source whose rows of each image are taken, -1 for none.

    Raises ResultError where two sources have other rows of an image.
    """
    owners = np.full(images, -1)
    for number, source in enumerate(sources):
        for one in source.parts:
            here = slice(one.part.first, one.part.last + 1)
            for first, stop in stretches(owners[here] >= 0):
                _require_equal(sources[:number], source, one, one.part.first + first, one.part.first + stop - 1)
            owners[here] = np.where(owners[here] < 0, number, owners[here])
    return owners


def _require_equal(before: Sequence[_Source], source: _Source, mine: Checked, first: int, last: int) -> None:
    """ResultError where the rows of some images are not those that an earlier source has."""
    for holder in before:
        for one in holder.parts:
            start, stop = max(first, one.part.first), min(last, one.part.last)
            if start > stop:
                continue
            here, there = _rows(mine, start, stop), _rows(one, start, stop)
            for name, values in here.items():
                other = values != there[name]
                if other.any():
                    image = start + int(np.argwhere(other)[0][-1])
                    raise ResultError(
                        f"cannot merge {holder.path} and {source.path}: they have other rows of image {image} "
                        f"(sample {source.samples[image]}; column {'quality' if name == 'missing' else name}), which "
                        "those of one sweep do not; leave one of them out"
                    )


def _rows(one: Checked, first: int, last: int) -> dict[str, np.ndarray]:
    """The scores of images first to last of a part, (C, n) each, whether they are null, and labels (n,)."""
    here = slice(first - one.part.first, last - one.part.first + 1)
    rows = {name: values[:, here] for name, values in read_scores(one.index).items()}
    return {"label": one.index.labels[here], **rows}


# -- writing ----------------------------------------------------------------------------------------------------------


def _opened(out: str | Path, sources: Sequence[_Source]) -> ResultWriter:
    """The merged result as one that is being written: begun, or the one that is there, with every run of its inputs."""
    folder, longest = Path(out), sources[0]
    provenance = {
        "run": secrets.token_hex(8),
        "itd": __version__,
        "python": platform.python_version(),
        "merge": ", ".join(source.path for source in sources),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    with disk_errors(out):
        (folder / SIDE).mkdir(parents=True, exist_ok=True)
        remove_stale(folder / SIDE)
        manifest = manifests.load_manifest(folder)
        if manifest is not None:
            sound_parts(folder, manifest, manifests.load_configs(folder, manifest))
        with leased(folder / SIDE):
            manifest = manifests.load_manifest(folder)
            if manifest is None:
                remove_notes(folder)
                fields = {name: longest.manifest[name] for name in _FIELDS if name in longest.manifest}
                names = _names(sources)
                namer = None if names is None else (lambda _: names)
                manifest = manifests.begin(folder, longest.configs, longest.samples, fields, provenance, namer)
            else:  # a sweep may have begun there since this was last asked
                _require_own(longest, _Source(str(out), manifest, manifests.load_configs(folder, manifest), ()))
            manifest = _with_runs(folder, manifest, sources, provenance)
    return ResultWriter(str(out), manifest, manifests.load_configs(folder, manifest), longest.samples)


_FIELDS = ("identity", "images_per_unit", "attributes", "sites", "swept", "default", "removed", "macs_unknown", "order")


def _names(sources: Sequence[_Source]) -> pa.Table | None:
    """What the images are called, of the input that knows most of them."""
    known = [read_samples(Path(source.path), source.manifest, source.samples) for source in sources]
    return max((rows for rows in known if rows is not None), key=lambda rows: rows.num_rows, default=None)


def _with_runs(
    folder: Path, manifest: dict[str, Any], sources: Sequence[_Source], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest with every run of its inputs, whose parts name them; and with the longest selection."""
    runs = list(manifest["provenance"])
    for run in (*(run for source in sources for run in source.manifest["provenance"]), as_json(provenance)):
        if run not in runs:
            runs.append(run)
    if len(sources[0].samples) > manifest["images"]:
        manifest = {**manifest, "images": len(sources[0].samples), "samples": sources[0].manifest["samples"]}
    return manifests.save(folder, {**manifest, "provenance": runs})


def _place(writer: ResultWriter, source: _Source, one: Checked, first: int, last: int) -> None:
    """Puts images first to last of a part into the merged result: the file as it is, or the rows where some are not
    taken."""
    part = one.part
    notes = [note for note in read_missing(Path(source.path)) if first <= note.image <= last]
    if (first, last) != (part.first, part.last):
        _write_rows(writer, source, one, first, last, notes)
        return
    assert part.record is not None
    target = writer.folder / part_name(first, last)
    data = part.path.read_bytes()
    record = make_record(data, part.record.get("run"))  # an older one has fewer hashes
    if any(record[name] != value for name, value in part.record.items() if name in record):
        raise ResultError(f"{part.path} has changed since it was read; give the same command again")
    nulls = [image - first for image in one.null_images]
    record = with_rows(record, one.index.numbers, one.index.samples, nulls)
    with disk_errors(target), temporary(target, folder=side_of(target)) as temp:
        write_synced(temp, data)
        with leased(writer.folder / SIDE):
            manifests.require_own(writer.folder, writer.manifest)
            if coverage(list_parts(writer.folder), last + 1)[first:].any():
                return  # another merge, or a sweep, was first
            if notes:
                save_missing(writer.folder, [*read_missing(writer.folder), *notes])
            put_part(temp, target, record)


def _write_rows(
    writer: ResultWriter, source: _Source, one: Checked, first: int, last: int, notes: Sequence[MissingImage]
) -> None:
    rows = _rows(one, first, last)
    labels, missing = rows.pop("label"), rows.pop("missing")
    run = (one.part.record or {}).get("run")
    own = ResultWriter(writer.path, writer.manifest, source.configs, writer.samples, run=run)
    unit, scores = Unit(first, last, writer.samples[first : last + 1]), dict[str, Any](rows)
    own.write(unit, labels=labels, missing=missing, missing_images=notes, **scores)
