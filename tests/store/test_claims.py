"""Claims on units: who has one, when it is free, and what nobody may do to the claim of another."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from itd.errors import ResultError
from itd.process import Process, machine, this_process
from itd.store import Claims, ResultWriter, at_work, claim, claims, remove_other
from itd.store.claim import STALE_S, list_claims, read_claim, take_over, write_claim
from itd.store.claims import forget_process
from support import synthetic

UNIT = (0, 3)
NAME = "part-00000000-00000003"
CHILD = """
import pathlib, sys
from itd.store import Claims
with Claims(pathlib.Path(sys.argv[1]), "theirs") as claims:
    claims.take(0, 3), claims.take(4, 7), claims.begin(0, 3)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def side(tmp_path: Path) -> Path:
    return tmp_path / "_itd"


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that had taken two units, and begun one, when it was killed; its parent has not asked yet."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        assert [one.unit for one in at_work(tmp_path)] == [UNIT]
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        yield child


def path_of(side: Path, name: str = NAME) -> Path:
    return side / "claims" / f"{name}.json"


def age(path: Path, seconds: float) -> None:
    """A file was last touched so long ago, by the clock of the file server."""
    os.utime(path)
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def put(side: Path, name: str = NAME, age_s: float = 0.0, **changed: object) -> Path:
    """A claim of a process of another machine."""
    fields = {"host": "far", "machine": "0" * 16, "pid": 7, "started": 5, "run": "r", "since": "2026-01-01T00:00:00"}
    path = path_of(side, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**fields, "token": f"{name}-token", "begun": False, **changed}))
    age(path, age_s)
    return path


