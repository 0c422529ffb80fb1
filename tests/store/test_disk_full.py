"""A disk that refuses, at each step of each write of a result: one line, and never a bad file under a final name."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.store import FailedUnit, MissingImage, open_result, repair, verify
from support import flipped, synthetic
from support.disk import refusals
from support.flipped import CONFIGS, IMAGES


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return flipped.make(tmp_path / "whole.parquet")


def rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["config", "sample"], ignore_index=True)


def nothing_bad(path: Path) -> None:
    """No file of a result is damaged, and none is temporary."""
    if (path / "_itd/manifest.json").exists():
        assert not verify(path).damaged
    assert not [one for one in path.rglob("*") if one.name.startswith((".tmp", "tmp-"))]


def test_a_sweep_goes_on_from_each_step_that_was_refused(tmp_path: Path, whole: Path, monkeypatch) -> None:
    path = tmp_path / "r.parquet"
    seen = 0
    for error in refusals(lambda: flipped.make(path), monkeypatch):
        seen += 1
        assert "nothing already written is lost" in str(error)
        nothing_bad(path)
        if seen % 4 == 0:  # also from the beginning, and not from where the step before ended
            shutil.rmtree(path)
    assert seen > 12
    pd.testing.assert_frame_equal(rows(path), rows(whole))
    assert verify(path).complete


def test_each_step_of_one_part_is_refused_once(tmp_path: Path, whole: Path, monkeypatch) -> None:
    part = sorted(whole.glob("part-*"))[1]
    data = part.read_bytes()
    seen = 0

    def again() -> None:
        part.unlink(missing_ok=True)
        flipped.make(whole)

    for _ in refusals(again, monkeypatch):
        seen += 1
        nothing_bad(whole)
        assert not part.exists() or part.read_bytes() == data
    assert seen >= 10 and part.read_bytes() == data and verify(whole).complete


def test_damage_that_cannot_be_put_aside_stays_where_it_is(whole: Path, monkeypatch) -> None:
    part = sorted(whole.glob("part-*"))[0]
    data = part.read_bytes()

    def mend() -> None:
        if part.exists():
            part.write_bytes(data[:100])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flipped.make(whole)

    seen = 0
    for _ in refusals(mend, monkeypatch):
        seen += 1
        assert open_result_or_damage(whole, part.name)
    assert seen > 10 and verify(whole).complete


def open_result_or_damage(path: Path, name: str) -> bool:
    """A result of which at most one part is damaged."""
    return [one.file for one in verify(path).damaged] in ([], [name])


def test_a_repair_that_is_refused_can_be_given_again(whole: Path, tmp_path: Path, monkeypatch) -> None:
    expected, path = flipped.answer(whole), tmp_path / "r.parquet"

    def mend() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        manifest = path / "_itd/manifest.json"
        manifest.write_text(manifest.read_text()[:300])
        next(iter((path / "_itd").glob("part-*.json"))).unlink()
        repair(path)

    seen = 0
    for _ in refusals(mend, monkeypatch):
        seen += 1
        repair(path)
        assert verify(path).complete and flipped.answer(path) == expected
    assert seen > 10 and verify(path).complete and flipped.answer(path) == expected


def test_what_failed_and_what_is_missing_is_written_whole(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "r.parquet"
    writer = flipped.writer(path)
    unit, scores = writer.todo()[0], synthetic.make_scores(CONFIGS, IMAGES)
    here = slice(unit.first, unit.last + 1)
    missing = MissingImage(1, 1, "1.png", "cannot decode")
    mask = np.arange(len(unit)) == 1

    def write() -> None:
        writer.set_aside(FailedUnit(unit.first, unit.last, "io", "away", 4, (missing,)))
        values = {name: array[..., here] for name, array in scores.items()}
        writer.write(unit, missing=mask, missing_images=[missing], most_missing=1, **values)

    for _ in refusals(write, monkeypatch):
        nothing_bad(path)
        for file in [*(path / "_itd").glob("*.json"), *(path / "_itd/failed").glob("*")]:
            json.loads(file.read_text())
    assert open_result(path).nulls == 1 and [one.name for one in writer.null_images] == ["1.png"]
    assert writer.failed == [] and not list((path / "_itd/failed").glob("*"))
