"""The one place that knows every source of images: what a name or a path stands for, and opening it."""

from __future__ import annotations

import os
from pathlib import Path

from itd.data.cifar import cifar_images, cifar_of
from itd.data.digits import DIGITS, DIGITS_ONE_SCALE, digits_images
from itd.data.folder import folder_images
from itd.data.images import ImageSet
from itd.errors import DataError


def open_images(
    data: str | Path | None = None,
    *,
    num_classes: int | None = None,
    weights_classes: int | None = None,
    classes_file: str | Path | None = None,
    split: str = "eval",
) -> ImageSet:
    """The images of a source.

    Args:
        data: a folder with one folder per class, "digits" (at many scales), "digits-one-scale", CIFAR-10 as published
            (a folder with it, or "cifar10" to fetch it), or None for $ITD_DATA and, without it, the digits.
        num_classes: what the user says.
        weights_classes: what the weights were trained for; `num_classes` goes before it.
        classes_file: one folder name per line in label order.
        split: which of the digits (see `digits_images`), or of CIFAR-10: "train", or else its test images.

    Raises:
        DataError: for a source that is absent, or whose classes are not those that are asked for.

    Example:
        >>> len(open_images("digits"))
        360
    """
    source = data_source(data)
    classes = num_classes or weights_classes
    if is_digits(source):
        _check_digits(classes, classes_file)
        return digits_images("train-scale-eval" if source == DIGITS_ONE_SCALE else split)
    cifar = cifar_of(source)
    if cifar is not None:
        if (classes or cifar.classes) != cifar.classes or classes_file is not None:
            raise DataError(
                f"{cifar.name} has its {cifar.classes} classes, but `num_classes` or the weights say {classes}, or "
                f"`classes_file` names others; pass weights for {cifar.classes} classes, and no `classes_file`"
            )
        return cifar_images(source, split)
    return folder_images(source, num_classes=classes, classes_file=classes_file)


def data_source(data: str | Path | None = None) -> str:
    """What a source is called: as given, else $ITD_DATA, else the embedded digits."""
    return str(data or os.environ.get("ITD_DATA") or DIGITS)


def is_digits(data: str | Path | None) -> bool:
    """Whether a source is the embedded digits."""
    return str(data) in (DIGITS, DIGITS_ONE_SCALE)


def _check_digits(num_classes: int | None, classes_file: str | Path | None) -> None:
    if classes_file is not None:
        raise DataError(
            "`classes_file` is for folders of images; the embedded digits have their ten classes: leave it out"
        )
    if num_classes not in (None, 10):
        raise DataError(
            f"the embedded digits have 10 classes, but `num_classes` or the weights ask for {num_classes}; "
            "pass `data=DIR`, or leave `weights` out to train on the digits"
        )
