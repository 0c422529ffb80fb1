"""A disk that refuses, at each step of each file that is written: one line, no temporary file, and no part of a file
under a final name; what was there before stays, and the same again, once there is room, ends as if nothing had been."""

from __future__ import annotations

import csv
import errno
import functools
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from itd.analysis.figures.drawing import new_figure, save_figure
from itd.analysis.report import write_page
from itd.data.digits import digits_images
from itd.errors import ItdError
from itd.files import TEMPORARY
from itd.selectors.selector import Selector, load_selector
from itd.space import Setting, SpaceList, read_space, write_space
from itd.training.schedule import Schedule
from itd.training.scratch import TrainRequest, train
from itd.weights.digits import _publish
from itd_cli.options import write_csv
from support.commands import one_line, run
from support.disk import Disk, names, refusals


def cascade() -> Selector:
    from itd.data.preprocess import DIGITS_PREPROCESS
    from itd.space import Conventions

    return Selector(
        "averaging", "resnet18", "0" * 64, {"D": ["layer4.0.conv1"]}, ("D",), ("dilation",), Conventions().identity(),
        ({"D": {"dilation": 2}},), DIGITS_PREPROCESS.identity(),
    )  # fmt: skip


WRITERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "s.safetensors": (lambda path: cascade().save(path), load_selector),
    "t.csv": (lambda path: write_csv(str(path), ["a", "b"], [{"a": 1, "b": "x"}]), lambda p: p.read_bytes()),
    "f.png": (lambda path: save_figure(new_figure(1, 1), path), lambda path: png(path)),
    "f.pdf": (lambda path: save_figure(new_figure(1, 1), path), lambda path: path.read_bytes().index(b"%%EOF")),
    "f.svg": (lambda path: save_figure(new_figure(1, 1), path), lambda path: path.read_text().index("</svg>")),
    "s.json": (lambda path: write_space(path, SpaceList(("stride",), ({"A": Setting(stride=1)},))), read_space),
    "r.html": (lambda path: write_page("<p>a page</p></html>", path), lambda path: path.read_text().index("</html>")),
}
"""name of a file -> what writes it, and what reads it whole or raises."""


