"""What is at the path of a result before a run writes there: this run, another one, or no result at all."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itd.errors import ItdWarning, ResultError
from itd.space import Space
from itd.store import manifest as manifests
from itd.store.claims import Claims, at_work, leased
from itd.store.files import SIDE, disk_errors, remove_temporaries
from itd.store.identity import identity_differences
from itd.store.part import coverage, list_parts, list_superseded, remove_part
from itd.store.record import why_unsound
from itd.store.replaced import remove_notes
from itd.store.samples import Namer, brought_up
from itd.store.whole import Whole, whole_parts


def done_images(
    path: str | Path, *, identity: dict[str, Any], space: Space, samples: np.ndarray, unknown: Sequence[str] = ()
) -> int:
    """How many of some images a result has that `ResultWriter.open` would go on with; nothing is written.

    unknown: fields of the identity that nobody knows yet and that are not compared. Others, and what is raised, as of
    `ResultWriter.open`.
    """
    folder, samples = Path(path), np.asarray(samples, dtype=np.int32)
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        return 0
    identity = _taken_over(identity, manifest, unknown)
    if begins_anew(folder, manifest, identity):
        return 0
    manifests.check_same(str(folder), manifest, manifests.load_configs(folder, manifest), identity, space, samples)
    parts = [part for part in list_parts(folder) if why_unsound(part) is None]
    return int(coverage(parts, len(samples)).sum())


def remove_other(path: str | Path, identity: dict[str, Any], space: Space, *, claims: Claims | None = None) -> bool:
    """Throws away what `path` holds where that is another run than the one of this identity and space.

    Of the same run nothing is removed, so that a run which was interrupted goes on. claims: of this run. Raises
    ResultError for a folder with other things in it than a result, or one on which another process works. Returns
    whether anything was removed.
    """
    folder = Path(path)
    if not folder.is_dir():
        return False
    check_folder(folder)
    with disk_errors(path):
        (folder / SIDE).mkdir(parents=True, exist_ok=True)
        with leased(folder / SIDE):
            other = is_other(path, identity, space)
            if other:
                refuse_at_work(folder, claims, identity)
                clear(folder)
            return other


def clear(folder: Path) -> None:
    """Removes all that a result holds, so that another one can begin there. Under the lease.

    In this order, so that a run which was stopped cannot put a part of the old result into the new one: from the first
    step on it finds that the manifest is not its own any more, and after the second what it wrote before is gone.
    """
    manifests.manifest_path(folder).unlink(missing_ok=True)
    remove_temporaries(folder / SIDE)
    for part in (*list_parts(folder), *(part for part, _ in list_superseded(folder))):
        remove_part(part)
    remove_notes(folder)


def refuse_at_work(folder: Path, claims: Claims | None, identity: Mapping[str, Any]) -> None:
    """ResultError where another process works on a result that a run with other options would begin anew.

    claims: of that run. identity: what it is of. Others with the same options are about to begin the same result.
    """
    differing = identity_differences(identity_there(folder) or {}, identity)
    same = claims.of if claims is not None and differing else None
    token = None if claims is None else claims.token
    others = [one for one in at_work(folder, but=token) if not one.stale and (same is None or one.of != same)]
    if not others:
        return
    lines = [f"{name} is {old}, given {new}" for name, old, new in differing]
    raise ResultError(
        f"process {others[0].pid} on {others[0].host} works on {folder} since {others[0].started}, with other options "
        f"({'; '.join(lines) or 'other configurations'}); give another `out`, or wait until it has ended"
    )


def is_other(path: str | Path, identity: dict[str, Any], space: Space, unknown: Sequence[str] = ()) -> bool:
    """Whether `path` holds another run than the one of this identity and space, or parts that nobody knows.

    unknown: as of `done_images`.
    """
    folder = Path(path)
    manifest = manifests.load_manifest(folder)
    if manifest is None:
        return folder.is_dir() and bool(list_parts(folder))
    configs = manifests.load_configs(folder, manifest)
    return bool(manifests.other_run(manifest, configs, _taken_over(identity, manifest, unknown), space))


def order_there(path: str | Path, identity: dict[str, Any], unknown: Sequence[str] = ()) -> str | None:
    """The order of the images of a result that a run with this identity goes on with; None where it begins one.

    unknown: as of `done_images`.
    """
    manifest = manifests.load_manifest(Path(path))
    if manifest is None or begins_anew(Path(path), manifest, _taken_over(identity, manifest, unknown)):
        return None
    return manifests.order_of(manifest)


def _taken_over(identity: dict[str, Any], manifest: dict[str, Any], unknown: Sequence[str]) -> dict[str, Any]:
    """An identity whose unknown fields are those of a result."""
    return {**identity, **{name: manifest["identity"][name] for name in unknown}}


def begins_anew(folder: Path, manifest: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a result is of another run and has no part yet: then nothing is lost when this run replaces it."""
    return not list_parts(folder) and bool(identity_differences(manifest["identity"], identity))


def check_target(path: str | Path) -> None:
    """ResultError where a sweep's result cannot be there: a union, or what `check_folder` refuses."""
    check_folder(path)
    if manifests.is_union(manifests.load_manifest(Path(path))):
        raise ResultError(f"{path} is a union of results, which no sweep can extend; give another `out`")


def check_folder(path: str | Path) -> None:
    """ResultError where a result cannot be there: a folder with other things in it, or one that cannot be written."""
    folder = Path(path)
    with disk_errors(path):
        there = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
        foreign = [name for name in there if name != SIDE and not name.startswith(("part-", "."))]
        if foreign:
            raise ResultError(
                f"{path} is a folder with other things in it ({foreign[0]}); give as `out` a new folder or a "
                "result's own"
            )
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def identity_there(path: str | Path) -> dict[str, Any] | None:
    """The identity of the result that is there; None where there is none."""
    manifest = manifests.load_manifest(Path(path))
    return None if manifest is None else manifest["identity"]


def sound_parts(folder: Path, manifest: dict[str, Any], configs: pa.Table) -> list[Whole]:
    """The parts of a result that are whole; the others are moved to `_itd/bad`, with an ItdWarning for each."""
    parts, notes = whole_parts(folder, manifest, configs.column("config").to_numpy())
    for text in notes:
        warnings.warn(text, ItdWarning, stacklevel=3)
    return parts


def continued(
    folder: Path,
    manifest: dict[str, Any],
    samples: np.ndarray,
    provenance: dict[str, Any],
    namer: Namer | None = None,
) -> dict[str, Any]:
    """The manifest with one more run, which goes on to (N,) samples, where that run has something to add; and with the
    names of its images, where the run knows more of them."""
    before = manifest
    parts = list_parts(folder)
    if not coverage(parts, len(samples)).all() or manifests.records_more(manifest, provenance):
        manifest = manifests.extend(manifest, samples, provenance)
    manifest = brought_up(folder, manifest, manifests.from_runs(manifest["samples"]), namer)
    return manifest if manifest is before else manifests.save(folder, manifest)
