"""About how long a sweep takes: its own executor on seeded noise, for a while. No image is read, nothing is written."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from itd.engine.costs import prefix_costs
from itd.engine.executor import Executor
from itd.engine.prefixes import build_prefixes
from itd.engine.program import Program
from itd.runner.job import SweepJob
from itd.runner.scores import ScoreBuffer

Work = Callable[[tuple[int, ...]], float]
"""Multiply-accumulates of one image at some configurations, by their numbers; at least 1."""

BUDGET_S = 20.0
ENOUGH_S = 4.0
"""After so long in batches of the sweep's own size nothing more is measured."""
_MARGIN = 0.6
"""What a piece is expected to take is at most this part of what is left of the budget."""


@dataclass(frozen=True)
class TimeEstimate:
    """About how long a sweep takes, decoding of images apart.

    seconds: of the images that are not there yet. images, configs: how many images of noise it is from, and how many
    configurations were run on each. measured_s: how long that took, all in all.
    """

    seconds: float
    images: int
    configs: int
    measured_s: float


@dataclass(frozen=True)
class Piece:
    """What is run at once: images of noise at some configurations. work: its multiply-accumulates, at least 1."""

    images: int
    configs: tuple[int, ...]
    work: float


@dataclass(frozen=True)
class Timing:
    """A piece that was run. work: what was done of it, less than all where time was over."""

    piece: Piece
    work: float
    seconds: float

    @property
    def rate(self) -> float:
        """Multiply-accumulates per second."""
        return self.work / max(self.seconds, 1e-9)


class _TimeIsOver(Exception):
    """Raised inside an executor, to end it."""


def estimate_time(
    make: Callable[[], Executor],
    job: SweepJob,
    work: Work,
    *,
    todo: int,
    batch_size: int,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> TimeEstimate:
    """About how long a sweep of some images takes, measured within a budget.

    One image at one configuration is run twice, as the first run of anything is slow. What it takes says what is
    affordable: batches of the sweep's own size, fewer images, or one image at configurations evenly drawn, scaled by
    multiply-accumulates. Where time is over within a piece, it ends with the rows that are being computed.

    Args:
        make: makes the executor of the sweep, within the budget.
        job: what is swept.
        work: multiply-accumulates of one image at some configurations, as the executor runs them.
        todo: how many images the sweep has to do.
        batch_size: of the sweep.
        budget_s: seconds.
        clock: seconds.
    """
    everything = tuple(range(len(job.space)))
    if not todo:
        return TimeEstimate(0.0, 0, len(everything), 0.0)
    began = clock()
    run = _Runs(make(), job, clock, began + budget_s)
    first = (job.space.default or 0,)
    best = run(Piece(1, first, work(first)))
    if not run.late:
        best = run(best.piece)
    pieces = list(_pieces(len(everything), min(batch_size, todo)))
    while not run.late:
        left_s = began + budget_s - clock()
        piece = _affordable(pieces, work, best, _MARGIN * left_s)
        if piece is None:
            break
        best = run(piece)
    whole = pieces[0][0]
    if not run.late and best.piece.images == whole and len(best.piece.configs) == len(everything):
        best = _steadied(run, best, began + budget_s, clock, most=todo // whole - 1)
    seconds = work(everything) * todo / best.rate
    return TimeEstimate(seconds, best.piece.images, len(best.piece.configs), clock() - began)


def _pieces(configs: int, batch: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(images, configurations) of everything that may be run, the largest first."""
    images, drawn = batch, configs
    while images > 1:
        yield images, tuple(range(configs))
        images //= 2
    while drawn:
        yield 1, evenly(configs, drawn)
        drawn //= 2


def evenly(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` of `count` numbers, evenly drawn.

    >>> evenly(9, 3), evenly(9, 1)
    ((1, 4, 7), (4,))
    """
    return tuple((2 * i + 1) * count // (2 * wanted) for i in range(wanted))


def _affordable(pieces: list[tuple[int, tuple[int, ...]]], work: Work, best: Timing, most_s: float) -> Piece | None:
    """The largest piece that is expected to take no longer, and is larger than what was run."""
    for images, configs in pieces:
        amount = images * work(configs)
        if amount <= best.piece.work:
            return None
        if amount <= best.rate * most_s:
            return Piece(images, configs, amount)
    return None


def _steadied(run: _Runs, best: Timing, deadline: float, clock: Callable[[], float], most: int) -> Timing:
    """The mean of several batches of the sweep's own size, the first apart where there are others."""
    others: list[Timing] = []
    spent_s = best.seconds
    while spent_s < ENOUGH_S and len(others) < most and best.seconds <= _MARGIN * (deadline - clock()):
        timing = run(best.piece)
        if run.late:
            break
        others.append(timing)
        spent_s += timing.seconds
    if not others:
        return best
    piece = replace(best.piece, images=best.piece.images * len(others), work=best.piece.work * len(others))
    return Timing(piece, piece.work, sum(timing.seconds for timing in others))


class _Runs:
    """Runs pieces on seeded noise until time is over. late: whether it is."""

    def __init__(self, executor: Executor, job: SweepJob, clock: Callable[[], float], deadline: float) -> None:
        self.executor, self.job, self.clock, self.deadline = executor, job, clock, deadline
        self.weights = np.maximum(np.array(job.macs, dtype=np.float64), 1.0)
        self.late = clock() >= deadline

    def __call__(self, piece: Piece) -> Timing:
        noise = torch.randn(piece.images, *self.job.input_shape, generator=torch.Generator().manual_seed(0))
        labels = np.zeros(piece.images, np.int64)
        buffer = ScoreBuffer(len(self.job.space), labels, self.executor.device)
        done = 0.0

        def sink(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            nonlocal done
            buffer.add(configs, images, logits)
            self._wait()
            done += float(self.weights[configs].sum())
            if self.clock() >= self.deadline:
                raise _TimeIsOver

        began = self.clock()
        try:
            self.executor.run(noise, sink, None if len(piece.configs) == len(self.job.space) else piece.configs)
        except _TimeIsOver:
            self.late = True
        self._wait()
        share = done / (piece.images * float(self.weights[list(piece.configs)].sum()))
        return Timing(piece, piece.work * share, self.clock() - began)

    def _wait(self) -> None:
        """Until a GPU has done what it was given."""
        if self.executor.device.type == "cuda":
            torch.cuda.synchronize(self.executor.device)


def plain_work(job: SweepJob) -> Work:
    """Multiply-accumulates of one image at some configurations, each by its own forward."""
    return lambda configs: max(1.0, float(sum(job.macs[number] for number in configs)))


def tree_work(job: SweepJob, program: Program) -> Work:
    """Multiply-accumulates of one image at some configurations, through the prefix tree."""

    @functools.cache
    def work(configs: tuple[int, ...]) -> float:
        chosen = set(configs)
        space = job.space.without((n for n in range(len(job.space)) if n not in chosen), "not measured")
        prefixes = build_prefixes(space, program.stages)
        return max(1.0, float(prefix_costs(space, prefixes, program.costs, job.input_shape, program.graph.output).macs))

    return work
