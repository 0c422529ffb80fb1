"""One worker of a sweep: units of images through an executor, scores out. It writes nothing: that is its caller's."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.data.contents import content_sha256
from itd.data.images import ImageSet
from itd.data.loader import IO, MEMORY, UNDECODABLE, UNSTEADY, Batch, DecoderDiedError, Pixels, Problem, ahead, stream
from itd.data.preprocess import Preprocess
from itd.data.processes import is_death, raise_worker_death
from itd.data.subset import kept_mask
from itd.device import free_memory, is_out_of_memory, moved, without_frames
from itd.engine.executor import Executor
from itd.engine.tree import default_batch_size
from itd.errors import DataError, ItdError, NotFiniteError
from itd.runner.allocation import keep_freed_memory
from itd.runner.job import SweepJob
from itd.runner.scores import COLUMNS, ScoreBuffer
from itd.space import format_config
from itd.store import MissingImage, Unit, printable
from itd.text import one_line, shorten, visible

Progress = Callable[[int], Any]
"""Called with how many (image, configuration) pairs were just computed; a negative number takes some back."""


@dataclass
class Retries:
    """Reading images again that could not be read, as a disk or a network may only have been away for a moment.

    waits_s: before each further attempt. budget_s: of a whole run, after which nothing is read again. spent_s: so far.
    """

    waits_s: tuple[float, ...] = (0.5, 2.0, 5.0)
    budget_s: float = 30.0
    spent_s: float = 0.0

    def read(self, pixels: Pixels, sample: int, problem: Problem) -> Tensor | Problem:
        """The pixels of a sample, or the last problem with it."""
        for wait_s in self.waits_s:
            started_s = time.monotonic()
            if self.spent_s + wait_s > self.budget_s:
                break
            time.sleep(wait_s)
            try:
                return pixels[sample]
            except (DataError, MemoryError) as error:
                problem = Problem.of(error, sample)
            finally:
                self.spent_s += time.monotonic() - started_s
            if problem.kind != IO:
                break
        return problem


def _batches_of(unit: Unit, first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of one unit out of those of all."""
    done = len(first)
    yield first
    while done < len(unit):
        batch = next(rest)
        done += len(batch)
        yield batch


@dataclass(frozen=True, eq=False)
class UnitScores:
    """The scores of one unit, as `ResultWriter.write` takes them.

    labels, missing: (n,). columns: pred, quality, nll, rank and confidence, (C, n) each. missing_images: those of the
    unit that cannot be decoded, whose scores mean nothing.
    """

    unit: Unit
    labels: np.ndarray
    missing: np.ndarray
    columns: dict[str, Any]
    missing_images: tuple[MissingImage, ...] = ()


@dataclass(frozen=True, eq=False)
class ComputedUnit:
    """A unit whose scores a GPU has, or is about to have; `Worker.on_host` makes `UnitScores` of it.

    buffer: holds its scores until `Worker.release`. rows: how many were counted as progress. Others as of `UnitScores`.
    """

    unit: Unit
    labels: np.ndarray
    missing: np.ndarray
    missing_images: tuple[MissingImage, ...]
    buffer: ScoreBuffer
    rows: int


@dataclass(frozen=True, eq=False)
class LeftUnit:
    """A unit that was not computed, as another run has it by now."""

    unit: Unit


NOT_FINITE = "not-finite"


@dataclass(frozen=True, eq=False)
class UnitFailure:
    """A unit that could not be computed.

    kind: as of `itd.data.loader.Problem`, or not-finite. error: what `Worker.run` raises. images: those of the unit of
    which there are no pixels.
    """

    unit: Unit
    kind: str
    error: Exception
    images: tuple[MissingImage, ...] = ()


class UnwantedError(Exception):
    """Ends the computing of a unit that nobody wants any more."""


class _ProblemError(Exception):
    """A problem of an image that ends its unit. images: all those of the unit that have one, as far as it was read."""

    def __init__(self, problem: Problem, images: list[MissingImage], done: int) -> None:
        super().__init__(problem.text)
        self.problem, self.images, self.done = problem, images, done


def note_text(text: str) -> str:
    """A text as one line that a note can hold: names of files may have line ends and more."""
    return shorten(printable(visible(text).replace("\n", "\\n").replace("\t", "\\t")), 1000)


def _content_sha256(images: ImageSet, sample: int) -> str | None:
    """The hash of what an image's file contains; None where it cannot be read."""
    try:
        return content_sha256(images, sample)
    except DataError:
        return None


