"""The embedded data set: the 1,797 real handwritten digits that scikit-learn ships, drawn at known scales.

Deterministic: no random numbers. The first 1,437 are for training, all at one scale; the last 360, by other writers,
are for evaluation, at scales that vary.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from itd.data.images import ImageSet
from itd.errors import DataError

DIGITS = "digits"
DIGITS_ONE_SCALE = "digits-one-scale"
"""The evaluation digits, all at the scale of training."""
CANVAS_PX = 64
TRAIN_PX = 32
SPLITS = ("train", "eval", "train-scale-eval")
_TRAIN_COUNT = 1437
_RECIPE = "digits-v1"


@dataclass(frozen=True, eq=False)
class DigitsReader:
    """canvases: (N, 64, 64) uint8."""

    canvases: np.ndarray

    def __call__(self, index: int, name: str) -> Image.Image:
        return Image.fromarray(self.canvases[index]).convert("RGB")


def digits_images(split: str = "eval") -> ImageSet:
    """The digits of one split, each centred on a 64 x 64 black canvas.

    split: "train" (1,437 digits at 32 px), "eval" (the other 360 at 12 to 60 px) or "train-scale-eval" (those 360 at
    32 px, for the accuracy at the scale of training).

    >>> digits_images("eval").load(0).size
    (64, 64)
    """
    if split not in SPLITS:
        raise DataError(f"no such split of the digits: {split!r}; the splits are {', '.join(SPLITS)}")
    grey, digits = _scikit_learns()
    rows = range(_TRAIN_COUNT) if split == "train" else range(_TRAIN_COUNT, len(grey))
    sizes = [eval_px(row - _TRAIN_COUNT) if split == "eval" else TRAIN_PX for row in rows]
    canvases = np.stack([_draw(grey[row], px) for row, px in zip(rows, sizes, strict=True)])
    labels = digits[rows.start : rows.stop].astype(np.int16)
    return ImageSet(
        names=[
            f"{_RECIPE}/{split}/{label}/{row:04d}-{px}px" for row, px, label in zip(rows, sizes, labels, strict=True)
        ],
        labels=labels,
        class_names=tuple("0123456789"),
        sizes_bytes=np.full(len(rows), CANVAS_PX * CANVAS_PX, dtype=np.int64),
        source=DIGITS,
        read=DigitsReader(canvases),
    )


@functools.cache
def _scikit_learns() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 pictures and (1797,) labels; read once, as parsing their text takes longer than all else."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target


def eval_px(index: int) -> int:
    """The side of evaluation digit `index`: 12 to 60 px, neighbours far apart, so that the first few are spread too.

    >>> [eval_px(i) for i in range(5)]
    [12, 42, 23, 53, 34]
    """
    return 12 + index * 30 % 49


def _draw(digit: np.ndarray, px: int) -> np.ndarray:
    """digit: (8, 8) uint8 -> (64, 64) uint8, `px` wide in the middle."""
    canvas = np.zeros((CANVAS_PX, CANVAS_PX), dtype=np.uint8)
    start = (CANVAS_PX - px) // 2
    drawn = Image.fromarray(digit).resize((px, px), Image.Resampling.BILINEAR)
    canvas[start : start + px, start : start + px] = np.asarray(drawn)
    return canvas
