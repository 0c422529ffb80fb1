"""Which process of which machine this is, and whether another one is gone. Nothing here starts or ends a process.

Names of machines are no help: containers share them, and clusters shorten them. A process is known by the boot of its
machine, its PID namespace and the time that it started.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import uuid
from dataclasses import dataclass

HOST = socket.gethostname()
"""For people to read; nothing is decided by it."""


@dataclass(frozen=True)
class Process:
    """A process.

    machine: 16 hexadecimal digits of the boot and the PID namespace that `pid` counts in. started: clock ticks from
    the boot to the start of the process; 0 where the system does not say.
    """

    machine: str
    pid: int
    started: int = 0


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(machine(), pid, _stat(pid)[1])


@functools.cache
def machine() -> str:
    """This boot of this machine and this PID namespace."""
    boot = _text("/proc/sys/kernel/random/boot_id").strip() or f"{HOST} {uuid.getnode()}"
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:16]


def is_gone(process: Process) -> bool:
    """Whether a process has surely ended: not of another machine, of which nobody here knows.

    >>> is_gone(this_process()), is_gone(Process("another", 1))
    (False, False)
    """
    if process.machine != machine():
        return False
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    state, started = _stat(process.pid)
    return state in ("Z", "X") or (0 not in (started, process.started) and started != process.started)


def _stat(pid: int) -> tuple[str, int]:
    """(state, clock ticks at its start) of a process; ("", 0) where the system does not say."""
    after_name = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # a name may have brackets, even two lines
    try:
        return after_name[0], int(after_name[19])
    except (IndexError, ValueError):
        return "", 0


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
