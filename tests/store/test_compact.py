"""The parts of a result as one file: every row against the parts' own, read by pyarrow; and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import itd
from itd.errors import ResultError
from itd.store import (
    Claims,
    ResultWriter,
    _compact,
    _rows,
    _verify,
    at_work,
    index,
    open_result,
    opening,
    verify,
    whole,
)
from itd.store.record import make_record, make_record_of_file
from support import synthetic
from support.disk import refusals
from support.rows import contents, in_order, part_names, raw_rows

IMAGES, CONFIGS = 22, 6
SCORES = synthetic.make_scores(CONFIGS, IMAGES, seed=3)
GONE = np.isin(np.arange(IMAGES), [5, 6, 21])


def make(path: Path, gone: np.ndarray | None = GONE, images_per_unit: int = 4) -> Path:
    return synthetic.make_result(path, SCORES, missing=gone, images_per_unit=images_per_unit)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "r.parquet")


def is_one_file(folder: Path, rows: object) -> None:
    """The result is one whole part with exactly these rows, and nothing else is left of it."""
    assert len(part_names(folder)) == 1 and raw_rows(folder).equals(rows, check_metadata=True)
    assert verify(folder).complete
    left = [one.name for one in (folder / "_itd").iterdir() if one.name.startswith(("part-", "tmp-"))]
    assert len(left) == 1 and left[0].startswith("part-00000000-"), left
    assert not list((folder / "_itd" / "claims").glob("*"))


@pytest.mark.parametrize(("group", "held"), [(2**20, 2**24), (50, 100), (50, 60), (12, 30), (1, 1)])
@pytest.mark.parametrize("gone", [None, GONE], ids=["whole", "nulls"])
def test_the_parts_become_one_file_with_the_same_rows(tmp_path, monkeypatch, group, held, gone):
    monkeypatch.setattr(_rows, "ROWS_PER_GROUP", group)
    monkeypatch.setattr(_rows, "ROWS_HELD", held)
    gather, blocks = _rows.gather, []

    def noted(*args):
        blocks.append(gather(*args))
        return blocks[-1]

    monkeypatch.setattr(_rows, "gather", noted)
    path = make(tmp_path / "r.parquet", gone)
    rows, size = in_order(path), sum(part.stat().st_size for part in path.glob("part-*"))
    done = itd.compact(path)
    is_one_file(path, rows)
    assert rows.column("quality").null_count == (0 if gone is None else 3 * CONFIGS)
    (part,) = path.glob("part-*")
    assert done.as_dict() == {
        "path": str(path), "parts": 6, "images": IMAGES, "rows": IMAGES * CONFIGS, "bytes_before": size,
        "bytes": part.stat().st_size, "compacted": True,
    }  # fmt: skip
    meta = pq.read_metadata(part)
    sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    assert max(sizes) <= group and max(block.rows for block in blocks) <= max(held, IMAGES)
    assert sizes == ([44] * 3 if group == 50 else sizes), "whole configurations, where they fit"


def test_images_in_another_order_and_units_of_another_size_stay_in_their_order(tmp_path):
    samples = np.random.default_rng(0).permutation(IMAGES)
    writer = synthetic.open_writer(tmp_path / "r", IMAGES, samples=samples, images_per_unit=7)
    synthetic.write_units(writer, SCORES)
    rows = in_order(tmp_path / "r")
    itd.compact(tmp_path / "r")
    is_one_file(tmp_path / "r", rows)
    assert rows.column("sample").to_pylist()[:IMAGES] == samples.tolist()


def test_a_union_whose_rows_are_null_for_some_configurations(tmp_path):
    one = make(tmp_path / "a", GONE)
    other = synthetic.make_result(tmp_path / "b", SCORES, attribute="size", default=2)
    united = tmp_path / "u"
    itd.union([open_result(one), open_result(other)], united)
    rows = in_order(united)
    before = itd.oracle(open_result(united)).best
    itd.compact(united)
    is_one_file(united, rows)
    assert rows.column("quality").null_count == 3 * CONFIGS and rows.column("size_A").null_count == IMAGES * CONFIGS
    assert itd.oracle(open_result(united)).best == before
    assert itd.union([open_result(one), open_result(other)], united).already == IMAGES


def test_every_bit_of_the_file_is_covered_in_all_row_groups(path, monkeypatch):
    monkeypatch.setattr(_rows, "ROWS_PER_GROUP", 12)
    itd.compact(path)
    (part,) = path.glob("part-*")
    data = part.read_bytes()
    record = json.loads(next((path / "_itd").glob("part-*.json")).read_text())
    assert record["content_sha256"] == hashlib.sha256(data).hexdigest() and record["rows"] == IMAGES * CONFIGS
    assert make_record_of_file(part) == make_record(data)
    assert all(record[name] == value for name, value in make_record(data).items())
    alone, found = path.parent / "alone.parquet", 0
    for place in range(0, len(data), len(data) // 60):
        for file in (part, alone):
            file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert not verify(path).ok, place
        found += place < len(data) // 2 and "CRC" in str(verify(alone).damaged)
    assert found > 10, "pages have checksums of their own"
    part.write_bytes(data)
    assert verify(path).complete


def test_the_record_has_the_run_of_its_parts_where_they_have_one(tmp_path):
    for runs in (["one", "one"], ["one", "two"]):
        path = tmp_path / "-".join(runs)
        for run, images in zip(runs, (8, IMAGES), strict=True):
            writer = synthetic.open_writer(path, images, provenance={"tool": "tests", "run": run})
            synthetic.write_units(writer, SCORES)
        itd.compact(path)
        record = json.loads(next((path / "_itd").glob("part-*.json")).read_text())
        assert record["run"] == ("one" if runs[1] == "one" else None)


def test_one_part_is_left_as_it_is(path):
    itd.compact(path)
    before = contents(path)
    done = itd.compact(path)
    assert not done.compacted and (done.parts, done.bytes) == (1, done.bytes_before) and contents(path) == before


def test_answers_merges_and_the_same_command_go_on(tmp_path, path):
    same = make(tmp_path / "same")
    before = itd.greedy(open_result(path)).steps
    itd.compact(path)
    assert itd.greedy(open_result(path)).steps == before
    writer = synthetic.open_writer(path, IMAGES)
    assert writer.todo() == [] and writer.done_images == IMAGES and part_names(path) == ["0-21"]
    assert itd.merge([path, same], tmp_path / "m").duplicates == IMAGES
    assert in_order(tmp_path / "m").equals(in_order(same)) and verify(tmp_path / "m").complete


def test_a_larger_limit_computes_only_the_rest(tmp_path):
    scores = synthetic.make_scores(CONFIGS, 32)
    reference = synthetic.make_result(tmp_path / "whole", scores)
    path = tmp_path / "r"
    synthetic.write_units(synthetic.open_writer(path, 20, images_per_unit=16), scores)
    itd.compact(path)
    writer = synthetic.open_writer(path, 32, images_per_unit=16)
    assert [(unit.first, unit.last) for unit in writer.todo()] == [(20, 31)]
    assert [len(writer.todo((shard, 2))) for shard in (1, 2)] == [1, 0]
    with pytest.raises(ResultError, match="is not finished: 12 of 32 images are missing; give the command that made"):
        itd.compact(path)
    synthetic.write_units(writer, scores)
    assert part_names(path) == ["0-19", "20-31"] and verify(path).complete
    assert itd.compact(path).parts == 2
    is_one_file(path, in_order(reference))


def test_of_a_long_part_one_column_after_the_other_is_read(path, monkeypatch):
    before = open_result(path).to_pandas()
    itd.compact(path)
    real, read = index.read_columns, []

    def noted(part, names, **how):
        read.append(names)
        return real(part, names, **how)

    monkeypatch.setattr(index, "ROWS_AT_ONCE", IMAGES * CONFIGS - 1)
    monkeypatch.setattr(index, "read_columns", noted)
    opened = open_result(path)
    assert {len(names) for names in read} == {1} and {name for (name,) in read} >= {"sample", "label", "config"}
    pd.testing.assert_frame_equal(opened.to_pandas(), before)


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    before = contents(path) if path.is_dir() else {}
    with pytest.raises(ResultError, match=words) as found:
        itd.compact(path)
    assert "\n" not in str(found.value) and (not before or contents(path) == before)


def test_what_is_no_finished_whole_result_of_a_sweep_is_refused(tmp_path, path):
    refused(tmp_path / "absent", "does not exist; give a result's folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is no folder that `itd sweep` wrote; give")
    refused(next(path.glob("part-*")), "is no folder that `itd sweep` wrote")
    with pytest.raises(ResultError, match="compact takes the path of a result, given int"):
        itd.compact(3)  # type: ignore[arg-type]
    part = sorted(path.glob("part-*"))[2]
    data = part.read_bytes()
    part.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    refused(path, f"{part.name}: .* is damaged: .*`itd verify --repair {path}` puts it aside")
    part.unlink()
    refused(path, "is not finished: 4 of 22 images are missing; .*then `itd compact")


def test_parts_that_are_not_alike_are_refused(path):
    part = sorted(path.glob("part-*"))[2]
    table = pq.ParquetFile(part).read()
    (old,) = (path / "_itd").glob(f"{part.stem}*")
    old.unlink()
    pq.write_table(table.replace_schema_metadata({"other": "x"}), part, write_page_checksum=True)
    itd.repair(path)
    refused(path, f"{part.name} has other columns, types or metadata than part-00000000-00000003")


def test_nobody_else_is_at_work_and_others_see_it(path):
    seen: list[object] = []
    with Claims(path) as other:
        refused(path, f"process {os.getpid()} on .* works on .*; wait until it has ended")
        (claim,) = (path / "_itd" / "claims").glob("run-*")
        old = time.time() - 600
        os.utime(claim, (old, old))  # one that was stopped holds nobody up
        itd.compact(path, progress=lambda count, total: seen.append(at_work(path, but=other.token)))
    assert seen and all(len(there) == 1 for there in seen) and part_names(path) == ["0-21"]


def test_progress_counts_every_value_twice(path):
    told: list[tuple[int, int]] = []
    itd.compact(path, progress=lambda *numbers: told.append(numbers))
    total = 2 * IMAGES * CONFIGS * len(raw_rows(path).column_names)
    assert sum(count for count, _ in told) == total and {every for _, every in told} == {total}


@pytest.mark.parametrize("null", [False, True], ids=["value", "null"])
@pytest.mark.parametrize("column", ["sample", "label", "config", "dilation_D", "nll", "rank"])
def test_what_reads_back_otherwise_takes_no_part_away(path, monkeypatch, column, null):
    real = _rows.Block.table

    def wrong(block, schema, *span):
        table = real(block, schema, *span)
        values = table.column(column).to_pylist()
        place = -1 if null else -3  # image 21 has null rows, image 19 has not
        values[place] = 0 if values[place] is None else values[place] + 1
        changed = pa.array(values, table.schema.field(column).type)
        return table.set_column(table.schema.names.index(column), table.schema.field(column), changed)

    monkeypatch.setattr(_rows.Block, "table", wrong)
    refused(path, r"does not read back .*; nothing already written is lost: check the disk")


# -- what others do meanwhile -----------------------------------------------------------------------------------------


def retry(path: Path) -> ResultWriter:
    return synthetic.open_writer(path, IMAGES, retry_missing=True)


@pytest.mark.parametrize("moment", ["while it is copied", "as the file takes its place"])
def test_a_part_that_is_made_again_meanwhile_is_not_lost(tmp_path, path, monkeypatch, moment):
    again = Path(shutil.copytree(path, tmp_path / "again"))
    synthetic.write_units(retry(again), SCORES)
    put = _compact.put_part

    def other(*_: object) -> None:
        """As a process does that retried a unit: the part with its record, then without the old record."""
        for name in ("part-00000000-00000003", "part-00000004-00000007"):
            (old,), (new,) = ((folder / "_itd").glob(f"{name}*") for folder in (path, again))
            shutil.copy(new, path / "_itd")
            shutil.copy(again / f"{name}.parquet", path / "new")
            os.replace(path / "new", path / f"{name}.parquet")
            if old.name != new.name:
                old.unlink()

    if moment == "while it is copied":
        monkeypatch.setattr(_compact, "make_record_of_file", lambda *args: (other(), make_record_of_file(*args))[1])
    else:
        monkeypatch.setattr(_compact, "put_part", lambda *args: (put(*args), other())[0])
    with pytest.raises(ResultError, match=r"part-00000004.* was changed by another process in the meantime"):
        itd.compact(path)
    assert len(part_names(path)) == 6 and open_result(path).nulls == 1 and verify(path).complete
    rows = in_order(path)
    monkeypatch.undo()
    itd.compact(path)
    is_one_file(path, rows)


def test_a_part_that_is_made_again_later_does_not_vanish(path):
    writer = retry(path)
    unit, *_ = writer.todo()
    itd.compact(path)
    scores = {name: array[..., unit.first : unit.last + 1] for name, array in SCORES.items()}
    with pytest.raises(ResultError, match="was put together with others by `itd compact` in the meantime; nothing"):
        writer.write(unit, missing=np.zeros(len(unit), bool), **scores)
    assert part_names(path) == ["0-21"] and verify(path).complete


@pytest.mark.parametrize("listed", [slice(None), slice(1, None)], ids=["all", "not the first"])
@pytest.mark.parametrize("module", [opening, _verify, whole], ids=["open", "verify", "sweep"])
def test_a_reader_that_listed_the_old_parts_reads_the_new_one(path, monkeypatch, module, listed):
    real = module.list_parts

    def early(folder):
        found = real(folder)[listed]
        monkeypatch.setattr(module, "list_parts", real)
        itd.compact(folder)
        return found

    monkeypatch.setattr(module, "list_parts", early)
    if module is opening:
        opened = open_result(path)
        assert (opened.n, opened.nulls, opened.matrix("pred").shape) == (19, 3, (CONFIGS, 19))
    elif module is _verify:
        assert verify(path).complete
    else:
        assert [unit.first for unit in retry(path).todo()] == [4, 20] and not (path / "_itd/bad").exists()


def test_a_listing_that_missed_the_new_part_and_an_old_one_is_made_again(tmp_path, path, monkeypatch):
    old = Path(shutil.copytree(path, tmp_path / "old"))
    itd.compact(path)
    shutil.copytree(old, path, dirs_exist_ok=True)  # as between the two steps of a compaction
    real = opening.list_parts

    def partly(folder):
        monkeypatch.setattr(opening, "list_parts", real)
        return [whole.Part(path / part.name, part.first, part.last, part.records) for part in real(old)[1:]]

    monkeypatch.setattr(opening, "list_parts", partly)
    opened = open_result(path)
    assert (opened.n, opened.nulls, opened.partial) == (19, 3, False)


def test_a_reader_that_opened_the_result_before_says_to_open_it_again(path):
    opened = open_result(path)
    itd.compact(path)
    with pytest.raises(ResultError, match=r"made again by another run since .* was opened; open it again"):
        opened.matrix("pred")


def test_a_disk_that_refuses_any_step_loses_nothing(tmp_path, path, monkeypatch):
    rows, work, seen = in_order(path), tmp_path / "w", 0

    def anew() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(path, work)
        itd.compact(work)

    for _ in refusals(anew, monkeypatch):
        seen += 1
        assert in_order_of_result(work).equals(rows) and not verify(work).damaged
        assert not list((work / "_itd").glob("tmp-*"))
        itd.compact(work)
        is_one_file(work, rows)
    assert seen >= 8
    is_one_file(work, rows)


def in_order_of_result(folder: Path) -> object:
    """The rows of the parts that a reader of the result sees."""
    seen = folder.parent / "seen"
    shutil.rmtree(seen, ignore_errors=True)
    shutil.copytree(folder / "_itd", seen / "_itd")
    for part in whole.list_parts(folder):
        shutil.copy(part.path, seen)
    return in_order(seen)
