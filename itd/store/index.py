"""Which row of a part is which (configuration, sample): checked to be each exactly once, and where the nulls are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.store.part import Part
from itd.store.reading import read_columns, read_schema, read_with_footer
from itd.store.schema import INDEX, SCORES, check_columns

ROWS_AT_ONCE = 2**20
"""Of a part with more rows one column after the other is read, as eight parts are read at a time."""


@dataclass(frozen=True)
class Index:
    """The rows of one part as a grid of configurations x samples.

    numbers: (C,). samples, labels: (n,). order: the row of each grid place where rows are in another order than
    configuration, then sample; else None. mask: (n,) bool, the samples without null rows; None where all are.
    """

    part: Part
    numbers: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    order: np.ndarray | None = field(repr=False)
    mask: np.ndarray | None = field(repr=False)

    @property
    def kept(self) -> int:
        """How many samples have no null row."""
        return len(self.samples) if self.mask is None else int(self.mask.sum())

    def keep(self, values: np.ndarray) -> np.ndarray:
        """(..., n) less the samples that have null rows."""
        return values if self.mask is None else values[..., self.mask]

    def grid(self, values: np.ndarray) -> np.ndarray:
        """A column's rows as (C, n); of rows that are ordered, also those of some configurations alone."""
        if self.order is not None:
            values = values[self.order]
        return values.reshape(-1, len(self.samples))

    def arrange(self, column: pa.ChunkedArray) -> np.ndarray:
        """A column as (C, kept); of rows that are ordered, also some configurations alone."""
        return self.keep(self.grid(as_numpy(column)))


def read_index(
    part: Part, numbers: np.ndarray | None, samples: np.ndarray | None, table: pa.Table | None = None
) -> Index:
    """Reads and checks which rows a part has.

    numbers, samples: what must be there, where that is known. table: all columns of a part with a record, where they
    have been read. Raises ResultError for a (sample, config) row that is missing or there twice, a sample with two
    labels, rows of other samples or configurations, and a part with a record that has other columns than a result.
    """
    column, meta = _columns(part, numbers is None, table)
    there, here, order = _arrange(part, column, samples)
    count = len(here)
    of_labels = column("label")
    if order is not None:
        of_labels = of_labels[order]
    labels = of_labels[:count].astype(np.int16)
    if numbers is not None and not np.array_equal(there, numbers):
        raise ResultError(
            f"{part.path} has {len(there)} configurations where the result has {len(numbers)}, or other numbers; "
            "delete it and give the same `itd sweep` or `itd union` command again"
        )
    if samples is not None and not np.array_equal(here, samples):
        raise ResultError(
            f"{part.path} holds other samples than its name says; delete it and give the same `itd sweep` or "
            "`itd union` command again"
        )
    if (of_labels.reshape(len(there), count) != labels).any():
        raise ResultError(f"{part.path} gives one sample two labels; write the file again")
    index = Index(part, there, here, labels, order, None)
    mask = _without_nulls(index, table, meta)
    if len(of_labels) > ROWS_AT_ONCE:
        del of_labels
        pa.default_memory_pool().release_unused()  # what its columns took: 0.2 GB of 31 million rows
    return index if mask.all() else Index(part, there, here, labels, order, mask)


def read_scores(index: Index) -> dict[str, np.ndarray]:
    """The scores of a part, (C, n) each, 0 where they are null; and `missing`, (C, n) bool, where they are."""
    table = read_columns(index.part, SCORES)
    missing = np.zeros((len(index.numbers), len(index.samples)), bool)
    scores = {}
    for name in SCORES:
        column = table.column(name)
        if index.mask is not None:
            missing |= index.grid(column.is_null(nan_is_null=True).to_numpy())
            column = column.fill_null(0)
        scores[name] = index.grid(column.to_numpy())
    return {**scores, "missing": missing}


