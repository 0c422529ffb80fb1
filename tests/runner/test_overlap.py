"""Decoding, computing and writing go on at the same time, by the order of events, and nothing of a run is lost."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from itd import SweepRequest
from itd.data import digits
from itd.engine.precision import Precision
from itd.errors import NotFiniteError, ResultError, SetAsideWarning
from itd.runner import scores, units, worker
from itd.runner.options import RunOptions
from itd.runner.run import run_job
from itd.store import ResultWriter, open_result, verify

WAIT_S = 20
"""After so long what does not overlap is an error instead of a hang."""


@pytest.fixture
def request_(tmp_path: Path) -> SweepRequest:
    """Eight images in four units of one batch each, at two configurations."""
    return SweepRequest(
        "resnet18", "dilation", sites="D", options=("1,2",), data="digits", weights="none", num_classes=10,
        crop_px=32, resize_px=32, batch_size=2, images_per_unit=2, limit=8, device="cpu",
        out=str(tmp_path / "r.parquet"),
    )  # fmt: skip


class Story:
    """What happened, in order; `reached` waits for it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.news = threading.Condition()

    def add(self, event: str) -> None:
        with self.news:
            self.told.append(event)
            self.news.notify_all()

    def reached(self, event: str) -> None:
        with self.news:
            assert self.news.wait_for(lambda: event in self.told, WAIT_S), f"no {event} while this goes on: {self.told}"


class Waiting:
    """An executor that computes nothing: in its n-th run it waits for what has to go on in the meantime."""

    device, precision = torch.device("cpu"), Precision()

    def __init__(self, story: Story, space: object, waits: dict[int, str], fails: dict[int, object] | None = None):
        self.story, self.space, self.waits, self.fails, self.runs = story, space, waits, fails or {}, 0

    def run(self, pixels: torch.Tensor, sink: object, configs: object = None) -> None:
        self.runs += 1
        run, failure = self.runs, self.fails.get(self.runs)
        self.story.add(f"compute {run}")
        if run in self.waits:
            self.story.reached(self.waits[run])
        if isinstance(failure, BaseException):
            raise failure
        logits = torch.full((len(pixels), 10), float("nan") if failure == "nan" else 0.0)
        for config in range(len(self.space)):  # type: ignore[arg-type]
            sink(np.full(len(pixels), config), np.arange(len(pixels)), logits)  # type: ignore[operator]
        self.story.add(f"computed {run}")


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    """Tells of every image that is decoded and every unit that is written, of a run as on a GPU."""
    monkeypatch.setattr(units, "writes_behind", lambda worker: True)
    told, write, read = Story(), ResultWriter.write, digits.DigitsReader.__call__
    decoded = iter(range(2, 1000))

    def writing(self: ResultWriter, unit: object, **what: object) -> None:
        number = unit.first // 2 + 1  # type: ignore[attr-defined]
        told.add(f"write {number}")
        if f"slow {number}" in told.told:
            told.reached(f"compute {number + 1}")
        write(self, unit, **what)  # type: ignore[arg-type]
        told.add(f"wrote {number}")

    def reading(self: object, index: int, name: str) -> object:
        told.add(f"decode {next(decoded) // 2}")
        return read(self, index, name)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultWriter, "write", writing)
    monkeypatch.setattr(digits.DigitsReader, "__call__", reading)
    return told


def swept(request: SweepRequest, story: Story, waits: dict[int, str], fails: dict[int, object] | None = None, **how):
    job, options = request.job(), RunOptions.of(request, **how)
    return run_job(job, options, lambda: Waiting(story, job.space, waits, fails))


def test_a_unit_is_written_while_the_next_is_computed_and_the_one_after_decoded(request_, story, monkeypatch) -> None:
    made: list[object] = []
    real = scores.ScoreBuffer
    monkeypatch.setattr(worker, "ScoreBuffer", lambda *given: made.append(real(*given)) or made[-1])
    story.add("slow 1")
    story.add("slow 3")
    report = swept(request_, story, {1: "decode 2", 2: "write 1", 3: "decode 4", 4: "write 3"})
    assert report.done == 8 and verify(request_.out).complete
    order = story.told.index
    for unit in (1, 3):  # at the same time: each began before the other had ended
        assert order(f"write {unit}") < order(f"computed {unit + 1}")
        assert order(f"compute {unit + 1}") < order(f"wrote {unit}")
    assert all(order(f"wrote {unit}") < order(f"compute {unit + 2}") for unit in (1, 2)), "two buffers, no third"
    assert len(made) == 2, "one that is filled and one that is written"


def test_on_a_cpu_a_unit_is_written_before_the_next_is_computed(request_, story, monkeypatch) -> None:
    monkeypatch.undo()
    told, write = story, ResultWriter.write
    monkeypatch.setattr(
        ResultWriter, "write", lambda self, unit, **what: (write(self, unit, **what), told.add("wrote"))[0]
    )
    swept(request_, story, {})
    events = [event.split()[0] for event in told.told if event.startswith(("computed", "wrote"))]
    assert events == ["computed", "wrote"] * 4


