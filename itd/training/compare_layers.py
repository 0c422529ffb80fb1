"""Learned dynamic convolutions against the plain one: size, cost, measured time, and accuracy where there are weights.

Times are medians of repeated measurements in which the networks take turns, so that whatever else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.data.open import data_source, is_digits
from itd.device import resolve_device
from itd.engine.macs import macs
from itd.errors import ItdError
from itd.patcher import build_model
from itd.training.curve import Curve, curves_figure
from itd.training.evaluate import EvaluateRequest, evaluate
from itd.training.run_files import RunFiles

if TYPE_CHECKING:
    from itd.analysis.figures import Drawing


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of measurements.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.5, high=2.5)
        """
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class LayerComparison:
    """One network. params: how many. macs: of one image. forward_ms: of one batch in evaluation mode. epoch_s: of an
    epoch of `epoch_images` training images: a measured step (forward, backward, SGD) times the steps. top1: on the n
    labelled images, None without weights."""

    model: str
    params: int
    macs: int
    forward_ms: Spread
    epoch_s: Spread
    top1: float | None = None
    n: int = 0

    @property
    def megabytes(self) -> float:
        """Of the parameters at 4 bytes."""
        return 4 * self.params / 1e6

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "megabytes": self.megabytes}


@dataclass(frozen=True)
class CompareLayersRequest:
    """A comparison as it is typed.

    models: names of `itd models --learned`. folder: where `itd train` put their weights; those that are there are
    tested on data. side_px, batch_size: of what is timed. repeats: how often each is timed. epoch_images: of s/epoch.
    """

    models: tuple[str, ...]
    data: str | None = None
    folder: str = "trained"
    side_px: int = 32
    batch_size: int = 64
    repeats: int = 10
    epoch_images: int = 40_000
    limit: int | None = None
    device: str | None = None
    workers: int = 0

    def weights_of(self, name: str) -> Path:
        """Where `itd train` put a network's weights, if it did."""
        return Path(self.folder) / f"{name}.safetensors"


