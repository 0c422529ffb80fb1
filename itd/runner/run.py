"""The run of a sweep: a result opened, its missing units through a worker, scores into it. One process, one device."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itd.engine.executor import Executor
from itd.errors import ItdWarning, ResultError, SetAsideWarning
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions, missing_limit, with_workers
from itd.runner.precision import precision_notes, settled
from itd.runner.provenance import provenance
from itd.runner.retry import Replaced, replaced_files, require_decodable
from itd.runner.units import UnitRun, described
from itd.runner.worker import Progress, Worker
from itd.store import (
    AtWork,
    Claims,
    FailedUnit,
    ResultWriter,
    Unit,
    check_folder,
    check_target,
    done_images,
    order_there,
    remove_other,
)
from itd.store.identity import identity_sha256
from itd.weights.prepare import OnPrepare


@dataclass(frozen=True)
class SweepStart:
    """What a sweep is about to do, for whoever shows progress.

    already, todo: images. executor: tree or plain. notes: of its number format, where there is something to say of it.
    """

    job: SweepJob
    out: str
    already: int
    todo: int
    executor: str = "tree"
    notes: tuple[str, ...] = ()


OnStart = Callable[[SweepStart], Progress | None]


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did.

    images: selected. already: there before. done: computed now, also where another run was first to write them. left:
    not there yet. executor: tree, or plain where no work was shared. nulls: images that are there and have null rows,
    as they cannot be decoded. failed: units that were set aside, and that no other run wrote after all; the same sweep
    tries them again. stopped: why it ended before its last unit, None where it did not. kept: images of units that
    `retry_missing` was to compute again and did not, so that they are there as they were.
    precision: the number format.
    """

    out: str
    images: int
    already: int
    done: int
    configs: int
    seconds: float
    executor: str = "tree"
    nulls: int = 0
    failed: tuple[FailedUnit, ...] = ()
    stopped: str | None = None
    kept: int = 0
    precision: str = "fp32"
    left: int = 0

    @property
    def set_aside(self) -> list[str]:
        """A line for each unit that was set aside, and one of why the run stopped."""
        lines = described(self.failed)
        return lines if self.stopped is None else [*lines, f"the run stopped: {self.stopped}"]


