"""The one place that knows every source of images: what a name or a path stands for, and opening it."""

from __future__ import annotations

import os
from pathlib import Path

from itd.data.cifar import cifar_images, cifar_of, fetched
from itd.data.digits import DIGITS, DIGITS_ONE_SCALE, digits_images
from itd.data.folder import folder_images
from itd.data.hf import hf_images, is_hf, library_for
from itd.data.images import ImageSet
from itd.data.labels import labelled_images, read_label_lines
from itd.data.shards import is_shards, shard_images, shard_paths
from itd.errors import DataError


def open_images(
    data: str | Path | None = None,
    *,
    num_classes: int | None = None,
    weights_classes: int | None = None,
    classes_file: str | Path | None = None,
    labels_file: str | Path | None = None,
    split: str = "eval",
    own_classes: bool = False,
) -> ImageSet:
    """The images of a source.

    Args:
        data: a folder with one folder per class; a folder whose images `labels_file` lists; tar shards with
            WebDataset's keys ("x.tar", "shards-{000..063}.tar"); a data set of the library `datasets` ("hf:NAME",
            "hf:NAME:SPLIT", or a folder that it saved to disk); CIFAR-10 or CIFAR-100 as published (a folder with it,
            or "cifar10", "cifar100" to fetch it); "digits" (at many scales), "digits-one-scale"; or None for $ITD_DATA
            and, without it, the digits.
        num_classes: what the user says.
        weights_classes: what the weights were trained for; `num_classes` goes before it.
        classes_file: one class name per line in label order.
        labels_file: a CSV file with the header path,label.
        split: which of the digits (see `digits_images`); "train" for training images where the source has some of its
            own, else its images for evaluation.
        own_classes: where nobody says how many classes there are, as many as the images have, not ImageNet's 1000.

    Raises:
        DataError: for a source that is absent, or whose classes are not those that are asked for.

    Example:
        >>> len(open_images("digits"))
        360
    """
    source = data_source(data)
    check_source(source, labels_file)
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
    if labels_file is not None:
        return labelled_images(
            source, labels_file, num_classes=classes, classes_file=classes_file, own_classes=own_classes
        )
    if is_hf(source):
        return hf_images(
            source, num_classes=classes, classes_file=classes_file, own_classes=own_classes, train=split == "train"
        )
    opened = shard_images if is_shards(source) else folder_images
    return opened(source, num_classes=classes, classes_file=classes_file, own_classes=own_classes)


def data_source(data: str | Path | None = None) -> str:
    """What a source is called: as given, else $ITD_DATA, else the embedded digits."""
    return str(data or os.environ.get("ITD_DATA") or DIGITS)


def is_digits(data: str | Path | None) -> bool:
    """Whether a source is the embedded digits."""
    return str(data) in (DIGITS, DIGITS_ONE_SCALE)


def check_source(data: str, labels_file: str | Path | None = None) -> None:
    """What can be told of a source at once, before weights are made. data: as of `data_source`; a CIFAR is fetched.

    Raises DataError for one that is not there, and for a list of labels that cannot be read or that it does not take.
    """
    if labels_file is not None:
        knows = _knows_its_labels(data)
        if knows:
            raise DataError(
                f"`labels_file={labels_file}` is for a folder of images, and {knows}; leave `labels_file` out, or give "
                "`data=DIR`"
            )
        read_label_lines(Path(labels_file))
    if is_digits(data):
        return
    cifar = cifar_of(data)
    if cifar is not None:
        if data == cifar.key:
            fetched(cifar)
    elif is_hf(data):
        library_for(data)
    elif is_shards(data):
        shard_paths(data)
    elif not Path(data).is_dir():
        folder_images(data, num_classes=None)  # which says what is wrong with it


def _knows_its_labels(data: str) -> str | None:
    """Why a source takes no list of labels, for a message; None for a folder."""
    if is_digits(data):
        return "the embedded digits have their labels"
    cifar = cifar_of(data)
    if cifar is not None:
        return f"{cifar.name} has its labels"
    if is_shards(data):
        return f"`data={data}` has a .cls for each image"
    return f"`data={data}` has a column of labels" if is_hf(data) else None


def _check_digits(num_classes: int | None, classes_file: str | Path | None) -> None:
    if classes_file is not None:
        raise DataError(
            "`classes_file` is for images of your own; the embedded digits have their ten classes: leave it out"
        )
    if num_classes not in (None, 10):
        raise DataError(
            f"the embedded digits have 10 classes, but `num_classes` or the weights ask for {num_classes}; "
            "pass `data=DIR`, or leave `weights` out to train on the digits"
        )
