"""Batch normalisation re-estimated for each configuration: how much of the volatility is only its statistics?

Nothing is trained and no label is read: for each configuration the running mean and variance of every normalisation are
those of some training images, then the validation images are swept with them. The ITD paper has no such experiment;
slimmable networks recalibrate in this way (Yu and Huang, Universally Slimmable Networks, 2019, section 3.3).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itd.api import prepare_sweep
from itd.data.images import DIGITS, ImageSet, asked_data, is_digits
from itd.data.loader import batches
from itd.engine.tree import Sink
from itd.errors import DataError, ModelError
from itd.patcher import DynamicModel
from itd.runner.request import Prepared, SweepRequest
from itd.runner.sweep import SweepReport, open_writer, sweep
from itd.space import Space
from itd.training.data import training_images
from itd.training.trainer import has_folded_bn

BatchNorm = nn.modules.batchnorm._BatchNorm
Statistics = list[tuple[Tensor, Tensor]]
"""(mean, variance) of each normalisation, in the order of the network's modules."""


@dataclass(frozen=True)
class RecalibrateRequest:
    """What `itd recalibrate` takes.

    sweep: the space and the validation images. data: training images, a folder per class; for the digits their training
    split. images: how many of them, drawn at random. seed: of the draw.
    """

    sweep: SweepRequest
    data: str | None = None
    images: int = 256
    seed: int = 0


class RecalibratedExecutor:
    """Runs a space with statistics of each configuration's own; each is estimated when it is first needed.

    pixels: (M, 3, H, W) float32, what the statistics are of. batch_size: of the estimation; every batch counts alike,
    so it has to divide M.
    """

    def __init__(
        self, model: DynamicModel, space: Space, pixels: Tensor, *, batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.device, self.space, self.batch_size = torch.device(device), space, batch_size
        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).eval()
        self.norms = [m for m in self.model.modules() if isinstance(m, BatchNorm)]
        self.pixels = pixels
        self._statistics: dict[int, Statistics] = {}

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Every configuration, or those given, on every image. pixels: (N, 3, H, W) float32."""
        pixels = self._to(pixels)
        images = np.arange(pixels.shape[0])
        with torch.inference_mode():
            for number in range(len(self.space)) if configs is None else configs:
                with self.model.configured(self.space.configs[number]):
                    if number not in self._statistics:
                        self._statistics[number] = self._estimate()
                    for norm, (mean, variance) in zip(self.norms, self._statistics[number], strict=True):
                        norm.running_mean, norm.running_var = mean, variance
                    logits = self.model(pixels)
                sink(np.full(len(images), number), images, logits)

    def _estimate(self) -> Statistics:
        """The statistics of the configuration that is set."""
        before = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)  # type: ignore[arg-type]
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
            norm.momentum = None  # the plain mean over batches
            norm.train()
        for part in self.pixels.split(self.batch_size):
            self.model(self._to(part))
        for norm, momentum in zip(self.norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()
        return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in self.norms]  # type: ignore[union-attr]

    def _to(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device, memory_format=torch.channels_last)


def recalibrate(
    request: RecalibrateRequest,
    *,
    on_start: Callable[[Prepared, int, int], Callable[[int], Any] | None] | None = None,
    quiet: bool = False,
) -> SweepReport:
    """Sweeps the validation images with statistics re-estimated for each configuration, into a result of its own.

    on_start, quiet: as of `itd.api.sweep`. The same request again finishes what is missing. Raises ModelError for a
    network without batch normalisation, or one whose normalisation is folded into its convolutions.
    """
    prepared = prepare_sweep(request.sweep, quiet=quiet)
    if not any(isinstance(m, BatchNorm) for m in prepared.model.modules()):
        raise ModelError(f"{request.sweep.model} has no batch normalisation, so there is nothing to re-estimate")
    if has_folded_bn(prepared.model):
        raise ModelError(
            f"weights {prepared.weights_label} have their batch normalisation folded into the convolutions, so there "
            "is nothing to re-estimate; give weights that are not folded"
        )
    pixels, digest = _pixels(request, prepared)
    identity = {
        **prepared.identity,
        "recalibration": {"data": digest, "images": len(pixels), "seed": request.seed},
    }
    out = request.sweep.out or f"{prepared.out.removesuffix('.parquet')}-recalibrated.parquet"
    prepared = replace(prepared, identity=identity, out=out)
    writer = open_writer(prepared)
    todo = sum(len(unit) for unit in writer.todo(request.sweep.shard))
    progress = on_start(prepared, writer.done_images, todo) if on_start else None
    executor = RecalibratedExecutor(
        prepared.model, prepared.space, pixels, batch_size=batch_of(len(pixels)), device=prepared.device
    )
    return sweep(prepared, writer, progress, executor=executor)


def batch_of(images: int, most: int = 64) -> int:
    """The largest batch size of at most `most` that divides the images.

    >>> batch_of(256), batch_of(90)
    (64, 45)
    """
    return max(size for size in range(1, most + 1) if images % size == 0)


def _pixels(request: RecalibrateRequest, prepared: Prepared) -> tuple[Tensor, str]:
    """(M, 3, H, W) of the images that the statistics are of, and the fingerprint of their data set."""
    images = _images(request, prepared)
    if request.images < 2:
        raise DataError(f"--images {request.images} is not enough for a variance; give at least 2")
    chosen = np.random.default_rng(request.seed).permutation(len(images))[: request.images]
    if len(chosen) < 2:
        raise DataError(f"{images.source} has {len(images)} images; statistics need at least 2")
    order = np.sort(chosen).astype(np.int32)
    loaded = list(batches(images, order, prepared.preprocess, batch_size=64, workers=request.sweep.workers))
    return torch.cat([batch.pixels for batch in loaded]), images.fingerprint()


def _images(request: RecalibrateRequest, prepared: Prepared) -> ImageSet:
    data = request.data or (DIGITS if is_digits(asked_data(request.sweep.data)) else None)
    if data is None:
        raise DataError("nothing says which images to re-estimate the statistics on; give --data DIR, training images")
    return training_images(
        data,
        num_classes=request.sweep.num_classes,
        weights_classes=prepared.num_classes,
        classes_file=request.sweep.classes_file,
    )
