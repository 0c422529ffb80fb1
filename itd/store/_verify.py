"""Reading all of a result with all checks, to say which of its files are damaged and which images are missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itd.errors import ResultError
from itd.store import manifest as manifests
from itd.store import missing as missing_file
from itd.store import samples as samples_file
from itd.store.files import RESTORE, SIDE
from itd.store.part import all_there, list_parts, single_part
from itd.store.replaced import FILE as REPLACED
from itd.store.replaced import read_replaced
from itd.store.whole import Checked, Damage, check_parts, gaps

MANIFEST = f"{SIDE}/manifest.json"
CONFIGS = f"{SIDE}/configs.parquet"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    parts, rows: of those that are whole. images: asked for. damaged: files that cannot be used. missing: (first, last)
    positions that no part holds, which is no damage. unprotected: files without a hash that would show damage.
    """

    path: str
    parts: int
    rows: int
    images: int
    damaged: tuple[Damage, ...]
    missing: tuple[tuple[int, int], ...]
    unprotected: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that is there is whole."""
        return not self.damaged

    def as_dict(self) -> dict[str, Any]:
        """As JSON: {path, ok, parts, rows, images, damaged: [{file, reason}], missing, unprotected: [file]}."""
        return {**asdict(self), "ok": self.ok, "missing": [list(span) for span in self.missing]}

    @property
    def complete(self) -> bool:
        """Whether all that is there is whole, and every image is."""
        return self.ok and not self.missing


def verify(path: str | Path) -> VerifyReport:
    """Reads every column of every part with every check, and every file beside them.

    Raises ResultError only where there is no result to verify; what is damaged is reported.

    >>> verify("results/resnet50-stride.parquet").ok  # doctest: +SKIP
    True
    """
    if not isinstance(path, (str, Path)):
        raise ResultError(f"verify takes the path of a result, given {type(path).__name__}")
    root = Path(path)
    if root.is_file():
        return _verify_files(root, [root])
    if not root.is_dir() or not ((root / SIDE).is_dir() or list_parts(root)):
        raise ResultError(f"{path} is not a result; give a folder or file written by `itd sweep`")
    if not (root / SIDE).is_dir():
        return _verify_files(root, [part.path for part in list_parts(root)])
    return _verify_folder(root)


def _verify_files(root: Path, files: list[Path]) -> VerifyReport:
    """Parquet files without a manifest: what their pages' own checksums say."""
    parts = [single_part(file) for file in files]
    checked = [one for part in parts for one in check_parts([part], None, None, recorded=False)]
    whole = [one for one in checked if isinstance(one, Checked)]
    return VerifyReport(
        path=str(root),
        parts=len(whole),
        rows=sum(one.rows for one in whole),
        images=sum(len(one.index.samples) for one in whole),
        damaged=tuple(one for one in checked if isinstance(one, Damage)),
        missing=(),
        unprotected=tuple(one.part.name for one in whole if one.part.record is None),
    )


def _verify_folder(root: Path, *, again: bool = True) -> VerifyReport:
    """again: once more where a part went away meanwhile, as a longer one took its place."""
    parts = list_parts(root)  # before the manifest, which grows first
    damaged: list[Damage] = []
    manifest = _manifest(root, damaged)
    numbers = samples = None
    if manifest is not None:
        samples = manifests.from_runs(manifest["samples"])
        numbers = _numbers(root, manifest, damaged)
    checked = check_parts(parts, numbers, samples)
    if again and not all_there(parts):
        return _verify_folder(root, again=False)
    whole = [one for one in checked if isinstance(one, Checked)]
    damaged += [one for one in checked if isinstance(one, Damage)]
    damaged += _beside(root, manifest, samples)
    return VerifyReport(
        path=str(root),
        parts=len(whole),
        rows=sum(one.rows for one in whole),
        images=sum(len(one.index.samples) for one in whole) if samples is None else len(samples),
        damaged=tuple(damaged),
        missing=()
        if samples is None
        else gaps([part for part in parts if 0 <= part.first <= part.last < len(samples)], len(samples)),
        unprotected=(MANIFEST,) if manifest is not None and not manifests.is_protected(manifest) else (),
    )


def _manifest(root: Path, damaged: list[Damage]) -> dict[str, Any] | None:
    """The manifest; None where it is damaged, which is then said, or where there is no part yet that it would be of: a
    run that ends while it begins a result leaves all but the manifest."""
    try:
        manifest = manifests.load_manifest(root)
        if manifest is None and list_parts(root):
            damaged.append(Damage(MANIFEST, f"it is not there; {RESTORE}"))
        return manifest
    except ResultError as error:
        damaged.append(Damage(MANIFEST, str(error)))
        return None


def _numbers(root: Path, manifest: dict[str, Any], damaged: list[Damage]) -> np.ndarray | None:
    try:
        return manifests.load_configs(root, manifest).column("config").to_numpy()
    except ResultError as error:
        damaged.append(Damage(CONFIGS, str(error)))
        return None


def _beside(root: Path, manifest: dict[str, Any] | None, samples: np.ndarray | None) -> list[Damage]:
    """What is damaged of the files that say what images are called, and which are missing."""
    damaged = []
    if manifest is not None and samples is not None:
        try:
            samples_file.read_samples(root, manifest, samples)
        except ResultError as error:
            damaged.append(Damage(f"{SIDE}/{samples_file.FILE}", str(error)))
    for file, read in ((missing_file.FILE, missing_file.read_missing), (REPLACED, read_replaced)):
        try:
            read(root)
        except ResultError as error:
            damaged.append(Damage(f"{SIDE}/{file}", str(error)))
    return damaged
