"""Sweeps in processes that a test can kill, each of which notes what it computes.

A line of the log is what happened, the first image of a unit, and the process: `begun` and `ended` around the forward
passes of a unit, in the thread that computes, `written` once its part is there. It is appended by one call, so that a
process that is killed has noted all that it did. What is only decoded ahead is not in it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from itd import sweep
from itd.data.processes import PRELOADED
from itd.errors import ItdWarning
from itd.runner.job import SweepJob
from itd.runner.worker import Worker
from itd.store import ResultWriter
from support.work import Images, make_job

IMAGES, PER_UNIT = 24, 2
_PATH = os.pathsep.join(map(str, Path(__file__).resolve().parents[1:3]))


class Counted(Images):
    """Images with which a process that gets them begins to note what it computes.

    log: of all processes. pause_s: that computing a unit takes longer; writing it takes a fifth of that longer.
    """

    def __init__(self, log: Path, pause_s: float) -> None:
        super().__init__(IMAGES)
        self.log, self.slow_s = log, pause_s
        note_units(log, pause_s)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        note_units(self.log, self.slow_s)


def note_units(log: Path, pause_s: float) -> None:
    """From now on this process notes its units."""
    if hasattr(Worker, "noted"):
        return
    computed, write = Worker._computed, ResultWriter.write
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, first: int) -> None:
        os.write(handle, f"{what} {first} {os.getpid()}\n".encode())

    def noted_computed(self: Worker, unit: Any, batches: Any) -> Any:
        note("begun", unit.first)
        time.sleep(pause_s)
        outcome = computed(self, unit, batches)
        note("ended", unit.first)
        return outcome

    def noted_write(self: ResultWriter, unit: Any, **scores: Any) -> None:
        time.sleep(pause_s / 10)
        write(self, unit, **scores)
        note("written", unit.first)
        time.sleep(pause_s / 10)

    Worker._computed, ResultWriter.write = noted_computed, noted_write  # type: ignore[method-assign]
    Worker.noted = True  # type: ignore[attr-defined]


def run(out: str, log: Path, pause_s: float, how: Mapping[str, Any]) -> None:
    """A sweep; what a process of `started` does."""
    warnings.simplefilter("ignore", ItdWarning)
    os.environ["PYTHONPATH"] = _PATH  # where Ray's actors find this module
    torch.set_num_threads(1)
    job = make_job()
    counted = SweepJob(job.model, job.space, Counted(log, pause_s), name="noise", fingerprint="noise")
    sweep(counted, out=out, batch_size=2, images_per_unit=PER_UNIT, quiet=True, **how)


def started(out: Path, log: Path, pause_s: float, how: Mapping[str, Any]) -> ForkServerProcess:
    """A sweep in a process of its own. how: of `itd.sweep`."""
    os.environ["PYTHONPATH"] = _PATH  # of the server, where this starts it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "support.counted"])
    child = context.Process(target=run, args=(str(out), log, pause_s, how))
    child.start()
    return child


def read_log(log: Path) -> dict[str, Counter[tuple[int, int]]]:
    """What happened, each as how often to (first image of a unit, process)."""
    found: dict[str, Counter[tuple[int, int]]] = {"begun": Counter(), "ended": Counter(), "written": Counter()}
    for line in log.read_text().splitlines() if log.exists() else ():
        what, first, pid = line.split()
        found[what][int(first), int(pid)] += 1
    return found


def times_again(noted: Counter[tuple[int, int]]) -> int:
    """How often something happened to a unit to which it had happened before."""
    return sum(noted.values()) - len({first for first, _ in noted})


def lost_units(noted: dict[str, Counter[tuple[int, int]]], pid: int) -> int:
    """How many units a process had begun that another one began, too, and the process did not write."""
    own = {first for first, by in noted["begun"] if by == pid} - {first for first, by in noted["written"] if by == pid}
    return len(own & {first for first, by in noted["begun"] if by != pid})