def _columns(
    part: Part, threads: bool, read: pa.Table | None
) -> tuple[Callable[[str], np.ndarray], pq.FileMetaData | None]:
    """Reads a column of the index; of a part with many rows each alone, so that no two are in memory for long. And the
    metadata of a part with a record that was opened for it, whose footer is the one that its record names."""

    def checked(table: pa.Table) -> pa.Table:
        if any(column.null_count for column in table.columns):
            raise ResultError(
                f"{part.path} has null in sample, label or config; only scores may be null: write it again"
            )
        if not table.num_rows:
            raise ResultError(
                f"{part.path} has no rows; delete it and give the same `itd sweep` or `itd union` command again"
            )
        return table

    def check(schema: pa.Schema) -> None:
        check_columns(schema, str(part.path))

    meta = None
    if read is None and part.record is not None and part.record["rows"] > ROWS_AT_ONCE:
        schema, meta = read_schema(part)
        check(schema)
        return lambda name: as_numpy(checked(read_columns(part, [name])).column(0)), meta
    if read is not None:
        table = read.select(INDEX)
    elif part.record is not None:
        table, meta = read_with_footer(part, INDEX, check)
    else:
        table = read_columns(part, INDEX, threads=threads)
    table = checked(table)
    return lambda name: as_numpy(table.column(name)), meta


def _arrange(
    part: Part, column: Callable[[str], np.ndarray], samples: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The configuration numbers, the samples, and the order of rows that makes the grid (None: as they are).

    samples: in this order where they are known, else ascending, of rows that are not in a grid already.
    """
    numbers = _in_blocks(column("config"))
    if numbers is not None:
        sample = column("sample")
        first = sample[: len(sample) // len(numbers)]
        if len(np.unique(first)) == len(first) and (sample.reshape(-1, len(first)) == first).all():
            return numbers, first.astype(np.int32), None
    config, sample = column("config"), column("sample")
    numbers, order = _sorted(part, config, sample)
    if samples is not None and len(samples) * len(numbers) == len(order):
        order = order.reshape(len(numbers), -1)[:, np.argsort(np.argsort(samples))].reshape(-1)
    return numbers, sample[order[: len(order) // len(numbers)]].astype(np.int32), order


def _in_blocks(config: np.ndarray) -> np.ndarray | None:
    """The configuration numbers of rows that are ordered by them, of each as many; None of any other rows."""
    change = np.flatnonzero(config[:65_536] != config[0])
    if not len(change):
        change = np.flatnonzero(config != config[0])
    count = int(change[0]) if len(change) else len(config)
    if len(config) % count:
        return None
    numbers = config[::count].astype(np.int64)
    ordered = (np.diff(numbers) > 0).all() and (config.reshape(-1, count) == config[::count, None]).all()
    return numbers if ordered else None


def _sorted(part: Part, config: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((sample, config))
    config, sample = config[order], sample[order]
    twice = np.flatnonzero((config[1:] == config[:-1]) & (sample[1:] == sample[:-1]))
    if len(twice):
        at = int(twice[0])
        raise ResultError(
            f"{part.path}: the row of sample {sample[at]}, config {config[at]} is there twice; write each row once"
        )
    numbers, counts = np.unique(config, return_counts=True)
    samples = np.unique(sample)
    if len(numbers) * len(samples) != len(config):
        number = int(numbers[np.argmin(counts)])
        absent = np.setdiff1d(samples, sample[config == number])
        raise ResultError(
            f"{part.path}: {len(numbers) * len(samples) - len(config)} rows are missing, such as sample {absent[0]}, "
            f"config {number}; write every configuration of every sample"
        )
    return numbers.astype(np.int64), order


def _without_nulls(index: Index, table: pa.Table | None, meta: pq.FileMetaData | None) -> np.ndarray:
    """(n,) bool: the samples none of whose scores is null or, in a file written elsewhere, not a number."""
    mask = np.ones(len(index.samples), dtype=bool)
    ours = index.part.record is not None
    for name in SCORES:
        if meta is not None and _null_count(meta, name) == 0:
            continue
        column = (read_columns(index.part, [name], threads=not ours) if table is None else table).column(name)
        if column.null_count == 0 and (ours or pa.types.is_integer(column.type)):
            continue
        null = column.is_null(nan_is_null=True).to_numpy()
        mask &= ~index.grid(null).any(0)
    return mask


def _null_count(meta: pq.FileMetaData, name: str) -> int | None:
    """How many nulls the footer of a part with a record counts in a column; None where it does not say.

    Of no other file: over a damaged footer pyarrow can end the process, unless the column has been read.
    """
    place = meta.schema.names.index(name)
    total = 0
    for group in range(meta.num_row_groups):
        statistics = meta.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        total += statistics.null_count
    return total


def as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column as numpy; nulls become NaN in a float column and 0 in an integer one (their samples are left out)."""
    if column.null_count and pa.types.is_integer(column.type):
        column = column.fill_null(0)
    number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if number and column.num_chunks == 1 and not column.null_count:
        return np.from_dlpack(column.chunk(0))  # to_numpy would import pandas
    return column.to_numpy()
