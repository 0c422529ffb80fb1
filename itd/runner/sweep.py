"""The sweep: units of images through the tree, scores into the result. One process, one device."""

from __future__ import annotations

import contextlib
import datetime
import platform
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from itd import __version__
from itd.data.loader import Batch, batches
from itd.engine.plain import PlainExecutor
from itd.engine.tree import TreeExecutor, default_batch_size
from itd.errors import ModelError, NotFiniteError
from itd.runner.request import Prepared
from itd.runner.scores import COLUMNS, ScoreBuffer
from itd.space import format_config
from itd.store import ResultWriter, Unit

Progress = Callable[[int], Any]
"""Told how many (image, configuration) pairs were just computed."""

T = TypeVar("T")


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did. images: selected. already: there before. done: added now. left: to other shards."""

    out: str
    images: int
    already: int
    done: int
    configs: int
    seconds: float

    @property
    def left(self) -> int:
        """Images still missing."""
        return self.images - self.already - self.done


def open_writer(prepared: Prepared) -> ResultWriter:
    """The result of a prepared sweep, created or continued."""
    return ResultWriter.open(
        prepared.out,
        identity=dict(prepared.identity),
        space=prepared.space,
        macs=prepared.macs,
        samples=prepared.samples,
        images_per_unit=prepared.request.images_per_unit or unit_size(len(prepared.samples), prepared.device),
        provenance=provenance(prepared),
    )


def check_faithful(prepared: Prepared) -> None:
    """ModelError where the tree is not the network: what torch.fx traced gives other logits than the module itself.

    One configuration (the default, where it is in the space) on one image of seeded noise, in float32. A network that
    looks at its input's values, or changes a tensor in place through another name, is found here.
    """
    number = prepared.space.default or 0
    space = replace(prepared.space, configs=(prepared.space.configs[number],), default=0)
    px = prepared.preprocess.side_px
    pixels = torch.randn(1, 3, px, px, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []

    def keep(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        found.append(logits)

    for executor in (TreeExecutor, PlainExecutor):
        executor(prepared.model, space, device=prepared.device).run(pixels, keep)
    tree, plain = found
    difference = float((tree - plain).abs().max() / plain.abs().max())
    if plain.isfinite().all() and not difference <= 1e-3:
        raise ModelError(
            f"{prepared.request.model} as torch.fx traces it is not the same network: its logits differ by "
            f"{difference:.0e} of their scale; rewrite what it does in place or by value, or choose another model"
        )


def unit_size(images: int, device: torch.device) -> int:
    """Images in a unit of a new result: about 64 units, 8 to 16 images on a CPU and to 256 on a GPU.

    >>> unit_size(50_000, torch.device("cpu"))
    16
    """
    most = 256 if device.type == "cuda" else 16
    return max(8, min(most, 1 << max(0, images // 64).bit_length()))


class Executor(Protocol):
    """Runs every configuration of a space on a batch of images: pixels (N, 3, H, W), and who is told of the logits."""

    def run(self, pixels: Tensor, sink: Any) -> None: ...


def sweep(
    prepared: Prepared, writer: ResultWriter, progress: Progress | None = None, *, executor: Executor | None = None
) -> SweepReport:
    """Compute and write the units that are missing.

    executor: in place of the prefix tree.

    Raises NotFiniteError naming configuration and image, DataError for an image that cannot be decoded, ResultError
    where the disk refuses. Units written before stay.
    """
    started = time.perf_counter()
    already = writer.done_images
    units = writer.todo(prepared.request.shard)
    done = 0
    if units:
        executor = executor or TreeExecutor(
            prepared.model, prepared.space, device=prepared.device, precision=prepared.precision
        )
        with contextlib.closing(_ahead(_stream(prepared, units))) as stream:
            for unit in units:
                _run_unit(prepared, writer, executor, unit, _take(stream, len(unit)), progress)
                done += len(unit)
    return SweepReport(
        prepared.out, len(prepared.samples), already, done, len(prepared.space), time.perf_counter() - started
    )


def _run_unit(
    prepared: Prepared,
    writer: ResultWriter,
    executor: Executor,
    unit: Unit,
    unit_batches: Iterable[Batch],
    progress: Progress | None,
) -> None:
    labels = prepared.images.labels[unit.samples]
    buffer = ScoreBuffer(len(prepared.space), labels, prepared.device)
    missing = np.zeros(len(unit), bool)
    start = 0
    for batch in unit_batches:
        first = start

        def add(configs: np.ndarray, images: np.ndarray, logits: Tensor, first: int = first) -> None:
            buffer.add(configs, images + first, logits)
            if progress is not None:
                progress(len(configs))

        executor.run(batch.pixels, add)
        start += len(batch.samples)
        missing[first:start] = batch.missing
    columns = buffer.on_host()
    _require_finite(prepared, unit, columns.pop("finite") | missing)
    writer.write(unit, labels=labels, missing=missing, **{name: columns[name] for name in COLUMNS})


def _require_finite(prepared: Prepared, unit: Unit, finite: np.ndarray) -> None:
    if finite.all():
        return
    config, image = (int(v) for v in np.argwhere(~finite)[0])
    sample = int(unit.samples[image])
    shown = format_config(prepared.space.sites, prepared.space.configs[config])
    raise NotFiniteError(
        f"logits that are not finite: configuration {config}, {shown}, image {sample} "
        f"({prepared.images.names[sample]}); {int((~finite).sum())} rows of this unit have some; "
        "try --precision fp32, or check the weights; what was written before is kept"
    )


def _stream(prepared: Prepared, units: list[Unit]) -> Iterator[Batch]:
    """The batches of the units in order; none reaches over the end of a unit."""
    request = prepared.request
    return batches(
        prepared.images,
        np.concatenate([unit.samples for unit in units]),
        prepared.preprocess,
        batch_size=request.batch_size or default_batch_size(prepared.device),
        cuts=np.cumsum([len(unit) for unit in units]).tolist(),
        workers=request.workers,
        allow_missing=request.allow_missing,
        pin_memory=prepared.device.type == "cuda",
    )


def _take(stream: Iterator[Batch], images: int) -> Iterator[Batch]:
    """The next batches, `images` images in all."""
    while images > 0:
        batch = next(stream)
        images -= len(batch.samples)
        yield batch


def _ahead(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The items, decoded by a thread while the tree runs; its errors are raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put((kind, value), timeout=0.2)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # raised again where the items are used
            put("error", error)

    thread = threading.Thread(target=fill, daemon=True, name="itd-decode")
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        # A thread that is still inside torch when the interpreter ends would abort it (seen once after a Ctrl-C).
        thread.join(timeout=10)


def provenance(prepared: Prepared) -> dict[str, Any]:
    """Where and when a run was made: never part of what makes two results the same."""
    import torchvision

    device = prepared.device
    return {
        "itd": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
        "weights": prepared.weights_label,
        "data": Path(prepared.images.source).name,
        "classes": prepared.num_classes,
        "batch_size": prepared.request.batch_size,
        "workers": prepared.request.workers,
        "git": _git_revision(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """The checkout's revision; None for an installed package, whatever repository surrounds it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() or None
