"""Lists, tables and source from elsewhere: pipes, other encodings, NUL, long files and lines are one line each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itd.checked import MOST_LINE, BadFile, read_lines
from itd.data.cifar import cifar_images
from itd.data.classes import read_classes
from itd.data.images import ImageSet
from itd.data.labels import read_label_lines
from itd.data.subset import class_subset
from itd.errors import DataError, ItdError, ItdWarning
from itd.patcher.factories import check_factory
from itd.selectors.predict import PredictRequest, _class_names, _images
from itd.training.curve import Curve
from itd.weights.state import random_weights
from support.commands import one_line, run


def hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10**12)  # it takes no space


STRANGE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "absent": lambda path: None,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "itself": lambda path: path.symlink_to(path),
    "huge": hole,
    "latin": lambda path: path.write_bytes("path,label\nKäse,1\n".encode("latin-1")),
    "utf-16": lambda path: path.write_bytes("path,label\na,1\n".encode("utf-16")),
    "NUL": lambda path: path.write_bytes(b"path,label\na\0b,1\n"),
    "long line": lambda path: path.write_bytes(b"path,label\n" + b"a" * (MOST_LINE + 1) + b",1\n"),
}


def images() -> ImageSet:
    return ImageSet(["a"], np.zeros(1, np.int16), ("a", "b"), np.ones(1, np.int64), "", lambda index, name: None)  # type: ignore[arg-type, return-value]


READERS: dict[str, Callable[[Path], object]] = {
    "classes": lambda path: read_classes(path, None),
    "labels": read_label_lines,
    "subset": lambda path: class_subset(str(path), images()),
    "predicted": lambda path: _class_names(
        PredictRequest(("digits",), classes_file=str(path)), random_weights("resnet18", 10)
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", STRANGE)
def test_a_list_that_is_none_is_refused_in_one_line(kind: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    STRANGE[kind](path)
    with pytest.raises(DataError, match=r"cannot read `\w+=") as error:
        READERS[reader](path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 and "\0" not in str(error.value)


def test_a_list_of_a_million_names_twice_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("".join(f"{number}\n" for number in range(500_000)) * 2)
    with pytest.raises(DataError, match=r"names '0', '1', '10' and 499,997 more more than once"):
        read_classes(tmp_path / "c.txt", None)


def test_a_number_of_many_digits_is_no_class(tmp_path: Path) -> None:
    for text in ("9" * 4000, "²", "-1", "10" * 20):
        (tmp_path / "c.txt").write_text(text)
        with pytest.raises(DataError, match="which is no class"):
            class_subset(str(tmp_path / "c.txt"), images())


def test_lines_of_other_systems_and_a_mark_of_byte_order_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfant\r\n\r\n bee \rcat")
    assert read_lines(tmp_path / "c.txt") == ["ant", "bee", "cat"]
    (tmp_path / "c.txt").write_bytes(b"ant\nb\0e")
    with pytest.raises(BadFile, match="line 2 has a NUL"):
        read_lines(tmp_path / "c.txt")


@pytest.mark.parametrize("kind", STRANGE)
def test_a_curve_that_is_none_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.epochs.csv"
    STRANGE[kind](path)
    if kind in ("absent", "itself"):
        return
    with pytest.raises(DataError, match="move it away") as error:
        Curve(path).points()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "endless", "itself", "huge"])
def test_source_that_is_none_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    STRANGE[kind](tmp_path / "net.py")
    with pytest.raises(ItdError, match="cannot read") as error:
        check_factory(f"{tmp_path / 'net.py'}:make")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
def test_cifar_files_that_are_none_are_not_read(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    STRANGE[kind](folder / "test_batch.bin")
    with pytest.raises(DataError, match=r"cannot read .*test_batch\.bin: it (is no file|has .* allowed are)"):
        cifar_images(folder, "test")


def test_predict_takes_the_files_that_a_sweep_would(tmp_path: Path) -> None:
    """Links elsewhere are followed; loops and what is no file are left out with one note; a folder may end in .jpg."""
    folder, elsewhere = tmp_path / "photos", tmp_path / "store"
    (folder / "deep.jpg").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (folder / "b.PNG", folder / "deep.jpg" / "a.png", elsewhere / "1.png", folder / ".hidden.png"):
        Image.new("RGB", (8, 8)).save(path)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "up").symlink_to("..")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server, pytest.warns(ItdWarning, match="left out") as notes:
        server.bind(str(folder / "socket.png"))
        found = _images([str(folder), str(folder / "b.PNG")])
    inside = ["b.PNG", "deep.jpg/a.png", "linked/1.png", "b.PNG"]
    up = ["up/store/1.png"]  # the folder above is no loop, what leads from it back here is
    assert sorted(found.names) == sorted(str(folder / name) for name in inside + up) and len(notes) == 1
    text = str(notes[0].message)
    assert "loop.jpg, pipe.jpg, socket.png and 2 more" in text
    one_line(run("predict", "--model", "resnet18", "--weights", "none", folder / "pipe.jpg"), "pipe.jpg is no file")
    one_line(run("predict", "--model", "resnet18", "--weights", "none", elsewhere / "2.png"), "2.png is not there")
