"""The one atomic writer: a file under its final name is whole or as it was; and everything that writes goes by it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from itd.analysis.figures.drawing import new_figure, save_figure
from itd.analysis.report import write_page
from itd.errors import ItdError
from itd.files import TEMPORARY, temporary, write_atomic
from itd.space import Setting, SpaceList, write_space
from itd_cli.options import write_csv

WRITERS = {
    "write_atomic": lambda path: write_atomic(path, "new"),
    "page.html": lambda path: write_page("<p>new</p>", path),
    "figure.png": lambda path: save_figure(new_figure(1, 1), path),
    "figure.SVG": lambda path: save_figure(new_figure(1, 1), path),
    "space.json": lambda path: write_space(path, SpaceList(("stride",), ({"A": Setting(stride=1)},))),
    "table.csv": lambda path: write_csv(str(path), ["a"], [{"a": 1}]),
}


def only(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises((ItdError, OSError), match="No space left"):
        patch.setattr(os, "fsync", refuse)
        WRITERS[name](path)
    assert path.read_text() == "old" and only(tmp_path) == [name]
    WRITERS[name](path)
    assert path.read_bytes() != b"old" and only(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_stays_a_link_and_what_is_no_file_is_written_to(tmp_path, name):
    target, link = tmp_path / "target", tmp_path / name
    target.write_text("old")
    link.symlink_to(target)
    WRITERS[name](link)
    assert link.is_symlink() and target.read_bytes() != b"old"
    null = tmp_path / f"null-{name}"
    null.symlink_to("/dev/null")
    WRITERS[name](null)
    assert null.is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_figure_has_the_format_that_its_name_says(tmp_path):
    for name, head in {"a.png": b"\x89PNG", "a.SVG": b"<?xml", "a.pdf": b"%PDF"}.items():
        save_figure(new_figure(1, 1), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)


def test_a_check_that_fails_leaves_the_target_alone(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def check(temp: Path) -> None:
        assert temp.read_bytes() == b"new" and TEMPORARY.match(temp.name), "it is whole on the disk by now"
        raise ValueError("not what was meant")

    with pytest.raises(ValueError, match="not what was meant"):
        write_atomic(path, b"new", check=check)
    assert path.read_bytes() == b"old" and only(tmp_path) == ["a"]


def test_put_if_absent_keeps_what_is_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    assert write_atomic(path, "first", exclusive=True)
    assert not write_atomic(path, "second", exclusive=True)

    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert not write_atomic(path, "third", exclusive=True) and path.read_text() == "first"
    assert write_atomic(tmp_path / "b", "fourth", exclusive=True) and only(tmp_path) == ["a", "b"]


def test_temporary_names_lie_beside_the_target_or_in_the_folder_of_the_caller(tmp_path):
    (tmp_path / "side").mkdir()
    with temporary(tmp_path / "a") as beside, temporary(tmp_path / "a", folder=tmp_path / "side") as side:
        beside.touch()
        assert beside.parent == tmp_path and side.parent == tmp_path / "side"
        assert all(TEMPORARY.match(p.name)[2] == str(os.getpid()) for p in (beside, side))
    assert only(tmp_path) == ["side"]
