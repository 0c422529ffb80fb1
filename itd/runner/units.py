"""A run over the units of a result: each is written, or set aside with the reason, and the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from itd.data.images import ImageSet
from itd.data.loader import IO, MEMORY, UNDECODABLE, DecoderDiedError
from itd.device import current
from itd.errors import TooManyMissingError
from itd.runner.background import Background
from itd.runner.shares import Shares
from itd.runner.worker import ComputedUnit, LeftUnit, UnitFailure, UnitScores, Worker, note_text
from itd.store import Claims, FailedUnit, ResultWriter, Unit
from itd.text import first_line, one_line

ATTEMPTS = 3
"""At a unit for which there is not enough memory; the second and third come after all other units."""
FIRST = 3
"""A run stops where as many units, the first that it has ever tried, all fail: then it is not the images."""


def writes_behind(worker: Worker) -> bool:
    """Whether the next unit is computed while one is written: on a GPU, which would wait. A CPU gains nothing by it,
    and a process that is killed costs one unit in place of two."""
    return worker.on_gpu


@dataclass
class UnitRun:
    """The units of one run.

    most_missing: images of the whole result that may be recorded as missing. fail_fast: the first unit that fails ends
    the run with its error. claims: of this run; without them it takes every unit. done: images that were computed here.
    failed: units that were set aside, by this run or while it waited for them by another. stopped: why the run ended
    before its last unit, None where it did not. alone: progress is of this run, and counts what others write.
    on_written: called with how many images were just computed and written. last: as of `Shares`.
    """

    worker: Worker
    writer: ResultWriter
    most_missing: int = 0
    fail_fast: bool = False
    claims: Claims | None = None
    alone: bool = True
    on_written: Callable[[int], Any] | None = None
    last: Collection[tuple[int, int]] = ()
    done: int = 0
    failed: list[FailedUnit] = field(default_factory=list)
    stopped: str | None = None

    def run(self, units: Sequence[Unit], of_others: Sequence[Unit] = ()) -> None:
        """Computes and writes units; those that failed in an earlier run come last.

        What another run has claimed is left to it, and looked at again at the end, until all units are there or set
        aside. of_others: units to compute after those.
        """
        self._noted = {(one.first, one.last): one for one in self.writer.failed}
        new = [unit for unit in units if (unit.first, unit.last) not in self._noted]
        before = [unit for unit in units if (unit.first, unit.last) in self._noted]
        waiting: list[Unit] = [*new, *before, *of_others]
        for attempt in range(1, ATTEMPTS + 1):
            waiting = self._attempt(waiting, attempt, len(new) if attempt == 1 else 0)
            if not waiting:
                return

    def _attempt(self, units: Sequence[Unit], attempt: int, new: int) -> list[Unit]:
        """The units that are to be tried again. new: how many of the first ones no run has ever tried."""
        again: list[UnitFailure] = []
        shares = Shares(units, self.writer, self.claims, self._noted, self.last)
        seen = failures = 0
        try:
            with contextlib.closing(self._outcomes_of(shares)) as outcomes:
                for unit, failure in outcomes:
                    seen += 1
                    if failure is not None and self.fail_fast:
                        raise failure.error
                    if failure is not None:
                        failures += 1
                        if failure.kind == MEMORY and attempt < ATTEMPTS:
                            again.append(failure)
                        else:
                            self._set_aside(failure, attempt)
                    shares.settle(unit)
                    if failure is None:
                        continue
                    self.stopped = self._why_stop(failure, failures == seen == FIRST <= new)
                    if self.stopped is not None:
                        for short in again:
                            self._set_aside(short, attempt)
                        return []
        except DecoderDiedError:
            if self.fail_fast or attempt == ATTEMPTS:
                raise
            return [short.unit for short in again] + shares.unsettled
        finally:
            shares.close()
        return [short.unit for short in again]

    def _outcomes_of(self, shares: Shares) -> Generator[tuple[Unit, UnitFailure | None], None, None]:
        """What comes of each unit that this run computes, until all are there or set aside."""
        for units in shares.rounds():
            if units is None:
                self._count(shares)
                continue
            with contextlib.closing(self._outcomes(units)) as outcomes:
                for unit, outcome in outcomes:
                    if isinstance(outcome, LeftUnit):
                        shares.leave(unit)
                    else:
                        yield unit, outcome
                    self._count(shares)
            self._count(shares)

    def _count(self, shares: Shares) -> None:
        """Counts what other runs have written or set aside."""
        written, failed = shares.elsewhere()
        self.failed += failed
        if written and self.alone and self.worker.progress is not None:
            self.worker.progress(written * len(self.worker.job.space))

    def _outcomes(self, units: Iterable[Unit]) -> Generator[tuple[Unit, UnitFailure | LeftUnit | None], None, None]:
        """What comes of each unit, in order: None where it was written. See `writes_behind`.

        Nothing of a unit is written before it is known what came of the one before. What was computed is written also
        where an error ends the computing, and what was begun is ended also where a signal does.
        """
        with contextlib.closing(self.worker.attempts(units)) as computed, Background(self._written) as behind:
            writing: ComputedUnit | None = None
            self.worker.wanted = lambda: not behind.failed
            if self.claims is not None:
                claims = self.claims
                self.worker.begins = lambda unit: claims.begin(unit.first, unit.last)
            try:
                for outcome in computed:
                    if writing is not None:
                        yield writing.unit, self._settled(behind, writing)
                        writing = None
                    if isinstance(outcome, (UnitFailure, LeftUnit)):
                        yield outcome.unit, outcome
                    else:
                        writing = outcome
                        behind.start(outcome)
                        if not writes_behind(self.worker):
                            yield writing.unit, self._settled(behind, writing)
                            writing = None
            except Exception:
                if writing is not None and behind.busy:
                    yield writing.unit, self._settled(behind, writing)
                raise
            if writing is not None:
                yield writing.unit, self._settled(behind, writing)

    def _settled(
        self, behind: Background[ComputedUnit, UnitFailure | None], writing: ComputedUnit
    ) -> UnitFailure | None:
        """What came of the unit that was being written."""
        failure = behind.result()
        if failure is None:
            return None
        self.worker.take_back(writing.rows)
        return failure

    def _written(self, computed: ComputedUnit) -> UnitFailure | None:
        """Takes the scores of a unit from where they are and writes them, or says why not; in a thread of its own."""
        with current(computed.buffer.device):
            try:
                scores = self.worker.on_host(computed)
                return scores if isinstance(scores, UnitFailure) else self._write(scores)
            finally:
                self.worker.release(computed)

    def _write(self, scores: UnitScores) -> UnitFailure | None:
        """Writes a unit; its failure where it has too many missing images."""
        try:
            self.writer.write(
                scores.unit,
                labels=scores.labels,
                missing=scores.missing,
                missing_images=scores.missing_images,
                most_missing=self.most_missing,
                **scores.columns,
            )
        except TooManyMissingError as error:
            return UnitFailure(scores.unit, UNDECODABLE, error, scores.missing_images)
        self.done += len(scores.unit)
        if self.on_written is not None:
            self.on_written(len(scores.unit))
        return None

    def _set_aside(self, failure: UnitFailure, attempt: int) -> None:
        unit, said = failure.unit, first_line if failure.kind == MEMORY else one_line  # torch's errors go on for pages
        reason = note_text(said(failure.error, 1000))
        failed = FailedUnit(unit.first, unit.last, failure.kind, reason, attempt, failure.images)
        self.failed.append(failed)
        self.writer.set_aside(failed)

    def _why_stop(self, failure: UnitFailure, at_first: bool) -> str | None:
        """Why a run ends. at_first: all that it tried failed, as many as that says enough."""
        images = self.worker.job.images.pixels.images
        if failure.kind == IO and isinstance(images, ImageSet) and images.is_gone():
            return f"the folder of the images, {images.folder}, is gone or empty; bring it back"
        if at_first:
            return f"the first {FIRST} units all failed, so that the others would, too; mend what is said of them"
        return None


def described(failed: Iterable[FailedUnit], most: int = 10) -> list[str]:
    """A line for each unit that was set aside, and one for those beyond the first few."""
    each = list(failed)
    lines = [f"images {one.first} to {one.last} of the selection were set aside: {one.reason}" for one in each[:most]]
    if len(each) > most:
        lines.append(f"{len(each) - most} more units were set aside; `_itd/failed` in the result says why")
    return lines
