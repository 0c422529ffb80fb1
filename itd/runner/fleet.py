"""A run with several workers: one process drives them, shows their progress, and starts again those that die.

The workers share the units out among themselves, by the claims in the result's folder, as runs that know nothing of one
another do; so a worker that dies costs the unit that it was at, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from itd.errors import ItdError, ItdWarning, SetAsideWarning
from itd.process import HOST, Process, machine
from itd.runner.job import SweepJob
from itd.runner.member import MemberSpec, Places
from itd.runner.options import RunOptions
from itd.runner.run import OnStart, OpenedRun, SweepReport, open_run, report_of
from itd.runner.worker import Progress
from itd.store import Claims, FailedUnit, at_work
from itd.store.claims import forget_process
from itd.store.identity import identity_sha256
from itd.weights.prepare import OnPrepare

RESTARTS = 3
"""So often a worker that died is started again."""
_POLL_S = 0.2
_LOOK_S = 5.0
"""Between two looks at what is in the folder, where other runs may be at work, too."""


@dataclass(frozen=True)
class Death:
    """A worker has ended without a report. why: one line."""

    why: str


Outcome = SweepReport | ItdError | Death


def outcome_of(value: SweepReport | ItdError | str) -> Outcome:
    """The outcome that a `Member.work` stands for."""
    return Death(f"ended with an error: {value}") if isinstance(value, str) else value


class Notes:
    """What the workers of a run warn of, each text once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Says it in an ItdWarning, unless another worker has said the same."""
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, ItdWarning, stacklevel=2)


class Remote(Protocol):
    """A worker in another process. label: for people to read. process: which one, once that is known. rows, done: that
    it has computed so far."""

    label: str
    process: Process | None

    @property
    def rows(self) -> int: ...
    @property
    def done(self) -> int: ...
    def poll(self) -> Outcome | None:
        """What came of it; None while it works."""

    def stop(self) -> None:
        """Ends it, whatever it is doing."""


class Crew(Protocol):
    """What starts workers: processes of this machine, or actors of Ray. size: how many there are to be."""

    @property
    def size(self) -> int: ...
    def options_of(self, options: RunOptions, number: int) -> RunOptions:
        """Those of one worker."""

    def threads(self, number: int) -> int:
        """Of one worker."""

    def start(self, number: int, spec: bytes, last: Places) -> Remote:
        """Starts a worker, or starts one again that has died. last: as of `Member.work`."""

    def close(self) -> None:
        """Ends all that it has started."""


@dataclass
class _Worker:
    """A worker's place, whoever is at it. rows, done: of those that died there. deaths: so many."""

    number: int
    spec: bytes
    remote: Remote
    rows: int = 0
    done: int = 0
    deaths: int = 0
    report: SweepReport | None = None
    given_up: str | None = None

    @property
    def ended(self) -> bool:
        return self.report is not None or self.given_up is not None

    @property
    def all_rows(self) -> int:
        return self.rows + (0 if self.given_up is not None else self.remote.rows)

    @property
    def all_done(self) -> int:
        if self.report is not None:
            return self.done + self.report.done
        return self.done + (0 if self.given_up is not None else self.remote.done)


@dataclass
class Fleet:
    """The workers of a run, from their start to their end.

    folder: of the result. covered: asked how many images are there. todo: images that were not there at the beginning.
    """

    crew: Crew
    folder: Path
    configs: int
    todo: int
    covered: Callable[[], int]
    progress: Progress | None = None
    workers: list[_Worker] = field(default_factory=list)
    suspects: list[tuple[int, int]] = field(default_factory=list)
    shown: int = 0

    def run(self, specs: Sequence[bytes], begun: Callable[[], Any]) -> None:
        """Until every worker has nothing left, or is given up. begun: called once a worker is at work."""
        at_first, looked_s = self.covered(), time.monotonic()
        for number, spec in enumerate(specs):
            self.workers.append(_Worker(number, spec, self.crew.start(number, spec, ())))
        there, known = 0, False
        while not all(worker.ended for worker in self.workers):
            for worker in self.workers:
                if not worker.ended:
                    self._look_at(worker)
            if not known and any(worker.remote.rows for worker in self.workers):
                known = True
                begun()
            if time.monotonic() - looked_s > _LOOK_S:
                self._end_silent()
                there, looked_s = self.covered() - at_first, time.monotonic()
            self._show(max(there * self.configs, sum(worker.all_rows for worker in self.workers)))
            time.sleep(_POLL_S)
        self._show((self.covered() - at_first) * self.configs)

    def _end_silent(self) -> None:
        """Ends the workers of which nothing was heard for a minute, as of one that was stopped, once another has found
        nothing left to do: nobody would end the run otherwise."""
        if all(worker.report is None for worker in self.workers):
            return
        silent = {one.pid for one in at_work(self.folder) if one.stale and one.host == HOST}
        for worker in self.workers:
            process = worker.remote.process
            if not worker.ended and process is not None and process.pid in silent and process.machine == machine():
                worker.remote.stop()
                self._bury(worker, Death("gave no sign of life for a minute, and was ended"))

    def forget(self) -> None:
        """Takes away the claims of the workers that an error or a signal has ended."""
        for worker in self.workers:
            if worker.report is None and worker.remote.process is not None:
                forget_process(self.folder, worker.remote.process)

    def _show(self, rows: int) -> None:
        rows = min(rows, self.todo * self.configs)
        if self.progress is not None and rows > self.shown:
            self.progress(rows - self.shown)
            self.shown = rows

    def _look_at(self, worker: _Worker) -> None:
        outcome = worker.remote.poll()
        if isinstance(outcome, ItdError):
            raise outcome
        if isinstance(outcome, SweepReport):
            worker.report = outcome
        elif outcome is not None:
            self._bury(worker, outcome)

    def _bury(self, worker: _Worker, death: Death) -> None:
        """Frees what a worker had that has died, and starts it again, unless it has died too often."""
        worker.deaths += 1
        worker.rows += worker.remote.rows
        worker.done += worker.remote.done
        lost = [] if worker.remote.process is None else forget_process(self.folder, worker.remote.process)
        self.suspects += [place for place in lost if place not in self.suspects]
        text = f"worker {worker.number + 1} of {len(self.workers)} ({worker.remote.label}) {death.why}"
        if worker.deaths > RESTARTS:
            worker.given_up = text
            warnings.warn(f"{text}, for the {worker.deaths}th time, and is not started again", ItdWarning, stacklevel=5)
            return
        warnings.warn(f"{text}; it is started again, and what it was at is computed again", ItdWarning, stacklevel=5)
        worker.remote = self.crew.start(worker.number, worker.spec, tuple(self.suspects))


