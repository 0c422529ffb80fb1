"""What the files of a data set contain, as one hash: names and sizes alone do not show that a file was replaced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from itd.data.images import ImageSet

_AHEAD = 64
"""Files that are read before the first of them is needed: their bytes are not kept."""


def contents_sha256(
    images: ImageSet, step: Callable[[int], Any] | None = None, *, instead: Mapping[int, str] | None = None
) -> str:
    """SHA-256 over the contents of all images, in their order.

    instead: index -> the SHA-256 of a file that was another one before. step: called with how many were just read.
    Raises DataError for a file that cannot be read.
    """
    whole = hashlib.sha256()
    for index, digest in enumerate(_digests(images)):
        whole.update(bytes.fromhex((instead or {}).get(index, digest)))
        if step is not None:
            step(1)
    return whole.hexdigest()


def content_sha256(images: ImageSet, index: int) -> str:
    """SHA-256 of the bytes of one image's file; of its pixels where it has no file of its own."""
    return hashlib.sha256(images.content(index)).hexdigest()


def _digests(images: ImageSet) -> Iterator[str]:
    """`content_sha256` of each image, in order, by a few threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        indices = iter(range(len(images)))
        pending = [pool.submit(content_sha256, images, index) for index in islice(indices, _AHEAD)]
        while pending:
            first = pending.pop(0)
            for index in islice(indices, 1):
                pending.append(pool.submit(content_sha256, images, index))
            yield first.result()
