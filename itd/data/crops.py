"""Decoded crops on disk: what `--cache DIR` keeps, so that sweeps of the same images decode each of them once.

One file of crops as they are before they are normalised, 8 bits a value, in the order of the images, with holes where
none is there yet; beside it a stamp for each: size and time of the image's file then, and a checksum of both and the
crop. Any number of processes may read and write it: each writes the same bytes, the stamp last.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from itd.data.images import ImageSet
from itd.data.preprocess import Preprocess
from itd.errors import DataError, ItdWarning
from itd.files import write_atomic
from itd.text import one_line

_STAMP = struct.Struct("<qqqI4x")
"""size, time in ns, index + 1, checksum."""


@dataclass(frozen=True, eq=False)
class CropCache:
    """The crops of one image set by one preprocessing.

    base: the path of its files, without their endings. side_px: of a crop. broken: not empty once the disk has refused
    a write, after which nothing is written.
    """

    base: str
    side_px: int
    broken: list[bool] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, folder: str | Path, images: ImageSet, preprocess: Preprocess) -> CropCache | None:
        """The cache in a folder, made where it is not there; None of a set whose images are in no files.

        Raises DataError for a folder that cannot be made or written.
        """
        if images.stamp(0) is None:
            return None
        what = {
            "images": len(images),
            "source": images.place,
            "names_sha256": hashlib.sha256(b"\0".join(map(os.fsencode, images.names))).hexdigest(),
            "resize_px": preprocess.resize_px,
            "crop_px": preprocess.crop_px,
            "interpolation": preprocess.interpolation,
            "variation": preprocess.variation,
            "side_px": preprocess.side_px,
            "pillow": PIL.__version__,
            "libjpeg": features.version("jpg"),
        }
        text = json.dumps(what, indent=1, sort_keys=True)
        base = Path(folder) / f"crops-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(base.with_suffix(".json"), text + "\n", exclusive=True)
        except OSError as error:
            raise DataError(
                f"`cache={folder}` cannot be written: {one_line(error)}; give a folder that can be, or leave it out"
            ) from error
        return cls(str(base), preprocess.side_px)

    @property
    def crop_bytes(self) -> int:
        """Of one crop."""
        return 3 * self.side_px**2

    def crop(self, index: int, images: ImageSet, preprocess: Preprocess) -> np.ndarray:
        """(side_px, side_px, 3) uint8 of an image: read from here where its file is what it was, else decoded.

        Raises DataError as of `ImageSet.load`.
        """
        stamp = images.stamp(index)
        kept = None if stamp is None else self._read(index, stamp)
        if kept is not None:
            return kept
        pixels = preprocess.crop(images.load(index))
        if stamp is not None and stamp == images.stamp(index):
            self._write(index, stamp, pixels)
        return pixels

    def _read(self, index: int, stamp: tuple[int, int]) -> np.ndarray | None:
        """The crop that was kept of a file with this stamp; None where there is none that is whole."""
        try:
            known = _read_at(f"{self.base}.stamps", _STAMP.size, index)
            if len(known) < _STAMP.size or _STAMP.unpack(known)[:3] != (*stamp, index + 1):
                return None
            data = _read_at(f"{self.base}.bin", self.crop_bytes, index)
        except OSError:
            return None
        if len(data) < self.crop_bytes or _checksum(index, stamp, data) != _STAMP.unpack(known)[3]:
            return None
        return np.frombuffer(data, np.uint8).reshape(self.side_px, self.side_px, 3)

    def _write(self, index: int, stamp: tuple[int, int], pixels: np.ndarray) -> None:
        if self.broken:
            return
        data = np.ascontiguousarray(pixels).tobytes()
        try:
            _write_at(f"{self.base}.bin", data, index)
            _write_at(f"{self.base}.stamps", _STAMP.pack(*stamp, index + 1, _checksum(index, stamp, data)), index)
        except OSError as error:
            self.broken.append(True)
            warnings.warn(
                f"`cache` cannot be written any more ({one_line(error)}); the sweep goes on without what is not there",
                ItdWarning,
                stacklevel=2,
            )


def _checksum(index: int, stamp: tuple[int, int], data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<qqq", *stamp, index)))


def _read_at(path: str, size: int, index: int) -> bytes:
    """The bytes at a place of a file. By no mapping: a process dies where a mapped file lies on a disk that is full."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, size, size * index)
    finally:
        os.close(handle)


def _write_at(path: str, data: bytes, index: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], len(data) * index + done)
    finally:
        os.close(handle)
