"""The images that a result is of, opened again; refused where they are not the same. No network, and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.data.images import ImageSet
    from itd.store import Result


def open_originals(
    result: Result,
    data: str | Path | None,
    *,
    num_classes: int | None = None,
    weights_classes: int | None = None,
    classes_file: str | Path | None = None,
    labels_file: str | Path | None = None,
) -> ImageSet:
    """The images of a result, of all the data: `samples` are places in it.

    Args:
        result: of `itd.open_result`, a union too.
        data: as of `itd.data.open.open_images`, and so `classes_file` and `labels_file`: what the sweep was given.
        num_classes: what the user says; None is what the result says.
        weights_classes: what the weights were trained for, where neither says.

    Raises:
        ResultError: the result does not say which images it is of, or these are not those.
        DataError: for data that cannot be opened.
    """
    from itd.data.open import data_source, open_images

    if result.manifest is None:
        raise ResultError(
            f"{result.path} does not say which images it is of; give the folder that `itd sweep` wrote, not a file"
        )
    source = data_source(data)
    images = open_images(
        source,
        num_classes=num_classes or result.num_classes,
        weights_classes=weights_classes,
        classes_file=classes_file,
        labels_file=labels_file,
    )
    if images.fingerprint() != result.identity.get("data"):
        raise ResultError(
            f"the images of {source} are not those that {result.path} is of; give `data` what its `itd sweep` was given"
        )
    return images
