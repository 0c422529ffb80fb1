"""Which images there are, in which order, and their classes; each is decoded only when asked for.

Not for where they come from (folder.py, digits.py, cifar10.py, dataset.py), preprocessing (preprocess.py) nor batches
(loader.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from itd.errors import DataError

MAX_CLASSES = 32_767
"""`label` is stored as int16."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images in a fixed order with their classes.

    names: N relative paths. labels: (N,) int16. class_names: K names, in the order of the labels. sizes_bytes: (N,)
    int64. source: what the user called it. read: (index, name) -> PIL RGB image; it can be pickled.
    """

    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    sizes_bytes: np.ndarray
    source: str
    read: Callable[[int, str], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """(image, label), as a map-style data set gives them."""
        return self.load(index), int(self.labels[index])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def load(self, index: int) -> Image.Image:
        """The image as RGB; raises DataError naming the file where it cannot be decoded."""
        return self.read(index, self.names[index])

    def fingerprint(self) -> str:
        """SHA-256 over relative paths, sizes in bytes and the class map: what a result's identity calls the data."""
        digest = hashlib.sha256()
        for name, label, size in zip(self.names, self.labels.tolist(), self.sizes_bytes.tolist(), strict=True):
            digest.update(os.fsencode(name) + f"\0{label}\0{size}\n".encode())
        digest.update(b"\0classes\0" + b"\0".join(os.fsencode(name) for name in self.class_names))
        return digest.hexdigest()


def select(n_total: int, every: int = 1, limit: int | None = None) -> np.ndarray:
    """Sample ids (n,) int32: each `every`-th of `n_total` images, then the first `limit` of those.

    >>> select(10, every=3, limit=2).tolist()
    [0, 3]
    """
    if every < 1:
        raise DataError(f"`every={every}` is not allowed; give a whole number of at least 1")
    if limit is not None and limit < 1:
        raise DataError(f"`limit={limit}` is not allowed; give a whole number of at least 1, or leave it out for all")
    return np.arange(0, n_total, every, dtype=np.int32)[:limit]