def compare_layers(
    request: CompareLayersRequest, *, progress: Callable[[str], Any] | None = None
) -> list[LayerComparison]:
    """Measures the networks. progress: called with what is done next. Raises ItdError for a name that nobody knows."""
    if not isinstance(request, CompareLayersRequest):
        raise ItdError(f"compare_layers takes a CompareLayersRequest, given {type(request).__name__}")
    if not request.models:
        raise ItdError("there is nothing to compare; give as `models` at least one name of `itd models --learned`")
    say = progress or (lambda text: None)
    device = resolve_device(request.device)
    networks = {name: build_model(name, 10).to(device).to(memory_format=torch.channels_last) for name in request.models}
    pixels = torch.randn(request.batch_size, 3, request.side_px, request.side_px, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    say(f"timing, {request.repeats} rounds of {len(networks)} networks")
    forward, step = timed(networks, pixels, request.repeats)
    steps = request.epoch_images / request.batch_size
    rows = []
    for name, network in networks.items():
        path = request.weights_of(name)
        top1, n = None, 0
        if path.exists():
            say(f"testing {path}")
            evaluation = evaluate(
                EvaluateRequest(
                    name, str(path), request.data, limit=request.limit, device=request.device, workers=request.workers
                )
            )
            top1, n = evaluation.top1, evaluation.n
        rows.append(
            LayerComparison(
                model=name,
                params=sum(p.numel() for p in network.parameters()),
                macs=int(macs(network, input_shape=(3, request.side_px, request.side_px))),
                forward_ms=Spread.of([1e3 * t for t in forward[name]]),
                epoch_s=Spread.of([steps * t for t in step[name]]),
                top1=top1,
                n=n,
            )
        )
    return rows


def timed(
    networks: dict[str, nn.Module], pixels: Tensor, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of a forward pass and of a training step, for each network `repeats` times, taking turns.

    One round before the first is not counted. The networks are trained a little on noise and left in evaluation mode.
    """
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    forward: dict[str, list[float]] = {name: [] for name in networks}
    step: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(repeats + 1):
        for name, network in networks.items():
            spent = (_seconds(_forward, network, pixels), _seconds(_step, network, pixels, labels))
            if number:
                forward[name].append(spent[0])
                step[name].append(spent[1])
    return forward, step


def _seconds(work: Callable[..., Any], *args: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _forward(network: nn.Module, pixels: Tensor) -> None:
    network.eval()
    with torch.inference_mode():
        network(pixels)


def _step(network: nn.Module, pixels: Tensor, labels: Tensor) -> None:
    network.train()
    F.cross_entropy(network(pixels), labels).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-6)
                parameter.grad = None
    network.eval()


def comparison_table(rows: Sequence[LayerComparison], request: CompareLayersRequest) -> str:
    """The comparison as text."""
    from itd.analysis.sampling import wilson
    from itd.analysis.tables import align, span

    time = f"ms/forward of {request.batch_size}"
    cells = [["model", "params", "MB", "MMAC", time, "s/epoch", "top-1", "95% interval", "n"]]
    for row in rows:
        cells.append(
            [
                row.model,
                f"{row.params:,}",
                f"{row.megabytes:.3f}",
                f"{row.macs / 1e6:.1f}",
                _spread(row.forward_ms),
                _spread(row.epoch_s),
                "-" if row.top1 is None else f"{100 * row.top1:.1f}",
                "-" if row.top1 is None else span(wilson(row.top1 * row.n, row.n)),
                f"{row.n}" if row.n else "-",
            ]
        )
    how = (
        f"median (quartiles) of {request.repeats} rounds; s/epoch: steps of {request.batch_size} x {request.side_px} px"
    )
    return f"{align(cells)}\n{how}, for {request.epoch_images:,} images"


def comparison_figure(rows: Sequence[LayerComparison], request: CompareLayersRequest) -> Drawing:
    """Time of a forward pass and of an epoch for each network, with quartiles; accuracy beside the name."""
    from itd.analysis.figures.drawing import COLOURS, Drawing, Mark, new_figure, tidy

    figure = new_figure(7.2, 0.5 * len(rows) + 1.6)
    marks = []
    panels = (("forward_ms", f"ms, forward of {request.batch_size} images"), ("epoch_s", "s, epoch"))
    for number, (field, label) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1)
        for place, row in enumerate(rows):
            value: Spread = getattr(row, field)
            axes.barh(place, value.median, color=COLOURS[number], height=0.6)
            axes.plot([value.low, value.high], [place, place], color="0.2", linewidth=1.5)
            marks.append(Mark(number, value.median, place, f"{row.model}: {_spread(value)}"))
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows] if number == 0 else [""] * len(rows))
        axes.invert_yaxis()
        axes.set_xlabel(label)
        tidy(axes)
    numbers = [{"model": r.model, "params": r.params, "macs": r.macs, "forward_ms": r.forward_ms.median,
             "epoch_s": r.epoch_s.median, "top1": r.top1, "n": r.n} for r in rows]  # fmt: skip
    caption = f"Median of {request.repeats} rounds in which the networks take turns; lines: quartiles."
    return Drawing(
        "layers", "Learned dynamic convolutions", caption, figure, tuple(numbers[0]), tuple(numbers), tuple(marks)
    )


def learning_curves(request: CompareLayersRequest) -> Drawing:
    """The learning curves that `itd train --test` left in the folder; DataError where it has none."""
    return curves_figure({n: Curve(RunFiles(request.weights_of(n)).curve).points() for n in request.models})


def _label(row: LayerComparison) -> str:
    accuracy = "" if row.top1 is None else f", {100 * row.top1:.1f}%"
    return f"{row.model}\n{row.params / 1e6:.1f}M{accuracy}"


def _spread(value: Spread) -> str:
    return f"{value.median:.3g} ({value.low:.3g}-{value.high:.3g})"


def default_side_px(data: str | None) -> int:
    """The side of the images that are timed: the digits' 64, else CIFAR's 32."""
    return 64 if is_digits(data_source(data)) else 32
