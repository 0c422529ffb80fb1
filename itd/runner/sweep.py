"""`itd.sweep`: a job or a request, and how it is run, checked and settled; then one process runs it, or several."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

from itd.data.processes import start_server
from itd.device import current
from itd.errors import ItdError, ModelError, ResultError
from itd.runner.executors import make_executor, way_of
from itd.runner.fleet import Crew, run_fleet
from itd.runner.job import SweepJob
from itd.runner.local import LocalCrew, load_ahead
from itd.runner.member import pickled
from itd.runner.options import RunOptions, checked_options, with_workers
from itd.runner.precision import precision_there, settled, tried
from itd.runner.request import SweepRequest
from itd.runner.run import OnStart, SweepReport, run_job
from itd.weights.prepare import OnPrepare, draw_bar


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
        devices: in place of `device`, one worker process for each, on this machine: "cuda:0,cuda:1",
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
    if options.engine == "local":
        load_ahead()
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
            sent = pickled(source)  # before anything starts
            with contextlib.closing(_crew(options)) as crew:
                return run_fleet(sent, job, options, crew, way.name, on_start=on_start, on_prepare=on_prepare)
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


def _crew(options: RunOptions) -> Crew:
    """What starts the workers of an engine."""
    if options.engine == "ray":
        from itd.runner.on_ray import RayCrew

        return RayCrew(options.address, options.workers_per_node)
    return LocalCrew(options.devices or (options.device,))
