"""Trees of files that are fuzzed: odd names, links, pipes, deep folders, empty files; and tar shards of any headers."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import warnings
from pathlib import Path

from hypothesis import strategies as st

from itd.data.folder import corruptions
from itd.data.open import open_images
from itd.data.shards import shard_images
from itd.errors import ItdWarning
from itd.selectors.predict import _images
from support.fuzzing import ODD_TEXT, Subject, accepted
from support.sources import encoded

KINDS = (
    "image",
    "image",
    "empty",
    "folder",
    "pipe",
    "loop",
    "up",
    "device",
    "gone",
    "elsewhere",
    "deep",
    "closed",
    "text",
)
_USUAL = (
    "a.png", "b.jpg", "c.JPEG", "class", "0", "1", "999", "n01440764", "_itd", "state.json", "1.cls", "x.jpg",
    "dataset_info.json", "dataset_dict.json", "cifar-10-batches-bin", "data_batch_1.bin", "test_batch.bin",
    "a\nb.png", "\x1b[2J.png", "\udce9.png", "é.png", "a" * 250 + ".png", ".hidden.png",
)  # fmt: skip
NAMES = st.one_of(st.sampled_from(_USUAL), ODD_TEXT)
IMAGE = encoded(0, 8)


def subjects(folder: Path) -> tuple[Subject, ...]:
    """Folders, and shards."""
    warnings.simplefilter("ignore", ItdWarning)
    entry = st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(KINDS))
    return Subject("folders", st.lists(entry, max_size=8), _check_tree, 80), Subject("tars", tars(), _check_tar, 120)


def _check_tree(folder: Path, entries: list[tuple[list[str], str]]) -> None:
    root = folder / "tree"
    root.mkdir()
    try:
        for names, kind in entries:
            with contextlib.suppress(OSError, UnicodeError):  # a name that no file can have
                _make(root.joinpath(*(name.replace("/", "_") for name in names)), root, kind)
        for read in (
            lambda: open_images(root, num_classes=None), lambda: open_images(root, num_classes=2),
            lambda: open_images(root, own_classes=True), lambda: _images([str(root)]),
        ):  # fmt: skip
            accepted(lambda read=read: _first(read()), names=True)  # type: ignore[misc]
        accepted(lambda: corruptions(str(root)), names=True)
    finally:
        _remove(root)


def _first(images: object) -> None:
    for index in range(min(3, len(images))):  # type: ignore[arg-type]
        accepted(lambda i=index: images.load(i), names=True)  # type: ignore[attr-defined, misc]


def _make(path: Path, root: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):  # a pipe would wait for a reader
        return
    if kind in ("image", "empty", "text"):
        path.write_bytes({"image": IMAGE, "empty": b"", "text": b"path,label\n"}[kind])
    elif kind in ("folder", "closed"):
        path.mkdir()
        path.chmod(0 if kind == "closed" else 0o755)  # which says nothing to root
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        for _ in range(60):
            path = path / "d"
            path.mkdir(parents=True)
        (path / "a.png").write_bytes(IMAGE)
    else:
        path.symlink_to(
            {"loop": path.name, "up": "..", "device": "/dev/zero", "gone": "nowhere", "elsewhere": str(root)}[kind]
        )


def _remove(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(root)


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """A tar file whose headers say anything, with checksums that are right."""
    number = st.one_of(
        st.integers(-(2**20), 2**20), st.sampled_from([0, 189, 8**11 - 1, 2**63 - 1, -(2**62), -512, -1024])
    )
    kinds = st.sampled_from(
        [b"0", b"0", b"0", b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"S", b"x", b"g", b"X", b"V", b"\0"]
    )
    names = st.sampled_from(
        ["a/1.png", "a/1.cls", "a/2.jpg", "a/2.cls", "b.cls", "pax", "1.png", "/x/../1.png", "\udcff.png"]
    )
    data = b""
    for _ in range(draw(st.integers(0, 4))):
        info = tarfile.TarInfo(draw(names))
        info.type = draw(kinds)
        content = draw(st.sampled_from([IMAGE, b"1", b"0\n", b"", *_PAX]))
        info.size = draw(number) if draw(st.integers(0, 3)) == 0 else len(content)
        with contextlib.suppress(ValueError):  # a number that no header can hold
            data += info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)
    return data + bytes(draw(st.sampled_from([1024, 1024, 512, 0])))


_PAX = [
    f"{len(text) + 3} {text}\n".encode()
    for text in ("size=-512", "size=-99999", "size=99999999999", "size=x", "path=1.png", "path=", "hdrcharset=BINARY",
                 "GNU.sparse.map=0,1", "GNU.sparse.size=9", "GNU.sparse.major=1", "mtime=nan")
]  # fmt: skip
_PAX += [b"99999999999999 size=1\n", b"0 size=1\n", b"-5 size=1\n", b"9" * 600, b"\0" * 5]


def _check_tar(folder: Path, data: bytes) -> None:
    path = folder / "t.tar"
    path.write_bytes(data)
    accepted(lambda: _first(shard_images(path, num_classes=2)), names=True)
