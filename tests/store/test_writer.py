"""The writer: what is to do, continuing, refusing, and disks that do not take any more."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from itd.errors import ResultError
from itd.process import machine
from itd.store import ResultWriter, Unit, open_result, verify
from support import synthetic


def ranges(writer: ResultWriter, shard: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    return [(u.first, u.last) for u in writer.todo(shard)]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.parquet"))


def temporaries(folder: Path) -> list[str]:
    return [p.name for p in (folder / "_itd").iterdir() if p.name.startswith("tmp-")]


def test_units_are_a_grid_and_done_ones_are_not_to_do(tmp_path):
    scores = synthetic.make_scores(6, 10)
    writer = synthetic.open_writer(tmp_path / "r", 10)
    assert ranges(writer) == [(0, 3), (4, 7), (8, 9)]
    synthetic.write_units(writer, scores)
    assert ranges(writer) == [] and writer.done_images == 10
    assert names(tmp_path / "r") == [f"part-{a:08d}-{b:08d}.parquet" for a, b in [(0, 3), (4, 7), (8, 9)]]
    assert temporaries(tmp_path / "r") == []


def test_a_larger_limit_extends_with_the_rest_of_a_cell(tmp_path):
    scores = synthetic.make_scores(6, 10)
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 6), scores)
    writer = synthetic.open_writer(tmp_path / "r", 10)
    assert writer.done_images == 6
    assert ranges(writer) == [(6, 7), (8, 9)]
    synthetic.write_units(writer, scores)
    result = open_result(tmp_path / "r")
    assert np.array_equal(result.matrix("quality"), scores["quality"])
    assert np.array_equal(result.labels, scores["labels"])


def test_a_smaller_limit_loses_nothing(tmp_path):
    scores = synthetic.make_scores(6, 10)
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 10), scores)
    writer = synthetic.open_writer(tmp_path / "r", 3)
    assert ranges(writer) == [] and writer.done_images == 3
    assert open_result(tmp_path / "r").images_requested == 10


def test_images_per_unit_is_fixed_at_creation(tmp_path):
    synthetic.open_writer(tmp_path / "r", 10, images_per_unit=5)
    writer = synthetic.open_writer(tmp_path / "r", 10, images_per_unit=3)
    assert writer.images_per_unit == 5 and ranges(writer) == [(0, 4), (5, 9)]


@pytest.mark.parametrize("shards", [[(1, 3), (2, 3), (3, 3)], [(0, 3), (1, 3), (2, 3)]])
def test_shards_share_out_all_units_once(tmp_path, shards):
    writer = synthetic.open_writer(tmp_path / "r", 30)
    pieces = [ranges(writer, shard) for shard in shards]
    assert sorted(unit for piece in pieces for unit in piece) == ranges(writer)
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 8), synthetic.make_scores(6, 8))
    assert ranges(writer, shards[0]) == [r for r in pieces[0] if r[0] >= 8]


def test_each_run_leaves_its_provenance(tmp_path):
    for images in (4, 8):
        synthetic.open_writer(tmp_path / "r", images)
    manifest = json.loads((tmp_path / "r/_itd/manifest.json").read_text())
    assert manifest["provenance"] == [{"tool": "tests"}] * 2 and manifest["images"] == 8


def test_another_identity_is_refused_by_field_name(tmp_path):
    first = {"model": "resnet50", "choices": {"size_scale": "area", "x": 1}}
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 4, identity=first), synthetic.make_scores(6, 4))
    with pytest.raises(ResultError) as caught:
        identity = {"model": "resnet50", "choices": {"size_scale": "side", "x": 1}, "precision": "bf16"}
        synthetic.open_writer(tmp_path / "r", 4, identity=identity)
    text = str(caught.value)
    assert 'choices.size_scale is "area", given "side"' in text and 'precision is (absent), given "bf16"' in text
    assert "model" not in text and "choices.x" not in text and "`out`" in text


def test_a_result_without_parts_begins_anew_and_its_former_writer_is_refused(tmp_path):
    former = synthetic.open_writer(tmp_path / "r", 4, identity={"model": "a"})
    now = synthetic.open_writer(tmp_path / "r", 4, identity={"model": "b"})
    with pytest.raises(ResultError, match="begun anew by another run"):
        synthetic.write_units(former, synthetic.make_scores(6, 4))
    synthetic.write_units(now, synthetic.make_scores(6, 4))
    assert verify(tmp_path / "r").ok and open_result(tmp_path / "r").manifest["identity"] == {"model": "b"}


def test_other_images_are_refused(tmp_path):
    synthetic.open_writer(tmp_path / "r", 0, samples=np.array([0, 5, 10, 15]))
    synthetic.open_writer(tmp_path / "r", 0, samples=np.array([0, 5, 10, 15, 20]))
    with pytest.raises(ResultError, match="image 1 of the selection is sample 5, given 4"):
        synthetic.open_writer(tmp_path / "r", 0, samples=np.array([0, 4, 8]))


def test_another_space_is_refused(tmp_path):
    synthetic.open_writer(tmp_path / "r", 4, identity={})
    with pytest.raises(ResultError, match="configurations is 6, given 7"):
        synthetic.open_writer(tmp_path / "r", 4, identity={}, space=synthetic.make_space(7))


def test_a_unit_written_twice_is_the_same_unit(tmp_path):
    scores = synthetic.make_scores(6, 4)
    first, second = (synthetic.open_writer(tmp_path / "r", 4) for _ in range(2))
    (unit,) = first.todo()
    first.write(unit, missing=np.zeros(4, bool), **scores)
    second.write(unit, missing=np.zeros(4, bool), **synthetic.make_scores(6, 4, seed=1))
    assert verify(tmp_path / "r").ok
    assert np.array_equal(open_result(tmp_path / "r").matrix("nll"), scores["nll"]), "what is there stays"


def test_a_unit_takes_the_place_of_a_piece_of_it(tmp_path):
    scores = synthetic.make_scores(6, 4)
    large = synthetic.open_writer(tmp_path / "r", 4)
    (unit,) = large.todo()
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 2), {k: v[..., :2] for k, v in scores.items()})
    large.write(unit, missing=np.zeros(4, bool), **scores)
    assert names(tmp_path / "r") == ["part-00000000-00000003.parquet"] and temporaries(tmp_path / "r") == []
    assert verify(tmp_path / "r").complete and len(list((tmp_path / "r/_itd").glob("part-*.json"))) == 1


def test_a_unit_that_would_overlap_is_not_written(tmp_path):
    scores = synthetic.make_scores(6, 8)
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 2), {k: v[..., :2] for k, v in scores.items()})
    short, long = synthetic.open_writer(tmp_path / "r", 3), synthetic.open_writer(tmp_path / "r", 8)
    unit, here = Unit(1, 2, short.samples[1:3]), slice(1, 3)  # which no run of this version makes
    with pytest.raises(ResultError, match="another run"):
        short.write(unit, missing=np.zeros(2, bool), **{k: v[..., here] for k, v in scores.items()})
    synthetic.write_units(long, scores)
    assert verify(tmp_path / "r").complete and temporaries(tmp_path / "r") == []


def test_scores_that_are_not_finite_are_not_written(tmp_path):
    scores = synthetic.make_scores(6, 4)
    scores["nll"][2, 1] = np.nan
    writer = synthetic.open_writer(tmp_path / "r", 4)
    with pytest.raises(ResultError, match="nll"):
        synthetic.write_units(writer, scores)
    synthetic.write_units(writer, scores, missing=np.array([False, True, False, False]))
    assert open_result(tmp_path / "r").nulls == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_one_line_and_nothing_is_lost(tmp_path, monkeypatch, code):
    scores = synthetic.make_scores(6, 8)
    writer = synthetic.open_writer(tmp_path / "r", 8)
    first, second = writer.todo()
    writer.write(first, missing=np.zeros(4, bool), **{k: v[..., :4] for k, v in scores.items()})

    def refuse(handle):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(ResultError) as caught:
        patch.setattr(os, "fsync", refuse)
        writer.write(second, missing=np.zeros(4, bool), **{k: v[..., 4:] for k, v in scores.items()})
    text = str(caught.value)
    assert os.strerror(code) in text and "nothing already written is lost" in text and "\n" not in text
    assert temporaries(tmp_path / "r") == [] and len(names(tmp_path / "r")) == 1
    synthetic.write_units(writer, scores)
    assert np.array_equal(open_result(tmp_path / "r").matrix("quality"), scores["quality"])


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "r").write_text("x")
    with pytest.raises(ResultError, match="a result is a folder"):
        synthetic.open_writer(tmp_path / "r", 4)


def test_a_folder_of_parts_without_a_manifest_is_not_continued(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 4))
    (folder / "_itd/manifest.json").unlink()
    with pytest.raises(ResultError, match=r"no _itd/manifest\.json"):
        synthetic.open_writer(folder, 4)


def test_temporary_files_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 4))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = machine()
    for pid in (dead.pid, os.getpid()):
        (folder / f"_itd/tmp-{host}-{pid}-abc").write_text("x")
    for age, name in ((0, "new"), (2 * 86_400, "old")):
        path = folder / f"_itd/tmp-otherhost{name}-1-abc"
        path.write_text("x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    synthetic.open_writer(folder, 4)
    assert sorted(temporaries(folder)) == sorted([f"tmp-{host}-{os.getpid()}-abc", "tmp-otherhostnew-1-abc"])


def test_two_processes_may_create_and_fill_one_result_at_once(tmp_path):
    code = (
        "import runpy, sys, types, pathlib\n"
        "s = types.SimpleNamespace(**runpy.run_path(sys.argv[1]))\n"
        "sys.stdin.readline()\n"
        "w = s.open_writer(pathlib.Path(sys.argv[2]), 24, images_per_unit=2)\n"
        "s.write_units(w, s.make_scores(6, 24))\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).parents[1] / "support" / "synthetic.py"),
        str(tmp_path / "r"),
    ]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.close()
    assert [child.wait() for child in children] == [0, 0, 0]
    assert verify(tmp_path / "r").ok
    assert np.array_equal(open_result(tmp_path / "r").matrix("nll"), synthetic.make_scores(6, 24)["nll"])


def test_configurations_are_a_table_of_their_own(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 4), default=2)
    table = pq.read_table(folder / "_itd/configs.parquet")
    assert table.column_names == ["config", *(f"dilation_{s}" for s in "ABCD"), "macs", "is_default"]
    assert table.column("is_default").to_pylist() == [i == 2 for i in range(6)]
    assert str(table.schema.field("macs").type) == "int64" and table.column("macs").to_pylist()[3] == 1003


def test_a_run_that_adds_nothing_is_recorded_only_where_it_tells_more(tmp_path):
    def opened(**more):
        space = synthetic.make_space(6)
        return ResultWriter.open(
            tmp_path / "r", identity={"model": "m"}, space=space, macs=[1] * 6, samples=np.arange(4),
            images_per_unit=4, provenance={"tool": "tests", **more},
        )  # fmt: skip

    synthetic.write_units(opened(), synthetic.make_scores(6, 4))
    for more, runs in (({}, 1), ({"tool": "others"}, 1), ({"classes": 10}, 2), ({"classes": 10}, 2)):
        opened(**more)
        result = open_result(tmp_path / "r")
        assert len(result.manifest["provenance"]) == runs and result.n == 4
    assert result.num_classes == 10
