"""The record of a part, in the side folder: what its file was when it was written, and whether it still is.

A record is written before its part and named by the part's content, so that of two runs that write the same images
each has its own, and the part that came first is read by the record that it matches.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.files import publish, write_atomic
from itd.store.fields import check_record
from itd.store.files import SIDE, UnreadableError, read_json, sealed, sha256, side_of, to_json
from itd.store.part import Part, damaged

_MAGIC = b"PAR1"


def record_path(part: Path, content_sha256: str) -> Path:
    """Where the record of a part with this content lies."""
    return part.parent / SIDE / f"{part.stem}.{content_sha256[:16]}.json"


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
        raise damaged(part, f"its record {SIDE}/{spoiled.name} cannot be read")
    if len(records) > 1:
        footer = _footer_sha256(part.path)
        records.sort(key=lambda record: record["footer_sha256"] != footer)
    return replace(part, record=records[0]) if records else part


def require_record(part: Part) -> Part:
    """The part with its record; ResultError where it has none, as in a result with a manifest nothing is without."""
    part = with_record(part)
    if part.record is None:
        raise damaged(part, "it has no record")
    return part


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


def check_footer(part: Part, record: dict[str, Any]) -> None:
    """ResultError where a part is not as long as its record says, or has another footer."""
    with open(part.path, "rb") as file:
        head = file.read(len(_MAGIC))
        size = file.seek(0, 2)
    if size != record["bytes"]:
        raise damaged(part, f"{size} bytes where its record says {record['bytes']}")
    if head != _MAGIC or _footer_sha256(part.path) != record["footer_sha256"]:
        raise damaged(part, "its footer does not match its record")


def check_bytes(part: Part, meta: pq.FileMetaData, names: Sequence[str]) -> None:
    """ResultError where the bytes of some columns are not those that the record of a part is of."""
    spans = _spans(meta, names)
    with open(part.path, "rb") as file:
        for name in names:
            if _crc32(file, spans.get(name, ())) != (part.record or {}).get("columns_crc32", {}).get(name):
                raise damaged(part, f"the bytes of column {name} do not match its record")


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
