"""One worker of a run that has several: the whole sweep in a process of its own, which takes the units nobody has.

It resolves the job itself, or gets it by pickle, and works only where that is the job of the process that started it.
Scores go to the result's folder, and never to that process.
"""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from itd import errors
from itd.data.processes import cores
from itd.device import current
from itd.errors import ItdError, ItdWarning, ModelError, SetAsideWarning
from itd.process import HOST, Process, this_process
from itd.runner.executors import make_executor, way_of
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions
from itd.runner.request import SweepRequest
from itd.runner.run import SweepReport, run_job
from itd.store.identity import identity_differences
from itd.text import one_line

Places = tuple[tuple[int, int], ...]
"""First and last positions of units."""


@dataclass(frozen=True)
class MemberSpec:
    """What a worker is to do.

    job: a SweepJob, or the SweepRequest that it resolves, pickled. options: of this worker alone. identity: that the
    job must have. threads: of torch on a CPU. folder: where the process that starts it is, of which relative paths are.
    """

    job: bytes
    options: RunOptions
    identity: dict[str, Any]
    threads: int
    folder: str


def pickled(value: Any) -> bytes:
    """A job or a request as bytes for another process; ItdError where it cannot be sent."""
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever an object of the user's says
        raise ItdError(
            f"the job cannot be sent to other processes: {one_line(error, 200)}; give a SweepRequest, which each "
            "worker resolves, or leave `engine` and `devices` out"
        ) from error


def threads_of(workers: int, of_cores: int | None = None) -> int:
    """Threads of each of some workers on one machine: OMP_NUM_THREADS where it is set, else their share of the cores.

    of_cores: default those of this machine.

    >>> threads_of(10_000)
    1
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    said = int(asked) if asked.isdecimal() and len(asked) < 5 else 0  # OpenMP itself ignores what cannot be
    return said or max(1, (of_cores or cores()) // workers)


class Member:
    """A worker in its own process.

    spec: a `MemberSpec`, pickled. tell: called with the text of each ItdWarning. rows, done: (image, configuration)
    pairs and images that it has computed so far; of any thread.
    """

    def __init__(self, spec: bytes, tell: Callable[[str], Any] | None = None) -> None:
        self.spec, self.tell = spec, tell or self._keep
        self.rows = self.done = 0
        self._notes: list[str] = []

    def state(self) -> tuple[Process, int, int, list[str]]:
        """(which process it is, rows, done, what was warned of since this was last asked)."""
        notes, self._notes = self._notes, []
        return this_process(), self.rows, self.done, notes

    def _keep(self, text: str) -> None:
        self._notes.append(text)

    def work(self, last: Places = ()) -> SweepReport | ItdError | str:
        """Computes what nobody has until there is nothing left: what it did, why it cannot, or what went wrong.

        last: units to try after all others, as a worker died over them.
        """
        try:
            with warnings.catch_warnings():
                self._tell_warnings()
                return self._worked(last)
        except ItdError as error:
            return plain_error(type(error).__name__, str(error))
        except Exception as error:
            traceback.print_exc()
            return one_line(error, 300)

    def _worked(self, last: Places) -> SweepReport:
        spec: MemberSpec = pickle.loads(self.spec)
        options = replace(spec.options, last=last)
        _go_to(spec.folder)
        torch.set_num_threads(spec.threads)
        with current(options.device):
            source: SweepJob | SweepRequest = pickle.loads(spec.job)
            job = source.job(on_prepare=None) if isinstance(source, SweepRequest) else source
            require_same(spec.identity, job.identity(options.precision.name))
            way = way_of(job, options)
            return run_job(
                job,
                options,
                lambda: make_executor(job, options, way),
                way=way.name,
                on_start=lambda start: self._add_rows,
                on_written=self._add_done,
            )

    def _add_rows(self, count: int) -> None:
        self.rows += count

    def _add_done(self, count: int) -> None:
        self.done += count

    def _tell_warnings(self) -> None:
        warnings.simplefilter("always", ItdWarning)  # the process that drives this one says what comes of them
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, SetAsideWarning):
                return  # its report says it
            if issubclass(category, ItdWarning):
                self.tell(str(message))
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show


def _go_to(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise ItdError(
            f"a worker on {HOST} cannot go to {folder}, where the command was given: {one_line(error)}; give the "
            "command in a folder that every node sees"
        ) from error


def plain_error(name: str, text: str) -> ItdError:
    """An error by the name of its class in `itd.errors`, with nothing else in it, so that it can be sent."""
    kind = getattr(errors, name, ItdError)
    return kind(text) if isinstance(kind, type) and issubclass(kind, ItdError) else ItdError(text)


def require_same(identity: dict[str, Any], here: dict[str, Any]) -> None:
    """ModelError where a worker's job is not that of the process that started it."""
    differing = identity_differences(identity, here)
    if differing:
        lines = "; ".join(f"{name} is {there}, here {own}" for name, there, own in differing)
        raise ModelError(
            f"a worker has another job than the process that started it: {lines}; give every worker the same code, "
            "weights and data"
        )
