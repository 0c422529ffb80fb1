"""The cache: where it is, what of it is this package's own, and that nothing else is removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import itd
from itd.data.cache import cache_folder
from support.commands import one_line, run


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITD_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a") and cache_folder("/c") == Path("/c")
    monkeypatch.delenv("ITD_CACHE")
    assert cache_folder() == Path("/b/itd")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "itd"


def test_it_lists_and_clears_its_own_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITD_CACHE", str(tmp_path / "cache"))
    assert itd.cache().entries == () and itd.cache(clear=True).entries == ()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.bin").write_bytes(b"12345")
    folder = tmp_path / "cache"
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"123")
    (folder / "cifar-100-binary").symlink_to(elsewhere)
    (folder / "digits-resnet18-0123.safetensors").write_bytes(b"1234567")
    (folder / "thesis.tex").write_text("mine")
    told = json.loads(run("cache", "--json").stdout)
    assert [Path(e["path"]).name for e in told["entries"]] == [
        "cifar-10-batches-py", "cifar-100-binary", "digits-resnet18-0123.safetensors",
    ]  # fmt: skip
    assert told["folder"] == str(folder) and told["entries"][0]["bytes"] == 3 and told["entries"][2]["bytes"] == 7
    cleared = run("cache", "--clear")
    assert f"removed from {folder}" in cleared.stdout and "digits-resnet18-0123.safetensors" in cleared.stdout
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"] and (elsewhere / "kept.bin").exists()


def test_what_is_trained_on_the_digits_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from itd.data.cifar import CIFAR10, CIFAR100
    from itd.weights.digits import digits_file

    monkeypatch.setenv("ITD_CACHE", str(tmp_path))
    path = digits_file("resnet18")
    path.write_bytes(b"1")
    for kind in (CIFAR10, CIFAR100):  # and what their archives are called
        (tmp_path / kind.fetched).mkdir()
        (tmp_path / Path(kind.url).name).write_bytes(b"1")
    assert {Path(entry.path).name for entry in itd.cache().entries} == {path.name for path in tmp_path.iterdir()}


def test_a_folder_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("itd.data.cache._own", refused)
    one_line(run("cache"), "cannot be read", "permission denied")
