"""Image files that are fuzzed: real ones of each format with other bytes, decoded and preprocessed."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from itd.data.decode import FORMATS, decoded
from itd.data.preprocess import Preprocess
from support.fuzzing import Subject, accepted, bytes_changed

_MODES = {
    "PNG": ("RGB", "L", "P", "RGBA", "I;16", "1"), "TIFF": ("RGB", "L", "CMYK", "I;16", "1"), "WEBP": ("RGB", "RGBA"),
    "JPEG": ("RGB", "L", "CMYK"), "BMP": ("RGB", "L", "P"), "PPM": ("RGB", "L"),
}  # fmt: skip
_HEAD = 200
_BOMB = zlib.compress(bytes(2**26), 9)
_TAGS = (256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 284, 296, 317, 320, 322, 323, 324, 325, 338, 339, 34665)


def subjects(folder: Path) -> tuple[Subject, ...]:
    """One for each format, and headers that lie."""
    warnings.simplefilter("error")  # as of Pillow's, which a command would print
    changed = tuple(
        Subject(kind, st.sampled_from(_written(kind)).flatmap(lambda data: bytes_changed(data, _HEAD)), _check, 100)
        for kind in FORMATS
    )
    return (*changed, Subject("chunks of PNG", _pngs(), _check, 100), Subject("tags of TIFF", _tiffs(), _check, 150))


def _check(_: Path, data: bytes) -> None:
    accepted(lambda: Preprocess(24, 16)(decoded(io.BytesIO(data), 0, "fuzzed")))


def _written(kind: str) -> list[bytes]:
    """An image of noise in each mode, as Pillow writes it, also compressed and progressive where there is that."""
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    ways: dict[str, list[dict[str, Any]]] = {
        "TIFF": [{"compression": c} for c in (None, "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate")],
        "JPEG": [{}, {"progressive": True}], "WEBP": [{}, {"lossless": True}],
    }  # fmt: skip
    files = []
    for mode in _MODES[kind]:
        image = (
            Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(noise).convert(mode)
        )
        for how in ways.get(kind, [{}]):
            file = io.BytesIO()
            image.save(file, kind, **how)
            files.append(file.getvalue())
    return files


@st.composite
def _pngs(draw: st.DrawFn) -> bytes:
    """A PNG of any size, depth and chunks, with checksums that are right."""
    side = st.one_of(st.integers(0, 20), st.sampled_from([0, 65_000, 10**6, 2**31 - 1, 2**32 - 1]))
    depth, colour = draw(st.sampled_from([1, 2, 4, 8, 16, 0, 255])), draw(st.sampled_from([0, 2, 3, 4, 6, 1, 255]))
    header = struct.pack(">IIBBBBB", draw(side), draw(side), depth, colour, 0, 0, draw(st.integers(0, 2)))
    rows = bytes(draw(st.sampled_from([0, 10, 1000, 2**21])))
    names = st.sampled_from(
        [b"IDAT", b"PLTE", b"tRNS", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fcTL", b"eXIf", b"abcd"]
    )
    chunks = [(b"IHDR", header), *draw(st.lists(st.tuples(names, st.binary(max_size=40)), max_size=4))]
    chunks.insert(draw(st.integers(0, len(chunks))), (b"IDAT", zlib.compress(rows, 9)))
    if draw(st.booleans()):
        chunks.append((b"zTXt", b"a\0\0" + _BOMB))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


@st.composite
def _tiffs(draw: st.DrawFn) -> bytes:
    """A TIFF whose tags say anything: sizes, depths, tiles, compressions, places."""
    value = st.one_of(st.integers(0, 300), st.sampled_from([2**16, 60_000, 2**31, 2**32 - 1]))
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 273: 8, 278: 16, 279: 256}
    tags |= draw(st.dictionaries(st.sampled_from(_TAGS), value, max_size=5))
    kinds, counts = st.sampled_from([4, 4, 4, 3, 1, 5, 12, 99]), st.sampled_from([1, 1, 1, 3, 2**31])
    entries = b"".join(struct.pack("<HHII", tag, draw(kinds), draw(counts), held) for tag, held in sorted(tags.items()))
    again = draw(st.sampled_from([0, 0, 8, 4]))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", again) + bytes(300)