def run_job(
    job: SweepJob,
    options: RunOptions,
    executor: Callable[[], Executor],
    *,
    way: str = "plain",
    warning: str | None = None,
    identity: Mapping[str, Any] | None = None,
    on_start: OnStart | None = None,
    on_prepare: OnPrepare | None = None,
    on_written: Callable[[int], Any] | None = None,
) -> SweepReport:
    """Computes and writes the units that are missing, with any executor.

    executor: makes it, once there is something to do. way: what it is, tree or plain. warning: what a user
    should know, said once nothing can be refused any more. identity: fields beside the job's own. on_written: called
    with how many images were just computed and written. Others as of `sweep`.
    """
    started = time.perf_counter()
    options = settled(job, with_workers(options, job), identity=identity)
    identity = {**job.identity(options.precision.name), **(identity or {})}
    out = options.out or job.default_out
    (check_folder if options.overwrite else check_target)(out)
    with Claims(Path(out), of=identity_sha256(identity)) as claims:
        opened = open_run(job, options, identity, way, claims, on_prepare)
        job, writer, already = opened.job, opened.writer, opened.already
        runs = executor() if opened.units or opened.of_others else None
        if warning is not None:
            warnings.warn(warning, ItdWarning, stacklevel=3)
        progress = on_start(opened.start(options, way)) if on_start else None
        if runs is None:
            return report_of(job, writer, already, started, way)
        most_missing = missing_limit(options.allow_missing, len(job))
        worker = Worker(
            job,
            runs,
            batch_size=options.batch_size,
            workers=options.workers or 0,
            allow_missing=most_missing > 0,
            progress=progress,
        )
        run = UnitRun(
            worker,
            writer,
            most_missing,
            options.fail_fast,
            claims,
            alone=options.members == 1,
            on_written=on_written,
            last=options.last,
        )
        run.run(opened.units, opened.of_others)
    report = report_of(job, writer, already, started, way, run)
    for line in report.set_aside:
        warnings.warn(line, SetAsideWarning, stacklevel=3)
    return report


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that is about to compute. units: its own, not there yet. of_others: those of other shards that it helps
    with. already: images that are there. at_work: the other processes that work on the result."""

    job: SweepJob
    writer: ResultWriter
    already: int
    units: list[Unit]
    of_others: list[Unit]
    at_work: tuple[AtWork, ...] = ()

    def start(self, options: RunOptions, way: str) -> SweepStart:
        """What it is about to do."""
        todo = sum(len(unit) for unit in (*self.units, *self.of_others))
        notes = precision_notes(options, self.already)
        if self.at_work and todo:
            first, more = self.at_work[0], len(self.at_work) - 1
            also = f" and {more} more are" if more else " is"
            notes += (f"process {first.pid} on {first.host}{also} at work on this result; the units are shared",)
        return SweepStart(self.job, self.writer.path, self.already, todo, way, notes)


def open_run(
    job: SweepJob,
    options: RunOptions,
    identity: dict[str, Any],
    way: str,
    claims: Claims,
    on_prepare: OnPrepare | None = None,
) -> OpenedRun:
    """The result of a run that is at work there, created or continued, and what is to do in it."""
    out = options.out or job.default_out
    replaced = replaced_files(job, out, identity)
    if replaced is not None:
        identity = replaced.before
    if options.overwrite:
        remove_other(out, identity, job.space, claims=claims)
    job = as_there(job, options, identity)
    if options.check_data:
        done_images(out, identity=identity, space=job.space, samples=job.images.samples)
        require_decodable(job, options, on_prepare)
    writer = _opened(job, options, identity, way, replaced, claims)
    units = writer.todo(options.shard)
    own = {(unit.first, unit.last) for unit in units}
    others = [unit for unit in writer.todo() if (unit.first, unit.last) not in own] if options.help_others else []
    return OpenedRun(job, writer, writer.done_images, units, others, tuple(claims.others()))


def _opened(
    job: SweepJob,
    options: RunOptions,
    identity: dict[str, Any],
    way: str,
    replaced: Replaced | None,
    claims: Claims,
) -> ResultWriter:
    """`open_writer`; where files were replaced, the result then is of those that are there now."""
    if replaced is None:
        return open_writer(job, options, identity, way, claims=claims)
    try:
        writer = open_writer(job, options, identity, way, claims=claims)
    except ResultError:  # another run may have gone on with them in the meantime
        writer = open_writer(job, options, replaced.now, way, claims=claims)
    writer.go_on_with(replaced.now, replaced.notes)
    nulls = len(writer.null_images)
    if nulls and replaced.now != replaced.before and not options.retry_missing:
        warnings.warn(
            f"{writer.path} has null rows of {nulls} images, and files were replaced since; `retry_missing` computes "
            "them again",
            ItdWarning,
            stacklevel=4,
        )
    return writer


def report_of(
    job: SweepJob, writer: ResultWriter, already: int, started: float, way: str, run: UnitRun | None = None
) -> SweepReport:
    """What a run did. already: images that were there before. started: on the clock of `time.perf_counter`."""
    return SweepReport(
        out=writer.path,
        images=len(job),
        already=already,
        done=0 if run is None else run.done,
        configs=len(job.space),
        seconds=time.perf_counter() - started,
        executor=way,
        nulls=len(writer.null_images),
        failed=() if run is None else tuple(one for one in run.failed if not writer.holds(_unit_of(writer, one))),
        stopped=None if run is None else run.stopped,
        kept=writer.kept_images,
        precision=writer.manifest["identity"]["precision"],
        left=len(job) - writer.done_images - writer.kept_images,
    )


def _unit_of(writer: ResultWriter, failed: FailedUnit) -> Unit:
    return Unit(failed.first, failed.last, writer.samples[failed.first : failed.last + 1])


def as_there(job: SweepJob, options: RunOptions, identity: dict[str, Any]) -> SweepJob:
    """The job with its images in the order of the result that it goes on with. identity: of that result."""
    return job.in_order(order_there(options.out or job.default_out, identity) or job.images.order)


def open_writer(
    job: SweepJob, options: RunOptions, identity: dict[str, Any], way: str, *, claims: Claims | None = None
) -> ResultWriter:
    """The result of a job, created or continued. identity: the result's. way: tree or plain. claims: of the run."""
    return ResultWriter.open(
        options.out or job.default_out,
        identity=identity,
        space=job.space,
        macs=job.macs,
        macs_unknown=job.costs.unknown,
        samples=job.images.samples,
        images_per_unit=options.images_per_unit or unit_size(len(job), options.device, options.sharers),
        provenance=provenance(job, options, way, None if claims is None else claims.run),
        order=job.images.order,
        names=job.images.known_names,
        retry_missing=options.retry_missing,
        claims=claims,
    )


def unit_size(images: int, device: torch.device, workers: int = 1) -> int:
    """Images in a unit of a new result: about 64 units, 8 to 16 images on a CPU and to 256 on a GPU; fewer where so
    many workers share them that each would have less than 20 units, and the others wait long for the last one.

    >>> unit_size(50_000, torch.device("cpu")), unit_size(50_000, torch.device("cuda"), workers=64)
    (16, 40)
    """
    most = 256 if device.type == "cuda" else 16
    alone = min(most, 1 << max(0, images // 64).bit_length())
    return max(8, min(alone, math.ceil(images / (20 * workers))))
