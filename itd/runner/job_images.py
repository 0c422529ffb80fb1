"""The images of a sweep as one job has them: as the network gets them, what they are called, and which are selected.

Not here: how a data set is read (`itd.data`), and what was typed to name it (`request`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from itd.data.dataset import DatasetImages, class_names_of, dataset_length, read_item, read_labels
from itd.data.images import CLASS_SPREAD, ImageSet, select
from itd.data.loader import Pixels, Shape, digest
from itd.data.transforms import fields_of
from itd.store import ImageNames

FINGERPRINT_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class JobImages:
    """The images of a job.

    pixels: as the network gets them, their shape known. identity: of the data, as a result's identity has it: data,
    every, preprocess, variation. source: what a result calls them. class_names: in label order, or none. limit, order:
    of the selected ones, as of `select`. class_subset: as of `itd.data.subset`. assumed: the fields of the
    preprocessing that nobody said, neither the weights nor the user.
    """

    pixels: Pixels
    identity: Mapping[str, Any]
    source: str
    class_names: tuple[str, ...] = ()
    limit: int | None = None
    order: str = CLASS_SPREAD
    assumed: tuple[str, ...] = ()
    class_subset: tuple[int, ...] | None = None

    @cached_property
    def samples(self) -> np.ndarray:
        """(N,) int32, the selected ones in their order."""
        return select(self.labels, self.identity["every"], self.limit, self.order)

    @property
    def classes(self) -> int:
        """How many classes the selected ones are of."""
        return len(np.unique(self.labels[self.samples]))

    @property
    def data_classes(self) -> int:
        """How many classes all images are of."""
        return len(np.unique(self.labels))

    @property
    def labels(self) -> np.ndarray:
        """(all images,) int16."""
        return self.pixels.images.labels

    @property
    def known_names(self) -> ImageNames:
        """What a result keeps of the images' names: an `ImageSet` has them, any other data set has none."""
        images = self.pixels.images
        held = images.dataset if isinstance(images, DatasetImages) else images
        return ImageNames(held.names if isinstance(held, ImageSet) else (), self.labels, self.class_names)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of every image."""
        assert self.pixels.shape is not None
        return self.pixels.shape


def dataset_images(
    images: Any,
    preprocess: Callable[[Any], Any] | None,
    *,
    fingerprint: str | None = None,
    labels: Any = None,
    class_names: Any = None,
    limit: int | None = None,
) -> JobImages:
    """A map-style data set as a job's images. Arguments and errors as of `SweepJob`."""
    count = dataset_length(images)
    held = DatasetImages(
        images, _labels(images, labels, count), class_names_of(images, class_names), type(images).__name__
    )
    read = Pixels(held, preprocess)
    chosen = [0] if fingerprint is not None else np.linspace(0, count - 1, min(FINGERPRINT_SAMPLES, count)).astype(int)
    first = read[0]
    shape: Shape = (first.shape[0], first.shape[1], first.shape[2])
    again = Pixels(held, preprocess, shape, {0: digest(first)})
    digests = {int(i): digest(again[int(i)]) for i in chosen}
    known = fields_of(preprocess)
    identity = {
        "data": fingerprint or _fingerprint(held.labels, digests),
        "every": 1,
        "preprocess": None if known is None else known.identity(),
        "variation": None if known is None else known.variation,
    }
    return JobImages(Pixels(held, preprocess, shape, digests), identity, held.source, held.class_names, limit)


def _fingerprint(labels: np.ndarray, digests: Mapping[int, str]) -> str:
    found = hashlib.sha256(json.dumps([len(labels), sorted(digests.items())]).encode())
    found.update(labels.astype("<i2").tobytes())
    return found.hexdigest()


def _labels(images: Any, labels: Any, count: int) -> np.ndarray:
    """(N,) int16, with a bar on a terminal where every item has to be read for it."""
    from tqdm import tqdm

    read_item(images, 0)  # what is no data set of (image, label) says so before anything is read for long
    with tqdm(total=count, desc="reading labels", unit="img", leave=False, disable=None) as bar:
        for step in read_labels(images, labels):
            if isinstance(step, np.ndarray):
                return step
            bar.update(step - bar.n)
    raise AssertionError("read_labels ends with the labels")
