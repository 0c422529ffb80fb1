"""The sweep: a job's missing units through a worker, scores into the result. One process, one device."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from itd.data.processes import start_server
from itd.device import current
from itd.engine.executor import Executor
from itd.errors import ItdError, ItdWarning, ModelError, ResultError, SetAsideWarning
from itd.runner.executors import make_executor, way_of
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions, checked_options, missing_limit, with_workers
from itd.runner.precision import precision_notes, precision_there, settled, tried
from itd.runner.provenance import provenance
from itd.runner.request import SweepRequest
from itd.runner.retry import Replaced, replaced_files, require_decodable
from itd.runner.units import UnitRun, described
from itd.runner.worker import Progress, Worker
from itd.store import (
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
from itd.weights.prepare import OnPrepare, draw_bar


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
    not there yet. executor: tree, or plain where no
    work was shared. nulls: images that are there and have null rows, as they cannot be decoded. failed: units that were
    set aside; the same sweep tries them again. stopped: why it ended before its last unit, None where it did not.
    kept: images of units that `retry_missing` was to compute again and did not, so that they are there as they were.
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


def sweep(
    job: SweepJob | SweepRequest,
    *,
    out: str | None = None,
    device: Any = None,
    devices: Any = None,
    engine: str | None = None,
    address: str | None = None,
    workers_per_node: int | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    help_others: bool | None = None,
    allow_missing: bool | int | str | None = None,
    images_per_unit: int | None = None,
    executor: str | None = None,
    overwrite: bool | None = None,
    retry_missing: bool | None = None,
    check_data: bool | None = None,
    fail_fast: bool | None = None,
    on_start: OnStart | None = None,
    on_prepare: OnPrepare = draw_bar,
    quiet: bool = False,
) -> SweepReport:
    """Sweeps a job into its result, doing only what is missing.

    A unit that cannot be computed is set aside, with a SetAsideWarning, and the others go on: an image of it cannot be
    decoded, or cannot be read after three further attempts, logits are not finite, or memory does not suffice in three
    attempts. The same sweep tries it again.

    Args:
        job: objects, or what was typed; of a request the keywords below take the place of its own.
        out: the result's folder; default results/<name>-<attributes>.parquet.
        device: cpu, cuda, cuda:1; default a GPU where there is one.
        devices: in place of `device`, one worker process for each, started anew on this machine: "cuda:0,cuda:1",
            "all" (GPUs), "cpu*2", or a list. A script that calls this needs `if __name__ == "__main__":`.
        engine: inline (this process), local (what `devices` implies) or ray (actors of Ray Core, an extra).
        address: of Ray's cluster, "auto" for the one that runs; default one that is started here and ends with the run.
        workers_per_node: of Ray; default one for each GPU of a node, or one.
        precision: fp32, tf32, bf16, fp16 or auto, part of what makes two results the same. Default fp32, on a GPU auto:
            the number format of the result that is there; where one is begun, bf16, else tf32, if on the first 256
            images 99% of all predictions are those of fp32, and the images that are right at the static, worst, median
            and best configuration are as many but for one; else fp32. On a CPU auto begins in fp32.
        batch_size: images in the tree at once; default 8, 64 on a GPU.
        workers: processes that decode; 0 decodes in a thread of this one. Default 0, on a GPU the cores of this
            machine, where the images can be sent to other processes. On a GPU no process is forked from this one: each
            gets a pickle of the images, and a script that defines their class needs `if __name__ == "__main__":`.
        shard: (i, n), the i-th of n parts of the work.
        help_others: after its own shard the run computes what others have not begun.
        allow_missing: so many of the selected images may be undecodable and become null rows: a number, a share as in
            "2%", or True for 1%; at least one of a share. A file that cannot be read is none of them.
        images_per_unit: of a new result.
        executor: auto, tree (the prefix tree or an error) or plain (one forward for each configuration). Default auto:
            the tree, and plain forwards for a network that cannot be traced, with an `itd.errors.ItdWarning`.
        overwrite: a result of another run at `out` is thrown away instead of refused; one of the same run goes on.
        retry_missing: units with null rows are computed again. Files of images without scores may have been replaced
            since; any other file that changed makes another data set.
        check_data: every selected image is decoded first, and all that cannot be are named, in an ItdWarning each.
        fail_fast: the first unit that cannot be computed ends the sweep with its error.
        on_start: called with what will be done; returns what is called with how many (image, configuration) pairs were
            just computed, here or by another run that works on the same result.
        on_prepare: called with (what begins, its steps or None) where weights have to be trained or fetched first;
            returns what is called with how many steps were just done. Default a bar.
        quiet: nothing is shown of that.

    Raises:
        ItdError: for anything that cannot be, before the first image; ResultError where the disk refuses; with
            `fail_fast` NotFiniteError naming configuration and image, DataError for an image that cannot be decoded.
            Units written before stay.

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp() + "/r.parquet"
        >>> request = SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=1)
        >>> sweep(request, out=out, quiet=True).configs
        5
    """
    if on_start is not None and not callable(on_start):
        raise ItdError(f"on_start is {on_start!r}; give a function of what will be done, or leave it out")
    options = checked_options(
        job,
        out=out,
        device=device,
        devices=devices,
        engine=engine,
        address=address,
        workers_per_node=workers_per_node,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        shard=shard,
        help_others=help_others,
        allow_missing=allow_missing,
        images_per_unit=images_per_unit,
        executor=executor,
        overwrite=overwrite,
        retry_missing=retry_missing,
        check_data=check_data,
        fail_fast=fail_fast,
    )
    if options.device.type == "cuda" and options.workers != 0 and options.engine == "inline":
        start_server()  # before anything touches CUDA
    with current(options.device):
        return _swept(job, options, on_start, None if quiet else on_prepare)


def _swept(
    job: SweepJob | SweepRequest, options: RunOptions, on_start: OnStart | None, on_prepare: OnPrepare | None
) -> SweepReport:
    """`sweep` with its options checked, on its device."""
    source = job
    if isinstance(job, SweepRequest):
        job = job.job(on_prepare=on_prepare)
    if job.weights_pending:
        raise ModelError(
            f"the weights {job.weights_label} of {job.name} are {job.weights_pending}, and this job was made to be "
            "planned alone; make it again without only_plan"
        )
    job.check_unchanged()
    way = way_of(job, options)
    if options.auto:
        options = with_workers(options, job)
        options = settled(job, options, partial(tried, job, options, way, on_prepare))

    def run(options: RunOptions) -> SweepReport:
        if options.engine != "inline":
            from itd.runner.fleet import run_fleet

            return run_fleet(source, job, options, way.name, on_start=on_start, on_prepare=on_prepare)
        make = partial(make_executor, job, options, way)
        return run_job(job, options, make, way=way.name, warning=way.note, on_start=on_start, on_prepare=on_prepare)

    try:
        return run(options)
    except ResultError:
        there = precision_there(job, options) if options.agreements else None
        if there is None or there == options.precision.name:
            raise
    # another shard, which began at the same time, has created the result in another number format
    return run(settled(job, replace(options, auto=True, agreements=())))


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
    with Claims(Path(out)) as claims:
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
            worker, writer, most_missing, options.fail_fast, claims, alone=options.members == 1, on_written=on_written
        )
        run.run(opened.units, opened.of_others)
    report = report_of(job, writer, already, started, way, run)
    for line in report.set_aside:
        warnings.warn(line, SetAsideWarning, stacklevel=3)
    return report


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that is about to compute. units: its own, not there yet. of_others: those of other shards that it helps
    with. already: images that are there."""

    job: SweepJob
    writer: ResultWriter
    already: int
    units: list[Unit]
    of_others: list[Unit]

    def start(self, options: RunOptions, way: str) -> SweepStart:
        """What it is about to do."""
        todo = sum(len(unit) for unit in (*self.units, *self.of_others))
        notes = precision_notes(options, self.already)
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
    units = sorted(writer.todo(options.shard), key=lambda unit: (unit.first, unit.last) in options.last)
    own = {(unit.first, unit.last) for unit in units}
    others = [unit for unit in writer.todo() if (unit.first, unit.last) not in own] if options.help_others else []
    return OpenedRun(job, writer, writer.done_images, units, others)


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
        failed=() if run is None else tuple(run.failed),
        stopped=None if run is None else run.stopped,
        kept=writer.kept_images,
        precision=writer.manifest["identity"]["precision"],
        left=len(job) - writer.done_images - writer.kept_images,
    )


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
