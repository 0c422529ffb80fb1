"""Reading a part, or some of its columns, with every check: of its size, footer, pages and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.store.files import unreadable
from itd.store.part import Part, damaged
from itd.store.record import check_bytes, check_footer
from itd.text import one_line

_ROWS_PER_BATCH = 2**14
"""Decoded at once where the rows after them may not be wanted."""


def read_schema(part: Part) -> tuple[pa.Schema, pq.FileMetaData]:
    """The schema and metadata of a part, after its size and footer are checked against its record."""
    with _opened(part) as file:
        return file.schema_arrow, file.metadata


def read_columns(part: Part, names: Sequence[str], threads: bool = False) -> pa.Table:
    """Some columns of a part, checked against page checksums and, where there is a record, its CRC-32s."""
    with _opened(part) as file:
        return _read(part, file, names, threads)


def read_with_footer(
    part: Part, names: Sequence[str], check: Callable[[pa.Schema], Any]
) -> tuple[pa.Table, pq.FileMetaData]:
    """`read_columns`, and the metadata, of a part that is opened once. check: of its schema, before they are read."""
    with _opened(part) as file:
        check(file.schema_arrow)
        return _read(part, file, names), file.metadata


def _read(part: Part, file: pq.ParquetFile, names: Sequence[str], threads: bool = False) -> pa.Table:
    meta = file.metadata
    if part.record is not None:
        check_bytes(part, meta, names)
    table = file.read(columns=list(names), use_threads=threads)
    if table.num_rows != meta.num_rows:
        raise damaged(part, f"{table.num_rows} rows where its footer says {meta.num_rows}")
    if part.record is not None and table.num_rows != part.record["rows"]:
        raise damaged(part, f"{table.num_rows} rows where its record says {part.record['rows']}")
    return table.select(list(names))


def rows_of_groups(part: Part, name: str) -> list[int]:
    """How many rows each row group of a part with a record has. The CRC-32 of a column is checked here, as it is of all
    groups together."""
    with _opened(part) as file:
        check_bytes(part, file.metadata, [name])
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if sum(rows) != (part.record or {})["rows"]:
        raise damaged(part, f"{sum(rows)} rows where its record says {(part.record or {})['rows']}")
    return rows


def read_group(part: Part, name: str, group: int) -> pa.ChunkedArray:
    """A column of one row group, checked against page checksums; `rows_of_groups` has checked its bytes."""
    with _opened(part) as file:
        column, rows = file.read_row_group(group, columns=[name]).column(0), file.metadata.row_group(group).num_rows
    if len(column) != rows:
        raise damaged(part, f"{len(column)} rows in a row group of {rows}")
    return column


def read_rows(part: Part, name: str, start: int, stop: int) -> pa.ChunkedArray:
    """Some rows of a column of a part with a record, which all its bytes are checked against; what comes after the rows
    is not decoded."""
    found: list[pa.Array] = []
    at = 0
    with _opened(part) as file:
        check_bytes(part, file.metadata, [name])
        for batch in file.iter_batches(min(stop, _ROWS_PER_BATCH), columns=[name], use_threads=False):
            if at + len(batch) > start:
                found.append(batch.column(0)[max(0, start - at) : stop - at])
            at += len(batch)
            if at >= stop:
                break
    if at < stop:
        raise damaged(part, f"{at} rows where row {stop - 1} should be")
    return pa.chunked_array([pa.concat_arrays(found)])


@contextmanager
def _opened(part: Part) -> Iterator[pq.ParquetFile]:
    try:
        if part.path.exists() and not part.path.is_file():  # a pipe, from which nothing may ever come
            raise damaged(part, "it is no file")
        if part.record is not None:
            check_footer(part, part.record)
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise ResultError(f"{part.path} does not exist any more; make it with `itd sweep`") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, PermissionError) or (part.record is not None and _is_of_system(error)):
            raise unreadable(part.path, error) from error
        raise damaged(part, one_line(error)) from error


def _is_of_system(error: Exception) -> bool:
    """Whether a file cannot be read now, of one whose footer and columns match its record: that is no damage."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
