"""`itd images`, and the pages that `itd report` links: what they print and write, and what they refuse."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from itd.data.open import open_images
from itd.store import ImageNames, ResultWriter
from support import synthetic
from support.commands import one_line, run
from support.sources import encoded, write_folder, write_labels


@pytest.fixture
def data(tmp_path):
    return write_folder(
        tmp_path / "data", [(f"c{label}/{i}.png", encoded(4 * label + i)) for label in range(3) for i in range(4)]
    )


@pytest.fixture
def result(data, tmp_path):
    return swept(data, tmp_path / "net-dilation.parquet")


def swept(data, path, default=0, **how):
    opened = open_images(data, num_classes=3, **how)
    scores = synthetic.make_ties(6, 12, seed=5, classes=3) | {"labels": opened.labels}
    scores["quality"] = (scores["pred"] == opened.labels) + np.float32(0.25)
    writer = ResultWriter.open(path, identity={"data": opened.fingerprint()}, macs=[1] * 6, images_per_unit=6,
                               space=synthetic.make_space(6, default=default), provenance={"classes": 3},
                               samples=np.arange(12, dtype=np.int32),
                               names=ImageNames(opened.names, opened.labels, opened.class_names))  # fmt: skip
    synthetic.write_units(writer, scores)
    return path


@pytest.mark.parametrize("group", ["rescued", "lost", "never"])
def test_json_and_csv_name_every_image(result, tmp_path, group):
    answer = run("images", result, f"--{group}", "--json", "--csv", tmp_path / "x.csv")
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["result"] == str(result) and found["n"] == 12 and found["default"] == 0
    (one,) = found["groups"]
    assert one["group"] == group and len(one["images"]) == one["total"]
    for row in one["images"]:
        assert row["name"] == f"c{row['label']}/{row['sample'] % 4}.png" and row["class_name"] == f"c{row['label']}"
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["name"]) for row in rows] == [(group, row["name"]) for row in one["images"]]


def test_every_key_of_the_json_is_documented(result):
    found = json.loads(run("images", result, "--json").stdout)
    help_text = run("images", "--help").stdout
    group = next(group for group in found["groups"] if group["images"])
    for key in {*found, *group, *group["images"][0], *group["images"][0]["configs"][0]}:
        assert re.search(rf"\b{key}\b", help_text), key


def test_a_summary_has_every_group_and_the_first_of_the_rescued(result):
    text = run("images", result).stdout
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["group", "rescued", "lost", "never"]
    assert re.search(r"rescued: \d of \d, those first that most get right", text) and "lost: the default" in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(re.findall(r"^ +\d+ .*c\d/\d\.png$", run("images", result, "--limit", 1).stdout, re.MULTILINE)) == 1


def test_one_question_at_a_time(result):
    for two in (["--rescued", "--lost"], ["--never", "--config", 2]):
        one_line(run("images", result, *two), "give one of them")
    one_line(run("images", result, "--config", 0), "--config 0 is the default itself")
    one_line(run("images", result, "--classes", "x"), "say how --data is read; give --data too")


def test_what_needs_the_default_says_so(data, tmp_path):
    path = swept(data, tmp_path / "r", default=None)
    for how in (["--rescued"], ["--lost"], ["--config", 2]):
        one_line(run("images", path, *how), "does not hold the network's default configuration", "--options")
    assert run("images", path, "--never").exit_code == 0 == run("images", path).exit_code


def test_another_truth_moves_images_from_one_group_to_another(tmp_path):
    names = ImageNames([f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)], np.array([5, 5, 5], np.int16))
    scores = synthetic.from_quality(np.full((2, 3), 0.5)) | {"labels": np.array([5, 5, 5], np.int16)}
    scores["pred"] = np.array([[7, 8, 8], [8, 8, 8]], np.int16)
    writer = ResultWriter.open(tmp_path / "r", identity={}, space=synthetic.make_space(2), macs=[1] * 2,
                               samples=np.arange(3, dtype=np.int32), images_per_unit=4, provenance={},
                               names=names)  # fmt: skip
    synthetic.write_units(writer, scores)
    (tmp_path / "real.json").write_text(json.dumps([[7], [8], []] + [[0]] * 49_997))
    found = json.loads(run("images", tmp_path / "r", "--real-labels", tmp_path / "real.json", "--json").stdout)
    assert found["n"] == 2 and {group["group"]: group["total"] for group in found["groups"]} == {
        "rescued": 0, "lost": 1, "never": 0
    }  # fmt: skip
    (lost,) = found["groups"][1]["images"]
    assert (lost["sample"], lost["label"], lost["right"], lost["name"]) == (0, 7, 1, "ILSVRC2012_val_00000001.JPEG")
    assert json.loads(run("images", tmp_path / "r", "--json").stdout)["groups"][2]["total"] == 3


def test_a_page_of_a_folder_and_of_a_list_of_labels(data, result, tmp_path):
    answer = run("images", result, "--rescued", "--data", data, "-o", tmp_path / "g.html", "--progress", "none")
    assert answer.exit_code == 0 and answer.stdout.endswith(f"page: {tmp_path / 'g.html'}\n"), answer.stderr
    assert (tmp_path / "g.html").read_text().count("<img ") == int(re.search(r"rescued +(\d+)", answer.stdout)[1])
    labels = write_labels(tmp_path / "l.csv", [(f"c{k}/{i}.png", f"c{k}") for k in range(3) for i in range(4)])
    listed = swept(data, tmp_path / "listed.parquet", labels_file=labels)
    done = run("images", listed, "--data", data, "--labels", labels, "-o", tmp_path / "l.html", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["n"] == 12, done.stderr
    one_line(run("images", result, "-o", tmp_path / "absent" / "g.html"), "cannot write the report")
    one_line(run("images", result, "--data", tmp_path / "nothing"), "no such data folder")


def test_a_report_links_a_page_of_the_images_of_each_result(data, result, tmp_path):
    other = swept(data, tmp_path / "other.parquet")
    elsewhere = synthetic.make_result(tmp_path / "elsewhere.parquet", synthetic.make_scores(4, 8))
    out = tmp_path / "my report.html"
    answer = run("report", result, elsewhere, other, "--resamples", 20, "--data", data, "-o", out, "--json")
    assert answer.exit_code == 0, answer.stderr
    pages = [tmp_path / "my report-images.html", tmp_path / "my report-images-2.html"]
    assert (
        json.loads(answer.stdout)["images"] == list(map(str, pages))
        and "Images" in json.loads(answer.stdout)["sections"]
    )
    assert f"left out: the images of {elsewhere}" in answer.stderr
    links = re.findall(r'<p><a href="([^"]+)">([^<]+)</a>', out.read_text())
    assert links == [("my%20report-images.html", "net-dilation"), ("my%20report-images-2.html", "other")]
    assert all("data:image/jpeg" in page.read_text() for page in pages)
    one_line(
        run("report", elsewhere, "--resamples", 20, "--data", data, "-o", out), "are not among the 1000 WordNet ids"
    )
    one_line(run("report", result, "--labels", "x.csv", "-o", out), "give --data too")
    alone = run("report", result, "--resamples", 20, "-o", tmp_path / "alone.html", "--json")
    assert json.loads(alone.stdout)["images"] == [] and "-images.html" not in (tmp_path / "alone.html").read_text()
