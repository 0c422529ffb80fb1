"""What a network achieves on labelled images: top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itd.analysis.sampling import wilson
from itd.data.images import ImageSet, select
from itd.data.loader import batches
from itd.data.open import data_source, open_images
from itd.data.preprocess import Preprocess, PreprocessChanges
from itd.data.subset import ALL, class_subset, kept_mask
from itd.device import Halves, resolve_device
from itd.engine.precision import Precision
from itd.errors import ItdError, NotFiniteError
from itd.patcher import logits_of
from itd.patcher.names import canonical_name
from itd.patcher.registry import layout_of
from itd.runner.scores import score
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.resolve import resolve
from itd.weights.state import warn_assumed


@dataclass(frozen=True)
class EvaluateRequest(PreprocessChanges):
    """An evaluation as it is typed; None is the default.

    model: as of `SweepRequest`, or one of `itd models --learned`. weights, data, num_classes, classes_file,
    labels_file, device, precision, workers: as of `SweepRequest`.
    limit: so many images, of as many classes as can be. class_subset: as of `SweepRequest`. batch_size: images at
    once. Others, by keyword: as of `PreprocessChanges`.
    """

    model: str = "cifar-resnet18"
    weights: str | None = None
    data: str | None = None
    num_classes: int | None = None
    classes_file: str | None = None
    labels_file: str | None = None
    limit: int | None = None
    class_subset: str = ALL
    batch_size: int = 64
    device: str | None = None
    precision: str = "fp32"
    workers: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What a network achieves. top1, top5: shares of the n images, top5 None for fewer than six classes."""

    model: str
    weights: str
    n: int
    top1: float
    top5: float | None

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of top1: how sure it is for the n images, not for other seeds of the training."""
        share = wilson(round(self.top1 * self.n), self.n)
        return share.low, share.high

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.__dict__, "top1_interval": list(self.top1_interval)}


def evaluate(
    request: EvaluateRequest,
    *,
    on_start: Callable[[int], Callable[[int], Any]] | None = None,
    on_prepare: OnPrepare | None = draw_bar,
) -> Evaluation:
    """Top-1 and top-5 of a network, in evaluation mode, on labelled images.

    on_start: called with the number of images; returns what is called with how many were just evaluated. on_prepare:
    as of `itd.sweep`; None shows nothing. Raises ItdError for anything that cannot be; NotFiniteError, naming the
    image, for a logit that is not finite.

    >>> evaluate(EvaluateRequest("resnet18", "none", "digits", limit=2)).n
    2
    """
    if not isinstance(request, EvaluateRequest):
        raise ItdError(f"evaluate takes an EvaluateRequest, given {type(request).__name__}")
    select(np.zeros(1, np.int16), limit=request.limit)
    data, device = data_source(request.data), resolve_device(request.device)
    weights = resolve(
        request.model, request.weights, data=data, num_classes=request.num_classes, device=device,
        on_prepare=on_prepare, size_px=request.size_px,
    )  # fmt: skip
    preprocess, network = request.preprocess_from(weights.preprocess), weights.network()
    warn_assumed(request, weights)
    images = open_images(
        data,
        num_classes=request.num_classes,
        weights_classes=weights.num_classes,
        classes_file=request.classes_file,
        labels_file=request.labels_file,
    )
    subset = class_subset(request.class_subset, images)
    samples = select(images.labels, limit=request.limit)
    rank = label_ranks(
        network.to(device), images, samples, preprocess, device, batch_size=request.batch_size,
        precision=request.precision, workers=request.workers, progress=on_start(len(samples)) if on_start else None,
        kept=kept_mask(subset, weights.num_classes), layout=layout_of(request.model),
    )  # fmt: skip
    classes = weights.num_classes if subset is None else len(subset)
    top5 = float((rank < 5).mean()) if classes > 5 else None
    return Evaluation(canonical_name(request.model), weights.label, len(rank), float((rank == 0).mean()), top5)


def label_ranks(
    model: nn.Module,
    images: ImageSet,
    samples: Sequence[int] | np.ndarray,
    preprocess: Preprocess,
    device: torch.device,
    *,
    batch_size: int = 64,
    precision: str = "fp32",
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
    kept: np.ndarray | None = None,
    layout: torch.memory_format = torch.channels_last,
) -> np.ndarray:
    """The label's rank (`itd.runner.scores.score`) for these samples: (n,), 0 where the network is right.

    model: on the device; it is left in evaluation mode, channels-last and of the precision. progress: told how many
    images were just tested. kept: (K,) bool, as of `score`. Raises NotFiniteError, naming the image, for a logit that
    is not finite.
    """
    kind = Precision(precision, str(device))
    model.eval().to(kind.dtype).to(memory_format=layout)
    ranks, halves = [], Halves(device)
    for batch in batches(images, np.array(samples, dtype=np.int32), preprocess, batch_size=batch_size, workers=workers):

        def logits_at(rows: slice, pixels: Tensor = batch.pixels) -> Tensor:
            some = pixels[rows].to(device, kind.dtype, memory_format=layout)
            return logits_of(model(some)).float().cpu()

        with torch.inference_mode(), kind.flags():
            logits = torch.cat(halves.run(len(batch), logits_at))
        scores = score(logits, torch.from_numpy(batch.labels), None if kept is None else torch.from_numpy(kept))
        if not bool(scores.finite.all()):
            sample = int(batch.samples[int((~scores.finite).nonzero()[0])])
            raise NotFiniteError(
                f"image {sample}, {images.names[sample]}: a logit is not finite; test with `precision=fp32`, or train "
                "again with a smaller `lr`"
            )
        ranks.append(scores.rank.numpy())
        if progress is not None:
            progress(len(batch))
    return np.concatenate(ranks)
