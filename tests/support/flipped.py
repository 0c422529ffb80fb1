"""Flips one bit at a time in a file of a result, and says what became of each: run in a process of its own.

    python -m support.flipped KIND COUNT SEED FOLDER

Prints one line of JSON: how many flips were found, how many were harmless, and how many results were mended after.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from itd.analysis import oracle
from itd.errors import ItdError
from itd.store import ImageNames, ResultWriter, open_result, repair, verify
from itd.store.schema import SCORES
from support import synthetic

IMAGES, CONFIGS, DEFAULT = 12, 6, 2
KINDS = {
    "part": "part-00000004-00000007.parquet",
    "record": "_itd/part-00000004-*.json",
    "configs": "_itd/configs.parquet",
    "samples": "_itd/samples.parquet",
    "manifest": "_itd/manifest.json",
}
UNMENDED = ("configs",)
"""Nothing else holds the multiply-accumulates."""


def writer(path: Path) -> ResultWriter:
    space = synthetic.make_space(CONFIGS, default=DEFAULT)
    names = ImageNames(
        [f"{i}.png" for i in range(IMAGES)], np.arange(IMAGES, dtype=np.int16), [f"c{i}" for i in range(IMAGES)]
    )
    return ResultWriter.open(
        path, identity={"model": "resnet50", "space": space.identity()}, space=space, macs=list(range(CONFIGS)),
        samples=np.arange(IMAGES, dtype=np.int32), images_per_unit=4, provenance={"run": "a", "classes": 1000},
        names=names,
    )  # fmt: skip


def make(path: Path) -> Path:
    synthetic.write_units(writer(path), synthetic.make_scores(CONFIGS, IMAGES))
    return path


def answer(path: Path) -> Any:
    """All that a result says, as JSON."""
    result = open_result(path)
    scores = {name: result.matrix(name).tolist() for name in SCORES}
    names, classes = result.names(), result.class_names()
    macs = None if result.macs is None else result.macs.tolist()
    known = (result.settings, macs, result.default, result.sites, result.samples.tolist(), result.labels.tolist())
    return json.loads(
        json.dumps([scores, known, names, classes, result.identity, result.num_classes, oracle(result).best])
    )


def outcome(path: Path, expected: Any) -> str:
    """found: nothing is read. unread: `verify` finds it, in what the answers do not read. harmless: nobody does."""
    try:
        there = answer(path)
    except ItdError as error:
        assert "\n" not in str(error)
        assert not verify(path).ok, "the reader refuses what `verify` calls whole"
        return "found"
    assert there == expected, "another answer, and nothing shows it"
    return "harmless" if verify(path).ok else "unread"


def mended(path: Path, expected: Any) -> bool:
    """Whether `repair`, then the same sweep, bring everything back."""
    repair(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        synthetic.write_units(writer(path), synthetic.make_scores(CONFIGS, IMAGES))
    return verify(path).complete and answer(path) == expected


def main(kind: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    whole, path = make(folder / "whole"), folder / "r.parquet"
    expected = answer(whole)
    rng = np.random.default_rng(seed)
    found = {"found": 0, "unread": 0, "harmless": 0, "mended": 0}
    (name,) = (one.relative_to(whole) for one in whole.glob(KINDS[kind]))
    data = (whole / name).read_bytes()
    for number in range(count):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << bit
        (path / name).write_bytes(spoiled)
        try:
            became = outcome(path, expected)
        except AssertionError as error:
            raise AssertionError(f"{kind}, bit {bit} of byte {at}: {error}") from error
        found[became] += 1
        if became == "found" and kind not in UNMENDED and number % 5 == 0:
            assert mended(path, expected), f"{kind}: bit {bit} of byte {at}: not mended"
            found["mended"] += 1
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
