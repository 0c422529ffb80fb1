"""ImageNet's relatives: predictions among some of the classes, folders named by label, corruptions by severity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import itd
from itd.data.digits import digits_images
from itd.data.folder import corruptions
from itd.data.open import open_images
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.data.subset import class_subset
from itd.engine.plain import PlainExecutor
from itd.errors import DataError, ResultError
from itd.runner.scores import score
from itd.weights.files import PREPROCESS_KEY
from support.commands import one_line, run

KEPT = (2, 5, 7)
SWEPT = ("--model", "resnet18", "--attr", "dilation", "--sites", "D", "--options", "1,2", "--device", "cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two digits of each of three classes, in folders named by the ten digits' names."""
    digits = digits_images("eval")
    for label in KEPT:
        for number, index in enumerate(np.flatnonzero(digits.labels == label)[:2]):
            folder = tmp_path / "data" / "wxyzabcdef"[label]
            folder.mkdir(parents=True, exist_ok=True)
            digits.load(int(index)).save(folder / f"{number}.png")
    (tmp_path / "names.txt").write_text("\n".join("wxyzabcdef"))
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path, random_network) -> str:
    header = {PREPROCESS_KEY: json.dumps(DIGITS_PREPROCESS.identity())}
    save_file(random_network("resnet18").state_dict(), tmp_path / "w.safetensors", metadata=header)
    return str(tmp_path / "w.safetensors")


def asked(data: Path, weights: str, **changed: object) -> itd.SweepRequest:
    given = {"sites": "D", "options": ("1,2",), "data": str(data), "weights": weights, "device": "cpu",
             "classes_file": str(data.parent / "names.txt")}  # fmt: skip
    return itd.SweepRequest("resnet18", "dilation", **(given | changed))  # type: ignore[arg-type]


