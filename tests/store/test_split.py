"""A part of many units as units again: only those with null rows are computed once more, and no row is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.errors import ResultError
from itd.store import ResultWriter, _rows, _split, open_result, verify
from itd.store.part import list_parts
from itd.store.whole import Unchanged, look_at_parts
from support import synthetic
from support.disk import refusals
from support.rows import contents, in_order, part_names

IMAGES, CONFIGS = 22, 6
SCORES = synthetic.make_scores(CONFIGS, IMAGES, seed=3)
GONE = np.isin(np.arange(IMAGES), [5, 6, 21])
CELLS = ["0-3", "4-7", "8-11", "12-15", "16-19", "20-21"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A result in one file, of units of four images, with null rows in two of them."""
    path = tmp_path / "r.parquet"
    writer = synthetic.open_writer(path, IMAGES, provenance={"tool": "tests", "run": "first"})
    synthetic.write_units(writer, SCORES, GONE)
    itd.compact(path)
    return path


def retry(path: Path, images: int = IMAGES) -> ResultWriter:
    return synthetic.open_writer(path, images, retry_missing=True)


@pytest.mark.parametrize("held", [2**24, 50, 1])
def test_only_units_with_null_rows_are_to_do_again(tmp_path, path, monkeypatch, held):
    monkeypatch.setattr(_split, "ROWS_HELD", held)
    rows = in_order(path)
    writer = retry(path)
    assert [(unit.first, unit.last) for unit in writer.todo()] == [(4, 7), (20, 21)] and writer.kept_images == 6
    assert part_names(path) == CELLS and in_order(path).equals(rows, check_metadata=True) and verify(path).complete
    records = [json.loads(one.read_text()) for one in (path / "_itd").glob("part-*.json")]
    assert len(records) == 6 and {one["run"] for one in records} == {"first"}
    unchanged = [isinstance(one, Unchanged) for one in look_at_parts(list_parts(path), np.arange(6), np.arange(IMAGES))]
    assert unchanged == [True] * 6, "their records say which rows they have, so nobody reads these to know"
    assert sorted(tuple(one["nulls"]) for one in records) == [(), (), (), (), (1,), (1, 2)]
    synthetic.write_units(writer, SCORES)
    whole = synthetic.make_result(tmp_path / "whole", SCORES)
    assert in_order(path).equals(in_order(whole)) and open_result(path).nulls == 0 and verify(path).complete
    assert itd.compact(path).parts == 6 and in_order(path).equals(in_order(whole))


def test_what_one_run_has_computed_again_others_do_not(path: Path) -> None:
    mine, theirs = retry(path), retry(path)
    shared = synthetic.open_writer(path, IMAGES, retry_missing=theirs.again[1:])
    assert [(unit.first, unit.last) for unit in shared.todo()] == [(20, 21)]
    units = mine.todo()
    assert not any(map(mine.holds, units)) and mine.kept_images == 6 and mine.done_images == IMAGES - 6
    synthetic.write_units(theirs, SCORES, GONE)  # their rows are null as they were
    assert all(map(mine.holds, units)) and mine.kept_images == 0 and mine.done_images == IMAGES
    assert not synthetic.open_writer(path, IMAGES, retry_missing=shared.again).todo()


def test_nothing_is_split_that_need_not_be(tmp_path, path):
    whole = synthetic.make_result(tmp_path / "whole", SCORES)
    itd.compact(whole)
    files = [of_parts(folder) for folder in (path, whole)]
    assert synthetic.open_writer(path, IMAGES).todo() == retry(path, 7).todo() == retry(whole).todo() == []
    assert [of_parts(folder) for folder in (path, whole)] == files
    assert [(unit.first, unit.last) for unit in retry(path, 8).todo()] == [(4, 7)], "the first unit with null rows"
    assert part_names(path) == CELLS


