"""The oracle class by class, against loops over the rows of the result."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.errors import ResultError
from support import synthetic
from support.commands import one_line, run


@pytest.fixture
def result(tmp_path: Path):
    """40 images of up to five classes, where the first guess of the network is often not the best."""
    made = synthetic.make_scores(16, 40, seed=3, accuracy=0.3)
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2, 3, 7, 9], 40).astype(np.int16)
    right = rng.random((16, 40)) < np.linspace(0.1, 0.9, 40)
    made["labels"] = labels
    made["pred"] = np.where(right, labels, (labels + 1 + rng.integers(0, 8, (16, 40))) % 10).astype(np.int16)
    right = made["pred"] == labels
    made["quality"] = (0.4 + right).astype(np.float32)
    made["rank"] = np.where(right, 0, rng.integers(1, 9, (16, 40))).astype(np.int16)
    return itd.open_result(synthetic.make_result(tmp_path / "r", made, images_per_unit=16))


def test_each_class_is_that_of_a_loop_over_rows(result) -> None:
    found = itd.by_class(result, class_names=[f"class{i}" for i in range(10)])
    table = result.to_pandas()
    assert [one.label for one in found.classes] == sorted(table.label.unique()) and found.n == 40
    for one in found.classes:
        of = table[table.label == one.label]
        static, best, matched = [], [], []
        for _, rows in of.groupby("sample"):
            default = rows[rows.config == result.default].iloc[0]
            static.append(default.pred == one.label)
            best.append((rows.pred == one.label).any())
            matched.append(default["rank"] < rows.pred.nunique())
        assert one.n == len(static) and one.name == f"class{one.label}"
        assert (one.static.value, one.best.value, one.matched_topk.value) == pytest.approx(
            (np.mean(static), np.mean(best), np.mean(matched))
        )
        assert one.gain == pytest.approx(np.mean(best) - np.mean(static))
        assert one.beyond == pytest.approx(np.mean(best) - np.mean(matched))
        assert one.static.low <= one.static.value <= one.static.high and one.static.n == one.n
    gains = [one.gain for one in found.gaining(3)]
    assert gains == sorted((one.gain for one in found.classes), reverse=True)[:3]
    assert all(one.beyond < 0 for one in found.losing(9))
    assert sum(one.n * one.best.value for one in found.classes) / 40 == pytest.approx(
        itd.oracle(result, resamples=20).best
    )


def test_what_cannot_be_is_one_line(result, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"class_names has 9 names, and .* has the label 9"):
        itd.by_class(result, class_names=["x"] * 9)
    one_line(run("oracle", result.path, "--by-class", "--plot", "x.png"), "--by-class goes without")


def test_the_command_prints_both_ends_or_all(result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import itd_cli.oracle as command

    text = run("oracle", result.path, "--by-class", "--csv", tmp_path / "c.csv").stdout
    assert "n = 40, 5 classes" in text and text.count("\n") == 7
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["0", "2", "3", "7", "9"]
    told = json.loads(run("oracle", result.path, "--by-class", "--json").stdout)
    assert [float(row["gain"]) for row in rows] == pytest.approx([one["gain"] for one in told[0]["classes"]])
    monkeypatch.setattr(command, "MOST_CLASSES", 2)
    text = run("oracle", result.path, "--by-class").stdout
    assert "added most by the oracle:" in text and "behind as many guesses" in text
    assert max(map(len, text.splitlines())) <= 100


def test_names_are_those_that_the_result_keeps(tmp_path: Path) -> None:
    request = itd.SweepRequest("resnet18", "dilation", sites="D", options=("1,2",), data="digits", weights="none",
                               limit=10, crop_px=32, device="cpu", out=str(tmp_path / "r.parquet"))  # fmt: skip
    itd.sweep(request, quiet=True)
    found = itd.by_class(itd.open_result(request.out))
    assert [one.name for one in found.classes] == list("0123456789") and all(one.n == 1 for one in found.classes)
