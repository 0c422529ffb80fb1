"""Batch normalisation re-estimated for each configuration: how much of the volatility is only its statistics?

Nothing is trained and no label is read: for each configuration the running mean and variance of every normalisation are
those of some training images, then the validation images are swept with them. The ITD paper has no such experiment;
slimmable networks recalibrate in this way (Yu and Huang, Universally Slimmable Networks, 2019, section 3.3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from itd.data.digits import DIGITS
from itd.data.images import ImageSet
from itd.data.loader import batches
from itd.data.open import data_source, is_digits
from itd.data.preprocess import Preprocess
from itd.device import Halves, current, is_out_of_memory, moved
from itd.engine.executor import Sink
from itd.engine.precision import Precision
from itd.errors import DataError, ItdError, MemoryShortageError, ModelError
from itd.patcher import DynamicModel, logits_of
from itd.patcher.registry import layout_of
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions
from itd.runner.precision import settled
from itd.runner.request import SweepRequest
from itd.runner.run import OnStart, SweepReport, run_job
from itd.space import Space
from itd.text import first_line
from itd.training.data import training_images
from itd.training.trainer import has_folded_bn
from itd.weights.prepare import OnPrepare, draw_bar

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

    Args:
        model: what `itd.patch` returned.
        space: the configurations.
        pixels: (M, C, H, W) float32, what the statistics are of.
        batch_size: of the estimation; every batch counts alike, so it has to divide M.
        device: where it runs.
        precision: of weights and activations; the statistics are estimated in float32 whatever it is.
        layout: of weights and images in memory, as of `itd.patcher.registry.layout_of`.
    """

    def __init__(
        self,
        model: DynamicModel,
        space: Space,
        pixels: Tensor,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.device, self.space, self.batch_size = torch.device(device), space, batch_size
        self.precision = precision or Precision()
        self.layout = layout
        self.exact = copy.deepcopy(model).to(self.device).to(memory_format=layout).eval()
        whole = self.precision.dtype == torch.float32
        self.model = self.exact if whole else copy.deepcopy(self.exact).to(self.precision.dtype)
        self.pixels = pixels
        self._statistics: dict[int, Statistics] = {}

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Every configuration, or those given, on every image. pixels: (N, C, H, W) float32."""
        images, halves = np.arange(len(pixels)), Halves(self.device)
        with torch.inference_mode(), self.precision.flags():
            pixels = moved(pixels, self.device, self.precision.dtype, memory_format=self.layout)
            for number in range(len(self.space)) if configs is None else configs:
                if number not in self._statistics:
                    self._statistics[number] = self._estimate(number)
                for norm, (mean, variance) in zip(norms_of(self.model), self._statistics[number], strict=True):
                    norm.running_mean, norm.running_var = mean, variance
                halves.run(len(images), partial(self._run_some, number, pixels, images, sink))

    def _run_some(self, number: int, pixels: Tensor, images: np.ndarray, sink: Sink, rows: slice) -> None:
        """One configuration, with its statistics in the network, on some rows of the images."""
        some = pixels[rows].to(self.device, self.precision.dtype, memory_format=self.layout)
        with self.model.configured(self.space.configs[number]):
            logits = logits_of(self.model(some))
        sink(np.full(len(some), number), images[rows], logits)

    def _estimate(self, number: int) -> Statistics:
        """The statistics of a configuration, in the precision of the run."""
        norms = norms_of(self.exact)
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)  # type: ignore[arg-type]
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
            norm.momentum = None  # the plain mean over batches
            norm.train()
        with self.exact.configured(self.space.configs[number]):
            for part in self.pixels.split(self.batch_size):
                try:
                    self.exact(self._to(part))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise self._shortage(error) from error
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()
        dtype = self.precision.dtype
        return [(norm.running_mean.to(dtype).clone(), norm.running_var.to(dtype).clone()) for norm in norms]  # type: ignore[union-attr]

    def _shortage(self, error: BaseException) -> MemoryShortageError:
        """Of a batch that statistics are estimated on, which is part of what they are: half of it has others."""
        return MemoryShortageError(
            f"out of memory on {self.device} with the {self.batch_size} images that statistics are estimated on at "
            f"once ({first_line(error, 80)}); give fewer `images`, of which the largest divisor up to 64 is run at "
            "once, or a smaller `crop_px`; what was written before is kept"
        )

    def _to(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device, memory_format=self.layout)


def norms_of(model: nn.Module) -> list[BatchNorm]:
    """The batch normalisations of a network, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def recalibrate(
    request: RecalibrateRequest,
    *,
    on_start: OnStart | None = None,
    on_prepare: OnPrepare = draw_bar,
    quiet: bool = False,
) -> SweepReport:
    """Sweeps the validation images with statistics re-estimated for each configuration, into a result of its own.

    on_start, on_prepare, quiet: as of `itd.sweep`. The same request again finishes what is missing. Raises ModelError
    for a network without batch normalisation, or one whose normalisation is folded into its convolutions.
    """
    if not isinstance(request, RecalibrateRequest):
        raise ItdError(f"recalibrate takes a RecalibrateRequest, given {type(request).__name__}")
    out = request.sweep.out or f"{request.sweep.out_path().removesuffix('.parquet')}-recalibrated.parquet"
    options = RunOptions.of(request.sweep, out=out)
    job = request.sweep.job(on_prepare=None if quiet else on_prepare)
    if not norms_of(job.model):
        raise ModelError(f"{job.name} has no batch normalisation, so there is nothing to re-estimate")
    if has_folded_bn(job.model):
        raise ModelError(
            f"weights {job.weights_label} have their batch normalisation folded into the convolutions, so there is "
            "nothing to re-estimate; give weights that are not folded"
        )
    pixels, digest = _pixels(request, job)
    identity = {"recalibration": {"data": digest, "images": len(pixels), "seed": request.seed}}
    options = settled(job, options, identity=identity)
    with current(options.device):
        return run_job(
            job,
            options,
            lambda: RecalibratedExecutor(
                job.model,
                job.space,
                pixels,
                batch_size=batch_of(len(pixels)),
                device=options.device,
                precision=options.precision,
                layout=layout_of(job.name),
            ),
            identity=identity,
            on_start=on_start,
        )


def batch_of(images: int, most: int = 64) -> int:
    """The largest batch size of at most `most` that divides the images.

    >>> batch_of(256), batch_of(90)
    (64, 45)
    """
    return max(size for size in range(1, most + 1) if images % size == 0)


def _pixels(request: RecalibrateRequest, job: SweepJob) -> tuple[Tensor, str]:
    """(M, 3, H, W) of the images that the statistics are of, and the fingerprint of their data set."""
    images = _images(request, job)
    if request.images < 2:
        raise DataError(f"`images={request.images}` is not enough for a variance; give at least 2")
    chosen = np.random.default_rng(request.seed).permutation(len(images))[: request.images]
    if len(chosen) < 2:
        raise DataError(f"{images.source} has {len(images)} images; statistics need at least 2")
    order = np.sort(chosen).astype(np.int32)
    preprocess = job.images.pixels.preprocess
    assert isinstance(preprocess, Preprocess)  # a request's always is
    loaded = list(batches(images, order, preprocess, batch_size=64, workers=request.sweep.workers or 0))
    return torch.cat([batch.pixels for batch in loaded]), images.fingerprint()


def _images(request: RecalibrateRequest, job: SweepJob) -> ImageSet:
    data = request.data or (DIGITS if is_digits(data_source(request.sweep.data)) else None)
    if data is None:
        raise DataError("nothing says which images to re-estimate the statistics on; give `data=DIR`, training images")
    return training_images(
        data,
        num_classes=request.sweep.num_classes,
        weights_classes=job.num_classes,
        classes_file=request.sweep.classes_file,
    )
