"""Which processes are known to be gone: those that ended, also while nobody has asked how; never one that may live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from itd.process import Process, is_gone, machine, this_process

CHILD = """
import sys
from itd.process import this_process
with open("/proc/self/comm", "w") as file:
    file.write("a) R\\nb")
one = this_process()
print(one.machine, one.pid, one.started, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """A process whose name has a bracket and two lines, and what it calls itself."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=pipe, stdout=pipe, text=True) as started:
        assert started.stdout is not None
        name, pid, ticks = started.stdout.readline().split()
        yield started, Process(name, int(pid), int(ticks))
        started.kill()


def test_this_process_is_there_and_knows_when_it_began() -> None:
    one = this_process()
    text = Path("/proc/self/stat").read_text()
    assert one.pid == os.getpid() and one.started == int(text[text.rindex(")") + 1 :].split()[19]) > 0
    assert len(one.machine) == 16 and int(one.machine, 16) >= 0 and not is_gone(one)


def test_a_process_says_of_itself_what_others_say_of_it(child: tuple[subprocess.Popen[str], Process]) -> None:
    running, process = child
    assert process == Process(machine(), running.pid, process.started) and process.started > 0
    assert not is_gone(process)


def test_a_process_that_was_killed_is_gone_before_and_after_its_parent_asks(
    child: tuple[subprocess.Popen[str], Process],
) -> None:
    running, process = child
    running.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    os.kill(running.pid, 0)  # it still has its number
    assert is_gone(process)
    running.wait()
    assert is_gone(process)


def test_a_stopped_process_is_not_gone(child: tuple[subprocess.Popen[str], Process]) -> None:
    running, process = child
    running.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_gone(process)


def test_a_number_that_another_process_has_by_now_is_of_one_that_is_gone(
    child: tuple[subprocess.Popen[str], Process],
) -> None:
    _, process = child
    assert is_gone(Process(process.machine, process.pid, process.started - 1))
    assert not is_gone(Process(process.machine, process.pid, 0)), "nobody knows when it began"


def test_of_another_machine_nobody_knows() -> None:
    assert not is_gone(Process("0" * 16, 2**22 + 1, 1))
    assert is_gone(Process(machine(), 2**22 + 1, 1)) and is_gone(Process(machine(), 2**80, 1))


def test_a_process_of_another_user_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not is_gone(this_process())
