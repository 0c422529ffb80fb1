"""What a sweep would do: its parts by name, what it costs, about how long it takes. Nothing is fetched or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from itd.device import current
from itd.engine.precision import Precision
from itd.engine.tree import default_batch_size
from itd.errors import ItdError
from itd.patcher import DynamicModel
from itd.runner.estimate import BUDGET_S, TimeEstimate, estimate_time, plain_work, tree_work
from itd.runner.executors import Way, make_executor, way_of
from itd.runner.job import SweepJob
from itd.runner.options import AUTO, RunOptions, checked_options
from itd.runner.precision import TRIED, precision_there, settled
from itd.runner.request import SweepRequest
from itd.runner.retry import replaced_files
from itd.space import ATTRIBUTES
from itd.store import done_images, is_other, order_there

_ROW_BYTES = 16
"""pred, quality, nll, rank and confidence of one row, before compression."""

SiteLayers = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Site -> path of a layer -> the attributes that it takes there."""


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do.

    model: the network's name.
    attributes: the swept ones.
    weights: a file's name, the name of published ones, `none`, `as built`, or `given` with an object.
    weights_sha256: of their tensors, as a result's identity has it; None where they are not there yet.
    weights_pending: why they are not: `not fetched`, `not trained yet`.
    sites, swept: the layers of each site, and the sites that vary.
    why: of sites that were looked for or cannot vary, a line each.
    data: what the images are called.
    preprocess, variation: as a result's identity has them; None where there is none, or it is a callable of a user's.
    assumed: the fields of preprocess that nobody said, neither the weights nor the user.
    input_shape: (C, H, W) of an image as the network gets it.
    configs, default, removed: configurations, the default's number among them, reason -> how many are left out.
    images, classes, num_classes: selected, the classes that they are of, and those that predictions are among.
    data_classes, few_classes: of all images, and whether those are fewer than the network may predict.
    order: of the images, class-spread or path.
    already: images that are there already.
    plain_macs, tree_macs: multiply-accumulates of all images, each configuration on its own and as they will be run.
    macs_unknown: operators that are in neither.
    precision: the number format; auto where it is settled when the result is created, and the estimate is of bf16.
    executor, why_plain: tree or plain, and why plain.
    score_bytes: before compression.
    out: the result's folder.
    estimate: about how long it takes; None where that was not asked for.
    """

    model: str
    attributes: tuple[str, ...]
    weights: str
    weights_sha256: str | None
    weights_pending: str | None
    sites: SiteLayers
    swept: tuple[str, ...]
    why: tuple[str, ...]
    data: str
    preprocess: Mapping[str, Any] | None
    variation: Mapping[str, Any] | None
    assumed: tuple[str, ...]
    input_shape: tuple[int, int, int]
    configs: int
    default: int | None
    removed: Mapping[str, int]
    images: int
    classes: int
    num_classes: int
    data_classes: int
    few_classes: bool
    order: str
    already: int
    plain_macs: int
    tree_macs: int
    score_bytes: int
    out: str
    macs_unknown: tuple[str, ...] = ()
    precision: str = "fp32"
    executor: str = "tree"
    why_plain: str | None = None
    estimate: TimeEstimate | None = None

    def as_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON values."""
        return asdict(self)


def plan(
    job: SweepJob | SweepRequest,
    *,
    out: str | None = None,
    estimate: bool = False,
    budget_s: float = BUDGET_S,
    on_estimate: Callable[[float], Any] | None = None,
    **how: Any,
) -> SweepPlan:
    """What a sweep would do: nothing is trained, fetched or written, and no image is run.

    Args:
        job: objects, or what was typed.
        out, how: as of `sweep`.
        estimate: also how long it takes, from seeded noise at the sweep's own batch size, executor, device and number
            format. Decoding is not in it. It does not depend on weights.
        budget_s: how long that may take.
        on_estimate: called with `budget_s` when it begins.

    Raises:
        ItdError: for anything that a sweep would refuse.

    Example:
        >>> found = plan(SweepRequest("resnet18", "dilation", sites="D", data="digits", limit=3))
        >>> found.configs, found.sites["D"]["layer4.0.downsample.0"], found.estimate
        (5, ('stride',), None)
    """
    if isinstance(budget_s, bool) or not isinstance(budget_s, (int, float)) or not budget_s > 0:
        raise ItdError(f"budget_s is {budget_s!r}; give a number of seconds above 0")
    options = checked_options(job, out=out, **how)
    with current(options.device):
        return _planned(job, options, on_estimate if estimate else None, budget_s if estimate else None)