def run_fleet(
    source: bytes,
    job: SweepJob,
    options: RunOptions,
    crew: Crew,
    way: str,
    *,
    on_start: OnStart | None = None,
    on_prepare: OnPrepare | None = None,
) -> SweepReport:
    """A sweep whose units the workers of a crew compute.

    source: what they get, as of `itd.runner.member.pickled`: the request, which each resolves, or the job. Others as of
    `itd.runner.run.run_job`.
    """
    started = time.perf_counter()
    options = replace(options, members=crew.size)
    identity = job.identity(options.precision.name)
    out = options.out or job.default_out
    with contextlib.ExitStack() as working:
        claims = working.enter_context(Claims(Path(out), of=identity_sha256(identity)))
        opened = open_run(job, options, identity, way, claims, on_prepare)
        member = replace(
            options,
            out=os.path.abspath(out),
            overwrite=False,
            check_data=False,
            auto=False,
            engine="inline",
            devices=(),
            retry_missing=options.retry_missing and opened.writer.again,
        )
        given = opened.writer.manifest["identity"]
        specs = [
            pickle.dumps(MemberSpec(source, crew.options_of(member, number), given, crew.threads(number), os.getcwd()))
            for number in range(crew.size)
        ]
        progress = on_start(opened.start(options, way)) if on_start else None
        if not (opened.units or opened.of_others):
            return report_of(opened.job, opened.writer, opened.already, started, way)
        fleet = _fleet(crew, opened, progress)
        try:
            fleet.run(specs, working.close)  # from then on the workers say themselves that they are at work
        finally:
            crew.close()
            fleet.forget()
    return _report(fleet, opened, started, way)


def _fleet(crew: Crew, opened: OpenedRun, progress: Progress | None) -> Fleet:
    todo = sum(len(unit) for unit in (*opened.units, *opened.of_others))
    writer = opened.writer

    def covered() -> int:
        return writer.done_images

    return Fleet(crew, writer.folder, len(opened.job.space), todo, covered, progress)


def _report(fleet: Fleet, opened: OpenedRun, started: float, way: str) -> SweepReport:
    """What all workers did together; ItdError where none is left, and something is."""
    report = report_of(opened.job, opened.writer, opened.already, started, way)
    reports = [worker.report for worker in fleet.workers if worker.report is not None]
    failed: dict[tuple[int, int], FailedUnit] = {(one.first, one.last): one for r in reports for one in r.failed}
    stopped = next((one.stopped for one in reports if one.stopped is not None), None)
    units = [unit for unit in (*opened.units, *opened.of_others) if not opened.writer.holds(unit)]
    missing = {(unit.first, unit.last) for unit in units}
    failed = {place: one for place, one in failed.items() if place in missing}  # less what another wrote after all
    lost = sum(len(unit) for unit in units if (unit.first, unit.last) not in failed)
    if lost and stopped is None:
        gone = [worker.given_up for worker in fleet.workers if worker.given_up is not None]
        why = gone[0] if gone else "its workers found nothing left to do, as where they do not see this folder"
        raise ItdError(
            f"no worker is left, and {lost} of {report.images} images are not in {report.out}: {why}; nothing already "
            "written is lost: the same command goes on from there"
        )
    report = replace(
        report,
        done=sum(worker.all_done for worker in fleet.workers),
        failed=tuple(failed[place] for place in sorted(failed)),
        stopped=stopped if lost else None,  # else the others went on to the end
    )
    for line in report.set_aside:
        warnings.warn(line, SetAsideWarning, stacklevel=4)
    return report
