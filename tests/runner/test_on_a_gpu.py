"""What a sweep does on a GPU, and in which order, seen without one."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace

import pytest
import torch

import itd
from itd import SweepRequest
from itd.device import current
from itd.errors import ItdWarning
from itd.runner.options import RunOptions, with_workers

REQUEST = SweepRequest(
    "resnet18", "dilation", sites="D", options=("1,2",), data="digits", weights="none", crop_px=32, resize_px=32,
    limit=6, batch_size=2,
)  # fmt: skip


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, with two GPUs that are none."""
    happened: list[str] = []

    @contextlib.contextmanager
    def device(of: torch.device):
        happened.append(f"current {of}")
        try:
            yield
        finally:
            happened.append("the one from before")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    return happened


class StopError(Exception):
    """Ends a sweep where it would use the GPU."""


@pytest.mark.parametrize(("workers", "server"), [(None, ["server"]), (2, ["server"]), (0, [])])
def test_the_server_of_processes_is_there_before_the_gpu_and_the_gpu_is_current(
    workers: int | None, server: list[str], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_use(*_: object) -> None:
        events.append("used")
        raise StopError

    module = sys.modules[itd.sweep.__module__]
    monkeypatch.setattr(module, "start_server", lambda: events.append("server"))
    monkeypatch.setattr(module, "way_of", first_use)
    with pytest.raises(StopError):
        itd.sweep(REQUEST, device="cuda:1", workers=workers, quiet=True)
    assert events == [*server, "current cuda:1", "used", "the one from before"]


def test_on_a_cpu_nothing_is_made_current_and_no_server_started(events: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[itd.sweep.__module__], "start_server", lambda: events.append("server"))
    assert itd.sweep(REQUEST, device="cpu", workers=1, out=tmp_path / "r.parquet", quiet=True).done == 6
    with current(torch.device("cpu")):
        assert events == []


def test_a_number_of_processes_is_taken_as_given_and_else_the_cores(events, monkeypatch) -> None:
    monkeypatch.setattr("itd.data.processes.cores", lambda: 16)
    job, options = REQUEST.job(), RunOptions.of(REQUEST, device="cuda")
    assert with_workers(options, job).workers == 3, "one for each batch"
    assert with_workers(replace(options, workers=9), job).workers == 9
    assert with_workers(RunOptions.of(REQUEST, device="cpu"), job).workers == 0
    object.__setattr__(job.images.pixels.images, "read", lambda index, name: None)
    with pytest.warns(ItdWarning, match=r"^the images are decoded in this process alone: .*pickle"):
        assert with_workers(options, job).workers == 0
