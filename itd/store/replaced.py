"""Files without scores that were replaced since a result was begun: what it is of then, and the notes of those images.

The identity in the metadata of the configurations stays as it was at first; what it became is kept beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itd.checked import fields, hexadecimal, maybe, text
from itd.store import manifest as manifests
from itd.store.aside import FAILED, failed_units, update_failed
from itd.store.files import SIDE, read_json, sealed, to_json, write_whole
from itd.store.identity import OF_DATA, as_json
from itd.store.missing import MissingImage, missing_path, read_missing, save_missing, with_scores

FILE = "replaced.json"
_check = fields({}, {"data": maybe(text), "contents_sha256": maybe(hexadecimal), "sha256": hexadecimal})


def noted_there(path: str | Path) -> list[MissingImage]:
    """The images that a result has notes of: with null rows, or that failed their unit. Some may have scores by now."""
    folder = Path(path)
    return read_missing(folder) + [image for unit in failed_units(folder) for image in unit.images]


def unscored_there(path: str | Path) -> list[MissingImage]:
    """Those of `noted_there` that have no scores in the result, as its parts say."""
    noted = noted_there(path)
    scored = with_scores(Path(path), {one.image for one in noted})
    return [one for one in noted if one.image not in scored]


def read_replaced(folder: Path) -> dict[str, Any]:
    """The fields of the identity that became others, if any file was replaced; ResultError where they are damaged."""
    try:
        value = read_json(folder / SIDE / FILE, _check)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: value[name] for name in OF_DATA if name in value}


def save_replaced(folder: Path, identity: Mapping[str, Any]) -> None:
    """Writes what `read_replaced` reads."""
    kept = {name: identity[name] for name in OF_DATA if name in identity}
    write_whole(folder / SIDE / FILE, to_json(sealed(as_json(kept))))


def go_on(
    folder: Path, manifest: dict[str, Any], identity: Mapping[str, Any], notes: Sequence[MissingImage]
) -> dict[str, Any]:
    """Gives a result an identity of the same images but for replaced files; returns its manifest. Under the lock.

    notes: the images without scores, as their files are now.
    """
    if manifest["identity"] != as_json(identity):
        save_replaced(folder, identity)
        manifest = manifests.save(folder, {**manifest, "identity": as_json(identity)})
    now = {one.image: one for one in notes}
    noted = read_missing(folder)
    if any(now.get(one.image, one) != one for one in noted):
        save_missing(folder, [now.get(one.image, one) for one in noted])
    update_failed(folder, now)
    return manifest


def remove_notes(folder: Path) -> None:
    """Removes what was noted of images of another run, whose parts are gone."""
    (folder / SIDE / FILE).unlink(missing_ok=True)
    missing_path(folder).unlink(missing_ok=True)
    shutil.rmtree(folder / SIDE / FAILED, ignore_errors=True)
