"""ImageNet's ReaL labels as another truth: every class that is in an image counts as right.

L. Beyer, O. J. Hénaff, A. Kolesnikov, X. Zhai, A. van den Oord, *Are we done with ImageNet?*, 2020: the published file
`real.json` has a list of labels for each of the 50,000 validation images, in the order of their numbers; an empty one
where the annotators agreed on none, and such images are left out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itd.analysis.scores import require_result
from itd.checked import BadJson, listing, read_json, whole
from itd.errors import ResultError
from itd.text import one_line

if TYPE_CHECKING:
    from itd.store import Result

REAL = "ReaL"
"""What `Result.truth` says."""
VALIDATION = 50_000
CLASSES = 1000
MOST_BYTES = 20_000_000
_LABELS = listing(listing(whole(0, CLASSES - 1), 0, CLASSES), VALIDATION, VALIDATION)
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")


def with_real_labels(result: Result, real_labels: str | Path) -> Result:
    """A result whose predictions are right where they are among an image's ReaL labels.

    A prediction that is right stands as the image's label, so that two right classes are one guess. The label is the
    result's own where it is right, else the lowest that is. Qualities are the stored ones with the bonus of a right
    prediction given anew. What guesses of the network would give is not known: results keep the rank of one label.

    Args:
        result: of `open_result`, of ImageNet's validation images under the names that they were published with.
        real_labels: the published `real.json`.

    Returns:
        The result, without the images that have no ReaL label.

    Raises:
        ResultError: what is given is no result, the file is not the published one, or the result does not say which
            images it is of.

    Example:
        >>> oracle(with_real_labels(open_result("results/resnet50-stride.parquet"), "real.json"))  # doctest: +SKIP
    """
    require_result(result, "with_real_labels")
    sets = _read(Path(real_labels))
    of = [sets[number - 1] for number in _numbers(result)]
    kept = np.array([bool(labels) for labels in of], bool)
    if not kept.any():
        raise ResultError(f"no image of {result.path} has a ReaL label; sweep more images")
    allowed = np.zeros((int(kept.sum()), CLASSES), bool)
    for row, labels in enumerate(labels for labels in of if labels):
        allowed[row, labels] = True
    own = result.labels[kept].astype(np.int64)
    samples = np.arange(len(own))
    labels = np.where(allowed[samples, own], own, allowed.argmax(1))
    pred = result.matrix("pred")[:, kept].astype(np.int64)
    right = allowed[samples, pred]
    likely = result.matrix("quality")[:, kept] - (pred == own)
    matrices = {
        "pred": np.where(right, labels, pred).astype(np.int16),
        "quality": (likely + right).astype(np.float32),
        "nll": result.matrix("nll")[:, kept],
        "confidence": result.matrix("confidence")[:, kept],
    }
    return replace(
        result,
        samples=result.samples[kept],
        labels=labels.astype(np.int16),
        truth=REAL,
        images_requested=result.images_requested - int((~kept).sum()),
        _kept=matrices,
    )


def _numbers(result: Result) -> list[int]:
    """The number of each sample among the 50,000, from 1."""
    names = result.names()
    if names is None:
        raise ResultError(
            f"{result.path} does not say which images it is of; give its `itd sweep` command again, which adds their "
            "names"
        )
    found = [_NUMBER.search(name) for name in names]
    strange = next((name for name, match in zip(names, found, strict=True) if match is None), None)
    if strange is not None:
        raise ResultError(
            f"{strange!r} of {result.path} is not named as ImageNet's validation images are (ILSVRC2012_val_00000001), "
            "which is how ReaL labels are found"
        )
    numbers = [int(match[1]) for match in found if match is not None]
    wrong = next((number for number in numbers if not 1 <= number <= VALIDATION), None)
    if wrong is not None:
        raise ResultError(
            f"{result.path} has image {wrong} of ImageNet's {VALIDATION:,}; its names are not the published"
        )
    return numbers


def _read(path: Path) -> list[list[int]]:
    """The labels of each image; ResultError for anything but the published file."""
    expected = f"expected the published real.json, a list of {VALIDATION:,} lists of labels"
    try:
        return read_json(path, _LABELS, name="images", most_bytes=MOST_BYTES)
    except (OSError, BadJson) as error:
        raise ResultError(f"cannot read `real_labels={path}` ({one_line(error)}); {expected}") from error