def of_parts(folder: Path) -> dict[str, str]:
    """The parts and their records."""
    return {name: content for name, content in contents(folder).items() if "part-" in name}


@pytest.mark.parametrize("held", [2**24, 1])
def test_a_part_that_begins_within_a_unit(tmp_path, monkeypatch, held):
    monkeypatch.setattr(_split, "ROWS_HELD", held)
    path, gone = tmp_path / "r", GONE | (np.arange(IMAGES) == 13)
    synthetic.write_units(synthetic.open_writer(path, 10), SCORES, gone)
    itd.compact(path)
    synthetic.write_units(synthetic.open_writer(path, IMAGES), SCORES, gone)  # 10-11, 12-15, ...
    other = synthetic.make_result(tmp_path / "other", SCORES, missing=gone, images_per_unit=10)  # 10-19, 20-21
    for unit in ("part-00000010-00000019", "part-00000020-00000021"):
        for file in [*(other / "_itd").glob(f"{unit}*"), other / f"{unit}.parquet"]:
            shutil.copy(file, path / file.relative_to(other))
    rows = in_order(other)
    assert [(unit.first, unit.last) for unit in retry(path).todo()] == [(4, 7), (12, 15), (20, 21)]
    assert part_names(path) == ["0-3", "4-7", "8-9", "10-11", "12-15", "16-19", "20-21"]
    assert in_order(path).equals(rows) and verify(path).complete


def test_a_cell_that_is_not_there_keeps_the_part(path, monkeypatch):
    put, before = _split._put, of_parts(path)
    monkeypatch.setattr(_split, "_put", lambda target, *rest: "00000008" in target.name or put(target, *rest))
    with pytest.raises(ResultError, match="was changed by another process; give the same command again"):
        retry(path)
    assert verify(path).complete and open_result(path).nulls == 3
    monkeypatch.undo()
    assert synthetic.open_writer(path, IMAGES).done_images == IMAGES and of_parts(path) == before


def test_two_runs_that_retry_split_it_once(path, monkeypatch):
    rows, split, others = in_order(path), _split._split, []

    def both(*args):
        split(*args)
        monkeypatch.setattr(_split, "_split", split)

    monkeypatch.setattr(_split, "_split", both)
    parts = _split.split_parts

    def second_first(*args):
        monkeypatch.undo()
        others.append(retry(path))  # between the first's look at the parts and its own split
        return parts(*args)

    monkeypatch.setattr("itd.store.writer.split_parts", second_first)
    writer = retry(path)
    assert len(writer.todo()) == len(others[0].todo()) == 2
    assert part_names(path) == CELLS and in_order(path).equals(rows) and verify(path).complete


def test_cells_that_read_back_otherwise_do_not_take_its_place(path, monkeypatch):
    real, before = _rows.Block.table, of_parts(path)

    def wrong(block, schema, *span):
        block.scores["rank"][0, 0] ^= 1
        return real(block, schema, *span)

    with monkeypatch.context() as patch:
        patch.setattr(_rows.Block, "table", wrong)
        with pytest.raises(ResultError, match=r"column rank of .* does not read back"):
            retry(path)
    assert verify(path).complete and open_result(path).nulls == 3
    assert synthetic.open_writer(path, IMAGES).done_images == IMAGES, "which removes what was left of it"
    assert of_parts(path) == before


def test_a_disk_that_refuses_any_step_loses_nothing(tmp_path, path, monkeypatch):
    rows, work, seen = in_order(path), tmp_path / "w", 0

    def anew() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(path, work)
        retry(work)

    for _ in refusals(anew, monkeypatch):
        seen += 1
        assert verify(work).complete and open_result(work).nulls == 3
        assert not list((work / "_itd").glob("tmp-*"))
        if seen % 5 == 0:
            assert len(retry(work).todo()) == 2 and part_names(work) == CELLS and in_order(work).equals(rows)
    assert seen >= 20 and in_order(work).equals(rows)
