"""Which classes there are and in which order: the rules that every source of a user's own images keeps to.

Not for what one image is labelled: that is its source's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from itd.checked import BadFile, read_lines
from itd.data.images import MAX_CLASSES
from itd.errors import DataError
from itd.text import listed, one_line

IMAGENET_CLASSES = 1000


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k in class order."""
    return tuple(resources.files("itd.data").joinpath("imagenet_wnids.txt").read_text("ascii").split())


def is_numbered_imagenet(folders: Sequence[str], num_classes: int | None, classes_file: str | Path | None) -> bool:
    """Whether folders are those of ImageNet-V2: named 0 to 999, each by its label, where there are 1000 classes."""
    if classes_file is not None or num_classes not in (None, IMAGENET_CLASSES):
        return False
    return all(
        folder.isdecimal() and folder == str(int(folder)) and int(folder) < IMAGENET_CLASSES for folder in folders
    )


def named_classes(
    found: Sequence[str],
    num_classes: int | None,
    classes_file: str | Path | None,
    *,
    where: str,
    kind: str = "names",
    own_classes: bool = False,
) -> tuple[str, ...]:
    """The K class names in label order, where the images say their class by its name.

    Args:
        found: the names that the images have, each once, in the order that they are numbered in where nothing else
            says how.
        num_classes: what the user or the weights say; None is 1000, of which `found` must be WordNet ids.
        classes_file: one name per line, in label order; it goes before everything else.
        where: what holds the images. kind: what the names are of it.
        own_classes: None for `num_classes` is as many as are found.

    Raises:
        DataError: for names that are no class, and for another number of them.
    """
    if classes_file is not None:
        names = read_classes(Path(classes_file), num_classes)
        _refuse_strangers(where, kind, found, names, f"the {len(names)} classes of {classes_file}", "mend the list")
        return names
    count = _count(num_classes, len(found) if own_classes else IMAGENET_CLASSES)
    if count == IMAGENET_CLASSES:
        names = imagenet_wnids()
        advice = f"pass `num_classes={len(found)}` for data other than ImageNet, or `classes_file=FILE`"
        _refuse_strangers(where, kind, found, names, "the 1000 WordNet ids of ImageNet (such as n01440764)", advice)
        return names
    if len(found) != count:
        raise DataError(
            f"{where} has {len(found)} class {kind} ({listed(found, quoted=True)}), but there are {count} classes; "
            f"pass `num_classes={len(found)}`, or `classes_file=FILE` with all {count} names where only some are there"
        )
    return tuple(found)


def numbered_classes(
    labels: np.ndarray,
    num_classes: int | None,
    classes_file: str | Path | None,
    *,
    where: Callable[[int], str],
    own_classes: bool = False,
) -> tuple[str, ...]:
    """The K class names in label order, where the images say their class by its number: labels, (N,) int.

    where: what a message calls the i-th image. Other arguments as of `named_classes`. Without a list, of 1000 classes
    the names are ImageNet's WordNet ids, else the numbers. Raises DataError where a label is none of the classes.
    """
    if classes_file is not None:
        names = read_classes(Path(classes_file), num_classes)
    else:
        count = _count(num_classes, int(labels.max(initial=0)) + 1 if own_classes else IMAGENET_CLASSES)
        names = imagenet_wnids() if count == IMAGENET_CLASSES else tuple(str(label) for label in range(count))
    check_labels(labels, len(names), where)
    return names


def check_labels(labels: np.ndarray, count: int, where: Callable[[int], str]) -> None:
    """DataError for the first label, of (N,), that is none of `count` classes. where: as of `numbered_classes`."""
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise DataError(
            f"{where(int(wrong[0]))} has the label {labels[wrong[0]]}; allowed are 0 to {count - 1}, as there are "
            f"{count} classes by `num_classes`, the weights or `classes_file`: mend the label, or pass `num_classes=K`"
        )


def _count(num_classes: int | None, otherwise: int) -> int:
    count = otherwise if num_classes is None else num_classes
    if not 1 <= count <= MAX_CLASSES:
        raise DataError(f"`num_classes={count}` is not allowed; give a whole number from 1 to {MAX_CLASSES}")
    return count


def _refuse_strangers(
    where: str, kind: str, found: Sequence[str], names: Sequence[str], what: str, advice: str
) -> None:
    known = set(names)
    strangers = [name for name in found if name not in known]
    if strangers:
        is_are = "is" if len(strangers) == 1 else "are"
        raise DataError(
            f"{listed(strangers, quoted=True)} in {where} {is_are} not among {what}: {len(strangers)} of {len(found)} "
            f"{kind}; remove what is no class, or {advice}"
        )


def read_classes(path: Path, count: int | None) -> tuple[str, ...]:
    """The names of a list of classes, one per line, of which there have to be `count`, if anybody says how many."""
    try:
        names = tuple(read_lines(path))
    except (OSError, BadFile) as error:
        raise DataError(
            f"cannot read `classes_file={path}`: {one_line(error)}; expected one class name per line"
        ) from error
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise DataError(
            f"`classes_file={path}` names {listed(twice, quoted=True)} more than once; each class has one line"
        )
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"`classes_file={path}` names {len(names)} classes; expected one class name per line, 1 to {MAX_CLASSES}"
        )
    if count is not None and len(names) != count:
        raise DataError(
            f"`classes_file={path}` names {len(names)} classes, but `num_classes` or the weights say {count}; list all "
            "of them, in label order"
        )
    return names
