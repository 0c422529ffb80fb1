"""`itd union` on the command line, and every command on a union whose sources differ in attributes and sites."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from itd.space import Setting, SiteSpec, build_space
from support import synthetic
from support.commands import one_line, run

IMAGES = 12


def make(path: Path, attribute: str, seed: int, sites: str, data: str = "d") -> Path:
    specs = [SiteSpec(s, Setting(stride=1, dilation=1, size=3), {attribute: (1, 3)}) for s in sites]
    space = build_space([attribute], specs, stem_stride=1, stride_range=(1, 999))
    writer = synthetic.open_writer(path, IMAGES, space=space, identity={"model": f"net{seed}", "data": data})
    scores = synthetic.make_scores(len(space), IMAGES, seed=seed, accuracy=0.6)
    labels = synthetic.make_scores(1, IMAGES, seed=99)["labels"]
    pred = np.where(scores["rank"] == 0, labels, (labels + 1) % 1000).astype(np.int16)
    synthetic.write_units(writer, scores | {"labels": labels, "pred": pred})
    return path


@pytest.fixture
def sources(tmp_path):
    return [make(tmp_path / "stride.parquet", "stride", 1, "AB"), make(tmp_path / "size.parquet", "size", 2, "ABC")]


@pytest.fixture
def united(sources, tmp_path):
    answer = run("union", *sources, "-o", tmp_path / "u.parquet")
    assert answer.exit_code == 0, answer.output
    return tmp_path / "u.parquet"


def test_it_says_which_numbers_come_from_where(sources, tmp_path):
    answer = run("union", *sources, "-o", tmp_path / "u.parquet", "--csv", tmp_path / "u.csv")
    head, columns, first, second = answer.stdout.splitlines()
    assert head == f"12 configurations of stride, size, n = 12 -> {tmp_path / 'u.parquet'}"
    assert columns.split() == ["configurations", "default", "source"]
    assert first.split() == ["0-3", "0", str(sources[0])] and second.split() == ["4-11", "11", str(sources[1])]
    assert [row["first"] for row in csv.DictReader((tmp_path / "u.csv").read_text().splitlines())] == ["0", "4"]
    found = json.loads(run("union", *sources, "-o", tmp_path / "u.parquet", "--json").stdout)
    assert found["already"] == 12 and found["sites"] == ["A", "B", "C"] and found["attributes"] == ["stride", "size"]
    assert found["sources"][1] == {"path": str(sources[1]), "model": "net2", "first": 4, "last": 11, "default": 11}
    answer = run("union", *sources, "-o", tmp_path / "static.parquet", "--defaults")
    assert [line.split()[0] for line in answer.stdout.splitlines()] == ["2", "configurations", "0", "1"]


def test_what_does_not_belong_together_is_one_line(sources, tmp_path):
    other = make(tmp_path / "other.parquet", "size", 3, "AB", data="e")
    one_line(run("union", sources[0], other, "-o", tmp_path / "u.parquet"), "data (d and e)")
    one_line(run("union", sources[0], "-o", tmp_path / "u.parquet"), "one result is nothing to unite")
    one_line(run("union", *sources), "--out")


COMMANDS = [["oracle"], ["oracle", "--by-sites"], ["baselines"], ["greedy"], ["unique"], ["preferences"],
            ["efficiency"], ["gain"]]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_reads_it(command, united, tmp_path):
    answer = run(*command, united, "--csv", tmp_path / "a.csv", "--plot", tmp_path / "a.svg")
    assert answer.exit_code == 0, answer.output
    assert "None" not in answer.stdout and "nan" not in answer.stdout
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])}
    assert (tmp_path / "a.svg").read_text().count("<path") > 3
    assert "NaN" not in run(*command, united, "--json").stdout


def test_compare_select_and_report_read_it(sources, united, tmp_path):
    assert run("compare", sources[0], united).exit_code == 0
    assert run("select", united, "--k", 2, "--folds", 2).exit_code == 0
    assert run("report", united, "-o", tmp_path / "r.html").exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert f"{united}: its sources" in page and f"<td>{sources[1]}" not in page.split("its sources")[0]
    assert "4 to 11" in page and "of its sources: see below" in page and ">nan<" not in page


def test_what_needs_one_network_refuses_it_in_one_line(united, tmp_path):
    size = make(tmp_path / "more.parquet", "dilation", 4, "AB")
    one_line(run("combine", united, size, "-o", tmp_path / "s.json"), "is a union", "no one network to sweep")
    one_line(run("select", united, "--k", 2, "--folds", 2, "--data", "digits"), "is a union", "no one network to run")
    sweep = ["sweep", "--model", "resnet18", "--attr", "stride", "--data", "digits", "--weights", "none"]
    one_line(run(*sweep, "--out", united), "is a union of results, which no sweep can extend", "--out")
