"""Writers that are stopped for long and go on, and file systems whose locks do nothing: nothing is overwritten or lost.

A stopped process is one that was suspended, or whose machine hung: nothing is heard of it, and it is not gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itd import sweep
from itd.errors import ResultError
from itd.runner import shares
from itd.space import Space
from itd.store import Claims, MissingImage, ResultWriter, open_result, record, remove_other, verify
from itd.store.claim import STALE_S, list_claims
from itd.store.claims import leased
from support import synthetic
from support.work import WAIT_S, make_job

IMAGES = 8
OURS, THEIRS = synthetic.make_scores(6, IMAGES), synthetic.make_scores(6, IMAGES, seed=1)
STOP = """
import importlib, os, signal, sys
def stop_before(module, name, ending):
    holder = importlib.import_module(module)
    original = getattr(holder, name)
    def stopped(*values, **more):
        if any(str(value).endswith(ending) for value in values):
            setattr(holder, name, original)
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*values, **more)
    setattr(holder, name, stopped)
"""
WRITE = """
import pathlib, runpy, types
from itd.errors import ResultError
from itd.store import Claims
helper, folder, *where = sys.argv[1:]
s, folder = types.SimpleNamespace(**runpy.run_path(helper)), pathlib.Path(folder)
scores = s.make_scores(6, 8, seed=1)
with Claims(folder) as claims:
    writer = s.open_writer(folder, 8)
    unit = writer.todo()[0]
    claims.take(unit.first, unit.last), claims.begin(unit.first, unit.last)
    stop_before(*where)
    here = slice(unit.first, unit.last + 1)
    try:
        writer.write(unit, missing=s.np.zeros(len(unit), bool), **{k: v[..., here] for k, v in scores.items()})
        print("written")
    except ResultError as error:
        print(error)
"""
HOLD = """
import pathlib
from itd.store.claims import leased
with leased(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGSTOP)
"""
SWEEP = """
sys.path[:0] = sys.argv[2:]
from itd import sweep; from support.work import make_job
stop_before("itd.store.record", "publish", "00000005.parquet")
report = sweep(make_job(8), out=sys.argv[1], device="cpu", batch_size=2, images_per_unit=2, quiet=True)
print(report.left)
"""
MOMENTS = {
    "before its temporary file": ("itd.store.writer", "write_synced", ""),
    "before its record": ("itd.store.writer", "put_part", ".parquet"),
    "after its record": ("itd.store.record", "publish", ".parquet"),
    "at the very last": ("os", "link", ".parquet"),
}


class Stopped:
    """A process that has stopped itself."""

    def __init__(self, code: str, *arguments: object) -> None:
        command = [sys.executable, "-c", STOP + code, *map(str, arguments)]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert os.WIFSTOPPED(os.waitpid(self.child.pid, os.WUNTRACED)[1]), "it ended"

    def go_on(self) -> str:
        """What it says from now to its end."""
        self.child.send_signal(signal.SIGCONT)
        said = self.child.communicate(timeout=WAIT_S)[0]
        assert self.child.returncode == 0
        return said

    def end(self) -> None:
        """Kills it, where it still is there."""
        self.child.kill()
        self.child.communicate()


@pytest.fixture(autouse=True)
def _no_end_of_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What waits for a stopped process for ever is an error instead of a hang."""

    def end(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(shares, "LONG_S", 1e9)
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(int(WAIT_S))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def stop() -> Iterator[Callable[..., Stopped]]:
    """Starts a process and waits until it has stopped itself."""
    with ExitStack() as ends:

        def stopped(code: str, *arguments: object) -> Stopped:
            one = Stopped(code, *arguments)
            ends.callback(one.end)
            return one

        yield stopped


def silent(folder: Path) -> None:
    """Nothing was heard of anybody at work on a result for more than a minute."""
    for path in (folder / "_itd/claims").glob("*.json"):
        os.utime(path, (path.stat().st_mtime - STALE_S - 10,) * 2)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each part is, and when it was written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("part-*")}


def written(folder: Path, scores: dict[str, np.ndarray] = OURS, **how: Any) -> ResultWriter:
    writer = synthetic.open_writer(folder, IMAGES, **how)
    synthetic.write_units(writer, scores)
    return writer


