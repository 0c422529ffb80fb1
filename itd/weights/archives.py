"""What a .pth file is before it is opened: sizes as its bytes can have them, and only what state dicts are made of.

torch.load runs nothing of a user's here, but believes sizes: of compressed records, of tensors, of texts that are
encoded again and again. Not for what the tensors are (`itd.weights.files.require_tensors`).
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MOST_PICKLE_BYTES = 2**28
_BLOCK_BYTES = 2**20
_MOST_INSIDE = 10_000
"""Members of a tuple with those of the tuples in it: to hash one takes as long as to count them."""
_MAKERS_OF_BYTES = ("_codecs encode", "builtins bytearray", "torch._utils _rebuild_device", "torch._utils _rebuild_wra")
"""Beginnings of what torch.load calls and no state dict needs: what they make can be of any size."""
_LEGACY_PICKLES = 5
"""A file of torch before 1.6: a number, a version, the system, the state dict and the storages' keys."""
_VALUE_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt32Storage": 4,
}  # fmt: skip
"""Bytes of a value of torch's classes of storages; of others, one."""


class BadArchive(ValueError):
    """A file that must not be opened; the message says why, without its name."""


def check_archive(path: Path) -> None:
    """Raises BadArchive for a file whose records are compressed or overlap, whose tensors are larger than what is there
    for them, or that calls what no state dict needs; errors of unrelated types for one that is damaged, or none at all.
    """
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        if not zipped:
            file.seek(0)
            _check_pickles(file, _LEGACY_PICKLES, None)
            return
    with zipfile.ZipFile(path) as archive:
        sizes = _record_sizes(archive, path)
        for record in archive.infolist():
            _check_content(archive, record)
            if record.filename.rpartition("/")[2] == "data.pkl":
                _check_pickles(io.BytesIO(archive.read(record)), 1, sizes)


def _record_sizes(archive: zipfile.ZipFile, path: Path) -> Mapping[str, int]:
    """Record, without the archive's own name before it -> its size in bytes."""
    length = os.path.getsize(path)
    if archive.start_dir != _directory_place(path, length):
        raise BadArchive("its list of records is not where it says; no program of torch writes such a file")
    total, sizes = 0, {}
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise BadArchive(f"its record {record.filename} is compressed, as torch never writes it")
        total += record.file_size
        if total > length:
            raise BadArchive(f"its records are said to have more than the {length:,} bytes of the file")
        name = record.filename.partition("/")[2]
        if name in sizes:
            raise BadArchive(f"its record {record.filename} is there twice")
        if name == "data.pkl" and record.file_size > _MOST_PICKLE_BYTES:
            raise BadArchive(f"its list of tensors has {record.file_size:,} bytes")
        sizes[name] = record.file_size
    return sizes


def _check_content(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Reads a record; BadZipFile where its bytes are not those that were written, where the file says so at all."""
    if record.CRC == 0:
        del record.CRC  # torch can be told to leave it out; then nothing is compared
        return
    with archive.open(record) as content:
        while content.read(_BLOCK_BYTES):
            pass


def _directory_place(path: Path, length: int) -> int | None:
    """Where an archive without a comment says that its list of records begins; None where it does not say so."""
    with open(path, "rb") as file:
        file.seek(max(0, length - _END.size - _LOCATOR.size))
        tail = file.read()
        if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
            return None
        place = _END.unpack(tail[-_END.size :])[6]
        if tail[:4] == b"PK\x06\x07" and len(tail) == _END.size + _LOCATOR.size:
            file.seek(_LOCATOR.unpack(tail[: _LOCATOR.size])[2])
            end = file.read(_END64.size)
            return _END64.unpack(end)[9] if len(end) == _END64.size and end[:4] == b"PK\x06\x06" else None
        return int(place)


class _Made:
    """What a pickle would make and nobody looks into here. name: of what it takes from a module."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name


_MARK = _Made("mark")
_MADE = _Made()


def _check_pickles(file: Any, count: int, sizes: Mapping[str, int] | None) -> None:
    """Goes through pickles that lie behind each other without making anything. sizes: of records; None where the
    storages follow, whose sizes torch compares itself."""
    for _ in range(count):
        try:
            _Walk(sizes).run(file)
        except (ValueError, IndexError, KeyError, UnicodeError, struct.error) as error:
            if isinstance(error, BadArchive):
                raise
            return  # not what torch reads: it says so


class _Walk:
    """One pickle's stack, of plain values and `_Made`, as far as sizes need it."""

    def __init__(self, sizes: Mapping[str, int] | None) -> None:
        self.sizes, self.stack, self.memo = sizes, [], {}  # type: ignore[var-annotated]
        self.inside: dict[int, int] = {}

    def run(self, file: Any) -> None:
        """Goes to the pickle's end; BadArchive as of `check_archive`."""
        kept = []  # as long as tuples are known by where they are
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name.startswith("TUPLE") or name == "EMPTY_TUPLE":
                made = self._tuple(name)
                kept.append(made)
                self.stack.append(made)
            elif name in ("GLOBAL", "STACK_GLOBAL", "INST"):
                self._global(str(argument))
            elif name == "BINPERSID":
                self._storage(self.stack.pop())
                self.stack.append(_MADE)
            elif name.endswith("PUT"):
                self.memo[argument] = self.stack[-1]
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            elif name.endswith("GET"):
                self.stack.append(self.memo[argument])
            elif name == "MARK":
                self.stack.append(_MARK)
            else:
                self._other(opcode, argument)

    def _tuple(self, name: str) -> tuple[Any, ...]:
        if name == "TUPLE":
            items = self._to_mark()
        else:
            count = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}[name]
            items = [self.stack.pop() for _ in range(count)][::-1]
        made = tuple(items)
        inside = sum(1 + self.inside.get(id(item), 0) for item in items if isinstance(item, tuple)) + len(items)
        if inside > _MOST_INSIDE:
            raise BadArchive("it has tuples in tuples of more members than any state dict")
        self.inside[id(made)] = inside
        return made

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _global(self, name: str) -> None:
        if name.startswith(_MAKERS_OF_BYTES):
            raise BadArchive(f"it calls {name.replace(' ', '.')}, which no state dict needs")
        self.stack.append(_Made(name))

    def _storage(self, given: Any) -> None:
        """('storage', its class, the record, the device, the number of values)."""
        if self.sizes is None or not isinstance(given, tuple) or len(given) < 5:
            return
        kind, record, count = given[1], given[2], given[4]
        if not isinstance(kind, _Made) or not isinstance(count, int):
            raise BadArchive("it has a tensor of a kind or a size that is none")
        there = self.sizes.get(f"data/{record}", 0)
        if not 0 <= count * _VALUE_BYTES.get(kind.name.rpartition(" ")[2], 1) <= there:
            raise BadArchive(f"a tensor of {count:,} values has {there:,} bytes in the record data/{record}")

    def _other(self, opcode: Any, argument: Any) -> None:
        before = list(opcode.stack_before)
        if pickletools.markobject in before:
            self._to_mark()
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self.stack.pop()
        plain = isinstance(argument, (int, str)) and len(opcode.stack_after) == 1 and not before
        self.stack += [argument if plain else _MADE] * len(opcode.stack_after)
