"""Makes result folders from given arrays, for tests: no network is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from itd.space import SITES, Setting, SiteSpec, Space, build_space
from itd.store import ResultWriter
from itd.store.files import sealed, to_json


def make_space(configs: int, *, default: int | None = 0, attribute: str = "dilation") -> Space:
    """A space of `configs` configurations in which number `default` is the default."""
    base = next(b for b in range(1, 17) if b**4 >= configs)
    values = tuple(range(1, 2 * base, 2)) if attribute == "size" else tuple(range(1, base + 1))
    sites = [SiteSpec(n, Setting(stride=1, dilation=1, size=3), {attribute: values}) for n in SITES]
    space = build_space([attribute], sites, stem_stride=1, stride_range=(1, 10**9))
    space = space.without(range(configs, len(space)), "not wanted")
    return Space(**{**space.__dict__, "default": default})


def make_scores(configs: int, images: int, seed: int = 0, accuracy: float = 0.4) -> dict[str, np.ndarray]:
    """Plausible scores, (configs, images) each, consistent with one another; and `labels`, (images,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 1000, images).astype(np.int16)
    hard = rng.random(images)
    correct = rng.random((configs, images)) < accuracy * 2 * hard
    p = np.where(correct, rng.uniform(0.5, 1, correct.shape), rng.uniform(0.01, 0.4, correct.shape)).astype(np.float32)
    wrong = (labels + 1 + rng.integers(0, 998, correct.shape)) % 1000
    return {
        "labels": labels,
        "pred": np.where(correct, labels, wrong).astype(np.int16),
        "quality": p + correct.astype(np.float32),
        "nll": -np.log(p),
        "rank": np.where(correct, 0, rng.integers(1, 999, correct.shape)).astype(np.int16),
        "confidence": np.where(correct, p, np.float32(0.5)).astype(np.float32),
    }


def make_ties(configs: int, images: int, seed: int = 0, classes: int = 4) -> dict[str, np.ndarray]:
    """Scores of few classes and of values that are multiples of 1/4, exact in binary: everything ties often."""
    rng = np.random.default_rng(seed)
    labels, pred = rng.integers(0, classes, images), rng.integers(0, classes, (configs, images))
    right = pred == labels
    return {
        "labels": labels.astype(np.int16),
        "pred": pred.astype(np.int16),
        "quality": (rng.integers(1, 4, right.shape) / 4 + right).astype(np.float32),
        "nll": (rng.integers(0, 3, right.shape) / 4).astype(np.float32),
        "rank": np.where(right, 0, rng.integers(1, classes + 1, right.shape)).astype(np.int16),
        "confidence": (rng.integers(1, 5, right.shape) / 4).astype(np.float32),
    }


def open_writer(
    path: Path,
    images: int,
    *,
    space: Space | None = None,
    images_per_unit: int = 4,
    identity: dict | None = None,
    samples: np.ndarray | None = None,
    provenance: dict | None = None,
    macs: list[int] | None = None,
    macs_unknown: Sequence[str] = (),
    retry_missing: bool | Sequence[tuple[int, int, int]] = False,
) -> ResultWriter:
    """A writer on `path` for images 0..images-1, or for `samples`."""
    space = space or make_space(6)
    return ResultWriter.open(
        path,
        identity={"model": "resnet50", "space": space.identity()} if identity is None else identity,
        space=space,
        macs=[1000 + i for i in range(len(space))] if macs is None else macs,
        samples=np.arange(images, dtype=np.int32) if samples is None else samples,
        images_per_unit=images_per_unit,
        provenance={"tool": "tests"} if provenance is None else provenance,
        macs_unknown=macs_unknown,
        retry_missing=retry_missing,
    )


def write_units(writer: ResultWriter, scores: dict[str, np.ndarray], missing: np.ndarray | None = None) -> None:
    """Writes all that is left to do. Scores are by position; missing: (images,) bool."""
    for unit in writer.todo():
        here = slice(unit.first, unit.last + 1)
        gone = np.zeros(len(unit), bool) if missing is None else missing[here]
        writer.write(unit, missing=gone, **{name: array[..., here] for name, array in scores.items()})


def make_result(
    path: Path,
    scores: dict[str, np.ndarray],
    *,
    default: int | None = 0,
    attribute: str = "dilation",
    images_per_unit: int = 4,
    missing: np.ndarray | None = None,
    macs_unknown: Sequence[str] = (),
) -> Path:
    """A whole result folder with the given scores: (C, N) each, and labels (N,)."""
    configs, images = scores["quality"].shape
    space = make_space(configs, default=default, attribute=attribute)
    writer = open_writer(path, images, space=space, images_per_unit=images_per_unit, macs_unknown=macs_unknown)
    write_units(writer, scores, missing)
    return path


def from_quality(quality: np.ndarray) -> dict[str, np.ndarray]:
    """Scores where only the quality matters."""
    quality = np.asarray(quality, dtype=np.float32)
    zero = np.zeros(quality.shape, np.float32)
    small = np.zeros(quality.shape, np.int16)
    labels = np.zeros(quality.shape[1], np.int16)
    return {"labels": labels, "pred": small, "quality": quality, "nll": zero, "rank": small, "confidence": zero}


def make_older(folder: Path) -> None:
    """Gives a result's parts the records of an older version: without hashes of the content, named as the parts."""
    for path in (folder / "_itd").glob("part-*.json"):
        record = json.loads(path.read_text())
        for name in ("content_sha256", "rows_sha256", "nulls", "sha256"):
            record.pop(name, None)
        path.unlink()
        path.with_name(f"{path.name.split('.')[0]}.json").write_text(json.dumps(record))


def changed(path: Path, **changes: object) -> None:
    """Gives a JSON file of a result other fields and a hash that is of them, as no damage would."""
    path.write_bytes(to_json(sealed({**json.loads(path.read_text()), **changes})))


def without(folder: str | Path, name: str) -> object:
    """Takes a field out of a manifest and its hash, as of a version that had neither; returns the field's value."""
    path = Path(folder) / "_itd" / "manifest.json"
    manifest = json.loads(path.read_text())
    value = manifest.pop(name)
    del manifest["sha256"]
    path.write_text(json.dumps({**manifest, "format": 1}))
    return value
