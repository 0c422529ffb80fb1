"""Parts of `gpu.py` that run sweeps: rates, four sweeps against the plain loop, twelve sweeps, and a sweep of JPEGs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counts import SWEEPS
from rates import Timer, copy_bytes_per_s, matrix_flops
from sweep import Bench
from torch import Tensor

import itd
from itd.engine.precision import Precision
from itd.engine.tree import TreeExecutor
from itd.runner.request import SweepRequest
from itd.runner.scores import ScoreBuffer
from itd.text import first_line

Row = dict[str, Any]
PAIRS = (("resnet50", "dilation"), ("resnet50", "stride"), ("mobilenet_v2", "stride"), ("densenet121", "stride"))
IMAGES, PLAIN_CONFIGS, COMPILED_CONFIGS = 256, 24, 1
TWELVE_IMAGES, ALL_IMAGES = 2048, 50_000
JPEGS, JPEG_SIZE, FOLDERS = 2000, (500, 375), 4
HEAVIEST = 10


class Run:
    """Where and how large. device: as torch names it. small: tiny sizes, to see that it works."""

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.timer = Timer(self.device)
        self.bf16 = Precision("bf16", str(self.device))

    def request(self, name: str, attribute: str, **more: Any) -> SweepRequest:
        """A sweep in bf16; a small one has two settings at a site and small images."""
        small = {"options": ("1,2" if attribute != "size" else "1,3",), "crop_px": 48} if self.small else {}
        return SweepRequest(name, attribute, device=str(self.device), precision="bf16", **{**small, **more})


def attempt(labels: Row, work: Callable[[], Row]) -> Row:
    """What `work` measures, beside what says of what; an error as its first line, so that the next row is measured."""
    try:
        return {**labels, **work()}
    except Exception as error:  # whatever a GPU's libraries say
        return {**labels, "error": f"{type(error).__name__}: {first_line(error)}"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def rates(run: Run) -> Iterator[Row]:
    """Matrix products in each number format, and copies."""
    side, size = (256, 1 << 20) if run.small else (None, None)
    for name in ("fp32", "tf32", "bf16"):
        yield attempt(
            {"what": "matrix", "precision": name},
            lambda name=name: {"flops": matrix_flops(Precision(name, str(run.device)), run.device, side)},
        )
    yield attempt({"what": "copy"}, lambda: {"bytes_per_s": copy_bytes_per_s(run.device, size)})


# -- four sweeps against the plain loop -------------------------------------------------------------------------------


def sweeps(run: Run) -> Iterator[Row]:
    """Images a second, share of the matrix rate, ratio to the plain loop, peak memory; then the heaviest kernels."""
    for name, attribute in (("resnet18", "dilation"),) if run.small else PAIRS:
        made: list[Bench] = []
        yield attempt(
            {"model": name, "attr": attribute}, lambda n=name, a=attribute, m=made: _against_plain(run, n, a, m)
        )
        if made:
            yield attempt({"model": name, "attr": attribute, "what": "profile"}, lambda m=made: profile(m[0]))


def _against_plain(run: Run, name: str, attribute: str, made: list[Bench]) -> Row:
    images, configs = (2, 2) if run.small else (IMAGES, PLAIN_CONFIGS)
    bench = Bench(run.request(name, attribute), images, configs, small=run.small, compiled_configs=COMPILED_CONFIGS)
    made.append(bench)
    return bench.report()


def profile(bench: Bench) -> Row:
    """The heaviest kernels of one batch through the tree, and how much of the time any ran."""
    cuda = bench.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=kinds) as seen:
        wall_s = bench.timer(lambda: bench.run_tree(bench.tree, bench.logits["tree"], bench.batch_size))
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [e for e in seen.key_averages() if getattr(e, key) > 0]
    if cuda:  # each kernel's time is also that of the operator that launched it
        events = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda e: -getattr(e, key))
    total_us = sum(getattr(e, key) for e in events)
    heaviest = [
        {"name": e.key[:120], "ms": getattr(e, key) / 1e3, "share": getattr(e, key) / total_us, "calls": e.count}
        for e in events[:HEAVIEST]
    ]
    launches = sum(e.count for e in events)
    return {"wall_s": wall_s, "kernels_s": total_us / 1e6, "busy": total_us / 1e6 / wall_s, "launches": launches,
            "heaviest": heaviest}  # fmt: skip


# -- twelve sweeps ----------------------------------------------------------------------------------------------------


def twelve(run: Run) -> Iterator[Row]:
    """Seconds of seeded noise through each of the twelve sweeps and into scores; then the minutes of all for 50,000."""
    rows = []
    for name, attribute in (("resnet18", "size"), ("resnet18", "dilation")) if run.small else SWEEPS:
        labels = {"model": name, "attr": attribute}
        rows.append(attempt(labels, lambda n=name, a=attribute: _of_noise(run, n, a)))
        yield rows[-1]
    if all("minutes" in row for row in rows):
        yield {"model": "all", "attr": "all", "minutes": sum(row["minutes"] for row in rows)}


def _of_noise(run: Run, name: str, attribute: str) -> Row:
    count = 4 if run.small else TWELVE_IMAGES
    bench = Bench(run.request(name, attribute), min(count, 2 if run.small else 64), 1)
    noise = bench.pixels.to(run.device)
    bench.run_tree(bench.tree, bench.logits["tree"])  # what is timed is as large
    buffer = ScoreBuffer(len(bench.space), np.zeros(count, np.int64), run.device, among=np.ones(1000, bool))

    def work() -> None:
        for first in range(0, count, len(noise)):

            def add(configs: np.ndarray, images: np.ndarray, logits: Tensor, first: int = first) -> None:
                buffer.add(configs, images + first, logits)

            bench.tree.run(noise.roll(first, 3), add)

    seconds = run.timer(work)
    return {
        "images": count,
        "configs": len(bench.space),
        "seconds": seconds,
        "images_per_s": count / seconds,
        "minutes": seconds / count * ALL_IMAGES / 60,
    }


# -- reading JPEGs ----------------------------------------------------------------------------------------------------


def jpegs(run: Run) -> Iterator[Row]:
    """How much of the time the device works while a sweep reads JPEGs: in the sweep's own way, then in others.

    of_sweep: from its start to its end. of_steady: from the first batch to the last, without the workers' start.
    """
    count = 6 if run.small else JPEGS
    with tempfile.TemporaryDirectory() as folder:
        seconds = Timer(torch.device("cpu"))(lambda: make_jpegs(Path(folder, "images"), count))  # CUDA stays untouched
        yield {"what": "made", "images": count, "seconds": seconds}
        model = "resnet18" if run.small else "resnet50"
        for workers in (None,) if run.small else (None, 8, 0):
            labels = {"what": "sweep", "model": model, "attr": "dilation", "workers": workers}
            yield attempt(labels, lambda w=workers: _reading(run, Path(folder), model, w, count))


def _reading(run: Run, folder: Path, model: str, workers: int | None, count: int) -> Row:
    request = run.request(model, "dilation", data=str(folder / "images"), weights="none")
    for limit in (max(2, count // 16), count):  # the first warms up
        with WorkingTime(run.device) as worked, tempfile.TemporaryDirectory() as out:
            sweep = replace(request, limit=limit)
            report = itd.sweep(sweep, out=f"{out}/r.parquet", workers=workers, on_start=worked.begin, quiet=True)
    return {
        "images": report.done,
        "configs": report.configs,
        "seconds": report.seconds,
        "images_per_s": report.done / report.seconds,
        **worked.shares(),
    }


class WorkingTime:
    """Inside its block, how long a batch is in the tree, from when a sweep begins.

    On a GPU from a batch's first kernel to its last, in the GPU's own time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[tuple[Any, Any]] = []
        self.whole: tuple[Any, Any] = (None, None)

    def __enter__(self) -> WorkingTime:
        self._run = run = TreeExecutor.run

        def timed(tree: TreeExecutor, *args: Any, **kwargs: Any) -> None:
            start = self._mark()
            run(tree, *args, **kwargs)
            self.spans.append((start, self._mark()))

        TreeExecutor.run = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        TreeExecutor.run = self._run  # type: ignore[method-assign]
        self.whole = self.whole[0], self._mark()

    def begin(self, _: Any) -> None:
        """What was run before, to see that the tree is the network, does not count."""
        self.spans.clear()
        self.whole = self._mark(), None

    def shares(self) -> Row:
        """Of the time from the sweep's begin to its end, and from its first batch to its last."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        busy_s = sum(self._between(*span) for span in self.spans)
        steady_s = self._between(self.spans[0][0], self.spans[-1][1])
        return {"of_sweep": busy_s / self._between(*self.whole), "of_steady": busy_s / steady_s}

    def _mark(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        return end - start if self.device.type == "cpu" else start.elapsed_time(end) / 1e3


def make_jpegs(folder: Path, count: int) -> None:
    """Seeded images of 500 x 375, smooth with some noise as photographs are, in folders of ImageNet's classes."""
    from PIL import Image

    from itd.data.classes import imagenet_wnids

    names = imagenet_wnids()[:FOLDERS]
    width, height = JPEG_SIZE
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height), Image.BICUBIC)
        values = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (height, width, 3), np.int16)
        path = folder / names[number % FOLDERS] / f"{number:05}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, quality=90)