def png(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


@pytest.mark.parametrize("name", WRITERS)
def test_each_step_that_is_refused_leaves_the_old_file_or_the_new_one(name: str, tmp_path: Path, monkeypatch) -> None:
    write, read = WRITERS[name]
    path = tmp_path / name
    seen = 0
    for error in refusals(lambda: write(path), monkeypatch):
        seen += 1
        assert "cannot write" in str(error) and str(path) in str(error)
        if path.exists():  # only the folder could not be forced to the disk
            read(path)
            path.unlink()
        assert names(tmp_path) == [], "a temporary file"
    assert seen == 6 and names(tmp_path) == [name]
    read(path)
    path.write_bytes(b"old")
    for _ in refusals(lambda: write(path), monkeypatch):
        assert names(tmp_path) == [name] and (path.read_bytes() == b"old" or read(path) is not path)


def test_the_digits_weights_are_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    path, model = tmp_path / "digits-x.safetensors", nn.Linear(3, 2)
    for error in refusals(lambda: _publish(model, {}, path), monkeypatch):
        assert "ITD_CACHE" in str(error)
        if path.exists():
            assert torch.equal(load_file(path)["weight"], model.weight)
            path.unlink()
        assert names(tmp_path) == []
    assert torch.equal(load_file(path)["weight"], model.weight)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_to_do_next_depends_on_what_the_disk_says(number: int, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ItdError) as error:
        Disk(patch, 1, number)
        write_csv(str(tmp_path / "a.csv"), ["a"], [{"a": 1}])
    mend = "give --csv another path"
    full = "free some space, or " if number in (errno.ENOSPC, errno.EDQUOT) else ""
    assert str(error.value) == f"cannot write the CSV {tmp_path / 'a.csv'}: {os.strerror(number)}; {full}{mend}"


TINY = """
from torch import nn

def tiny(num_classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(16, num_classes))
"""


@pytest.fixture
def request_(tmp_path: Path) -> Callable[[str], TrainRequest]:
    (tmp_path / "tiny.py").write_text(TINY)

    def make(folder: str) -> TrainRequest:
        schedule = Schedule(epochs=2, lr=0.05, batch_size=4)
        return TrainRequest(
            f"{tmp_path / 'tiny.py'}:tiny", "digits", schedule=schedule, epoch_images=8, device="cpu",
            test="digits-one-scale", test_every=90, out=str(tmp_path / folder / "w.safetensors"),
        )  # fmt: skip

    return make


def whole(folder: Path) -> None:
    """Every file of a training can be read to its end."""
    for path in folder.iterdir():
        assert not TEMPORARY.match(path.name), path
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".checkpoint":
            assert torch.load(path, weights_only=True)["epochs"] in (1, 2)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix == ".csv" and path.read_text().endswith("\n")
            columns, *rows = csv.reader(path.read_text().splitlines())
            assert all(len(row) == len(columns) for row in rows)


def same(folder: Path, other: Path) -> None:
    """Two trainings left the same."""
    assert names(folder) == names(other)
    first, second = load_file(folder / "w.safetensors"), load_file(other / "w.safetensors")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    for name in ("w.csv", "w.epochs.csv", "w.json"):
        assert (folder / name).read_text() == (other / name).read_text()


def test_a_training_whose_disk_is_full_at_any_step_goes_on_once_there_is_room(
    request_: Callable[[str], TrainRequest], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("itd.data.open.digits_images", functools.cache(digits_images))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which takes most of the time
    train(request_("whole"), on_prepare=None)
    number = itertools.count()
    folder = tmp_path / "0"

    def begun() -> None:
        nonlocal folder
        folder = tmp_path / f"{next(number)}"
        train(request_(folder.name), on_prepare=None)

    seen = set()
    for error in refusals(begun, monkeypatch):
        seen.add(re.search(r"w\.[a-z.]+", str(error))[0].rstrip(":."))
        whole(folder)
        train(request_(folder.name), on_prepare=None)
        same(folder, tmp_path / "whole")
    assert seen == {"w.safetensors", "w.json", "w.csv", "w.epochs.csv", "w.checkpoint"}


def test_the_weights_are_on_the_disk_before_the_checkpoint_goes(request_, tmp_path: Path, monkeypatch) -> None:
    events: list[str] = []
    replace, fsync, unlink = os.replace, os.fsync, Path.unlink
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(Path(b).name), replace(a, b))[1])
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (events.append(f"-{path.name}"), unlink(path, **how))[1])
    train(request_("w"), on_prepare=None)
    named, gone = events.index("w.safetensors"), events.index("-w.checkpoint")
    assert events[named - 1] == "fsync" and "fsync" in events[named + 1 : gone] and events.index("w.json") < named


def test_the_command_says_it_in_one_line(request_, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        Disk(patch, 15)  # each file is six steps: the log, at the start and after the epoch, and the checkpoint
        out = tmp_path / "w.safetensors"
        answer = run("train", "--model", request_("w").model, "--data", "digits", "--epochs", 1, "--epoch-images", 4,
                     "--batch-size", 4, "--out", out, "--progress", "none")  # fmt: skip
    one_line(answer, "cannot write", "w.checkpoint: No space left on device; free some space, or give another --out")
    assert answer.exit_code == 1 and names(tmp_path) == ["tiny.py", "w.csv"]


OTHERWISE = {
    "itd/files.py": "it is the one place",
    "itd/data/cifar.py": "renames what torchvision fetched, inside the lock of the cache",
    "cli/main.py": "the traceback of a bug, in a temporary file",
}
_WRITES = re.compile(
    r"""\bopen\([^)\n]*,\s*["'][rb+]*[wax]|\.write_(?:text|bytes)\(|\.to_csv\(|\bsave_file\(|\.savefig\((?!out\b)"""
    r"""|torch\.save\((?!state, data\b)|\bos\.(?:replace|rename|link)\(|\bTemporaryFile\(|NamedTemporaryFile\("""
)


def test_everything_that_writes_goes_by_the_one_writer(repository: Path) -> None:
    found = {
        str(path.relative_to(repository))
        for room in ("itd", "cli")
        for path in sorted((repository / room).rglob("*.py"))
        if _WRITES.search(path.read_text("utf-8"))
    }
    assert found - {name for name in found if name.startswith("itd/store/")} == set(OTHERWISE)
