"""What a sweep does on a GPU, and in which order, seen without one."""

from __future__ import annotations

import contextlib
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.functional import to_tensor

import itd
from itd import SweepRequest
from itd.data.digits import digits_images
from itd.data.loader import Pixels, ahead, digest, stream
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.device import current
from itd.errors import ItdWarning
from itd.runner import worker
from itd.runner.job_images import dataset_images
from itd.runner.options import RunOptions, with_workers
from itd.runner.scores import _HostCopy, sent
from itd.store import Unit

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


def test_the_thread_that_decodes_has_the_same_current_gpu(events: list[str]) -> None:
    def items():
        events.append(f"item in {threading.current_thread().name}")
        yield 1

    assert list(ahead(items(), device=torch.device("cuda:1"))) == [1]
    assert events == ["current cuda:1", "item in itd-decode", "the one from before"]


class Told:
    """Stands for an object of `torch.cuda`: tells of every call of it."""

    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def __getattr__(self, method: str):
        return lambda *given: self.events.append(
            " ".join([self.name, method, *(one.name for one in given if isinstance(one, Told))])
        )


def test_scores_are_copied_on_a_stream_of_their_own_that_waits_for_what_was_computed(events, monkeypatch) -> None:
    names = iter(["there", "copied"])
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking=False: Told(events, next(names)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Told(events, "side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Told(events, "main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(events.append("on side")))
    empty, copy = torch.empty, torch.Tensor.copy_
    pinned: list[bool] = []

    def pinning(*shape, pin_memory=False, **how):
        pinned.append(pin_memory)
        return empty(*shape, **how)

    def copying(self, source, non_blocking=False):
        events.append(f"copy {'behind' if non_blocking else 'and wait'}")
        return copy(self, source)

    monkeypatch.setattr(torch, "empty", pinning)
    monkeypatch.setattr(torch.Tensor, "copy_", copying)
    columns = {"pred": torch.tensor([[1, 2]]), "nll": torch.tensor([[0.5, 0.25]])}
    copies = _HostCopy(columns, torch.device("cuda:1"))
    copies.mark()
    there = copies.copied()
    assert [there[name].tolist() for name in columns] == [[[1, 2]], [[0.5, 0.25]]] and pinned == [True, True]
    assert events == [
        "there record main",  # by the thread that computes
        "on side",
        "side wait_event there",
        "copy behind",
        "copy behind",
        "copied record side",
        "copied synchronize",  # and not the device, which goes on with the next unit
    ]


def test_what_a_gpu_is_told_of_a_chunk_is_pinned_so_that_nothing_waits_for_it(events, monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: events.append("pin") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to, **how: events.append(f"{to[0]} {how}") or self)
    assert sent(np.arange(3), torch.device("cuda")).tolist() == [0, 1, 2]
    assert events == ["pin", "cuda {'non_blocking': True}"]
    sent(np.arange(3), torch.device("cpu"))
    assert events.count("pin") == 1


def test_values_of_8_bits_are_normalised_by_the_same_operations_wherever_they_are() -> None:
    """The bits are those of numpy's float32; divided by a tensor, as a GPU multiplies where it is a Python number."""
    preprocess = Preprocess()
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16).contiguous()
    alone, batch = preprocess.normalise(values), preprocess.normalise(torch.stack([values, values]))
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    plain = (values.numpy().astype(np.float32) / np.float32(255) - mean) / std
    assert alone.numpy().tobytes() == plain.tobytes() and torch.equal(batch, torch.stack([alone, alone]))
    with FakeTensorMode(), Operators() as seen:
        assert preprocess.normalise(torch.empty(2, 3, 4, 4, dtype=torch.uint8, device="cuda")).device.type == "cuda"
    assert [name for name, _ in seen.called] == ["div_", "sub_", "div_"]
    assert all(isinstance(other, torch.Tensor) and other.device.type == "cuda" for _, other in seen.called)


class Operators(TorchDispatchMode):
    """Keeps which arithmetic is called, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, object]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        if name in ("div_", "sub_", "div", "sub", "mul", "mul_", "reciprocal"):
            self.called.append((name, args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.gpu
def test_a_gpu_normalises_to_the_same_bits(cuda: str) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16).contiguous()
    for preprocess in (Preprocess(), DIGITS_PREPROCESS):
        assert torch.equal(preprocess.normalise(values.to(cuda)).cpu(), preprocess.normalise(values))


class Scores:
    """Stands for a `ScoreBuffer` of a GPU."""

    def __init__(self, configs: int, labels: np.ndarray, device: torch.device, among: object) -> None:
        self.labels, self.device = labels, device

    def add(self, *rows: object) -> None:
        """Keeps nothing."""

    def end(self) -> None:
        """Marks nothing."""


class Images:
    """An executor on a GPU that is none: keeps the images that it is given."""

    device = torch.device("cuda:1")

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def run(self, pixels: torch.Tensor, sink: object) -> None:
        self.seen.append(pixels)


@pytest.mark.parametrize("fits", [True, False])
def test_images_travel_as_8_bits_in_pinned_memory_and_are_normalised_where_they_are_run(
    fits: bool, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, executor, travelled = REQUEST.job(), Images(), []
    real = worker.stream

    def streamed(pixels, units, *, pin_memory, **how):
        for batch in real(pixels, units, **how):  # without a GPU torch pins nothing
            travelled.append((batch.pixels.dtype, pin_memory))
            yield batch

    def moved(values, device, dtype, non_blocking=False):
        assert values.dtype == dtype == torch.uint8 and device == executor.device and non_blocking
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values

    for name, stands in (("stream", streamed), ("moved", moved), ("ScoreBuffer", Scores)):
        monkeypatch.setattr(worker, name, stands)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("free"))
    runs = worker.Worker(job, executor, batch_size=2)
    outcomes = list(runs.attempts([Unit(0, 5, job.images.samples)]))
    assert [type(one) for one in outcomes] == [worker.ComputedUnit]
    assert travelled == [(torch.uint8, True)] * 3 and events.count("free") == (0 if fits else 3)
    floats = torch.stack([job.images.pixels[int(sample)] for sample in job.images.samples])
    assert torch.equal(torch.cat(executor.seen), floats), "the same bits as on a CPU"


def test_what_a_callable_of_a_users_makes_travels_as_floats() -> None:
    class Photos:
        targets = (0, 1)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            return Image.new("RGB", (4, 4), (index, 9, 9)), self.targets[index]

    for preprocess, dtype in ((to_tensor, torch.float32), (Preprocess(4, 4), torch.uint8)):
        pixels = replace(dataset_images(Photos(), preprocess).pixels, as_values=True)
        (batch,) = stream(pixels, [np.arange(2)], batch_size=2)
        assert batch.pixels.dtype == dtype and pixels.dtype == dtype


def test_an_image_with_a_problem_and_one_that_is_not_what_it_was_are_seen_also_before_they_are_normalised() -> None:
    images = digits_images("eval")
    pixels = Pixels(images, DIGITS_PREPROCESS, DIGITS_PREPROCESS.shape)
    values = replace(pixels, as_values=True, digests={0: digest(pixels[0]), 1: digest(pixels[0])})
    batch = next(stream(values, [np.arange(2)], batch_size=2, keep_going=True))
    assert [None if problem is None else problem.kind for problem in batch.problems] == [None, "unsteady"]
    assert batch.pixels.dtype == torch.uint8 and not batch.pixels[1].any()
    assert torch.equal(DIGITS_PREPROCESS.normalise(batch.pixels[0]), pixels[0])
