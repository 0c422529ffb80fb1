"""One worker of a sweep: units of images through an executor, scores out. It writes nothing: that is its caller's."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from itd.data.loader import Batch, ahead, stream
from itd.data.subset import kept_mask
from itd.engine.executor import Executor
from itd.engine.tree import default_batch_size
from itd.errors import ItdError, NotFiniteError
from itd.runner.job import SweepJob
from itd.runner.scores import COLUMNS, ScoreBuffer
from itd.space import format_config
from itd.store import Unit

Progress = Callable[[int], Any]
"""Called with how many (image, configuration) pairs were just computed."""


@dataclass(frozen=True, eq=False)
class UnitScores:
    """The scores of one unit, as `ResultWriter.write` takes them.

    labels, missing: (n,). columns: pred, quality, nll, rank and confidence, (C, n) each.
    """

    unit: Unit
    labels: np.ndarray
    missing: np.ndarray
    columns: dict[str, Any]


class Worker:
    """Computes units of a job.

    Args:
        job: what is computed.
        executor: runs its space, on a device.
        batch_size: images in the executor at once; None is the device's default.
        workers: processes that decode; 0 decodes in a thread of this one.
        allow_missing: an image that cannot be decoded becomes null rows.
        progress: called with how many (image, configuration) pairs were just computed.
    """

    def __init__(
        self,
        job: SweepJob,
        executor: Executor,
        *,
        batch_size: int | None = None,
        workers: int = 0,
        allow_missing: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.job, self.executor, self.progress = job, executor, progress
        self.batch_size = batch_size or default_batch_size(executor.device)
        self.workers, self.allow_missing = workers, allow_missing

    def run(self, unit: Unit) -> UnitScores:
        """The scores of one unit.

        Raises NotFiniteError naming configuration and image, DataError for an image that cannot be decoded.
        """
        return next(self.stream([unit]))

    def stream(self, units: Iterable[Unit]) -> Generator[UnitScores, None, None]:
        """The scores of units in order. While one is computed the next are decoded: units are taken a little ahead."""
        waiting: deque[Unit] = deque()

        def samples() -> Iterator[np.ndarray]:
            for unit in units:
                if not len(unit.samples):
                    raise ItdError(f"unit {unit.first} to {unit.last} has no samples; give units of at least one")
                waiting.append(unit)
                yield unit.samples

        decoded = stream(
            self.job.images.pixels,
            samples(),
            batch_size=self.batch_size,
            workers=self.workers,
            allow_missing=self.allow_missing,
            pin_memory=self.executor.device.type == "cuda",
        )
        with contextlib.closing(ahead(decoded)) as batches:
            for batch in batches:
                yield self._scores(waiting.popleft(), batch, batches)

    def _scores(self, unit: Unit, first: Batch, rest: Iterator[Batch]) -> UnitScores:
        labels = self.job.images.labels[unit.samples]
        among = kept_mask(self.job.images.class_subset, self.job.num_classes)
        buffer = ScoreBuffer(len(self.job.space), labels, self.executor.device, among)
        missing = np.zeros(len(unit), bool)
        done, batch = 0, first
        while True:
            self._run(batch, buffer, done)
            missing[done : done + len(batch)] = batch.missing
            done += len(batch)
            if done == len(unit):
                break
            batch = next(rest)
        columns = buffer.on_host()
        self._require_finite(unit, columns.pop("finite") | missing)
        return UnitScores(unit, labels, missing, {name: columns[name] for name in COLUMNS})

    def _run(self, batch: Batch, buffer: ScoreBuffer, start: int) -> None:
        def add(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            buffer.add(configs, images + start, logits)
            if self.progress is not None:
                self.progress(len(configs))

        self.executor.run(batch.pixels, add)

    def _require_finite(self, unit: Unit, finite: np.ndarray) -> None:
        if finite.all():
            return
        config, image = (int(v) for v in np.argwhere(~finite)[0])
        sample = int(unit.samples[image])
        shown = format_config(self.job.space.sites, self.job.space.configs[config])
        raise NotFiniteError(
            f"logits that are not finite: configuration {config}, {shown}, image {sample} "
            f"({self.job.images.pixels.images.names[sample]}); {int((~finite).sum())} rows of this unit have some; "
            "try `precision=fp32`, or check the weights; what was written before is kept"
        )
