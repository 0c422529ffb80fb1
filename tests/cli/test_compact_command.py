"""`itd compact` on the command line: what it prints and refuses, and real sweeps that go on with what it made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from itd.store import Claims, open_result, verify
from support import synthetic
from support.commands import one_line, run
from support.rows import in_order, part_names

IMAGES = 10
SCORES = synthetic.make_scores(6, IMAGES, seed=1)
SMALL = ["sweep", "--model", "support.small:ten_classes", "--attr", "dilation", "--sites", "C=stem,D=body",
         "--options", "1,2", "--data", "digits", "--weights", "none", "--crop", "32", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return synthetic.make_result(tmp_path / "r.parquet", SCORES)


def size(path: Path) -> int:
    return sum(part.stat().st_size for part in path.glob("part-*"))


def test_a_line_for_each_result_and_a_second_time_nothing_to_do(path, tmp_path):
    other = synthetic.make_result(tmp_path / "other.parquet", SCORES, images_per_unit=16)
    before = size(path)
    answer = run("compact", path, other)
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        f"{path}: 3 parts -> 1, 10 images, 60 rows, {before / 1e6:.1f} MB -> {size(path) / 1e6:.1f} MB",
        f"{other}: nothing to do, 10 images, 60 rows are in one part already",
    ]
    again = run("compact", path)
    assert again.exit_code == 0 and again.stderr == ""
    assert again.stdout == f"{path}: nothing to do, 10 images, 60 rows are in one part already\n"


def test_json_says_the_same_and_every_key_is_documented(path, tmp_path):
    other = synthetic.make_result(tmp_path / "other.parquet", SCORES, images_per_unit=16)
    before = size(path)
    found = json.loads(run("compact", path, other, "--json", "--progress", "none").stdout)
    assert found == [
        {"path": str(path), "parts": 3, "images": 10, "rows": 60, "bytes_before": before, "bytes": size(path),
         "compacted": True},
        {"path": str(other), "parts": 1, "images": 10, "rows": 60, "bytes_before": size(other), "bytes": size(other),
         "compacted": False},
    ]  # fmt: skip
    help_text = run("compact", "--help").stdout
    assert all(re.search(rf"\b{key}\b", help_text) for key in found[0])


def test_progress_names_each_result(path, tmp_path):
    other = synthetic.make_result(tmp_path / "other.parquet", SCORES)
    lines = run("compact", path, other, "--progress", "log").stderr.splitlines()
    for one in (path, other):
        own = [line for line in lines if line.startswith(f"itd: {one}: ")]
        assert own and "1,440/1,440 values (100%)" in own[-1]


def test_what_is_refused_is_one_line_and_what_was_done_before_it_is_said(path, tmp_path):
    one_line(run("compact", tmp_path / "absent"), "does not exist; give a result's folder")
    unfinished = tmp_path / "u.parquet"
    writer = synthetic.open_writer(unfinished, IMAGES)
    scores = {name: values[..., :4] for name, values in SCORES.items()}
    writer.write(writer.todo()[0], missing=np.zeros(4, bool), **scores)
    one_line(run("compact", unfinished), "is not finished: 6 of 10 images are missing", "`itd compact")
    with Claims(path):
        one_line(run("compact", path), "works on", "wait until it has ended, then give the same command again")
    answer = run("compact", path, unfinished, "--progress", "none")
    assert answer.exit_code == 1 and answer.stdout.startswith(f"{path}: 3 parts -> 1") and part_names(path) == ["0-9"]
    one_line(answer, "is not finished")


def test_oracle_and_greedy_print_the_same(path):
    questions = [("oracle", path), ("oracle", path, "--json"), ("greedy", path), ("greedy", path, "--json")]
    before = [run(*question).stdout for question in questions]
    run("compact", path)
    assert [run(*question).stdout for question in questions] == before and all(before)


def test_the_same_sweep_has_nothing_to_do_and_a_larger_limit_the_rest(tmp_path):
    out, whole = tmp_path / "r.parquet", tmp_path / "whole.parquet"
    assert run(*SMALL, "--limit", 20, "--out", out).exit_code == 0
    assert run(*SMALL, "--limit", 32, "--out", whole).exit_code == 0
    assert len(part_names(out)) > 1 and run("compact", out).exit_code == 0
    same = run(*SMALL, "--limit", 20, "--out", out)
    assert same.exit_code == 0 and "20 of them there already" in same.stderr and part_names(out) == ["0-19"]
    more = run(*SMALL, "--limit", 32, "--out", out)
    assert more.exit_code == 0 and "20 of them there already" in more.stderr
    assert part_names(out)[0] == "0-19" and verify(out).complete
    here, there = in_order(out), in_order(whole)
    assert here.select(["sample", "config", "pred", "rank"]).equals(there.select(["sample", "config", "pred", "rank"]))
    assert np.allclose(here.column("nll"), there.column("nll"), atol=1e-4)


def test_a_retry_computes_only_units_with_null_rows(tmp_path):
    from PIL import Image

    data = tmp_path / "data"
    for label in "ab":
        (data / label).mkdir(parents=True)
        for number in range(16):
            Image.new("RGB", (40, 40), (7 * number, 90, 30)).save(data / label / f"{number:02d}.png")
    good = (data / "a" / "03.png").read_bytes()
    (data / "a" / "03.png").write_bytes(b"x" * len(good))
    sweep = [*SMALL, "--data", data, "--model", "support.small:two_classes"]
    out = tmp_path / "r.parquet"
    assert run(*sweep, "--allow-missing", "1", "--out", out).exit_code == 0
    cells = part_names(out)
    assert len(cells) > 1 and run("compact", out).exit_code == 0 and open_result(out).nulls == 1
    (data / "a" / "03.png").write_bytes(good)
    answer = run(*sweep, "--retry-missing", "--out", out)
    assert answer.exit_code == 0, answer.stderr
    first, last = map(int, cells[0].split("-"))
    assert f"{32 - (last - first + 1)} of them there already" in answer.stderr
    assert part_names(out) == cells and open_result(out).nulls == 0 and verify(out).complete