def test_scores_among_some_classes_are_those_of_the_logits_of_those_classes() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 9), torch.randint(0, 3, (50,)) * 2 + 3
    kept = torch.zeros(9, dtype=torch.bool)
    kept[[3, 5, 7, 8]] = True
    found = score(logits, labels, kept)
    alone = score(logits[:, [3, 5, 7, 8]], (labels - 3) // 2)
    assert torch.equal(found.pred, torch.tensor([3, 5, 7, 8])[alone.pred.long()].to(torch.int16))
    for name in ("quality", "nll", "rank", "confidence"):
        assert torch.allclose(getattr(found, name), getattr(alone, name)), name
    logits[4, 0] = torch.nan  # of a class that is left out
    assert not bool(score(logits, labels, kept).finite[4])


def test_a_sweep_among_the_classes_that_are_there(data: Path, weights: str, tmp_path: Path) -> None:
    request = asked(data, weights, class_subset="present", out=str(tmp_path / "r.parquet"))
    itd.sweep(request, quiet=True)
    result, job = itd.open_result(tmp_path / "r.parquet"), request.job()
    assert result.identity["class_subset"] == list(KEPT) and job.choices == 3
    assert set(result.labels) == set(KEPT) and set(result.matrix("pred").ravel()) <= set(KEPT)
    pixels = torch.stack([job.images.pixels[int(i)] for i in result.samples])
    logits: dict[int, torch.Tensor] = {}
    PlainExecutor(job.model, job.space).run(pixels, lambda c, i, x: logits.__setitem__(int(c[0]), x))
    for number, values in logits.items():
        among = values[:, list(KEPT)].double().softmax(1)
        assert (result.matrix("pred")[number] == np.array(KEPT)[among.argmax(1)]).all()
        np.testing.assert_allclose(result.matrix("confidence")[number], among.amax(1), atol=1e-5)
    with pytest.raises(ResultError, match=r"class_subset is \[2, 5, 7\], given null"):
        itd.sweep(asked(data, weights, out=str(tmp_path / "r.parquet")), quiet=True)
    found = itd.evaluate(itd.EvaluateRequest("resnet18", weights, str(data), class_subset="present",
                                             classes_file=str(tmp_path / "names.txt")))  # fmt: skip
    assert found.top1 == pytest.approx((result.matrix("rank")[result.default_index] == 0).mean()) and found.top5 is None


def test_a_selector_chooses_among_the_same_classes(data: Path, weights: str, tmp_path: Path) -> None:
    request = asked(data, weights, class_subset="present", out=str(tmp_path / "r.parquet"))
    itd.sweep(request, quiet=True)
    chosen = run("select", tmp_path / "r.parquet", "--data", data, "--classes", tmp_path / "names.txt", "--weights",
                 weights, "--k", 2, "--folds", 2, "--resamples", 20, "--method", "averaging", "--save",
                 tmp_path / "s.safetensors")  # fmt: skip
    assert chosen.exit_code == 0, chosen.stderr
    said = run("predict", data, "--weights", weights, "--selector", tmp_path / "s.safetensors", "--top", 10, "--json")
    for line in said.stdout.splitlines():
        top = json.loads(line)["top"]
        assert {one["class"] for one in top if one["probability"] > 0} == set(KEPT)
        assert sum(one["probability"] for one in top) == pytest.approx(1)


def test_a_list_says_names_or_labels_and_what_it_leaves_out_is_refused(data: Path, tmp_path: Path) -> None:
    images = open_images(data, num_classes=10, classes_file=tmp_path / "names.txt")
    listed = tmp_path / "kept.txt"
    listed.write_text("y\nb\n\n7\n9\n")
    assert class_subset(str(listed), images) == (2, 5, 7, 9)
    assert class_subset("present", images) == KEPT and class_subset("all", images) is None
    assert class_subset("present", digits_images("eval")) is None
    for text, said in (("y\nb", r"d/0\.png is of class 7 \(d\), which"), ("y\nnone", "'none', which is no class"),
                       ("10", "'10', which is no class"), ("", "lists no class")):  # fmt: skip
        listed.write_text(text)
        with pytest.raises(DataError, match=said):
            class_subset(str(listed), images)
    with pytest.raises(DataError, match="allowed are all, present and a file"):
        class_subset("presen", images)


def test_fewer_classes_than_the_network_has_are_told(data: Path, weights: str) -> None:
    args = (
        "sweep",
        *SWEPT,
        "--data",
        data,
        "--weights",
        weights,
        "--classes",
        data.parent / "names.txt",
        "--plan=quick",
    )
    said = run(*args).stdout
    assert "6 images of 3 of 10 classes, data" in said
    assert "the images are of 3 of the network's 10 classes, and it may predict any; --class-subset present" in said
    kept = run(*args, "--class-subset", "present").stdout
    assert "6 images of 3 of 3 classes, data" in kept and "may predict any" not in kept
    one_line(run(*args, "--class-subset", "gone.txt"), "--class-subset gone.txt", "allowed are all, present")


def test_folders_named_by_label_are_imagenets_classes(tmp_path: Path) -> None:
    """As of ImageNet-V2; sorted as text, 10 would be class 2."""
    for name in ("0", "2", "10", "999"):
        (tmp_path / "v2" / name).mkdir(parents=True)
        digits_images("eval").load(0).save(tmp_path / "v2" / name / "a.png")
    images = open_images(tmp_path / "v2")
    assert sorted(zip(images.labels.tolist(), images.names, strict=True)) == [
        (0, "0/a.png"), (2, "2/a.png"), (10, "10/a.png"), (999, "999/a.png"),
    ]  # fmt: skip
    assert images.num_classes == 1000 and images.class_names[10] == "n01530575"
    assert open_images(tmp_path / "v2", num_classes=4).labels.tolist() == [0, 1, 2, 3]  # a user's own four
    (tmp_path / "v2" / "1000").mkdir()
    with pytest.raises(DataError, match="not among the 1000 WordNet ids"):
        open_images(tmp_path / "v2")


def test_each_corruption_and_severity_is_a_result_of_its_own(data: Path, weights: str, tmp_path: Path) -> None:
    root = tmp_path / "c"
    for corruption, severities in {"fog": "15", "blur": "3"}.items():
        for severity in severities:
            (root / corruption).mkdir(parents=True, exist_ok=True)
            (root / corruption / severity).symlink_to(data, target_is_directory=True)
    assert [(name, severity) for name, severity, _ in corruptions(str(root))] == [("blur", 3), ("fog", 1), ("fog", 5)]
    (tmp_path / "deep" / "fog" / "six" / "class").mkdir(parents=True)
    assert corruptions(str(tmp_path / "deep")) == []
    assert corruptions(str(data)) == [] == corruptions(str(root / "fog")) == corruptions("digits")
    answer = run("sweep", *SWEPT, "--data", root, "--weights", weights, "--classes", tmp_path / "names.txt", "--out",
                 tmp_path / "r.parquet")  # fmt: skip
    assert answer.exit_code == 0, answer.stderr
    names = sorted(path.name for path in tmp_path.glob("r-*.parquet"))
    assert names == ["r-blur-3.parquet", "r-fog-1.parquet", "r-fog-5.parquet"]
    assert all(itd.open_result(tmp_path / name).n == 6 for name in names)
