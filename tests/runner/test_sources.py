"""The same images give the same rows, whatever they were read from; and every command that reads them takes a list."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import pandas as pd
import pytest

from itd import RofRequest, Schedule, SweepRequest, TrainRequest, open_result, rof, sweep, train
from itd.errors import DataError, ResultError
from itd.selectors.source import open_source
from itd_cli.main import COMMANDS
from support.commands import one_line, run
from support.sources import encoded, write_folder, write_labels, write_tar

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Seven images of three classes in each form that needs nothing but files: what a request takes of it."""
    root = tmp_path_factory.mktemp("sources")
    kinds = ("PNG", "JPEG", "PNG", "PNG", "JPEG", "PNG", "PNG")
    labels = (0, 0, 0, 1, 1, 2, 2)
    images = [encoded(i, 36 + 3 * i, kind) for i, kind in enumerate(kinds)]
    ends = [kind.lower() for kind in kinds]
    folder = write_folder(
        root / "folder",
        [
            (f"{CLASSES[y]}/{i}.{e}", content)
            for i, (y, e, content) in enumerate(zip(labels, ends, images, strict=True))
        ],
    )
    flat = write_folder(
        root / "flat", [(f"val_{i:04d}.{e}", c) for i, (e, c) in enumerate(zip(ends, images, strict=True))]
    )
    (root / "classes.txt").write_text("\n".join(CLASSES))
    rows = [(f"val_{i:04d}.{e}", y) for i, (e, y) in enumerate(zip(ends, labels, strict=True))]
    members = [[(f"{i}.{ends[i]}", images[i]), (f"{i}.cls", str(labels[i]))] for i in range(7)]
    for number, part in enumerate((range(4), range(4, 7))):  # within a shard in any order
        write_tar(root / f"s-{number}.tar", [member for i in reversed(part) for member in members[i]])
    by_name = write_labels(root / "names.csv", [(path, CLASSES[y]) for path, y in rows])
    return {
        "folder": {"data": str(folder)},
        "numbers": {"data": str(flat), "labels_file": str(write_labels(root / "numbers.csv", rows[::-1]))},
        "names": {"data": str(flat), "labels_file": str(by_name)},
        "tar": {"data": str(root / "s-{0..1}.tar"), "classes_file": str(root / "classes.txt")},
    }


def request(out: Path, **source: object) -> SweepRequest:
    return SweepRequest(
        "support.small:three_classes", "dilation", sites="C=stem,D=body", options=("1,2",), num_classes=3,
        resize_px=40, crop_px=32, limit=5, batch_size=4, device="cpu", out=str(out), images_per_unit=2, **source,
    )  # fmt: skip


def rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["config", "sample"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def swept(sources: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the result of each form is."""
    root = tmp_path_factory.mktemp("swept")
    for name, source in sources.items():
        sweep(request(root / f"{name}.parquet", **source), quiet=True)
    return {name: root / f"{name}.parquet" for name in sources}


@pytest.mark.parametrize("form", ["numbers", "names", "tar"])
def test_the_same_images_give_the_same_rows(form: str, swept: dict[str, Path]) -> None:
    first, other = rows(swept["folder"]), rows(swept[form])
    assert len(first) == 5 * 4 and sorted(first.label.unique()) == [0, 1, 2]
    assert sorted(first["sample"].unique()) == [0, 1, 3, 4, 5]  # spread over the classes
    pd.testing.assert_frame_equal(first, other, check_exact=True)
    identities = [open_result(swept[name]).manifest["identity"] for name in ("folder", form)]
    differing = {key for key in identities[0] if identities[0][key] != identities[1][key]}
    assert differing == {"data"}


@pytest.mark.hf
def test_a_data_set_that_was_saved_gives_the_same_rows(
    sources: dict[str, dict[str, object]], swept: dict[str, Path], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not there: pip install 'itd-oracle[hf]'")
    datasets.disable_progress_bars()
    files = sorted(Path(str(sources["folder"]["data"])).glob("*/*"))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    held = {
        "image": [{"bytes": f.read_bytes(), "path": f.name} for f in files],
        "label": [f.parent.name for f in files],
    }
    datasets.Dataset.from_dict(held, features=kinds).save_to_disk(tmp_path / "set")
    sweep(request(tmp_path / "hf.parquet", data=str(tmp_path / "set")), quiet=True)
    pd.testing.assert_frame_equal(rows(swept["folder"]), rows(tmp_path / "hf.parquet"), check_exact=True)


def test_a_result_goes_on_only_with_the_images_that_it_was_begun_with(
    sources: dict[str, dict[str, object]], swept: dict[str, Path]
) -> None:
    assert sweep(request(swept["tar"], **sources["tar"]), quiet=True).done == 0
    with pytest.raises(ResultError, match="data"):
        sweep(request(swept["tar"], **sources["folder"]), quiet=True)


def test_a_selector_finds_the_images_of_a_list_again(
    sources: dict[str, dict[str, object]], swept: dict[str, Path]
) -> None:
    for form in ("names", "tar"):
        source = dict(sources[form])
        found = open_source(open_result(swept[form]), source.pop("data"), "none", device="cpu", **source)
        assert len(found.images) == 7


@pytest.mark.parametrize("command", ["sweep", "recalibrate", "select", "evaluate", "rof", "train"])
def test_every_command_that_reads_images_with_labels_takes_a_list(command: str) -> None:
    module, name = COMMANDS[command][0].split(":")
    options = {opt for param in getattr(importlib.import_module(module), name).params for opt in param.opts}
    assert "--labels" in options
    assert ("--val-labels" in options, "--test-labels" in options) == (command == "rof", command == "train")


def test_a_command_names_the_option(sources: dict[str, dict[str, object]], tmp_path: Path) -> None:
    command = ("sweep", "--model", "resnet18", "--attr", "stride", "--weights", "none", "--num-classes", 3)
    listed = sources["numbers"]["labels_file"]
    one_line(run(*command, "--data", "digits", "--labels", listed), "--labels", "embedded digits", "--data DIR")
    one_line(run(*command, "--data", sources["tar"]["data"], "--labels", listed), "has a .cls for each image")
    one_line(run(*command, "--data", tmp_path / "x.tar.gz"), "--data", "is compressed")
    one_line(run(*command, "--data", tmp_path / "x-{0..1}.tar"), "no such shard", "x-0.tar")
    write_labels(tmp_path / "high.csv", [("val_0000.png", 3)])
    high = run(*command, "--data", sources["numbers"]["data"], "--labels", tmp_path / "high.csv")
    one_line(high, "--labels", "line 2, val_0000.png", "label 3; allowed are 0 to 2", "--num-classes K")


def test_evaluate_reads_every_form_alike(sources: dict[str, dict[str, object]]) -> None:
    command = ("evaluate", "--model", "resnet18", "--weights", "none", "--num-classes", 3, "--crop", 32, "--json")
    answers = []
    for source in sources.values():
        names = {"data": "--data", "labels_file": "--labels", "classes_file": "--classes"}
        done = run(*command, *(part for key, value in source.items() for part in (names[key], value)))
        assert done.exit_code == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert all(answer == answers[0] for answer in answers) and answers[0]["n"] == 7


def test_training_counts_the_classes_of_a_list_and_tests_on_another(
    sources: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    flat, listed = sources["names"]["data"], str(sources["names"]["labels_file"])
    held = write_labels(
        tmp_path / "held.csv", [("val_0000.png", "ant"), ("val_0003.png", "bee"), ("val_0005.png", "cat")]
    )
    request_ = TrainRequest(
        "cifar-resnet18", data=str(flat), labels_file=listed, schedule=Schedule(1, 0.01, batch_size=7), device="cpu",
        out=str(tmp_path / "t.safetensors"), test=str(flat), test_labels_file=str(held),
    )  # fmt: skip
    assert train(request_).images == 7
    assert len((tmp_path / "t.epochs.csv").read_text().splitlines()) == 2


def test_random_option_fine_tuning_takes_a_list(sources: dict[str, dict[str, object]], tmp_path: Path) -> None:
    request_ = RofRequest(
        "resnet18", "dilation", "D", ("1,2",), num_classes=3, weights="none", crop_px=32, resize_px=32,
        schedule=Schedule(1, 0.001, batch_size=7), device="cpu", out=str(tmp_path / "r.safetensors"),
        **sources["numbers"],
    )  # fmt: skip
    assert rof(request_, quiet=True).steps == 1
    with pytest.raises(DataError, match="no class folders"):
        rof(RofRequest("resnet18", num_classes=3, weights="none", data=str(sources["numbers"]["data"]),
                       out=str(tmp_path / "x.safetensors")), quiet=True)  # fmt: skip


@pytest.mark.data
def test_real_images_give_the_same_rows(shared_data: Path, tmp_path: Path) -> None:
    """ResNet-50 on four of the real images: a folder per class, a list with their numbers, tar shards."""
    with open(shared_data / "sample1000.csv", newline="") as file:
        listed = [(row["path"], int(row["label"])) for row in csv.DictReader(file)][::250]
    for path, _ in listed:
        target = tmp_path / "folder" / Path(path).relative_to("images/sample1000")
        target.parent.mkdir(parents=True)
        target.symlink_to(shared_data / path)
    labels = write_labels(tmp_path / "l.csv", listed[::-1])
    for number, (path, label) in enumerate(listed):
        content = (shared_data / path).read_bytes()
        write_tar(tmp_path / f"s-{number}.tar", [(f"a.{Path(path).suffix[1:]}", content), ("a.cls", str(label))])
    tables = []
    for name, source in {
        "folder": {"data": str(tmp_path / "folder")},
        "list": {"data": str(shared_data), "labels_file": str(labels)},
        "tar": {"data": str(tmp_path / "s-{0..3}.tar")},
    }.items():
        out = tmp_path / f"{name}.parquet"
        sweep(
            SweepRequest(
                "resnet50", "dilation", sites="D", options=("1,2",), device="cpu", out=str(out),
                weights=str(shared_data / "weights" / "resnet50.safetensors"), **source,
            ),
            quiet=True,
        )  # fmt: skip
        tables.append(rows(out))
    assert tables[0].label.tolist()[:4] == [label for _, label in listed] and len(tables[0]) == 8
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table, check_exact=True)