def test_units_are_written_in_order_one_at_a_time(request_, story) -> None:
    swept(request_, story, {})
    assert [told for told in story.told if told.startswith("w")] == [
        f"{what} {unit}" for unit in (1, 2, 3, 4) for what in ("write", "wrote")
    ]


def test_the_rows_of_a_unit_are_its_own(request_, story) -> None:
    """A buffer is used again, so that what the unit before left in it must not be seen."""
    swept(request_, story, {2: "wrote 1", 3: "wrote 2"})
    result = open_result(request_.out)
    assert (result.matrix("pred") == 0).all() and (result.matrix("rank") == result.labels).all()


@pytest.mark.parametrize("fail_fast", [False, True])
def test_what_a_unit_fails_of_is_known_before_the_next_is_written(request_, story, fail_fast: bool) -> None:
    if fail_fast:
        with pytest.raises(NotFiniteError):
            swept(request_, story, {}, {2: "nan"}, fail_fast=True)
        assert open_result(request_.out).n == 2 and "write 3" not in story.told
        return
    counted: list[int] = []
    with pytest.warns(SetAsideWarning, match="images 2 to 3"):
        job, options = request_.job(), RunOptions.of(request_)
        report = run_job(
            job, options, lambda: Waiting(story, job.space, {}, {2: "nan"}), on_start=lambda begun: counted.append
        )
    assert report.done == 6 and sum(counted) == 6 * 2 and min(counted) == -4


def test_an_error_of_writing_ends_the_run_and_what_comes_after_is_not_written(request_, story, monkeypatch) -> None:
    write = ResultWriter.write

    def full(self: ResultWriter, unit: object, **what: object) -> None:
        if unit.first == 2:  # type: ignore[attr-defined]
            story.add("write 2")
            raise ResultError("cannot write: no space left on device")
        write(self, unit, **what)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultWriter, "write", full)
    with pytest.raises(ResultError, match="no space left"):
        swept(request_, story, {})
    assert open_result(request_.out).n == 2 and "write 3" not in story.told and "compute 4" not in story.told


def test_an_error_of_writing_ends_the_computing_beside_it(request_, story, monkeypatch) -> None:
    """A unit may take minutes: nobody waits for it to be told that the disk is full."""

    def full(self: ResultWriter, unit: object, **what: object) -> None:
        story.reached("compute 2")
        raise ResultError("cannot write: no space left on device")

    class Long(Waiting):
        def run(self, pixels: torch.Tensor, sink: object, configs: object = None) -> None:
            until_s = time.monotonic() + WAIT_S
            if self.runs == 1:
                self.story.add("compute 2")
            while self.runs == 1 and time.monotonic() < until_s:
                sink(np.zeros(1, int), np.zeros(1, int), torch.zeros(1, 10))  # type: ignore[operator]
            super().run(pixels, sink)

    monkeypatch.setattr(ResultWriter, "write", full)
    job, options = request_.job(), RunOptions.of(request_)
    with pytest.raises(ResultError, match="no space left"):
        run_job(job, options, lambda: Long(story, job.space, {}))
    assert "computed 2" not in story.told and not list(Path(request_.out).glob("part-*"))


def test_what_was_computed_before_a_bug_is_written(request_, story) -> None:
    story.add("slow 1")
    with pytest.raises(RuntimeError, match="shapes"):
        swept(request_, story, {2: "write 1"}, {2: RuntimeError("mat1 and mat2 shapes cannot be multiplied")})
    assert open_result(request_.out).n == 2


def test_an_interrupt_lets_the_unit_that_is_being_written_end_and_begins_with_no_other(request_, story) -> None:
    story.add("slow 1")
    with pytest.raises(KeyboardInterrupt):
        swept(request_, story, {2: "write 1"}, {2: KeyboardInterrupt()})
    assert story.told[-1] == "wrote 1" and open_result(request_.out).n == 2
    assert not list(Path(request_.out, "_itd").glob("tmp-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("itd-")]
    assert swept(replace(request_), Story(), {}).done == 6 and verify(request_.out).complete


def test_memory_that_lacks_where_scores_are_copied_is_tried_again(request_, story, monkeypatch) -> None:
    real, short = scores.ScoreBuffer.on_host, [torch.OutOfMemoryError("CUDA out of memory")]
    monkeypatch.setattr(
        scores.ScoreBuffer, "on_host", lambda self: (_ for _ in ()).throw(short.pop()) if short else real(self)
    )
    report = swept(request_, story, {})
    assert report.done == 8 and not report.failed and not short


def test_a_decoder_whose_death_is_said_while_a_unit_is_computed_is_started_again(request_, story) -> None:
    """Torch says it by a signal, wherever the thread is: what was computed is written, the others are done again."""
    story.add("slow 1")
    death = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    report = swept(request_, story, {2: "write 1"}, {2: death})
    assert report.done == 8 and story.told.count("wrote 1") == 1 and story.told.count("compute 5") == 1
    assert verify(request_.out).complete


def test_no_process_decodes_on_while_somebody_holds_the_error(request_, story) -> None:
    with pytest.raises(ZeroDivisionError) as held:
        swept(replace(request_, limit=100), story, {}, {2: ZeroDivisionError("bug")}, workers=1)
    assert not multiprocessing.active_children()
    assert held.value.__traceback__ is not None
