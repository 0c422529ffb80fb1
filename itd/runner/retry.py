"""Images that cannot be decoded: finding them before a sweep, and going on once their files were replaced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from itd.data.contents import content_sha256, contents_sha256
from itd.data.images import ImageSet
from itd.data.loader import UNDECODABLE, Problem, stream
from itd.errors import DataError, ItdWarning
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions, missing_limit
from itd.store import OF_DATA, MissingImage, identity_there, noted_there, unscored_there
from itd.text import visible
from itd.weights.prepare import OnPrepare


def find_problems(
    job: SweepJob, *, workers: int = 0, batch_size: int = 32, step: Callable[[int], Any] | None = None
) -> list[Problem]:
    """Reads and decodes every selected image of a job; the problems there are, in the order of the selection.

    step: called with how many images were just decoded.

    >>> from itd import SweepRequest
    >>> job = SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=4).job()
    >>> find_problems(job)
    []
    """
    batches = stream(job.images.pixels, [job.images.samples], batch_size=batch_size, workers=workers, keep_going=True)
    found: list[Problem] = []
    for batch in batches:
        found += [problem for problem in batch.problems if problem is not None]
        if step is not None:
            step(len(batch))
    return found


def require_decodable(job: SweepJob, options: RunOptions, on_prepare: OnPrepare | None = None) -> None:
    """An ItdWarning for each image with a problem; DataError where there are more than may be missing."""
    step = on_prepare("decoding every image", len(job)) if on_prepare is not None else None
    problems = find_problems(job, workers=options.workers or 0, step=step)
    for problem in problems:
        warnings.warn(visible(problem.text), ItdWarning, stacklevel=4)
    allowed = missing_limit(options.allow_missing, len(job))
    if len(problems) > allowed or any(problem.kind != UNDECODABLE for problem in problems):
        raise DataError(
            f"{len(problems)} of {len(job)} images cannot be used, and {allowed} may be missing; mend the files "
            "that are named above, or pass `allow_missing` for those that cannot be decoded"
        )


@dataclass(frozen=True)
class Replaced:
    """Files that were replaced since a result was begun, none of which has scores in it.

    before: the identity that the result has. now: the one to give it, the same where only notes are behind. notes: the
    images without scores, as their files are now.
    """

    before: dict[str, Any]
    now: dict[str, Any]
    notes: list[MissingImage]


def replaced_files(job: SweepJob, out: str, identity: Mapping[str, Any]) -> Replaced | None:
    """What was replaced, where that is all in which a result differs from this run; else None.

    The names and sizes of all other files must be what they were: with the sizes that the images without scores had,
    the fingerprint has to be the result's. What their files contain is looked at where the result has it.
    """
    here, there = dict(identity), identity_there(out)
    images = job.images.pixels.images
    if there is None or not isinstance(images, ImageSet) or "union" in there:
        return None
    hashed = here.get("contents_sha256") is not None
    if all(there.get(name) == here.get(name) for name in OF_DATA):
        noted = [one for one in noted_there(out) if one.sample < len(images)]
        notes = [_as_now(one, images, hashed) for one in noted]
        return None if notes == noted else Replaced(here, here, notes)
    unscored = [one for one in unscored_there(out) if one.sample < len(images)]
    if images.fingerprint({one.sample: one.bytes for one in unscored if one.bytes is not None}) != there.get("data"):
        return None
    before = {**here, "data": there["data"]}
    if hashed:
        hashes = {one.sample: one.contents_sha256 for one in unscored if one.contents_sha256 is not None}
        before["contents_sha256"] = contents_sha256(images, instead=hashes)
    return Replaced(before, here, [_as_now(one, images, hashed) for one in unscored])


def _as_now(one: MissingImage, images: ImageSet, hashed: bool) -> MissingImage:
    """The note of an image as its file is now."""
    contents = content_sha256(images, one.sample) if hashed else None
    return replace(one, bytes=int(images.sizes_bytes[one.sample]), contents_sha256=contents)