class Worker:
    """Computes units of a job.

    Args:
        job: what is computed.
        executor: runs its space, on a device.
        batch_size: images in the executor at once; None is the device's default.
        workers: processes that decode; 0 decodes in a thread of this one.
        allow_missing: an image that cannot be decoded becomes null rows.
        progress: called with how many (image, configuration) pairs were just computed; with a negative number where
            those of a unit that failed do not count.
        retries: how images are read again that could not be read.

    wanted: asked while a unit is computed, of which there may be minutes left; where it says no, UnwantedError.
    begins: asked before a unit is computed, which may have been decoded long before; where it says no, it is left.
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
        retries: Retries | None = None,
    ) -> None:
        self.job, self.executor, self.progress = job, executor, progress
        self.batch_size = batch_size or default_batch_size(executor.device)
        self.workers, self.allow_missing = workers, allow_missing
        self.retries = retries or Retries()
        self.on_gpu = executor.device.type == "cuda"
        if not self.on_gpu:
            keep_freed_memory()
        self.pixels = replace(job.images.pixels, as_values=True) if self.on_gpu else job.images.pixels
        self.wanted: Callable[[], bool] = lambda: True
        self.begins: Callable[[Unit], bool] = lambda unit: True
        self._counted = 0
        self._free: list[ScoreBuffer] = []

    def run(self, unit: Unit) -> UnitScores:
        """The scores of one unit.

        Raises NotFiniteError naming configuration and image, DataError for an image that cannot be decoded or read,
        MemoryError or torch's own error where there is not enough memory.
        """
        return next(self.stream([unit]))

    def stream(self, units: Iterable[Unit]) -> Generator[UnitScores, None, None]:
        """The scores of units in order. While one is computed the next are decoded: units are taken a little ahead.

        The first unit that fails ends it, with the errors of `run`.
        """
        with contextlib.closing(self.attempts(units)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, LeftUnit):
                    continue
                scores = outcome if isinstance(outcome, UnitFailure) else self.on_host(outcome)
                if isinstance(scores, UnitFailure):
                    raise scores.error
                yield replace(scores, columns={name: column.copy() for name, column in scores.columns.items()})
                if isinstance(outcome, ComputedUnit):
                    self.release(outcome)

    def attempts(self, units: Iterable[Unit]) -> Generator[ComputedUnit | UnitFailure | LeftUnit, None, None]:
        """The units in order as they are computed, with a failure in the place of one that fails.

        Each has a buffer of its own until `release`: whoever releases one before it takes the next but one needs two.
        """
        waiting: deque[Unit] = deque()

        def samples() -> Iterator[np.ndarray]:
            for unit in units:
                if not len(unit.samples):
                    raise ItdError(f"unit {unit.first} to {unit.last} has no samples; give units of at least one")
                waiting.append(unit)
                yield unit.samples

        decoded = stream(
            self.pixels,
            samples(),
            batch_size=self.batch_size,
            workers=self.workers,
            keep_going=True,
            pin_memory=self.on_gpu,
        )
        with contextlib.closing(ahead(decoded, device=self.executor.device)) as batches:
            for batch in batches:
                unit = waiting.popleft()
                of_unit = _batches_of(unit, batch, batches)
                if self.begins(unit):
                    yield self._attempt(unit, of_unit)
                    continue
                for _ in of_unit:
                    pass
                yield LeftUnit(unit)

    def on_host(self, computed: ComputedUnit) -> UnitScores | UnitFailure:
        """The scores of a unit, copied from a GPU, or its failure; of any thread. They are there until `release`."""
        unit, missing = computed.unit, computed.missing
        try:
            columns = computed.buffer.on_host()
            self._require_finite(unit, columns["finite"] | missing)
        except NotFiniteError as error:
            return UnitFailure(unit, NOT_FINITE, error)
        except Exception as error:  # as of `_attempt`
            if not is_out_of_memory(error):
                raise
            return UnitFailure(unit, MEMORY, without_frames(error))
        scores = {name: columns[name] for name in COLUMNS}
        return UnitScores(unit, computed.labels, missing, scores, computed.missing_images)

    def release(self, computed: ComputedUnit) -> None:
        """The scores of a unit are not looked at any more, so that another unit takes their place; of any thread."""
        self._free.append(computed.buffer)

    def take_back(self, rows: int) -> None:
        """So many rows, of a unit that failed, do not count as progress."""
        if self.progress is not None and rows:
            self.progress(-rows)

    def _attempt(self, unit: Unit, batches: Iterator[Batch]) -> ComputedUnit | UnitFailure:
        self._counted = 0
        try:
            return self._computed(unit, batches)
        except _ProblemError as error:
            if error.problem.kind == UNSTEADY:
                raise error.problem.error from None
            images, done = error.images, error.done
            for batch in batches:  # nothing is computed any more, and all that is bad shall be known
                images += self._missing_images(unit, done, batch)
                done += len(batch)
            failure = UnitFailure(unit, error.problem.kind, error.problem.error, tuple(images))
        except DecoderDiedError:
            raise
        except DataError as error:
            failure = UnitFailure(unit, Problem.of(error, -1).kind, error)
        except Exception as error:  # an executor says in several ways that memory ran out
            if isinstance(error, RuntimeError) and is_death(error):  # torch says it wherever this thread is
                raise_worker_death(error)
            if not is_out_of_memory(error):
                raise
            failure = UnitFailure(unit, MEMORY, without_frames(error))
        for _ in batches:  # those of the unit that were not looked at
            pass
        self.take_back(self._counted)
        return failure

    def _computed(self, unit: Unit, batches: Iterator[Batch]) -> ComputedUnit:
        labels = self.job.images.labels[unit.samples]
        buffer = self._buffer(labels)
        missing = np.zeros(len(unit), dtype=bool)
        missing_images: list[MissingImage] = []
        done = 0
        for batch in batches:
            problem = self._read_again(batch)
            missing_images += self._missing_images(unit, done, batch)
            if problem is not None:
                raise _ProblemError(problem, missing_images, done + len(batch))
            self._run(batch, buffer, done)
            missing[done : done + len(batch)] = batch.missing
            done += len(batch)
        buffer.end()
        return ComputedUnit(unit, labels, missing, tuple(missing_images), buffer, self._counted)

    def _buffer(self, labels: np.ndarray) -> ScoreBuffer:
        """One that nobody uses, of a size for these images."""
        while self._free:
            buffer = self._free.pop()
            if len(buffer.labels) == len(labels):
                buffer.begin(labels)
                return buffer
        among = kept_mask(self.job.images.class_subset, self.job.num_classes)
        return ScoreBuffer(len(self.job.space), labels, self.executor.device, among)

    def _read_again(self, batch: Batch) -> Problem | None:
        """Reads what could not be read again; the first problem that ends the unit."""
        for place, problem in enumerate(batch.problems):
            if problem is not None and problem.kind == IO:
                read = self.retries.read(self.pixels, int(batch.samples[place]), problem)
                problem = batch.problems[place] = read if isinstance(read, Problem) else None
                if not isinstance(read, Problem):
                    batch.pixels[place] = read
            if problem is not None and not (problem.kind == UNDECODABLE and self.allow_missing):
                return problem
        return None

    def _missing_images(self, unit: Unit, done: int, batch: Batch) -> list[MissingImage]:
        """The images of a batch that have a problem. done: images of the unit before it."""
        each = enumerate(batch.problems)
        return [self._missing_image(unit, done + place, problem) for place, problem in each if problem is not None]

    def _missing_image(self, unit: Unit, place: int, problem: Problem) -> MissingImage:
        sample, images = int(unit.samples[place]), self.job.images.pixels.images
        held = images if isinstance(images, ImageSet) else None
        hashed = held is not None and "contents_sha256" in self.job.images.identity
        return MissingImage(
            image=unit.first + place,
            sample=sample,
            name=note_text(images.names[sample]),
            reason=note_text(one_line(problem.text, 1000)),
            bytes=int(held.sizes_bytes[sample]) if held is not None else None,
            contents_sha256=_content_sha256(held, sample) if held is not None and hashed else None,
        )

    def _run(self, batch: Batch, buffer: ScoreBuffer, start: int) -> None:
        def add(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            if not self.wanted():
                raise UnwantedError
            buffer.add(configs, images + start, logits)
            self._counted += len(configs)
            if self.progress is not None:
                self.progress(len(configs))

        self.executor.run(self._pixels_of(batch) if self.on_gpu else batch.pixels, add)

    def _pixels_of(self, batch: Batch) -> Tensor:
        """(n, C, H, W) float32, on the GPU where they fit. They are pinned, so that nothing waits for their copy."""
        preprocess = self.pixels.preprocess
        if batch.pixels.dtype != torch.uint8 or not isinstance(preprocess, Preprocess):
            return moved(batch.pixels, self.executor.device, batch.pixels.dtype, non_blocking=True)
        try:
            values = moved(batch.pixels, self.executor.device, torch.uint8, non_blocking=True)
            return preprocess.normalise(values)
        except torch.OutOfMemoryError:
            free_memory(self.executor.device)
        return preprocess.normalise(batch.pixels)

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
