"""How far results are, of folders made by hand: what is counted, timed and refused, and that no part is read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.errors import ResultError
from itd.process import machine
from itd.store import Claims, FailedUnit, MissingImage
from itd.store.aside import save_failed
from itd.store.missing import save_missing
from support import synthetic

FAR = {"host": "far", "machine": "0" * 16, "pid": 7, "started": 5, "run": "r", "since": "2026-01-01T00:00:00+00:00"}


def make(folder: Path, images: int, parts: list[tuple[int, int]], *, configs: int = 5, unit: int = 4) -> Path:
    """A folder with the names of a result and nothing in its parts."""
    manifest = {
        "format": 1, "identity": {}, "images": images, "samples": [[0, 1, images]], "images_per_unit": unit,
        "attributes": ["dilation"], "sites": ["A"], "configs": configs, "default": None, "configs_sha256": "0" * 64,
        "provenance": [{}],
    }  # fmt: skip
    (folder / "_itd").mkdir(parents=True)
    (folder / "_itd" / "manifest.json").write_text(json.dumps(manifest))
    for first, last in parts:
        part(folder, first, last)
    return folder


def part(folder: Path, first: int, last: int, time_s: float = 1e9) -> None:
    """A part that was written then, with a record."""
    path = folder / f"part-{first:08d}-{last:08d}.parquet"
    path.write_bytes(b"")
    os.utime(path, (time_s, time_s))
    (folder / "_itd" / f"{path.stem}.0123456789abcdef.json").write_text("")


def claim(folder: Path, name: str, *, silent_s: float = 0.0, **changed: object) -> None:
    """A claim of a process of another machine."""
    path = folder / "_itd" / "claims" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**FAR, "token": name, **changed}))
    then = path.stat().st_mtime - silent_s
    os.utime(path, (then, then))


def test_images_are_counted_by_the_names_of_the_parts(tmp_path: Path) -> None:
    found = itd.status(make(tmp_path / "r.parquet", 20, [(0, 3), (4, 7), (12, 13)]))
    assert found.as_dict() == {
        "path": str(tmp_path / "r.parquet"), "images": 20, "done": 10, "missing": 10, "failed": 0, "nulls": 0,
        "rows_per_s": None, "seconds_left": None, "writers": [], "complete": False,
    }  # fmt: skip


def test_a_result_without_parts_and_one_with_all(tmp_path: Path) -> None:
    none, whole = make(tmp_path / "a", 8, []), make(tmp_path / "b", 8, [(0, 3), (4, 7)])
    assert (itd.status(none).done, itd.status(none).missing, itd.status(none).complete) == (0, 8, False)
    assert (itd.status(whole).missing, itd.status(whole).complete, itd.status(whole).seconds_left) == (0, True, 0)


def test_an_image_of_two_parts_is_counted_once(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 20, [(0, 3), (4, 5), (4, 7)])
    part(folder, 16, 23)  # of a larger limit
    assert itd.status(folder).done == 12


def test_the_rate_is_that_of_the_last_ten_minutes_of_work(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 40, [])
    for first, time_s in ((0, 5000), (4, 6500), (8, 6600), (12, 6800)):
        part(folder, first, first + 3, time_s)
    claim(folder, "run-01")
    found = itd.status(folder)
    assert found.rows_per_s == pytest.approx(2 * 4 * 5 / 300)  # two parts of 4 images x 5 configurations in 300 s
    assert found.seconds_left == pytest.approx(24 * 5 / (40 / 300))
    part(folder, 16, 27, 6900)  # put together from others: it is done, and says nothing of how fast
    assert itd.status(folder).rows_per_s == pytest.approx(40 / 300)
    assert itd.status(folder).seconds_left == pytest.approx(12 * 5 / (40 / 300))


@pytest.mark.parametrize(
    "times_s", [[], [100], [100, 100], [100, 900]], ids=["none", "one", "at once", "one of them long ago"]
)
def test_too_little_is_no_rate(times_s: list[float], tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 40, [])
    for place, time_s in enumerate(times_s):
        part(folder, 4 * place, 4 * place + 3, time_s)
    claim(folder, "run-01")
    assert (itd.status(folder).rows_per_s, itd.status(folder).seconds_left) == (None, None)


def test_where_nobody_is_at_work_there_is_no_rate(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 40, [])
    part(folder, 0, 3, 100), part(folder, 4, 7, 200)
    claim(folder, "run-01", silent_s=70)
    claim(folder, "run-02", machine=machine(), pid=2**22 + 1)  # gone
    found = itd.status(folder)
    assert (found.rows_per_s, found.seconds_left, [one.stale for one in found.writers]) == (None, None, [True])
    claim(folder, "run-01")
    assert itd.status(folder).rows_per_s == pytest.approx(4 * 5 / 100)


def test_who_is_at_work(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 40, [])
    claim(folder, "run-01", silent_s=70)
    with Claims(folder) as mine:
        mine.take(4, 7)
        silent, here = itd.status(folder).as_dict()["writers"]
        there = sorted((folder / "_itd" / "claims").iterdir())
    assert silent == {"host": "far", "pid": 7, "started": FAR["since"], "unit": None, "stale": True}
    assert (here["pid"], here["unit"], here["stale"]) == (os.getpid(), [4, 7], False)
    assert [path.name[:4] for path in there] == ["part", "run-", "run-"], "a look leaves nothing behind"


def test_units_that_were_set_aside_count_until_they_are_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 20, [(0, 3), (4, 7)])
    for first in (4, 8, 12, 18):  # there by now; two that are not; one of a larger limit
        save_failed(folder, FailedUnit(first, first + 3, "io", "why"), {})
    assert itd.status(folder).failed == 2


def test_null_rows_count_where_they_are_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "r", 20, [(0, 3), (4, 7)])
    save_missing(folder, [MissingImage(image, image, "name", "why") for image in (1, 5, 9, 30)])
    assert itd.status(folder).nulls == 2


def test_a_result_that_is_being_made_says_who_makes_it(tmp_path: Path) -> None:
    with Claims(tmp_path / "r"):
        found = itd.status(tmp_path / "r")
    assert (found.images, found.done, found.missing, found.complete) == (None, 0, None, False)
    assert [one.pid for one in found.writers] == [os.getpid()]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    (tmp_path / "begun" / "_itd").mkdir(parents=True)
    lost = make(tmp_path / "lost", 8, [(0, 3)])
    (lost / "_itd" / "manifest.json").unlink()
    for name, words in (
        ("absent", "does not exist; give a folder"), ("file", "is not a result; give a folder"),
        ("file/inside", "does not exist; give a folder"), ("other", "is not a result; give a folder"),
        ("begun", "a run ended while it began it; give the same `itd sweep` command again"),
        ("lost", r"part-00000000-00000003.parquet but no _itd/manifest.json.*itd verify --repair"),
        ("nul\0", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ResultError, match=words):
            itd.status(tmp_path / name)
    with pytest.raises(ResultError, match="takes the path of a result, given int"):
        itd.status(3)  # type: ignore[arg-type]
    damaged = make(tmp_path / "damaged", 8, [])
    (damaged / "_itd" / "manifest.json").write_text("{")
    with pytest.raises(ResultError, match=r"manifest.json is damaged"):
        itd.status(damaged)


def test_a_folder_that_can_only_be_read_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "r", 20, [(0, 3)])
    claim(folder, "run-01", silent_s=70)
    opened = os.open

    def refuse(path: object, flags: int, *mode: int, **how: object) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "read-only file system")
        return opened(path, flags, *mode, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    found = itd.status(folder)
    assert (found.done, [one.stale for one in found.writers]) == (4, [True])


def test_a_writer_and_a_status_count_alike(tmp_path: Path) -> None:
    writer = synthetic.open_writer(tmp_path / "r", 10)
    scores = synthetic.make_scores(6, 10)
    for unit in writer.todo()[:2]:
        here = slice(unit.first, unit.last + 1)
        writer.write(unit, missing=np.zeros(len(unit), bool), **{k: v[..., here] for k, v in scores.items()})
        assert itd.status(tmp_path / "r").done == writer.done_images == unit.last + 1
    synthetic.write_units(writer, scores)
    assert itd.status(str(tmp_path / "r")).complete


def test_stored_results_of_every_version_are_complete(repository: Path) -> None:
    folders = sorted((repository / "results").glob("*.parquet"))
    assert len(folders) > 20
    for folder in folders:
        found = itd.status(folder)
        spans = [re.findall(r"\d{8,}", path.name) for path in folder.glob("part-*.parquet")]
        held = sum(int(last) - int(first) + 1 for first, last in spans)
        manifest = json.loads((folder / "_itd" / "manifest.json").read_text())
        assert found.done == held == found.images == manifest["images"] and found.complete, folder
        assert (found.writers, found.failed, found.rows_per_s, found.seconds_left) == ((), 0, None, 0)
