"""`itd status`: its text and JSON, once and while it watches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from itd.store import Claims, FailedUnit, MissingImage
from itd.store.aside import save_failed
from itd.store.missing import save_missing
from itd_cli import status as module
from support import synthetic
from support.commands import one_line, run

KEYS = ["path", "images", "done", "missing", "failed", "nulls", "rows_per_s", "seconds_left", "writers", "complete"]
SCORES = synthetic.make_scores(6, 40)


def write(folder: Path, units: int, times_s: tuple[float, ...] = ()) -> None:
    """So many units more of a result of 40 images, 4 each, with the times that their parts are to have."""
    writer = synthetic.open_writer(folder, 40)
    for place, unit in enumerate(writer.todo()[:units]):
        here = slice(unit.first, unit.last + 1)
        writer.write(unit, missing=np.zeros(4, bool), **{name: array[..., here] for name, array in SCORES.items()})
        if times_s:
            os.utime(folder / f"part-{unit.first:08d}-{unit.last:08d}.parquet", (times_s[place],) * 2)


def looking(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> list[float]:
    """Does a step in each pause between two looks; returns how long the pauses were to be."""
    left, pauses = list(steps), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        left.pop(0)()

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
    return pauses


def test_a_line_for_each_result_and_each_process(tmp_path: Path) -> None:
    busy, done = tmp_path / "busy", tmp_path / "done"
    write(busy, 3, (1000, 1100, 1200))
    write(done, 10)
    save_failed(busy, FailedUnit(20, 23, "io", "why"), {})
    save_missing(busy, [MissingImage(1, 1, "name", "why")])
    with Claims(busy) as claims:
        claims.take(12, 15)
        answer = run("status", busy, done)
    first, failed, nulls, writer, last = answer.stdout.splitlines()
    # two parts of 4 images x 6 configurations in 200 s; 28 images are left
    assert first == f"{busy}  12/40 images (30%), 0.24 rows/s, 12 min left, 1 at work"
    assert failed == "  units that were set aside: 1; the same `itd sweep` tries them again"
    assert nulls == "  images with null rows: 1"
    assert writer.startswith(f"  process {os.getpid()} on ") and writer.endswith(": images 12 to 15")
    assert last == f"{done}  40/40 images (100%), complete" and answer.exit_code == 0 and not answer.stderr


def test_what_is_said_where_nobody_is_at_work_and_of_one_that_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "r"
    write(path, 3)
    assert run("status", path).stdout == f"{path}  12/40 images (30%), nobody at work\n"
    with Claims(path):
        (claim,) = (path / "_itd" / "claims").iterdir()
        old = claim.stat().st_mtime - 70
        os.utime(claim, (old, old))
        first, writer = run("status", path).stdout.splitlines()
    assert first.endswith("(30%), nobody at work") and writer.endswith(": silent for a minute or more")


def test_every_key_of_the_json_is_documented(tmp_path: Path) -> None:
    write(tmp_path / "r", 3)
    with Claims(tmp_path / "r"):
        (found,) = json.loads(run("status", tmp_path / "r", "--json").stdout)
    assert list(found) == KEYS and list(found["writers"][0]) == ["host", "pid", "started", "unit", "stale"]
    assert (found["images"], found["done"], found["missing"], found["complete"]) == (40, 12, 28, False)
    text = run("status", "--help").stdout
    assert all(key in text for key in [*KEYS, *found["writers"][0]])


def test_a_union_has_a_status(tmp_path: Path) -> None:
    paths = [synthetic.make_result(tmp_path / name, synthetic.make_scores(6, 10)) for name in ("r", "s")]
    union = run("union", *paths, "-o", tmp_path / "u")
    assert union.exit_code == 0, union.stderr
    assert run("status", tmp_path / "u").stdout == f"{tmp_path / 'u'}  10/10 images (100%), complete\n"


def test_what_is_no_result_ends_with_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        one_line(run("status", path), str(path), "give a folder written by `itd sweep`")
    one_line(run("status", tmp_path, "--watch", "--json"), str(tmp_path))
    assert run("status").exit_code == 2


def test_watching_waits_for_a_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(seconds: float) -> None:
        synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 10))

    monkeypatch.setattr("itd_cli.status.time.sleep", make)
    answer = run("status", tmp_path / "r", "--watch")
    assert answer.stdout == f"{tmp_path / 'r'}  10/10 images (100%), complete\n"
    assert f"{tmp_path / 'r'} does not exist yet; it is looked for every 2 s" in answer.stderr


def test_watching_says_what_has_changed_and_ends_with_the_last_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r"
    write(path, 3)
    pauses = looking(monkeypatch, lambda: None, lambda: write(path, 2), lambda: None, lambda: write(path, 5))
    answer = run("status", path, "--watch")
    assert answer.exit_code == 0 and pauses == [2.0] * 4
    shares = [line.removeprefix(f"{path}  ") for line in answer.stdout.splitlines()]
    assert shares == [
        "12/40 images (30%), nobody at work", "20/40 images (50%), nobody at work", "40/40 images (100%), complete"
    ]  # fmt: skip


def test_watching_begins_with_the_sweep_and_waits_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, 10)
    with Claims(second):
        pauses = looking(monkeypatch, lambda: write(second, 1), lambda: write(second, 9))
        answer = run("status", first, second, "--watch", "--json")
    looks = [json.loads(f"[{line}") for line in answer.stdout.removeprefix("[").split("\n[")]
    assert len(pauses) == 2 and [[one["done"] for one in look] for look in looks] == [[40, 0], [40, 4], [40, 40]]
    assert looks[0][1]["images"] is None and looks[0][1]["missing"] is None and looks[2][1]["complete"]


def test_a_result_that_is_being_made_says_so(tmp_path: Path) -> None:
    with Claims(tmp_path / "r"):
        first, writer = run("status", tmp_path / "r").stdout.splitlines()
    assert first == f"{tmp_path / 'r'}  being created, 1 at work" and writer.endswith(": on no unit now")


def test_ctrl_c_ends_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    write(tmp_path / "r", 3)
    looking(monkeypatch, interrupted)
    answer = run("status", tmp_path / "r", "--watch")
    assert answer.exit_code == 130 and "12/40 images" in answer.stdout
    assert answer.stderr.startswith("itd: interrupted; ")


def test_a_terminal_is_cleared_before_each_look(tmp_path: Path) -> None:
    write(tmp_path / "r", 10)
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "itd_cli.main", "status", str(tmp_path / "r"), "--watch"]
    assert subprocess.run(command, stdout=theirs, env={**os.environ, "TERM": "xterm"}).returncode == 0
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    assert said.startswith("\x1b[2J") and "40/40 images (100%), complete" in said


def test_it_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    write(tmp_path / "r", 10)
    code = (
        "import sys\nfrom itd_cli.main import cli\n"
        f"try: cli(['status', {str(tmp_path / 'r')!r}])\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
