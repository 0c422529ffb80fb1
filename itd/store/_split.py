"""Splitting a part of many units into units again, so that of a result in one file only those with null rows are to be
computed once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from itd.errors import ResultError
from itd.files import temporary, write_synced
from itd.store import manifest as manifests
from itd.store._rows import ROWS_HELD, gather, require_same_rows
from itd.store.claims import leased
from itd.store.files import SIDE
from itd.store.part import list_parts, list_superseded, part_name, remove_part
from itd.store.reading import read_schema
from itd.store.record import make_record, put_part, with_rows
from itd.store.schema import encode
from itd.store.whole import Checked, Whole, check_part, require_whole


def split_parts(folder: Path, manifest: Mapping[str, Any], parts: Sequence[Whole], images: int) -> bool:
    """Splits the parts that are longer than a cell of the partition and have null rows in a cell of the first images.

    Until all cells of a part are there and hold its rows, it hides them, so that a process which is ended on the way
    leaves the result as it was. parts: those of the result, whole. Returns whether any part was split.
    """
    size = manifest["images_per_unit"]
    long = [
        one
        for one in parts
        if one.part.last - one.part.first >= size
        and any(min(image // size * size + size - 1, one.part.last) < images for image in one.null_images)
    ]
    if long:
        with leased(folder / SIDE):
            now = manifests.require_own(folder, manifest)
            there = {part.name for part in list_parts(folder)}
            for one in long:
                if one.part.name in there:  # no other process has split it meanwhile
                    configs, samples = manifests.load_configs(folder, now), manifests.from_runs(now["samples"])
                    found = check_part(one.part, configs.column("config").to_numpy(), samples)
                    _split(folder, now, configs, require_whole(folder, [found])[0])
    return bool(long)


def _split(folder: Path, manifest: Mapping[str, Any], configs: pa.Table, one: Checked) -> None:
    size, end = manifest["images_per_unit"], one.part.last + 1
    schema, run = read_schema(one.part)[0], (one.part.record or {}).get("run")
    samples, numbers = manifests.from_runs(manifest["samples"]), one.index.numbers
    held = max(1, ROWS_HELD // configs.num_rows // size) * size
    for first in range(one.part.first // size * size, end, held):
        start, stop = max(first, one.part.first), min(first + held, end)
        block = gather([one], schema, configs, slice(0, configs.num_rows), slice(start, stop))
        for cell in range(first, stop, size):
            here = slice(max(cell, start), min(cell + size, stop))
            data = encode(block.of_images(slice(here.start - start, here.stop - start)).table(schema))
            nulls = [image - here.start for image in one.null_images if here.start <= image < here.stop]
            record = with_rows(make_record(data, run), numbers, samples[here], nulls)
            _put(folder / part_name(here.start, here.stop - 1), data, record)
    hidden = [part for part, holder in list_superseded(folder) if holder.name == one.part.name]
    cells = require_whole(folder, [check_part(part, numbers, samples) for part in hidden])
    if [image for cell in cells for image in (cell.part.first, cell.part.last)] != _edges(one, size):
        raise ResultError(f"{folder} was changed by another process; give the same command again")
    require_same_rows(one, cells)
    remove_part(one.part)


def _edges(one: Checked, size: int) -> list[int]:
    """The first and last position of each cell of the partition within a part."""
    first, last = one.part.first, one.part.last
    cells = range(first // size * size, last + 1, size)
    return [image for cell in cells for image in (max(cell, first), min(cell + size - 1, last))]


def _put(target: Path, data: bytes, record: dict[str, Any]) -> None:
    with temporary(target, folder=target.parent / SIDE) as temp:
        write_synced(temp, data)
        put_part(temp, target, record)
