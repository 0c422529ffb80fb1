"""One Parquet file of a result: its name, its record in the side folder, and reading it with every check.

A record is written before its part and named by the part's content, so that of two runs that write the same images
each has its own, and the part that came first is read by the record that it matches.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.files import publish, write_atomic
from itd.store.fields import check_record
from itd.store.files import SIDE, UnreadableError, read_json, sealed, sha256, side_of, to_json, unreadable
from itd.text import one_line

T = TypeVar("T")

_NAME = re.compile(r"^part-(\d{8,})-(\d{8,})\.parquet$")
_RECORD = re.compile(r"^(part-\d{8,}-\d{8,})(?:\.[0-9a-f]{16})?\.json$")
"""Before the content was in its name, a part had one record, named as the part."""
_MAGIC = b"PAR1"


def part_name(first: int, last: int) -> str:
    """The name of the part that holds positions first..last.

    >>> part_name(0, 7)
    'part-00000000-00000007.parquet'
    """
    return f"part-{first:08d}-{last:08d}.parquet"


def record_path(part: Path, content_sha256: str) -> Path:
    """Where the record of a part with this content lies."""
    return part.parent / SIDE / f"{part.stem}.{content_sha256[:16]}.json"


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a result.

    first, last: its positions, or -1 where the name does not say. records: the files that may be its record.
    record: the one that is, once it is read.
    """

    path: Path
    first: int = -1
    last: int = -1
    records: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    record: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.path.name


def list_parts(folder: Path) -> list[Part]:
    """The parts of a folder by position; a Parquet file of another name has none. Records are not read yet.

    A part whose images another one holds as well is left out: the longer one took its place.
    """
    return [part for part, holder in _list_all(folder) if holder is None]


def list_superseded(folder: Path) -> list[tuple[Part, Part]]:
    """The parts that `list_parts` leaves out, each with the one that took its place."""
    return [(part, holder) for part, holder in _list_all(folder) if holder is not None]


def remove_part(part: Part) -> None:
    """Removes a part, then its records."""
    part.path.unlink(missing_ok=True)
    for record in part.records:
        record.unlink(missing_ok=True)


def remove_leftover_records(holder: Part) -> None:
    """Removes the records of parts that are gone and whose images a longer part holds, as a process leaves them that
    was ended between a part and its record."""
    folder = holder.path.parent
    for stem, records in _by_stem(folder / SIDE, _list_records(folder / SIDE)).items():
        part = _part(folder / f"{stem}.parquet", {})
        inside = holder.first <= part.first and part.last <= holder.last and part.name != holder.name
        if inside and not os.path.lexists(part.path):
            for record in records:
                record.unlink(missing_ok=True)


def all_there(parts: Iterable[Part]) -> bool:
    """Whether no part has gone since it was listed, as one does in whose place a longer one came."""
    return all(os.path.lexists(part.path) for part in parts)


def _list_all(folder: Path) -> list[tuple[Part, Part | None]]:
    """All parts of a folder, each with the part that took its place, if one did: one with a record, whose images are
    more and begin no later."""
    names = [name for name in os.listdir(folder) if name.endswith(".parquet") and not name.startswith((".", "_"))]
    records = _list_records(folder / SIDE)  # after the parts, which come later than their records
    return list(_arranged(folder, tuple(names), records))


@functools.lru_cache(maxsize=2)
def _arranged(folder: Path, names: tuple[str, ...], records: tuple[str, ...]) -> list[tuple[Part, Part | None]]:
    """`_list_all` of the names that a folder and its side folder have. Kept, as a run that goes on lists ten thousand
    parts half a dozen times."""
    own = _by_stem(folder / SIDE, records)
    found: list[tuple[Part, Part | None]] = []
    longest: Part | None = None
    for part in sorted((_part(folder / name, own) for name in names), key=lambda p: (p.first, -p.last, p.name)):
        inside = longest is not None and part.first >= 0 and part.last <= longest.last
        found.append((part, longest if inside else None))
        if not inside and part.first >= 0 and part.records:
            longest = part
    return found


def single_part(path: Path) -> Part:
    """A file that is read by itself, with the records that it has where it lies in a result."""
    side = path.parent / SIDE
    return _part(path, _by_stem(side, _list_records(side)))


def _part(path: Path, records: Mapping[str, list[Path]]) -> Part:
    match = _NAME.match(path.name)
    first, last = (int(match[1]), int(match[2])) if match else (-1, -1)
    return Part(path, first, last, tuple(records.get(path.stem, ())))


