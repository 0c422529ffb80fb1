"""Batches of preprocessed images in the order asked for, decoded in this process or by workers."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from itd.data.images import ImageSet
from itd.data.preprocess import Preprocess
from itd.errors import DataError


@dataclass(frozen=True, eq=False)
class Batch:
    """n images.

    samples: (n,) int32, indices in the data set. pixels: (n, 3, H, W) float32 on the CPU. labels: (n,) int16.
    missing: (n,) bool; the pixels of a missing image are zeros.
    """

    samples: np.ndarray
    pixels: torch.Tensor
    labels: np.ndarray
    missing: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)


def batches(
    images: ImageSet,
    samples: np.ndarray,
    preprocess: Preprocess,
    *,
    batch_size: int,
    cuts: Sequence[int] = (),
    workers: int = 0,
    allow_missing: bool = False,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches of `samples`, in that order; the last may be smaller.

    samples: (n,) int32 indices into `images`. cuts: positions in `samples` that no batch reaches over.
    workers: processes that decode; 0 decodes in this one. allow_missing:
    an image that cannot be decoded is marked instead of stopping. pin_memory: for copies to a GPU.

    Raises DataError naming the first image (in the order of `samples`) that cannot be decoded.

    >>> from itd.data.digits import digits_images
    >>> from itd.data.preprocess import DIGITS_PREPROCESS
    >>> batch = next(batches(digits_images(), np.arange(10), DIGITS_PREPROCESS, batch_size=4))
    >>> batch.pixels.shape
    torch.Size([4, 3, 64, 64])
    """
    if batch_size < 1:
        raise DataError(f"--batch-size {batch_size} is not allowed; give a whole number of at least 1")
    if workers < 0:
        raise DataError(f"--workers {workers} is not allowed; give 0 to decode in this process, or more")
    samples = np.asarray(samples, dtype=np.int32)
    with warnings.catch_warnings():
        # More workers than cores is the user's choice, and can pay on a slow disk.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            _Decoded(images, samples, preprocess),
            batch_sampler=_ranges(len(samples), batch_size, cuts),
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
        )
        items = iter(loader)
    labels = images.labels[samples]
    start = 0
    for pixels, errors in _guarded(items, workers):
        if not allow_missing and any(errors):
            raise DataError(next(filter(None, errors)))
        part = slice(start, start + len(errors))
        start = part.stop
        yield Batch(samples[part], pixels, labels[part], np.array([error is not None for error in errors]))


def _ranges(count: int, batch_size: int, cuts: Sequence[int]) -> list[list[int]]:
    """Positions 0 to count - 1 as batches, each cut starting a new one."""
    edges = sorted({0, count, *cuts})
    return [
        list(range(first, min(first + batch_size, end)))
        for start, end in itertools.pairwise(edges)
        for first in range(start, end, batch_size)
    ]


def _guarded(items: Iterator[Any], workers: int) -> Iterator[Any]:
    """The items; a worker that was killed (most often for memory) becomes one line."""
    try:
        yield from items
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"one of {workers} processes that decode images died (out of memory, most often); pass fewer --workers"
        ) from error


class _Decoded(Dataset[tuple[torch.Tensor, "str | None"]]):
    """(pixels, error): an exception that crosses from a worker loses its type and gains a traceback; text does not."""

    def __init__(self, images: ImageSet, samples: np.ndarray, preprocess: Preprocess) -> None:
        self.images, self.samples, self.preprocess = images, samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, str | None]:
        try:
            return self.preprocess(self.images.load(int(self.samples[place]))), None
        except DataError as error:
            side = self.preprocess.side_px
            return torch.zeros(3, side, side), str(error)


def _collate(items: list[tuple[torch.Tensor, str | None]]) -> tuple[torch.Tensor, list[str | None]]:
    return torch.stack([pixels for pixels, _ in items]), [error for _, error in items]