def require_scores(folder: Path, scores: dict[str, np.ndarray]) -> None:
    assert verify(folder).complete
    assert np.array_equal(open_result(folder).matrix("quality"), scores["quality"])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_writer_that_was_stopped_puts_nothing_over_what_others_wrote(
    moment: str, tmp_path: Path, stop: Callable[..., Stopped]
) -> None:
    folder = tmp_path / "r"
    stopped = stop(WRITE, synthetic.__file__, folder, *MOMENTS[moment])
    written(folder)
    require_scores(folder, OURS)
    there = files(folder)
    assert stopped.go_on() == "written\n"
    assert files(folder) == there and not list((folder / "_itd").glob("tmp-*"))
    require_scores(folder, OURS)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_writer_that_was_stopped_puts_nothing_into_a_result_that_was_begun_anew(
    moment: str, tmp_path: Path, stop: Callable[..., Stopped]
) -> None:
    folder, other = tmp_path / "r", {"model": "another"}
    space: Space = synthetic.make_space(6)
    stopped = stop(WRITE, synthetic.__file__, folder, *MOMENTS[moment])
    with Claims(folder) as claims:
        with pytest.raises(ResultError, match=f"process {stopped.child.pid} on .* works on"):
            remove_other(folder, other, space, claims=claims)
        silent(folder)
        assert remove_other(folder, other, space, claims=claims)
        writer = synthetic.open_writer(folder, IMAGES, identity=other)
        assert "begun anew" in (said := stopped.go_on()) or "cannot write" in said
        assert files(folder) == {} and len(writer.todo()) == 2
        synthetic.write_units(writer, OURS)
    require_scores(folder, OURS)


def test_a_sweep_that_was_stopped_hinders_others_for_a_minute_at_most(
    tmp_path: Path, stop: Callable[..., Stopped]
) -> None:
    folder = tmp_path / "r.parquet"
    stopped = stop(SWEEP, folder, *sys.path)
    assert {one.unit for one in list_claims(folder / "_itd")} >= {(4, 5)}
    silent(folder)
    how: dict[str, Any] = {"out": str(folder), "device": "cpu", "batch_size": 2, "images_per_unit": 2, "quiet": True}
    report = sweep(make_job(8), **how)
    assert report.left == 0 and verify(folder).complete
    there = files(folder)
    assert stopped.go_on() == "0\n" and files(folder) == there
    assert verify(folder).complete and list_claims(folder / "_itd") == []


def test_a_process_that_was_stopped_with_the_lease_hinders_others_for_a_minute_at_most(
    tmp_path: Path, stop: Callable[..., Stopped]
) -> None:
    folder = written(tmp_path / "r").folder
    stopped = stop(HOLD, folder / "_itd")
    silent(folder)
    with leased(folder / "_itd"):
        mine = list_claims(folder / "_itd")
        assert stopped.go_on() == "" and list_claims(folder / "_itd") == mine, "it gives back what is another's"
    assert list_claims(folder / "_itd") == []


def refused(handle: int, how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("lock", [refused, lambda handle, how: None], ids=["no locks", "locks that do nothing"])
def test_where_locks_are_broken_writers_share_a_result_all_the_same(
    lock: Callable[[int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread has images without scores, and the list of those is one file that all of them change."""
    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, lock)
    folder, missing = tmp_path / "r", np.arange(IMAGES) % 2 == 1
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            writer = synthetic.open_writer(folder, IMAGES, images_per_unit=1, provenance={"run": f"{number}"})
            for unit in writer.todo((number, 4)):
                image = MissingImage(unit.first, unit.first, f"{unit.first}.png", "it is no image")
                gone = [image] if missing[unit.first] else []
                scores = {name: array[..., unit.first : unit.last + 1] for name, array in OURS.items()}
                writer.write(unit, missing=missing[[unit.first]], missing_images=gone, **scores)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    noted = json.loads((folder / "_itd/missing.json").read_text())["missing"]
    assert [one["image"] for one in noted] == np.flatnonzero(missing).tolist()
    assert verify(folder).complete and open_result(folder).n == IMAGES // 2
    assert {run["run"] for run in open_result(folder).manifest["provenance"]} == {"0", "1", "2", "3"}


def test_of_two_equal_parts_the_one_that_is_there_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writer finds the record there, and puts its part before the first one does."""
    folder, publish = tmp_path / "r", record.publish
    first, second = (synthetic.open_writer(folder, IMAGES, provenance={"run": name}) for name in "ab")
    there: dict[str, tuple[int, int]] = {}

    def late(temp: Path, target: Path, **how: Any) -> bool:
        monkeypatch.setattr(record, "publish", publish)
        synthetic.write_units(second, OURS)
        there.update(files(folder))
        return publish(temp, target, **how)

    monkeypatch.setattr(record, "publish", late)
    unit = first.todo()[0]
    here = slice(unit.first, unit.last + 1)
    first.write(unit, missing=np.zeros(len(unit), bool), **{name: array[..., here] for name, array in OURS.items()})
    assert len(there) == 2 and files(folder) == there
    require_scores(folder, OURS)
    records = [path.name for path in (folder / "_itd").glob("part-*.json")]
    assert len(records) == 2
