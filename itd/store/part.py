"""One Parquet file of a result: its name, its record in the side folder, and reading it with every check."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.store.fields import check_record
from itd.store.files import SIDE, read_json, sha256
from itd.text import one_line

_NAME = re.compile(r"^part-(\d{8,})-(\d{8,})\.parquet$")
_MAGIC = b"PAR1"


def part_name(first: int, last: int) -> str:
    """The name of the part that holds positions first..last.

    >>> part_name(0, 7)
    'part-00000000-00000007.parquet'
    """
    return f"part-{first:08d}-{last:08d}.parquet"


def record_path(part: Path) -> Path:
    """Where a part's record lies."""
    return part.parent / SIDE / f"{part.stem}.json"


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a result. first, last: its positions, or -1 where the name does not say."""

    path: Path
    first: int = -1
    last: int = -1
    record: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.path.name


def list_parts(folder: Path) -> list[Part]:
    """The parts of a folder by position; a Parquet file of another name has none. Records are not read yet."""
    parts = []
    for path in folder.iterdir():
        if path.suffix == ".parquet" and not path.name.startswith((".", "_")):
            match = _NAME.match(path.name)
            parts.append(Part(path, int(match[1]), int(match[2])) if match else Part(path))
    return sorted(parts, key=lambda part: (part.first, part.last, part.name))


def with_record(part: Part) -> Part:
    """The part with its record, where there is one."""
    path = record_path(part.path)
    try:
        record = read_json(path, check_record)
    except (FileNotFoundError, NotADirectoryError):
        return part
    except ResultError as error:
        raise _damaged(part, f"its record {SIDE}/{path.name} cannot be read") from error
    return Part(part.path, part.first, part.last, record)


def require_sizes(parts: Sequence[Part]) -> None:
    """ResultError for a part that is not as long as its record says: one look at each, no reading."""
    for part in map(with_record, parts):
        if part.record is not None and part.path.stat().st_size != part.record["bytes"]:
            raise _damaged(part, f"it has {part.path.stat().st_size} of {part.record['bytes']} bytes")


def make_record(data: bytes) -> dict[str, Any]:
    """What is kept about a part: rows, bytes, the footer's SHA-256 and the CRC-32 of each column's bytes."""
    length = int.from_bytes(data[-8:-4], "little") + 8
    meta = pq.read_metadata(pa.BufferReader(data))
    view = memoryview(data)
    columns, covered = {}, len(_MAGIC) + length
    for name, spans in _spans(meta, meta.schema.names).items():
        crc = 0
        for start, size in spans:
            crc = zlib.crc32(view[start : start + size], crc)
            covered += size
        columns[name] = crc
    if covered != len(data):
        raise RuntimeError(f"checksums cover {covered} of {len(data)} bytes: the writer left something between columns")
    return {
        "rows": meta.num_rows,
        "bytes": len(data),
        "footer_sha256": sha256(data[-length:]),
        "columns_crc32": columns,
    }


def read_schema(part: Part) -> tuple[pa.Schema, pq.FileMetaData]:
    """The schema and metadata of a part, after its size and footer are checked against its record."""
    with _opened(part) as file:
        return file.schema_arrow, file.metadata


def read_columns(part: Part, names: Sequence[str], threads: bool = False) -> pa.Table:
    """Some columns of a part, checked against page checksums and, where there is a record, its CRC-32s."""
    with _opened(part) as file:
        if part.record is not None:
            _check_columns(part, file.metadata, names)
        table = file.read(columns=list(names), use_threads=threads)
    if table.num_rows != file.metadata.num_rows:
        raise _damaged(part, f"{table.num_rows} rows where its footer says {file.metadata.num_rows}")
    return table.select(list(names))


@contextmanager
def _opened(part: Part) -> Iterator[pq.ParquetFile]:
    try:
        if part.record is not None:
            _check_footer(part, part.record)
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise ResultError(f"{part.path} does not exist any more; make it with `itd sweep`") from error
    except PermissionError as error:
        raise ResultError(f"{part.path} cannot be read: permission denied; make it readable") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise _damaged(part, one_line(error)) from error


def _check_footer(part: Part, record: dict[str, Any]) -> None:
    with open(part.path, "rb") as file:
        head = file.read(len(_MAGIC))
        size = file.seek(0, 2)
        if size != record.get("bytes"):
            raise _damaged(part, f"{size} bytes where its record says {record.get('bytes')}")
        file.seek(max(0, size - 65_536))
        tail = file.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > len(tail) and length <= size:
            file.seek(size - length)
            tail = file.read()
    if head != _MAGIC or length > size or sha256(tail[-length:]) != record.get("footer_sha256"):
        raise _damaged(part, "its footer does not match its record")


def _check_columns(part: Part, meta: pq.FileMetaData, names: Sequence[str]) -> None:
    spans = _spans(meta, names)
    with open(part.path, "rb") as file:
        for name in names:
            crc = 0
            for start, size in spans.get(name, ()):
                file.seek(start)
                crc = zlib.crc32(file.read(size), crc)
            if crc != (part.record or {}).get("columns_crc32", {}).get(name):
                raise _damaged(part, f"the bytes of column {name} do not match its record")


def _spans(meta: pq.FileMetaData, names: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Column -> (start, size) of each of its chunks, of some columns.

    Only of what was just written, or of a footer that is the one that its record names: over what others made of one,
    pyarrow can end the process.
    """
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    places = {name: place for place, name in enumerate(meta.schema.names) if name in spans}
    for group in range(meta.num_row_groups):
        row_group = meta.row_group(group)
        for name, place in places.items():
            chunk = row_group.column(place)
            start = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None:
                start = min(start, chunk.dictionary_page_offset)
            spans[name].append((start, chunk.total_compressed_size))
    return spans


def _damaged(part: Part, why: str) -> ResultError:
    if part.first < 0:
        return ResultError(
            f"{part.path} cannot be read as Parquet: {why}; it is truncated, damaged or not Parquet: give a folder or "
            "file written by `itd sweep`"
        )
    return ResultError(
        f"{part.path} is damaged: {why}; delete this part and give the same `itd sweep` or `itd union` command "
        "again, which makes it anew"
    )
