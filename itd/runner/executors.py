"""Which executor runs a job: the prefix tree, or plain forwards where no work can be shared."""

from __future__ import annotations

from dataclasses import dataclass

from itd.engine.check import check_plain, check_tree
from itd.engine.executor import Executor
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.tree import TreeExecutor
from itd.errors import TraceError
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions


@dataclass(frozen=True)
class Way:
    """How a job is run: `tree` or `plain`.

    note: what a user should know of it where nobody asked for that. why: of plain forwards.
    """

    name: str
    note: str | None = None
    why: str | None = None


def way_of(job: SweepJob, options: RunOptions) -> Way:
    """How a job is run, settled before it starts: the tree is checked against the network itself.

    Raises TraceError where the tree is asked for by name and cannot be, ModelError where images that are run together
    touch one another, or an image gives other logits each time.
    """
    way = _way_of(job, options)
    if way.name == "plain":
        check_plain(job.model, job.space, job.input_shape, job.name, together=options.batch_size != 1)
    return way


def _way_of(job: SweepJob, options: RunOptions) -> Way:
    if options.executor == "plain":
        return Way("plain", why="asked for")
    try:
        check_tree(job.program(options.device, Precision()), job.input_shape, job.name)
    except TraceError as error:
        if options.executor == "tree":
            raise TraceError(
                f"`executor=tree` cannot run {job.name}: {job.why_plain or error}; give `executor=plain`, or auto"
            ) from error
        why = str(job.why_plain or error)
        return Way("plain", f"{shared_nothing(job)} ({why})", why)
    return Way("tree")


def shared_nothing(job: SweepJob) -> str:
    """What it costs that no work is shared."""
    each = job.macs[job.space.default or 0]
    times = f", {sum(job.macs) / each:.3g}x the multiply-accumulates" if each else ""
    return f"not traceable: no work is shared, {len(job.space)} forwards for each image{times} of one"


def make_executor(job: SweepJob, options: RunOptions, way: Way) -> Executor:
    """The executor of a job, on a device and in a number format."""
    if way.name == "plain":
        return PlainExecutor(job.model, job.space, device=options.device, precision=options.precision)
    return TreeExecutor(job.program(options.device, options.precision))
