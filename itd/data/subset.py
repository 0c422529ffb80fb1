"""Which of a network's classes it chooses among: all of them, or those that a data set of fewer classes has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itd.checked import BadFile, read_lines
from itd.data.images import ImageSet
from itd.errors import DataError
from itd.text import one_line, shorten

ALL, PRESENT = "all", "present"


def class_subset(asked: str, images: ImageSet) -> tuple[int, ...] | None:
    """The labels of the classes that a network chooses among, ascending; None for all that there are.

    Args:
        asked: "all"; "present", the classes that the whole set has images of; or a file with a class on each line, by
            its name or by its label.
        images: the whole set.

    Raises:
        DataError: for a file that cannot be read or names what is no class, and for an image of another class.
    """
    if asked == ALL:
        return None
    if asked == PRESENT:
        chosen = {int(label) for label in np.unique(images.labels)}
    else:
        chosen = _listed(Path(asked), images.class_names)
        strange = np.flatnonzero(~np.isin(images.labels, sorted(chosen)))
        if len(strange):
            at = int(strange[0])
            label = int(images.labels[at])
            raise DataError(
                f"{images.names[at]} is of class {label} ({images.class_names[label]}), which "
                f"`class_subset={asked}` leaves out; add it, or leave out the images of {len(strange)} others such"
            )
    return None if len(chosen) == images.num_classes else tuple(sorted(chosen))


def kept_mask(subset: tuple[int, ...] | None, num_classes: int) -> np.ndarray | None:
    """(K,) bool of a subset of K classes, None for all of them."""
    if subset is None:
        return None
    mask = np.zeros(num_classes, bool)
    mask[list(subset)] = True
    return mask


def _listed(path: Path, names: tuple[str, ...]) -> set[int]:
    try:
        lines = read_lines(path)
    except (OSError, BadFile) as error:
        raise DataError(
            f"cannot read `class_subset={path}` ({one_line(error)}); allowed are {ALL}, {PRESENT} and a file with a "
            "class on each line"
        ) from error
    place = {name: label for label, name in enumerate(names)}
    chosen = set()
    for line in lines:
        label = place.get(line, int(line) if line.isdecimal() else -1)
        if not 0 <= label < len(names):
            raise DataError(
                f"`class_subset={path}` lists {shorten(repr(line))}, which is no class; allowed are the {len(names)} "
                f"classes' names (such as {names[0]}) and 0 to {len(names) - 1}"
            )
        chosen.add(label)
    if not chosen:
        raise DataError(f"`class_subset={path}` lists no class; give one on each line")
    return chosen
