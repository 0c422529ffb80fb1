"""The lease of a result: one holder at a time, between threads and processes, and none that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from itd.errors import ItdWarning, ResultError
from itd.process import machine
from itd.store import claims, manifest
from itd.store.claim import STALE_S, list_claims, read_claim, write_claim
from itd.store.claims import leased
from itd.store.missing import save_missing

COUNT = "import pathlib, runpy, sys; runpy.run_path(sys.argv[1])['count'](pathlib.Path(sys.argv[2]))"
HOLD = """
import pathlib, sys
from itd.store.claims import leased
from itd.store.missing import save_missing
with leased(pathlib.Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def side(tmp_path: Path) -> Path:
    (tmp_path / "_itd").mkdir()
    return tmp_path / "_itd"


def lease_of(side: Path) -> Path:
    return side / "claims" / "lease.json"


def silent(side: Path) -> None:
    """Nothing was heard of the holder for more than a minute."""
    old = lease_of(side).stat().st_mtime - STALE_S - 10
    os.utime(lease_of(side), (old, old))


def count(side: Path) -> None:
    """Reads a number and writes the next one, twenty times."""
    for _ in range(20):
        with leased(side):
            number = int((side / "count").read_text())
            (side / "count").write_text(str(number + 1))


def test_threads_and_processes_hold_it_one_after_the_other(side: Path) -> None:
    (side / "count").write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", COUNT, __file__, str(side)]) for _ in range(2)]
    threads = [threading.Thread(target=count, args=(side,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait() for child in children] == [0, 0]
    assert (side / "count").read_text() == "80" and list_claims(side) == []


def test_an_error_gives_it_back(side: Path) -> None:
    with pytest.raises(ZeroDivisionError), leased(side):
        raise ZeroDivisionError
    assert not lease_of(side).exists()


def test_that_of_a_killed_process_is_free_at_once(side: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(side)], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with leased(side):
            there = read_claim(side, "lease")
            assert there is not None and there.process is not None and there.process.pid == os.getpid()


def test_a_holder_that_was_stopped_loses_it_and_takes_away_no_other(side: Path) -> None:
    with leased(side):
        silent(side)
        with leased(side):
            pass
        assert write_claim(side, "lease", "next", None)
    there = read_claim(side, "lease")
    assert there is not None and there.token == "next"


def test_whoever_waits_for_long_says_for_whom_and_goes_on(side: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, waits = leased(side), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            holder.__exit__(None, None, None)

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(claims, "_WORD_S", 0.0)
    holder.__enter__()
    words = rf"waiting for process {os.getpid()} on .*, which is changing {side.parent}; if it is stopped"
    with pytest.warns(ItdWarning, match=words) as said, leased(side):
        assert len(waits) == 4
    assert len(said) == 1


def test_one_that_nobody_can_read_is_free_after_a_minute_and_the_wait_is_said(
    side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another user made it, and was killed."""
    opened = os.open

    def refuse(path: object, flags: int, *mode: int, **how: object) -> int:
        if not flags & os.O_CREAT:
            raise PermissionError
        return opened(path, flags, *mode, **how)  # type: ignore[call-overload, no-any-return]

    def wait(seconds: float) -> None:
        silent(side)

    write_claim(side, "lease", "theirs", None)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(claims, "_WORD_S", 0.0)
    with pytest.warns(ItdWarning, match="waiting for another process, which is changing"), leased(side):
        pass


def test_where_a_free_one_cannot_be_taken_away_nobody_waits_without_a_pause(
    side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    class PauseError(Exception):
        """The wait paused."""

    def pause(seconds: float) -> None:
        raise PauseError

    write_claim(side, "lease", "theirs", None)
    silent(side)
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=pause))
    with pytest.raises(PauseError), leased(side):
        pass


def test_one_whose_time_is_still_to_come_holds_for_two_minutes_and_not_until_then(
    side: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its machine had another time when it died."""
    write_claim(side, "lease", "theirs", None)
    text = lease_of(side).read_text().replace(machine(), "0" * 16)
    lease_of(side).write_text(text)
    later_s = lease_of(side).stat().st_mtime + 86_400
    os.utime(lease_of(side), (later_s, later_s))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert sum(waits) < 3 * STALE_S

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(claims, "_WORD_S", 1e9)
    with leased(side):
        assert sum(waits) > STALE_S
    assert not list_claims(side)


def test_who_lost_the_lease_does_not_write_what_was_read_before(tmp_path: Path) -> None:
    """As after a stop of more than a minute: another process has taken the lease over, and perhaps changed the file."""
    from support import synthetic  # the processes of the tests above run this file without it

    writer = synthetic.open_writer(tmp_path / "r", 4)
    side, before = tmp_path / "r/_itd", (tmp_path / "r/_itd/manifest.json").read_bytes()
    with leased(side):
        lease_of(side).unlink()
        write_claim(side, "lease", "another", None)
        with pytest.raises(ResultError, match="was stopped for longer than a minute, and others may have changed"):
            manifest.save(tmp_path / "r", {**writer.manifest, "images": 1})
        with pytest.raises(ResultError, match="was stopped for longer than a minute"):
            save_missing(tmp_path / "r", [])
    assert (side / "manifest.json").read_bytes() == before and not (side / "missing.json").exists()
    assert read_claim(side, "lease").token == "another", "whose it is by now"  # type: ignore[union-attr]
    lease_of(side).unlink()
    with leased(side):
        save_missing(tmp_path / "r", [])