def before_a_rename(monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """Calls `other` when a claim was judged, and before it is taken over."""
    rename = os.rename

    def late(old: object, new: object) -> None:
        monkeypatch.setattr(os, "rename", rename)
        other()
        rename(old, new)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", late)


def test_a_unit_has_one_holder_until_it_is_given_back(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as others:
        assert mine.take(*UNIT) and mine.take(*UNIT) and not others.take(*UNIT) and others.take(4, 7)
        others.release(*UNIT)
        assert not others.take(*UNIT), "what another has is not given back"
        mine.release(*UNIT)
        assert others.take(*UNIT) and not mine.take(*UNIT)
    assert list_claims(tmp_path / "_itd") == []


def test_of_many_that_make_a_claim_at_once_one_has_it(side: Path) -> None:
    together, made = threading.Barrier(8), []

    def make(token: str) -> None:
        together.wait()
        if write_claim(side, NAME, token, None):
            made.append(token)

    threads = [threading.Thread(target=make, args=(f"{number:016d}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = read_claim(side, NAME)
    assert there is not None and made == [there.token]


@pytest.mark.parametrize("reaped", [False, True], ids=["a zombie", "gone"])
def test_what_a_killed_process_had_is_free_at_once(reaped: bool, killed: subprocess.Popen[str], tmp_path: Path) -> None:
    if reaped:
        killed.wait()
    assert at_work(tmp_path) == []
    with Claims(tmp_path) as mine:
        assert mine.take(*UNIT) and mine.take(4, 7)
        runs = [one for one in list_claims(tmp_path / "_itd") if one.name.startswith("run-")]
        assert [one.token for one in runs] == [mine.token], "nothing tells of the killed process any more"


def test_what_a_process_had_is_forgotten_and_said(killed: subprocess.Popen[str], tmp_path: Path) -> None:
    with Claims(tmp_path) as mine:
        mine.take(8, 11)
        (there,) = [one for one in list_claims(tmp_path / "_itd") if one.unit == UNIT]
        assert there.process is not None and there.process.pid == killed.pid
        assert forget_process(tmp_path, there.process) == [UNIT, (4, 7)]
        assert [one.unit for one in list_claims(tmp_path / "_itd") if one.unit] == [(8, 11)]


def test_what_a_killed_process_had_goes_with_the_next_run_that_ends(
    killed: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Also a run that was at work before it was killed, and of units that are there, which nobody claims again."""
    with Claims(tmp_path) as others:
        others.take(8, 11)
        put(tmp_path / "_itd", "part-00000012-00000015")
        put(tmp_path / "_itd", "lease", machine=machine(), pid=2**22 + 1)
        with Claims(tmp_path):
            pass
        left = {one.name for one in list_claims(tmp_path / "_itd")}
        assert left == {f"run-{others.token}", "part-00000008-00000011", "part-00000012-00000015"}


@pytest.mark.parametrize("off_s", [0, -7200, 7200])
def test_a_claim_of_another_machine_is_free_a_minute_after_its_last_touch_by_the_file_servers_clock(
    off_s: float, tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "time", SimpleNamespace(time=lambda: time.time() + off_s))
    with Claims(tmp_path) as mine:
        for age_s in (0, STALE_S - 10):
            put(side, age_s=age_s)
            assert not mine.take(*UNIT)
        put(side, age_s=STALE_S + 10)
        assert mine.take(*UNIT)
    assert list_claims(side) == []


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path, side: Path) -> None:
    one = this_process()
    with Claims(tmp_path) as mine:
        put(side, machine=one.machine, pid=one.pid, started=one.started)
        assert not mine.take(*UNIT)
        put(side, machine=one.machine, pid=one.pid, started=one.started - 1)
        assert mine.take(*UNIT)


def test_a_process_that_was_stopped_loses_its_claim_and_leaves_the_next_ones_alone(tmp_path: Path, side: Path) -> None:
    with Claims(tmp_path) as stopped, Claims(tmp_path) as mine:
        assert stopped.take(*UNIT) and stopped.begin(*UNIT) and not mine.take(*UNIT)
        age(path_of(side), STALE_S + 10)
        assert mine.take(*UNIT)
        there = path_of(side).read_bytes()
        stopped.release(*UNIT)
        assert path_of(side).read_bytes() == there
        assert mine.begin(*UNIT)


def test_a_process_that_was_stopped_does_not_begin_what_another_has(tmp_path: Path, side: Path) -> None:
    with Claims(tmp_path) as stopped, Claims(tmp_path) as mine:
        stopped.take(*UNIT)
        age(path_of(side), STALE_S + 10)
        mine.take(*UNIT)
        there = path_of(side).read_bytes()
        assert not stopped.begin(*UNIT) and path_of(side).read_bytes() == there
        assert not stopped.take(*UNIT)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_take_over_at_once_one_has_it(
    links: bool, tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        put(side, age_s=STALE_S + 10)
        before_a_rename(monkeypatch, lambda: first.take(*UNIT))
        assert not second.take(*UNIT)
        there = read_claim(side, NAME)
        assert there is not None and there.process == this_process()
        assert first.begin(*UNIT) and not second.take(*UNIT)
        assert not [name for name in os.listdir(side / "claims") if name.startswith("taken-")]


def test_whoever_renames_first_has_it(tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(side, age_s=STALE_S + 10)
    there = read_claim(side, NAME)
    assert there is not None
    before_a_rename(monkeypatch, lambda: take_over(side, there))
    assert not take_over(side, there)


def test_what_is_taken_for_next_can_be_had_by_one_with_nothing_left_to_do(tmp_path: Path, side: Path) -> None:
    with Claims(tmp_path) as slow, Claims(tmp_path) as idle:
        assert not idle.steal(*UNIT), "nobody has it"
        slow.take(*UNIT), slow.take(4, 7), slow.begin(*UNIT)
        assert not idle.steal(*UNIT) and idle.steal(4, 7)
        assert not slow.begin(4, 7)
        slow.release(4, 7)
        assert idle.begin(4, 7) and not slow.take(4, 7)


def test_what_another_has_taken_and_done_is_not_begun_again(tmp_path: Path) -> None:
    with Claims(tmp_path) as slow, Claims(tmp_path) as idle:
        slow.take(*UNIT), idle.steal(*UNIT), idle.begin(*UNIT), idle.release(*UNIT)
        assert not slow.begin(*UNIT)
        assert slow.take(*UNIT) and slow.begin(*UNIT)


def test_what_is_begun_in_the_meantime_stays(tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(tmp_path) as slow, Claims(tmp_path) as idle:
        slow.take(*UNIT)
        before_a_rename(monkeypatch, lambda: slow.begin(*UNIT))
        assert not idle.steal(*UNIT)
        there = read_claim(side, NAME)
        assert there is not None and there.begun and slow.begin(*UNIT)


WHOLE = '{"host": "h", "machine": "m", "pid": 1, "started": 1, "run": null, "since": "s", "token": "t", "begun": false}'
DAMAGED = {
    "empty": "", "truncated": WHOLE[:40], "a list": "[]", "null": "null", "a text": '"pid"', "bytes": "\udcff\udcfe",
    "no end of numbers": WHOLE.replace('"pid": 1', '"pid": Infinity'), "no number": WHOLE.replace(": 1,", ": [],"),
    "brackets": "[" * 4096, "digits": WHOLE.replace('"pid": 1', '"pid": ' + "9" * 4000),
    "long": WHOLE[:-1] + " " * 9000, "a pipe": None, "a folder": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_claim_that_cannot_be_read_holds_for_a_minute_and_does_no_harm(kind: str, tmp_path: Path, side: Path) -> None:
    text = DAMAGED[kind]
    names = [NAME, "lease", "run-0123"]
    with Claims(tmp_path) as mine:
        for path in (path_of(side, name) for name in names):
            if text is not None:
                path.write_text(text, errors="surrogateescape")
            elif kind == "a pipe":
                os.mkfifo(path)
            else:
                path.mkdir()
        assert not mine.take(*UNIT) and not mine.steal(*UNIT) and mine.take(4, 7)
        assert [one.pid for one in at_work(tmp_path)] == [os.getpid()]
        for name in names:
            age(path_of(side, name), STALE_S + 10)
        assert mine.take(*UNIT) and mine.begin(*UNIT)
        with claims.leased(side), Claims(tmp_path) as others:
            assert not others.take(*UNIT)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_where_no_claim_can_be_written_the_work_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: object, flags: int, *mode: int, **how: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *mode, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    with Claims(tmp_path) as mine, Claims(tmp_path) as others:
        assert mine.take(*UNIT) and others.take(*UNIT) and mine.begin(*UNIT)
        mine.release(*UNIT)
    monkeypatch.undo()
    assert list_claims(tmp_path / "_itd") == []


def test_a_disk_that_gets_full_while_a_claim_is_written_leaves_no_empty_one(
    tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with Claims(tmp_path) as mine, Claims(tmp_path) as others:
        monkeypatch.setattr(os, "write", full)
        assert mine.take(*UNIT)
        monkeypatch.undo()
        assert not path_of(side).exists() and others.take(*UNIT)


def test_a_run_that_was_refused_leaves_no_folders(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Claims(tmp_path / "new" / "r.parquet"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_and_those_of_a_result_stay(tmp_path: Path, side: Path) -> None:
    side.mkdir()
    with Claims(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [side]
    with Claims(tmp_path / "r.parquet"):
        (tmp_path / "r.parquet" / "_itd" / "manifest.json").write_text("{}")
    assert (tmp_path / "r.parquet" / "_itd" / "manifest.json").exists()


def test_a_run_touches_its_own_claims_and_no_others(
    tmp_path: Path, side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch, rounds, ready = claims.touch_claim, threading.Semaphore(0), threading.Event()

    def counted(side: Path, name: str, token: str) -> None:
        ready.wait()
        touch(side, name, token)
        rounds.release()

    monkeypatch.setattr(claims, "touch_claim", counted)
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.001)
    with Claims(tmp_path) as mine:
        mine.take(*UNIT), mine.take(4, 7)
        put(side, "part-00000004-00000007")  # another has taken it over
        put(side, "part-00000008-00000011")
        for path in (side / "claims").glob("part-*.json"):
            os.utime(path, (5, 5))
        ready.set()
        for _ in range(3 * 3):
            assert rounds.acquire(timeout=60)
        touched = {path.name: path.stat().st_mtime for path in (side / "claims").glob("part-*.json")}
    assert touched.pop(f"{NAME}.json") > 5 and set(touched.values()) == {5}


def test_who_is_at_work_and_on_what(tmp_path: Path, side: Path) -> None:
    assert at_work(tmp_path) == []
    with Claims(tmp_path, "shared") as mine:
        mine.take(*UNIT), mine.take(4, 7), mine.begin(4, 7)
        put(side, "run-01", run="shared", since="2001-01-01T00:00:00+00:00")
        put(side, "part-00000008-00000011", run="shared")
        put(side, "run-02", age_s=STALE_S + 10, since="2002-01-01T00:00:00+00:00", pid=8)
        put(side, "run-03", machine=machine(), pid=2**22 + 1)
        far, silent, here = at_work(tmp_path)
        assert (far.host, far.pid, far.unit, far.stale) == ("far", 7, (8, 11), False)
        assert (silent.pid, silent.unit, silent.stale) == (8, None, True)
        assert (here.pid, here.unit, here.stale) == (os.getpid(), (4, 7), False), "what is begun, not what is next"
        assert [one.pid for one in mine.others()] == [7]


def test_what_tells_of_a_run_that_ended_without_a_word_goes_after_a_day(tmp_path: Path, side: Path) -> None:
    put(side, "run-01", age_s=23 * 3600)
    put(side, "run-02", age_s=25 * 3600)
    put(side, "run-03", machine=machine(), pid=2**22 + 1)
    with Claims(tmp_path) as mine:
        assert {one.name for one in list_claims(side)} == {"run-01", f"run-{mine.token}"}


def test_processes_are_kept_as_they_were_written(side: Path) -> None:
    assert write_claim(side, NAME, "t", "r")
    there = read_claim(side, NAME)
    assert there is not None and there.process == this_process() and isinstance(there.process, Process)
    assert (there.token, there.run, there.unit, there.begun) == ("t", "r", UNIT, False)


def test_runs_with_the_same_options_begin_a_result_anew_together(tmp_path: Path) -> None:
    """As the shards of an array do that all throw the result of an earlier run away; those with others are refused."""
    path, space = tmp_path / "r.parquet", synthetic.make_space(6)
    synthetic.write_units(synthetic.open_writer(path, 4, identity={"model": "old"}), synthetic.make_scores(6, 4))
    new = {"model": "new", "space": space.identity()}
    with Claims(path, of="new") as mine, Claims(path, of="new"):
        assert remove_other(path, new, space, claims=mine)
        ResultWriter.open(path, identity=new, space=space, macs=[1] * 6, samples=np.arange(4), images_per_unit=4,
                          provenance={"tool": "a test"}, claims=mine)  # fmt: skip
        with Claims(path, of="newer") as other, pytest.raises(ResultError, match="with other options"):
            remove_other(path, {**new, "model": "newer"}, space, claims=other)
    with Claims(path, of="new") as mine, Claims(path, of="other"), pytest.raises(ResultError, match="other options"):
        remove_other(path, {**new, "model": "old"}, space, claims=mine)


def test_what_a_kill_in_the_middle_of_a_claim_leaves_goes_after_a_day(tmp_path: Path, side: Path) -> None:
    folder = side / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    for name, age_s in (("taken-00", 90_000), ("taken-01", 1000)):
        (folder / f"{name}.json").write_text("{}")
        os.utime(folder / f"{name}.json", (time.time() - age_s,) * 2)
    with Claims(tmp_path):
        pass
    assert [path.stem for path in folder.iterdir()] == ["taken-01"]
