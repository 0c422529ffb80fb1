"""Workers as processes of this machine, none of them forked from this one: `devices="cuda:0,cuda:1"`, `"cpu*2"`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from itd.data.processes import LEFT_TO_US, START, await_server, start_server
from itd.errors import ItdError
from itd.process import Process, this_process
from itd.runner.fleet import Death, Notes, Outcome, outcome_of
from itd.runner.member import Member, Places, threads_of
from itd.runner.options import RunOptions

_GUARD = (
    "the script that runs starts workers, each of which runs it again to find what is defined in it: put what calls "
    'itd under `if __name__ == "__main__":`'
)


def load_ahead() -> None:
    """Begins to load what workers need, in the program that they come from, while this one does something else."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        print(_GUARD, file=sys.stderr, flush=True)  # the fork server prints nothing of what ends its children
        raise SystemExit(1)
    start_server("itd.runner.member")  # which loads torchvision, in 1.5 s of each worker otherwise


class LocalCrew:
    """One process for each device. devices: a device may be there more than once."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        load_ahead()
        self.devices = tuple(devices)
        self.context = multiprocessing.get_context(START)
        self.started: list[LocalRemote] = []
        self._notes = Notes()

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return len(self.devices)

    def threads(self, number: int) -> int:
        """Of a worker: OMP_NUM_THREADS where it is set, else its share of the cores."""
        return threads_of(self.size)

    def options_of(self, options: RunOptions, number: int) -> RunOptions:
        """Those of one worker: its device."""
        return replace(options, device=self.devices[number], beside=self.size)

    def start(self, number: int, spec: bytes, last: Places) -> LocalRemote:
        """Starts a worker, or one in the place of one that has died."""
        if not self.started:
            await_server()
        remote = LocalRemote(self.context, spec, last, str(self.devices[number]), self._notes.say)
        self.started.append(remote)
        return remote

    def close(self) -> None:
        """Ends all processes."""
        for remote in self.started:
            remote.stop()


class LocalRemote:
    """A worker in a process of this machine, as its parent sees it."""

    def __init__(self, context: Any, spec: bytes, last: Places, label: str, say: Callable[[str], Any]) -> None:
        self.label, self._say = label, say
        self.process: Process | None = None
        self._rows, self._done = context.Value("q", 0), context.Value("q", 0)
        self._receiver, sender = context.Pipe(duplex=False)
        self._outcome: Outcome | None = None
        self._child = context.Process(
            target=_work, args=(spec, last, sender, self._rows, self._done), name="itd-worker"
        )
        self._child.start()
        sender.close()

    @property
    def rows(self) -> int:
        """(image, configuration) pairs that it has computed."""
        return int(self._rows.value)

    @property
    def done(self) -> int:
        """Images that it has computed."""
        return int(self._done.value)

    def poll(self) -> Outcome | None:
        """What came of it; None while it works."""
        ended = not self._child.is_alive()
        try:
            while self._receiver.poll():
                self._take(self._receiver.recv())
        except (EOFError, OSError):
            pass
        if self._outcome is None and ended:
            self._child.join()
            status = self._child.exitcode
            self._outcome = Death(_why(status))
            if self.process is None and status is not None and status > 0:  # it would end so each time
                self._outcome = ItdError(f"a worker ended before it began, with exit status {status}, as it says above")
        return self._outcome

    def stop(self) -> None:
        """Kills it: what it has written is whole, and what it was at is nobody's."""
        if self._child.is_alive():
            self._child.kill()
        self._child.join()
        self._receiver.close()

    def _take(self, message: tuple[str, Any]) -> None:
        kind, value = message
        if kind == "process":
            self.process = value
        elif kind == "note":
            self._say(value)
        else:
            self._outcome = outcome_of(value)


def _work(spec: bytes, last: Places, sender: Connection, rows: Any, done: Any) -> None:
    """What a worker's process runs."""
    if hasattr(signal, "pthread_sigmask"):  # as the fork server has it already
        signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name) for name in LEFT_TO_US})
    threading.Thread(target=_end_with_parent, daemon=True, name="itd-parent").start()

    class Shared(Member):
        def _add_rows(self, count: int) -> None:
            super()._add_rows(count)
            rows.value = self.rows

        def _add_done(self, count: int) -> None:
            super()._add_done(count)
            done.value = self.done

    member = Shared(spec, lambda text: sender.send(("note", text)))
    sender.send(("process", this_process()))
    sender.send(("outcome", member.work(last)))
    sender.close()


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _why(status: int | None) -> str:
    if status is not None and status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"was ended by {name}"
    return f"ended with exit status {status}"