def _list_records(side: Path) -> tuple[str, ...]:
    """The names of the records that are there, and of what lies beside them."""
    try:
        return tuple(sorted(os.listdir(side)))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _by_stem(side: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """The records of each part, by the part's stem."""
    found: dict[str, list[Path]] = {}
    for name in names:
        match = _RECORD.match(name)
        if match:
            found.setdefault(match[1], []).append(side / name)
    return found


def with_record(part: Part) -> Part:
    """The part with its record, where there is one; ResultError where there is none that can be read."""
    records, spoiled = [], None
    for path in part.records:
        try:
            records.append(read_json(path, check_record))
        except FileNotFoundError:
            continue
        except UnreadableError:
            raise
        except ResultError:
            spoiled = path
    if spoiled is not None and not records:
        raise _damaged(part, f"its record {SIDE}/{spoiled.name} cannot be read")
    if len(records) > 1:
        footer = _footer_sha256(part.path)
        records.sort(key=lambda record: record["footer_sha256"] != footer)
    return replace(part, record=records[0]) if records else part


def require_record(part: Part) -> Part:
    """The part with its record; ResultError where it has none, as in a result with a manifest nothing is without."""
    part = with_record(part)
    if part.record is None:
        raise _damaged(part, "it has no record")
    return part


def read_latest(part: Part, read: Callable[[Part], T]) -> T:
    """What `read` gives of a part; once more where another run has given it another record since it was listed."""
    try:
        return read(part)
    except ResultError:
        if not is_replaced(part):
            raise
        return read(single_part(part.path))


def is_replaced(part: Part) -> bool:
    """Whether a part has other records than when it was listed, as one has that a run made again."""
    return part.first >= 0 and single_part(part.path).records != part.records


def why_unsound(part: Part) -> str | None:
    """Why a part cannot be what its record says, by one look at it and no reading; None where it can be."""
    try:
        record = require_record(part).record or {}
        size = part.path.stat().st_size
    except ResultError as error:
        return str(error)
    except FileNotFoundError:
        return "it is gone"
    return None if size == record["bytes"] else f"it has {size} of {record['bytes']} bytes"


def write_record(part: Path, record: dict[str, Any]) -> tuple[Path, bool]:
    """(where the record of a part is, whether it was not there before)."""
    path = record_path(part, record["content_sha256"])
    return path, write_atomic(path, to_json(sealed(record)), folder=side_of(part), exclusive=True)


def put_part(temp: Path, target: Path, record: dict[str, Any], *, replacing: Part | None = None) -> bool:
    """Gives a written part its final name, after its record.

    replacing: the part that is there and makes way, with its records; None puts it only if absent. Returns False where
    somebody was first; then its record stays, as the part that is there may be the same, and have no other one.
    """
    path, _ = write_record(target, record)
    if not publish(temp, target, exclusive=replacing is None):
        return False
    for old in replacing.records if replacing is not None else ():
        if old != path:
            old.unlink(missing_ok=True)
    return True


def make_record(data: bytes, run: str | None = None) -> dict[str, Any]:
    """What is kept about a part: rows, bytes, its SHA-256 and the footer's, the CRC-32 of each column's bytes, and
    which run wrote it, as the manifest's provenance calls it."""
    return _record_of(io.BytesIO(data), run)


def make_record_of_file(path: Path, run: str | None = None) -> dict[str, Any]:
    """`make_record` of a file that is not held in memory."""
    with open(path, "rb") as file:
        return _record_of(file, run)


def with_rows(
    record: Mapping[str, Any], numbers: np.ndarray, samples: np.ndarray, nulls: Iterable[int]
) -> dict[str, Any]:
    """A record that also says which rows its part has: what `is_unchanged` compares.

    numbers: (C,) of the configurations. samples: (n,) of the part, by position. nulls: the places, among those, of the
    samples with null rows.
    """
    return {**record, "rows_sha256": rows_sha256(numbers, samples), "nulls": sorted(int(place) for place in nulls)}


def rows_sha256(numbers: np.ndarray, samples: np.ndarray) -> str:
    """A hash of configuration numbers, (C,), and samples, (n,)."""
    both = (np.asarray(numbers, "<i8"), np.asarray(samples, "<i8"))
    return sha256(b" ".join(array.tobytes() for array in (np.array([len(both[0])], "<i8"), *both)))


def is_unchanged(part: Part, rows: str) -> bool:
    """Whether every bit of a part is as it was when it was written, and read back with every check.

    rows: as of `rows_sha256`, of what it must have. False also of a part whose record is older than that hash.
    """
    record = part.record or {}
    if record.get("rows_sha256") != rows or not {"content_sha256", "nulls"} <= record.keys():
        return False
    try:
        content, size = hashlib.sha256(), part.path.stat().st_size
        with open(part.path, "rb") as file:
            for piece in _pieces(file, 0, size):
                content.update(piece)
        return size == record["bytes"] and content.hexdigest() == record["content_sha256"]
    except (OSError, MemoryError):  # who reads the rows says so
        return False


def _record_of(file: BinaryIO, run: str | None) -> dict[str, Any]:
    meta = pq.read_metadata(file)
    size = file.seek(0, os.SEEK_END)
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little") + 8
    columns, covered = {}, len(_MAGIC) + length
    for name, spans in _spans(meta, meta.schema.names).items():
        columns[name] = _crc32(file, spans)
        covered += sum(count for _, count in spans)
    if covered != size:
        raise RuntimeError(f"checksums cover {covered} of {size} bytes: the writer left something between columns")
    content, footer = hashlib.sha256(), hashlib.sha256()
    for piece in _pieces(file, 0, size):
        content.update(piece)
    for piece in _pieces(file, size - length, length):
        footer.update(piece)
    return {
        "rows": meta.num_rows,
        "bytes": size,
        "content_sha256": content.hexdigest(),
        "footer_sha256": footer.hexdigest(),
        "columns_crc32": columns,
        "run": run,
    }


def _crc32(file: BinaryIO, spans: Iterable[tuple[int, int]]) -> int:
    """The CRC-32 of some (start, size) of a file, one after the other."""
    crc = 0
    for start, size in spans:
        for piece in _pieces(file, start, size):
            crc = zlib.crc32(piece, crc)
    return crc


def _pieces(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    """Bytes of a file, at most 4 MB at a time."""
    file.seek(start)
    while size > 0 and (piece := file.read(min(size, 2**22))):
        size -= len(piece)
        yield piece


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
    if part.record is not None and table.num_rows != part.record["rows"]:
        raise _damaged(part, f"{table.num_rows} rows where its record says {part.record['rows']}")
    return table.select(list(names))


def rows_of_groups(part: Part, name: str) -> list[int]:
    """How many rows each row group of a part with a record has. The CRC-32 of a column is checked here, as it is of all
    groups together."""
    with _opened(part) as file:
        _check_columns(part, file.metadata, [name])
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if sum(rows) != (part.record or {})["rows"]:
        raise _damaged(part, f"{sum(rows)} rows where its record says {(part.record or {})['rows']}")
    return rows


def read_group(part: Part, name: str, group: int) -> pa.ChunkedArray:
    """A column of one row group, checked against page checksums; `rows_of_groups` has checked its bytes."""
    with _opened(part) as file:
        column, rows = file.read_row_group(group, columns=[name]).column(0), file.metadata.row_group(group).num_rows
    if len(column) != rows:
        raise _damaged(part, f"{len(column)} rows in a row group of {rows}")
    return column


@contextmanager
def _opened(part: Part) -> Iterator[pq.ParquetFile]:
    try:
        if part.path.exists() and not part.path.is_file():  # a pipe, from which nothing may ever come
            raise _damaged(part, "it is no file")
        if part.record is not None:
            _check_footer(part, part.record)
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise ResultError(f"{part.path} does not exist any more; make it with `itd sweep`") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, PermissionError) or (part.record is not None and _is_of_system(error)):
            raise unreadable(part.path, error) from error
        raise _damaged(part, one_line(error)) from error


def _is_of_system(error: Exception) -> bool:
    """Whether a file cannot be read now, of one whose footer and columns match its record: that is no damage."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _check_footer(part: Part, record: dict[str, Any]) -> None:
    with open(part.path, "rb") as file:
        head = file.read(len(_MAGIC))
        size = file.seek(0, 2)
    if size != record["bytes"]:
        raise _damaged(part, f"{size} bytes where its record says {record['bytes']}")
    if head != _MAGIC or _footer_sha256(part.path) != record["footer_sha256"]:
        raise _damaged(part, "its footer does not match its record")


def _footer_sha256(path: Path) -> str | None:
    """The SHA-256 of a file's footer; None where its last bytes are not those of one."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_536))
        tail = file.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < 8 or length > size:
            return None
        if length > len(tail):
            file.seek(size - length)
            tail = file.read()
    return sha256(tail[-length:])


def _check_columns(part: Part, meta: pq.FileMetaData, names: Sequence[str]) -> None:
    spans = _spans(meta, names)
    with open(part.path, "rb") as file:
        for name in names:
            if _crc32(file, spans.get(name, ())) != (part.record or {}).get("columns_crc32", {}).get(name):
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
        f"{part.path} is damaged: {why}; give the same `itd sweep` or `itd union` command again, which puts it aside "
        "and makes it anew"
    )
