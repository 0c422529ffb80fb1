"""The rows of several parts as those of one file, and of one as several: copied in blocks, and compared bit by bit.

Never more than a block of scores, or one column of a file, is in memory. Nothing gets its final name here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.files import synced
from itd.store.index import as_numpy
from itd.store.reading import read_columns, read_schema
from itd.store.schema import INDEX, SCORES, layout, setting_columns
from itd.store.whole import Checked, columns_at_once

ROWS_PER_GROUP = 2**20
"""Of a row group, at most."""
ROWS_HELD = 2**24
"""Of a block: 256 MiB of scores."""


@dataclass(frozen=True)
class Block:
    """Some configurations of some images. numbers: (c,). samples, labels: (n,). scores: column -> (c, n). nulls: column
    -> (c, n) bool, of the columns with null rows. settings: column -> (c,)."""

    numbers: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    scores: Mapping[str, np.ndarray]
    nulls: Mapping[str, np.ndarray]
    settings: Mapping[str, pa.Array]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.numbers) * len(self.samples)

    def of_images(self, images: slice) -> Block:
        """The rows of some of the images, by their places in the block."""
        scores = {name: values[:, images] for name, values in self.scores.items()}
        nulls = {name: values[:, images] for name, values in self.nulls.items()}
        return Block(self.numbers, self.samples[images], self.labels[images], scores, nulls, self.settings)

    def table(self, schema: pa.Schema, start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows start to stop, ordered by configuration, then image."""
        place = np.arange(start, self.rows if stop is None else min(stop, self.rows))
        config, image = np.divmod(place, len(self.samples))
        index = {"sample": self.samples[image], "label": self.labels[image], "config": self.numbers[config]}
        columns = []
        for name, kind in zip(schema.names, schema.types, strict=True):
            if name in index:
                columns.append(pa.array(index[name], kind))
            elif name in self.settings:
                columns.append(self.settings[name].take(pa.array(config)))
            else:
                null = self.nulls[name].reshape(-1)[start:stop] if name in self.nulls else None
                columns.append(pa.array(self.scores[name].reshape(-1)[start:stop], kind, mask=null))
        return pa.Table.from_arrays(columns, schema=schema)


def common_schema(parts: Sequence[Checked], attributes: Sequence[str]) -> pa.Schema:
    """The schema of some parts, metadata and all; ResultError where it is not the same of each."""
    first = read_schema(parts[0].part)[0]
    own = {*INDEX, *setting_columns(attributes), *SCORES}
    for one in parts:
        schema = read_schema(one.part)[0]
        if not schema.equals(first, check_metadata=True) or set(schema.names) != own:
            raise ResultError(
                f"{one.part.path} has other columns, types or metadata than {parts[0].part.name}, or than a sweep "
                "writes, so that no file can hold both unchanged; leave the result as it is"
            )
    return first


def gather(
    parts: Sequence[Checked], schema: pa.Schema, configs: pa.Table, of_configs: slice, of_images: slice
) -> Block:
    """A block of parts that follow each other. configs: all (C,) of the result. of_configs: places there. of_images:
    positions in the selection, all within the parts."""
    first, n = of_images.start, of_images.stop - of_images.start
    numbers = as_numpy(configs.column("config"))[of_configs]
    shape = (len(numbers), n)
    scores = {name: np.empty(shape, schema.field(name).type.to_pandas_dtype()) for name in SCORES}
    nulls: dict[str, np.ndarray] = {}
    samples, labels = np.empty(n, np.int32), np.empty(n, np.int16)
    for one in parts:
        start, stop = max(first, one.part.first), min(of_images.stop, one.part.last + 1)
        if start >= stop:
            continue
        here, there = slice(start - first, stop - first), slice(start - one.part.first, stop - one.part.first)
        samples[here], labels[here] = one.index.samples[there], one.index.labels[there]
        for name, values, null in read_grids(one, SCORES):
            scores[name][:, here] = values[of_configs, there]
            if null is not None:
                nulls.setdefault(name, np.zeros(shape, bool))[:, here] = null[of_configs, there]
    settings = {
        name: configs.column(name).combine_chunks()[of_configs].cast(schema.field(name).type)
        for name in schema.names
        if name not in (*INDEX, *SCORES)
    }
    return Block(numbers, samples, labels, scores, nulls, settings)


def write_rows(
    temp: Path, parts: Sequence[Checked], schema: pa.Schema, configs: pa.Table, advance: Callable[[int], Any]
) -> None:
    """Writes the rows of parts that follow each other as one file, in row groups of whole configurations where an image
    list is no longer than a group. advance: called with how many values were just written."""
    first, stop = parts[0].part.first, parts[-1].part.last + 1
    together = max(1, ROWS_PER_GROUP // (stop - first))
    rows = min(ROWS_PER_GROUP, together * (stop - first))
    held = max(together, ROWS_HELD // (stop - first) // together * together)
    with synced(temp) as file, pq.ParquetWriter(file, schema, **layout(schema, many_images=True)) as writer:
        for config in range(0, configs.num_rows, held):
            block = gather(parts, schema, configs, slice(config, config + held), slice(first, stop))
            for start in range(0, block.rows, rows):
                table = block.table(schema, start, start + rows)
                writer.write_table(table, row_group_size=table.num_rows)
                advance(table.num_rows * table.num_columns)


def require_same_rows(one: Checked, parts: Sequence[Checked], advance: Callable[[int], Any] = lambda _: None) -> None:
    """ResultError where a part does not hold exactly the rows of the parts that follow each other within it.

    Every bit of every column is compared, and where it is null. advance: called with how many values were compared.
    """
    for name in read_schema(one.part)[0].names:
        ((_, values, null),) = read_grids(one, [name])
        for part in parts:
            here = slice(part.part.first - one.part.first, part.part.last + 1 - one.part.first)
            ((_, others, other_null),) = read_grids(part, [name])
            if not (_same(values[:, here], others) and _same_nulls(null, here, other_null)):
                raise ResultError(
                    f"column {name} of {part.part.path} does not read back as it is from the file that was to take its "
                    "place, which is left out; nothing already written is lost: check the disk with `itd verify`"
                )
            advance(part.rows)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are of one type and the same in every bit, so that no NaN and no zero passes for another."""
    bits = f"u{one.dtype.itemsize}"
    return one.dtype == other.dtype and np.array_equal(one.view(bits), other.view(bits))


def _same_nulls(null: np.ndarray | None, here: slice, other: np.ndarray | None) -> bool:
    own = None if null is None else null[:, here]
    if own is None or other is None:
        return not any(there is not None and there.any() for there in (own, other))
    return np.array_equal(own, other)


def read_grids(one: Checked, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Columns of a part: (name, (C, n) with 0 where it is null, (C, n) bool where it is null, or None)."""
    for together in columns_at_once(one.rows, names):
        table = read_columns(one.part, together)
        for name in together:
            column, null = table.column(name), None
            if column.null_count:
                null = one.index.grid(column.is_null().to_numpy())
                column = column.fill_null(0)
            yield name, one.index.grid(as_numpy(column)), null
