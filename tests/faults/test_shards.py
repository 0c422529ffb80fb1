"""Tar shards whose headers lie: one line each that names the shard, never a traceback or a hang."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from itd.data.shards import shard_images
from itd.errors import DataError
from support.fuzzing import within
from support.sources import encoded


def header(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header with a right checksum, and what follows it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def pax(text: str) -> bytes:
    """A header that says something of the next one."""
    return header("pax", f"{len(text) + 3 + (len(text) > 6)} {text}\n".encode(), tarfile.XHDTYPE)


IMAGE = header("a.png", encoded(0, 8))
LIES = {
    "a size that is no number": pax("GNU.sparse.size=") + IMAGE,
    "a size below nothing": IMAGE + header("a.cls", b"1", size=-512),
    "a size below nothing, that leads back": IMAGE + header("b.txt", b"", size=-1024) + header("a.cls", b"1"),
    "a size below nothing in a header of its own": IMAGE + pax("size=-1024") + header("a.cls", b"1"),
    "headers of headers without end": header("@LongLink", b"x\0", tarfile.GNUTYPE_LONGNAME) * 3000 + IMAGE,
    "a name longer than the file": header("@LongLink", b"x", tarfile.GNUTYPE_LONGNAME, size=8**11 - 1) + IMAGE,
}


@pytest.mark.parametrize("kind", LIES)
def test_headers_that_lie_are_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(LIES[kind] + bytes(1024))
    with within(20), pytest.raises(DataError, match=r"s\.tar cannot be read after") as error:
        shard_images(path, num_classes=2)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_image_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path, size = tmp_path / "s.tar", 8**11 - 1
    with open(path, "wb") as file:
        file.write(header("a.png", size=size))
        file.seek(-size % 512 + size, 1)  # a hole: it takes no space
        file.write(header("a.cls", b"0") + bytes(1024))
    images = shard_images(path, num_classes=2)
    assert images.sizes_bytes.tolist() == [size]
    with pytest.raises(DataError, match=r"cannot decode image 0, s\.tar/a\.png in .*8,589,934,591 bytes; allowed are"):
        images.load(0)
