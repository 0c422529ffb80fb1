"""The commands that answer from results: what they print, write and draw, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from itd.space import Setting, SiteSpec, build_space, read_space
from support import synthetic
from support.commands import one_line, run

IDENTITY = {
    "model": "resnet50",
    "weights_sha256": "w",
    "sites": {"A": ["layer1.0.conv2"]},
    "choices": {},
    "data": "d",
    "preprocess": {},
    "variation": None,
}
FEW = ["--resamples", 20]


def few(command):
    """Few resamples, for the commands that draw any."""
    return [] if command[0] == "preferences" else FEW


def make(path: Path, attribute: str, images: int = 12, seed: int = 0, **changed: object) -> Path:
    """A result of 16 configurations with the default, and a manifest that names its data."""
    sites = [SiteSpec(s, Setting(stride=1, dilation=1, size=3), {attribute: (1, 3)}) for s in "ABCD"]
    space = build_space([attribute], sites, stem_stride=1, stride_range=(1, 999))
    writer = synthetic.open_writer(path, images, space=space, identity={**IDENTITY, **changed})
    synthetic.write_units(writer, synthetic.make_scores(16, images, seed=seed, accuracy=0.6) | LABELS(images))
    return path


def LABELS(images: int) -> dict[str, np.ndarray]:
    """Labels do not depend on the seed of the scores."""
    return {"labels": synthetic.make_scores(1, images, seed=99)["labels"]}


@pytest.fixture
def stride(tmp_path):
    return make(tmp_path / "resnet50-stride.parquet", "stride")


@pytest.fixture
def size(tmp_path):
    return make(tmp_path / "resnet50-size.parquet", "size", seed=1)


@pytest.fixture
def scaled(tmp_path):
    return [
        make(tmp_path / f"resnet50-size-scale{f:g}.parquet", "size", seed=i, variation={"scale": f})
        for i, f in enumerate((0.5, 1.0, 2.0))
    ]


COMMANDS = [
    ["oracle"],
    ["oracle", "--by-sites"],
    ["baselines", "--votes", "3,5"],
    ["greedy"],
    ["unique"],
    ["preferences"],
    ["efficiency"],
    ["gain"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_json_csv_and_figure_of_every_command(command, stride, tmp_path):
    files = ["--csv", tmp_path / "x.csv", "--plot", tmp_path / "x.svg"]
    answer = run(*command, stride, *few(command), "--json", *files)
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    (first,) = found if isinstance(found, list) else [found]
    assert first["result"] == str(stride) and first["n"] == 12
    with open(tmp_path / "x.csv", newline="") as file:
        assert list(csv.DictReader(file))
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    text = run(*command, stride, *few(command))
    assert text.exit_code == 0 and stride.stem in text.stdout and "12" in text.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_key_of_the_json_is_documented(command, stride):
    found = json.loads(run(*command, stride, *few(command), "--json").stdout)
    (first,) = found if isinstance(found, list) else [found]
    help_text = run(command[0], "--help").stdout
    if command[0] == "baselines":
        help_text += run("oracle", "--help").stdout
    for key in first:
        assert re.search(rf"\b{key}\b", help_text), key


def test_oracle_stands_beside_its_baselines_with_intervals(stride):
    (row,) = json.loads(run("oracle", stride, "--json", *FEW).stdout)
    assert set(row["intervals"]) == {"static", "worst", "median", "best"}
    low, high = row["intervals"]["best"]
    assert low <= row["best"] <= high
    named = row["baselines"]
    assert {"matched_topk", "chance", "single_best", "most_confident", "vote_all"} <= set(named)
    assert named["matched_topk"]["n"] == 12
    header, _, between, *_ = run("oracle", stride, "--wide", *FEW).stdout.splitlines()
    assert header.split()[3:] == [
        "static", "best", "top-k", "median", "worst", "single", "confident", "vote", "chance"
    ]  # fmt: skip
    assert between.split()[:2] == ["95%", "interval"]


def test_the_seed_changes_intervals_and_nothing_else(stride):
    rows = [json.loads(run("oracle", stride, "--json", *FEW, "--seed", s).stdout)[0] for s in (0, 0, 1)]
    assert rows[0] == rows[1] and rows[0]["intervals"] == rows[2]["intervals"], "a share needs no resamples"
    assert rows[0]["baselines"]["chance"] != rows[2]["baselines"]["chance"]
    assert [row["best"] for row in rows] == [rows[0]["best"]] * 3


def test_greedy_says_how_many_configurations_reach_an_accuracy(stride):
    text = run("greedy", stride, *FEW, "--reach", "50,100").stdout
    (curve,) = json.loads(run("greedy", stride, *FEW, "--reach", "50,100", "--json").stdout)
    k = next(s["k"] for s in curve["steps"] if s["accuracy"] >= 0.5)
    assert curve["reach"]["50"] == k and re.search(rf"50%: .* held out, reached with {k} configurations? in-", text)
    assert all(s["accuracy"] <= s["upper_bound"] for s in curve["steps"])
    one_line(run("greedy", stride, "--reach", "0"), "--reach", "80,85,90")


def test_preferences_of_varied_images_are_drawn_as_a_series(scaled, tmp_path):
    answer = run("preferences", *scaled, "--plot", tmp_path / "v.svg", "--csv", tmp_path / "v.csv", "--json")
    assert [one["variation"] for one in json.loads(answer.stdout)] == [{"scale": s} for s in (0.5, 1.0, 2.0)]
    assert "image scale" in _texts(scaled)
    with open(tmp_path / "v.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["scale"] for row in rows} == {"0.5", "1.0", "2.0"} and {r["what"] for r in rows} == {"option", "config"}


def _texts(paths: list[Path]) -> set[str]:
    from itd.analysis import preferences
    from itd.analysis.figures import variation_figure
    from itd.store import open_result

    return {axes.get_xlabel() for axes in variation_figure([preferences(open_result(p)) for p in paths]).figure.axes}


def test_combine_writes_a_space_that_sweep_reads(stride, size, tmp_path):
    answer = run("combine", stride, size, "--budget", 9, "-o", tmp_path / "s.json", "--json")
    found = json.loads(answer.stdout)
    assert found["per_attribute"] == 3 and found["configs"] == 9 and found["space"] == str(tmp_path / "s.json")
    space = read_space(tmp_path / "s.json")
    assert space.attributes == ("stride", "size") and len(space.configs) == 9
    plan = run("sweep", "--model", "resnet50", "--space", tmp_path / "s.json", "--data", "digits", "--weights", "none",
               "--limit", 1, "--plan=quick")  # fmt: skip
    assert "configurations   9 " in plan.stdout, plan.stderr
    assert "results/resnet50-combined-stride+size.parquet" in plan.stdout
    assert "3 of each of stride and size: 9 configurations" in run(
        "combine", stride, size, "--budget", 9, "-o", tmp_path / "s.json"
    ).stdout  # fmt: skip


def test_combine_refuses_what_does_not_belong_together(stride, size, tmp_path):
    other = make(tmp_path / "other.parquet", "size", data="e")
    for paths, words in (
        ([stride, other], ["data (d and e)", "same network on the same images"]),
        ([stride, stride], ["same attribute"]),
        ([stride], ["one result is nothing to combine"]),
    ):
        one_line(run("combine", *paths, "-o", tmp_path / "s.json"), *words)
    assert not (tmp_path / "s.json").exists()
    one_line(run("combine", stride, size, "-o", tmp_path / "absent" / "s.json"), "cannot write the space")


def test_gain_says_what_it_cannot_hold_against_the_first(stride, size, tmp_path):
    other = make(tmp_path / "o.parquet", "size", data="e")
    answer = run("gain", stride, size, other, *FEW, "--json")
    found = json.loads(answer.stdout)
    assert found[1]["against_first"]["n"] == 12 and found[0]["against_first"] is found[2]["against_first"] is None
    assert (
        answer.stderr.count("\n") == 1
        and "nothing against first" in answer.stderr
        and "data (d and e)" in answer.stderr
    )
    empty = tmp_path / "empty.parquet"
    synthetic.open_writer(empty, 12, space=synthetic.make_space(16, default=0), identity=IDENTITY)
    one_line(run("gain", empty, size), "has no images yet")
    assert run("gain", stride, empty, *FEW).exit_code == 0


def test_compare_prints_before_after_and_the_change(stride, size, tmp_path):
    answer = run("compare", stride, size, *FEW, "--csv", tmp_path / "c.csv")
    lines = answer.stdout.splitlines()
    assert lines[0] == "n = 12" and lines[1].split() == [
        "configs", "static", "worst", "median", "best", "volatility", "matched_topk", "agree"
    ]  # fmt: skip
    found = json.loads(run("compare", stride, size, *FEW, "--json").stdout)
    assert set(found) == {"n", "total", "before", "after", "change", "spaces_differ"} and found["total"] == [12, 12]
    with open(tmp_path / "c.csv", newline="") as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert float(rows["best"]["change"]) == pytest.approx(
        found["after"]["best"]["value"] - found["before"]["best"]["value"]
    )
    one_line(run("compare", stride, make(tmp_path / "o.parquet", "size", data="e")), "data (d and e)")


def test_a_figure_of_no_known_format_is_refused_before_anything_is_read(tmp_path):
    one_line(run("unique", tmp_path / "absent.parquet", "--plot", "x.docx"), "must end in")


def test_an_unfinished_result_says_so_and_is_refused_by_combine(stride, tmp_path):
    sites = [SiteSpec(s, Setting(stride=1, dilation=1, size=3), {"size": (1, 3)}) for s in "ABCD"]
    space = build_space(["size"], sites)
    writer = synthetic.open_writer(tmp_path / "part.parquet", 12, space=space, identity=IDENTITY)
    scores = synthetic.make_scores(16, 4) | {"labels": LABELS(12)["labels"][:4]}
    writer.write(writer.todo()[0], missing=np.zeros(4, bool), **scores)
    for command in ("oracle", "baselines", "unique", "preferences", "efficiency"):
        answer = run(command, tmp_path / "part.parquet", *few([command]))
        assert answer.exit_code == 0 and "not finished: 4 of 12 images" in answer.stderr, (command, answer.stderr)
    answer = run("combine", stride, tmp_path / "part.parquet", "-o", tmp_path / "s.json")
    assert answer.exit_code == 1 and "--partial" in answer.stderr
    assert run("combine", stride, tmp_path / "part.parquet", "-o", tmp_path / "s.json", "--partial").exit_code == 0


def test_what_needs_the_default_says_so(tmp_path):
    path = synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 4), default=None)
    one_line(run("oracle", path, "--by-sites"), "does not hold the network's default configuration", "--options")
    one_line(run("efficiency", path), "default configuration")
    (row,) = json.loads(run("oracle", path, "--json", *FEW).stdout)
    assert row["baselines"]["matched_topk"] is None and row["static"] is None


def test_efficiency_of_a_single_file_without_costs_says_what_to_give(stride, tmp_path):
    import pandas as pd

    pd.read_parquet(stride).to_parquet(tmp_path / "one.parquet")
    one_line(run("efficiency", tmp_path / "one.parquet"), "does not say what its configurations cost")
