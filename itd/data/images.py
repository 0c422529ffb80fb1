"""Which images there are, in which order, and their classes; each is decoded only when asked for.

Not for where they come from (open.py knows), preprocessing (preprocess.py) nor batches (loader.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
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
    int64. source: what the user called it. read: (index, name) -> PIL RGB image; it can be pickled. folder: that the
    files are in, None where there is none.
    """

    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    sizes_bytes: np.ndarray
    source: str
    read: Callable[[int, str], Image.Image]
    folder: str | None = None

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

    def content(self, index: int) -> bytes:
        """The bytes of the image's file, or those of its pixels where the set has no files; DataError as of `load`."""
        of_file = getattr(self.read, "content", None)
        return of_file(index, self.names[index]) if of_file is not None else self.load(index).tobytes()

    def stamp(self, index: int) -> tuple[int, int] | None:
        """(size in bytes, time of the last change in ns) of the image's file; None where it has none, or is gone."""
        of_file = getattr(self.read, "stamp", None)
        try:
            return None if of_file is None else of_file(index, self.names[index])
        except OSError:
            return None

    @property
    def place(self) -> str:
        """Where the images are, whatever the user called it."""
        return os.path.realpath(self.folder or self.source)

    def is_gone(self) -> bool:
        """Whether the folder that the images are in is not there any more, or has nothing in it: a lost mount."""
        if self.folder is None:
            return False
        try:
            with os.scandir(self.folder) as entries:
                return next(entries, None) is None
        except OSError:
            return True

    def fingerprint(self, sizes_bytes: Mapping[int, int] | None = None) -> str:
        """SHA-256 over relative paths, sizes in bytes and the class map: what a result's identity calls the data.

        sizes_bytes: index -> the size of a file that was another one before.
        """
        digest = hashlib.sha256()
        sizes = self.sizes_bytes.copy()
        for index, size in (sizes_bytes or {}).items():
            sizes[index] = size
        for name, label, size in zip(self.names, self.labels.tolist(), sizes.tolist(), strict=True):
            digest.update(os.fsencode(name) + f"\0{label}\0{size}\n".encode())
        digest.update(b"\0classes\0" + b"\0".join(os.fsencode(name) for name in self.class_names))
        return digest.hexdigest()


CLASS_SPREAD, PATH = ORDERS = ("class-spread", "path")
"""How selected images can be ordered."""


def select(labels: np.ndarray, every: int = 1, limit: int | None = None, order: str = CLASS_SPREAD) -> np.ndarray:
    """Sample ids (n,) int32: each `every`-th image in the order of paths, put in `order`, then the first `limit`.

    Args:
        labels: (N,) of all images, in the order of their paths.
        every: of the images, before anything else.
        limit: None takes all.
        order: class-spread takes the first image of every class, classes in the order of labels, before the second of
            any, so that a limit leaves out as few classes as it can; path leaves the order as it is.

    Raises:
        DataError: for a number below 1, or another order.

    Example:
        >>> select(np.array([0, 0, 0, 1, 1, 2]), limit=4).tolist()
        [0, 3, 5, 1]
    """
    if every < 1:
        raise DataError(f"`every={every}` is not allowed; give a whole number of at least 1")
    if limit is not None and limit < 1:
        raise DataError(f"`limit={limit}` is not allowed; give a whole number of at least 1, or leave it out for all")
    if order not in ORDERS:
        raise DataError(f"no such `order`: {order!r}; the orders are {', '.join(ORDERS)}")
    samples = np.arange(0, len(labels), every, dtype=np.int32)
    return (_spread(samples, np.asarray(labels)[samples]) if order == CLASS_SPREAD else samples)[:limit]


def _spread(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) samples by their place within their class, then by class."""
    by_class = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(samples), np.int64)
    place[by_class] = np.arange(len(samples)) - first
    return samples[np.lexsort((labels, place))]
