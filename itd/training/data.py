"""Training images: augmented, in an order and with random numbers that depend only on seed, epoch and image.

So a run that is stopped and goes on sees the same pixels, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import transforms

from itd.data.cifar import CIFAR10_PREPROCESS, CIFAR100_PREPROCESS
from itd.data.digits import DIGITS
from itd.data.images import ImageSet
from itd.data.open import is_digits, open_images
from itd.data.preprocess import Preprocess
from itd.data.processes import items_of
from itd.errors import DataError

DIGITS_SHIFT_PX = 4
CIFAR_PAD_PX = 4


def training_images(data: str, **known: Any) -> ImageSet:
    """The images to train on: of the digits, CIFAR as published and a data set of `datasets` their training split.

    known: num_classes, weights_classes, classes_file, labels_file, own_classes of `open_images`. Raises DataError for
    evaluation images.
    """
    if data != DIGITS and is_digits(data):
        raise DataError(f"`data={data}` holds only evaluation images; train on digits")
    return open_images(data, split="train", **known)


@dataclass(frozen=True)
class Augment:
    """What is done to a training image before the network sees it.

    preprocess: crop size and normalisation. shift_px: move by at most as many pixels and leave it at that, as for the
    digits. pad_px: a black border of so many pixels, a random crop, and a mirror image half of the time, as is standard
    for CIFAR. With neither, the standard augmentation of ImageNet's weights: a random crop of 8 to 100% of the area,
    resized, and a mirror image half of the time.
    """

    preprocess: Preprocess
    shift_px: int | None = None
    pad_px: int | None = None

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """image: RGB -> pixels: (3, crop_px, crop_px) float32."""
        side = self.preprocess.crop_px
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.shift_px is not None:
                shift = torch.randint(-self.shift_px, self.shift_px + 1, (2,)).tolist()
                return torch.roll(self.preprocess(image), shift, (1, 2))
            if self.pad_px is not None:
                image = transforms.RandomHorizontalFlip()(transforms.RandomCrop(side, self.pad_px)(self._square(image)))
                return Preprocess(None, side, self.preprocess.mean, self.preprocess.std)(image)
            crop = transforms.RandomResizedCrop(side, antialias=True)
            image = transforms.RandomHorizontalFlip()(crop(image))
        return Preprocess(None, side, self.preprocess.mean, self.preprocess.std)(image)

    def _square(self, image: Image.Image) -> Image.Image:
        """The image as large as the network sees it."""
        side = self.preprocess.crop_px
        return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)


def augmentation(data: str, preprocess: Preprocess) -> Augment:
    """What is usual for the images: a shift for the digits, padding for CIFAR's preprocessing, else ImageNet's."""
    if is_digits(data):
        return Augment(preprocess, shift_px=DIGITS_SHIFT_PX)
    cifar = preprocess in (CIFAR10_PREPROCESS, CIFAR100_PREPROCESS)
    return Augment(preprocess, pad_px=CIFAR_PAD_PX if cifar else None)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images to train on. epoch_images: of each epoch, only the first as many of its order."""

    images: ImageSet
    augment: Augment
    seed: int = 0
    epoch_images: int | None = None

    def steps(self, batch_size: int, ranks: int = 1) -> int:
        """How many batches an epoch has; an incomplete one is dropped. DataError where there is none."""
        images = min(len(self.images), self.epoch_images or len(self.images))
        if images // (batch_size * ranks) == 0:
            raise DataError(
                f"{images} training images are fewer than one batch of {batch_size}"
                f"{f' on each of {ranks} processes' if ranks > 1 else ''}; give more images, or a smaller `batch_size`"
            )
        return images // (batch_size * ranks)

    def epoch(
        self, number: int, batch_size: int, *, rank: int = 0, ranks: int = 1, workers: int = 0, pin_memory: bool = False
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """(pixels: (batch, 3, H, W) float32, labels: (batch,) int64) of one epoch, for one of several processes."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.images))
        steps = self.steps(batch_size, ranks)
        chosen = order[: steps * batch_size * ranks].reshape(steps, ranks, batch_size)[:, rank]
        items = items_of(
            _Augmented(self, number),
            workers=workers,
            pin_memory=pin_memory,
            batch_sampler=chosen.tolist(),
            collate_fn=_collate,
            generator=torch.Generator(),  # or it would draw from the generator that dropout uses
        )
        with contextlib.closing(items) as batches:
            for batch in batches:
                if isinstance(batch, str):
                    raise DataError(batch)
                yield batch


def _collate(items: list[tuple[Tensor, int] | str]) -> Any:
    """(pixels, labels), or why the first image that cannot be had cannot."""
    return next((item for item in items if isinstance(item, str)), None) or default_collate(items)


class _Augmented(Dataset["tuple[Tensor, int] | str"]):
    """Pixels and label; a text where they cannot be had, as an error that crosses from a worker gains a traceback."""

    def __init__(self, training: TrainingSet, epoch: int) -> None:
        self.training, self.epoch = training, epoch

    def __len__(self) -> int:
        return len(self.training.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        seed = random_seed(self.training.seed, self.epoch, index)
        try:
            pixels = self.training.augment(self.training.images.load(index), seed)
        except DataError as error:
            return str(error)
        return pixels, int(self.training.images.labels[index])


def random_seed(*parts: int) -> int:
    """A seed that depends on all of these numbers.

    >>> random_seed(0, 1) == random_seed(0, 1) != random_seed(1, 0)
    True
    """
    state: Any = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1
