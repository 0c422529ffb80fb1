"""One set of images, written in every form that they are read from."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(seed: int, side: int = 40, kind: str = "PNG") -> bytes:
    """The bytes of an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind)
    return held.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of the bytes of an image."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def write_folder(root: Path, items: Iterable[tuple[str, bytes]]) -> Path:
    """items: (path, content)."""
    for path, content in items:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def write_labels(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("path", "label")) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes | str]]) -> Path:
    """members: (name, content)."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            held = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    return path
