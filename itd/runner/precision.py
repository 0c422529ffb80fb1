"""`precision=auto`: the fastest number format whose predictions are those of fp32, settled when a result is created.

On a GPU bf16 is tried on the first images, then tf32; where neither agrees with fp32, or nothing can be tried, it is
fp32. On a CPU it is fp32, and nothing is tried. Whoever goes on with a result takes up what it was settled to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.data.loader import stream
from itd.data.subset import kept_mask
from itd.device import cpu_has_bf16, is_out_of_memory
from itd.engine.executor import Executor
from itd.engine.precision import PRECISIONS, Precision
from itd.engine.tree import default_batch_size
from itd.errors import ResultError
from itd.runner.executors import Way, make_executor
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions
from itd.runner.scores import ScoreBuffer
from itd.store import identity_there, is_other, order_there
from itd.weights.prepare import OnPrepare

FIRST_IMAGES = 256
LEAST_SAME = 0.99
"""Of the predictions, at least so many must be those of fp32."""
MOST_APART = 1
"""By how many images static, worst, median and best may differ from those of fp32."""
TRIED = ("bf16", "tf32")
"""The formats faster than fp32, the fastest first."""

Columns = Mapping[str, np.ndarray]
"""`pred`, `quality` and `finite` of the first images, (C, n) each."""
Tried = Callable[[], "tuple[str, tuple[Agreement, ...]]"]
"""Tries number formats: which one it is, and what was found."""


@dataclass(frozen=True)
class Agreement:
    """How far scores in a number format are those of fp32, on the first images of a sweep.

    precision: the format. images, rows: compared. same: the share of rows with the same prediction. static, worst,
    median, best: by how many images the number that is right differs; static is None without a default configuration.
    """

    precision: str
    images: int
    rows: int
    same: float
    static: int | None
    worst: int
    median: int
    best: int

    @property
    def holds(self) -> bool:
        """Whether the format may stand for fp32."""
        apart = [one for one in (self.static, self.worst, self.median, self.best) if one is not None]
        return self.same >= LEAST_SAME and max(map(abs, apart)) <= MOST_APART

    def as_dict(self) -> dict[str, Any]:
        """As the provenance has it."""
        return asdict(self)

    def text(self) -> str:
        """What is said of it."""
        taken = f"precision {self.precision}" if self.holds else f"precision {self.precision} is not taken"
        each = {"static": self.static, "worst": self.worst, "median": self.median, "best": self.best}
        apart = ", ".join(f"{name} {count:+d}" for name, count in each.items() if count is not None)
        return (
            f"{taken}: on the first {self.images:,} images {100 * self.same:.2f}% of {self.rows:,} predictions are "
            f"those of fp32; images that are right: {apart}"
        )


def agreement(precision: str, found: Columns, reference: Columns, default: int | None) -> Agreement:
    """Compares scores in a number format with those in fp32. default: the default configuration's number.

    A row of which one of them is not finite is another prediction, and not right in it.

    >>> right, wrong = np.array([[1.7, 1.2]]), np.array([[1.7, 0.2]])
    >>> columns = [{"pred": np.array([[0, 1]]), "quality": q, "finite": q > 0} for q in (wrong, right)]
    >>> agreement("bf16", *columns, default=0).static
    -1
    """
    same = (found["pred"] == reference["pred"]) & found["finite"] & reference["finite"]
    counts, before = (_right(columns, default) for columns in (found, reference))
    apart = [None if a is None or b is None else a - b for a, b in zip(counts, before, strict=True)]
    static, *others = apart
    worst, median, best = (int(one or 0) for one in others)
    return Agreement(precision, same.shape[1], same.size, float(same.mean()), static, worst, median, best)


def _right(columns: Columns, default: int | None) -> tuple[int | None, int, int, int]:
    """How many images are right: static, and at the worst, median and best configuration of each (ITD paper, eq. 1)."""
    right = (columns["quality"] >= 1) & columns["finite"]
    ascending = np.sort(right, axis=0)
    static = None if default is None else int(right[default].sum())
    worst, median, best = (int(ascending[place].sum()) for place in (0, (len(right) - 1) // 2, len(right) - 1))
    return static, worst, median, best


def choose(
    scores_in: Callable[[str], Columns], default: int | None, formats: tuple[str, ...] = TRIED
) -> tuple[str, tuple[Agreement, ...]]:
    """(the first format that may stand for fp32, else fp32; what was found of each that was tried).

    scores_in: runs the first images in a format.
    """
    reference = scores_in("fp32")
    found: list[Agreement] = []
    for name in formats:
        found.append(agreement(name, scores_in(name), reference, default))
        if found[-1].holds:
            return name, tuple(found)
    return "fp32", tuple(found)


def first_scores(
    job: SweepJob,
    executor: Executor,
    images: list[tuple[Tensor, np.ndarray]],
    step: Callable[[int], Any] | None = None,
) -> Columns:
    """The scores of some images at every configuration. images: batches of (pixels, labels). step: as progress."""
    labels = np.concatenate([of for _, of in images])
    among = kept_mask(job.images.class_subset, job.num_classes)
    buffer, done = ScoreBuffer(len(job.space), labels, executor.device, among), 0

    def add(configs: np.ndarray, rows: np.ndarray, logits: Tensor) -> None:
        buffer.add(configs, rows + done, logits)

    for pixels, _ in images:
        executor.run(pixels, add)
        done += len(pixels)
        if step is not None:
            step(len(pixels))
    buffer.end()
    return {name: buffer.on_host()[name].copy() for name in ("pred", "quality", "finite")}


def first_images(job: SweepJob, options: RunOptions) -> Iterator[tuple[Tensor, np.ndarray]]:
    """(pixels, labels) of the first images of a sweep, in batches; those with a problem are left out."""
    batches = stream(
        job.images.pixels,
        [job.images.samples[:FIRST_IMAGES]],
        batch_size=options.batch_size or default_batch_size(options.device),
        workers=options.workers or 0,
        keep_going=True,
    )
    for batch in batches:
        if not batch.missing.all():
            yield batch.pixels[torch.from_numpy(~batch.missing)], batch.labels[~batch.missing]


def tried(
    job: SweepJob,
    options: RunOptions,
    way: Way,
    on_prepare: OnPrepare | None = None,
    make: Callable[[SweepJob, RunOptions, Way], Executor] = make_executor,
) -> tuple[str, tuple[Agreement, ...]]:
    """`choose` by the executor of a sweep on its first images; fp32 where there are none, or not enough memory."""
    images = list(first_images(job, options))
    count = sum(len(labels) for _, labels in images)
    if not count:
        return "fp32", ()

    def scores_in(name: str) -> Columns:
        step = on_prepare(f"the first {count} images in {name}", count) if on_prepare is not None else None
        return first_scores(job, make(job, replace(options, precision=_precision(name, options)), way), images, step)

    try:
        return choose(scores_in, job.space.default)
    except Exception as error:  # an executor says in several ways that memory ran out
        if not is_out_of_memory(error):
            raise
        return "fp32", ()


def settled(
    job: SweepJob,
    options: RunOptions,
    test: Tried | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
    unknown: tuple[str, ...] = (),
) -> RunOptions:
    """The options with a number format in the place of `auto`: that of the result that they go on with, or the test's.

    test: None, as on a CPU, is fp32. identity: fields of the result beside the job's own. unknown: of these and those,
    what nobody knows yet. Raises ResultError where the result's cannot be had on the device.
    """
    if not options.auto:
        return options
    found: tuple[Agreement, ...] = ()
    name = precision_there(job, options, identity, unknown)
    if name is None and test is not None and options.device.type == "cuda":
        tested, found = test()
        name = precision_there(job, options, identity, unknown)  # another shard may have settled it in the meantime
        name, found = (tested, found) if name is None else (name, ())
    return replace(options, precision=_precision(name or "fp32", options, job), auto=False, agreements=found)


def precision_notes(options: RunOptions, there: int) -> tuple[str, ...]:
    """What is said of a sweep's number format when it begins, most of it where nobody named one. there: images done."""
    if there:
        return ()
    if options.device.type == "cpu" and options.precision.name == "bf16" and not cpu_has_bf16():
        return ("this CPU has no instructions for bf16, so that the sweep takes longer than in fp32",)
    if options.precision_asked:
        return ()
    if options.device.type == "cuda":
        return tuple(one.text() for one in options.agreements) or (f"precision {options.precision.name}",)
    if options.precision.name != "fp32" or not cpu_has_bf16():
        return ()
    return (
        "this CPU has instructions for bf16, in which a sweep takes less time and some predictions are others "
        "(docs/performance.md has what was measured): `precision=bf16`",
    )


def precision_there(
    job: SweepJob, options: RunOptions, identity: Mapping[str, Any] | None = None, unknown: tuple[str, ...] = ()
) -> str | None:
    """The number format of the result that a run goes on with; None where it begins one."""
    out = options.out or job.default_out
    name = (identity_there(out) or {}).get("precision")
    if name not in PRECISIONS:
        return None
    own = {**job.identity(name), **(identity or {})}
    begins = order_there(out, own, unknown) is None or (options.overwrite and is_other(out, own, job.space, unknown))
    return None if begins else name


def _precision(name: str, options: RunOptions, job: SweepJob | None = None) -> Precision:
    if name == "tf32" and options.device.type != "cuda" and job is not None:
        raise ResultError(
            f"{options.out or job.default_out} is in tf32, a GPU's number format, and this is "
            f"`device={options.device}`; go on with it on a GPU, or give another `out`"
        )
    return Precision(name, str(options.device))