def _planned(
    job: SweepJob | SweepRequest,
    options: RunOptions,
    on_estimate: Callable[[float], Any] | None,
    budget_s: float | None,
) -> SweepPlan:
    """`plan` with its options checked, on its device. budget_s: of the estimate; None makes none."""
    if isinstance(job, SweepRequest):
        job = job.job(only_plan=True)
    way = way_of(job, options)
    unknown = ("weights_sha256",) if job.weights_pending else ()
    options, precision = _number_format(job, options, unknown)
    out, identity = options.out or job.default_out, job.identity(options.precision.name)
    there = 0
    replaced = replaced_files(job, out, identity)
    if replaced is not None:
        identity = replaced.before
    if not (options.overwrite and is_other(out, identity, job.space, unknown)):
        job = job.in_order(order_there(out, identity, unknown) or job.images.order)
        there = done_images(out, identity=identity, space=job.space, samples=job.images.samples, unknown=unknown)
    timed = None
    if budget_s is not None:
        if on_estimate is not None:
            on_estimate(budget_s)
        timed = _timed(job, options, way, there, budget_s)
    return _plan(job, options, way, there, timed, precision)


def _number_format(job: SweepJob, options: RunOptions, unknown: tuple[str, ...]) -> tuple[RunOptions, str]:
    """The options with the number format that is planned with, and what the plan calls it.

    On a GPU a new result is settled only when it is created; until then the plan is of the first that is tried.
    """
    if not options.auto:
        return options, options.precision.name
    if options.device.type == "cuda" and precision_there(job, options, None, unknown) is None:
        return replace(options, precision=Precision(TRIED[0], str(options.device)), auto=False), AUTO
    options = settled(job, options, unknown=unknown)
    return options, options.precision.name


def _plan(
    job: SweepJob, options: RunOptions, way: Way, there: int, timed: TimeEstimate | None, precision: str
) -> SweepPlan:
    count, plain_macs, pending = len(job), sum(job.macs), job.weights_pending
    tree = way.name == "tree"
    return SweepPlan(
        model=job.name,
        attributes=job.space.attributes,
        weights=job.weights_label,
        weights_sha256=None if pending else job.weights_sha256,
        weights_pending=pending,
        sites=site_layers(job.model),
        swept=job.space.swept,
        why=_why(job),
        data=job.images.source,
        preprocess=job.images.identity["preprocess"],
        variation=job.images.identity["variation"],
        assumed=job.images.assumed,
        input_shape=job.input_shape,
        configs=len(job.space),
        default=job.space.default,
        removed=dict(job.space.removed),
        images=count,
        classes=job.images.classes,
        num_classes=job.choices,
        data_classes=job.images.data_classes,
        few_classes=job.few_classes,
        order=job.images.order,
        already=there,
        plain_macs=plain_macs * count,
        tree_macs=_shared_macs(job, options) * count if tree else plain_macs * count,
        score_bytes=len(job.space) * count * _ROW_BYTES,
        out=options.out or job.default_out,
        macs_unknown=job.costs.unknown,
        precision=precision,
        executor=way.name,
        why_plain=way.why,
        estimate=timed,
    )


def _shared_macs(job: SweepJob, options: RunOptions) -> int:
    return job.program(options.device, Precision()).prefix_costs(job.input_shape).macs


def _timed(job: SweepJob, options: RunOptions, way: Way, there: int, budget_s: float) -> TimeEstimate:
    """The estimate for what is missing, of a shard its part."""
    tree = way.name == "tree"
    return estimate_time(
        lambda: make_executor(job, options, way),
        job,
        tree_work(job, job.program(options.device, Precision())) if tree else plain_work(job),
        todo=-(-(len(job) - there) // (options.shard[1] if options.shard else 1)),
        batch_size=options.batch_size or default_batch_size(options.device),
        budget_s=budget_s,
    )


def site_layers(model: DynamicModel) -> dict[str, dict[str, tuple[str, ...]]]:
    """Site -> path of a layer -> the attributes that it takes there."""
    return {
        name: {m.path: tuple(a for a in ATTRIBUTES if a in m.attributes) for m in modules}
        for name, modules in model.sites.items()
    }


def _why(job: SweepJob) -> tuple[str, ...]:
    """What `auto` did not find, and which swept attributes a site cannot take."""
    fixed = (
        f"{site.name} keeps its {attribute}: {reason}"
        for site in job.space.sites
        for attribute, reason in site.fixed.items()
        if attribute in job.space.attributes
    )
    return (*job.sites_why, *fixed)
