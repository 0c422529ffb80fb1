"""Random-option fine-tuning: each batch trains a configuration drawn at random (ITD paper, section 3.4, appendix)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.data.images import ImageSet
from itd.data.open import data_source
from itd.data.preprocess import CHANGEABLE, PreprocessChanges
from itd.device import resolve_device
from itd.errors import ItdError, ModelError
from itd.patcher import Conventions, DynamicModel, logits_of, patch
from itd.patcher.names import canonical_name, model_slug
from itd.patcher.registry import layout_of
from itd.runner.request import SweepRequest
from itd.space import Space
from itd.training.data import TrainingSet, augmentation, random_seed, training_images
from itd.training.run_files import RunFiles, disk_errors, finished, publish, weights_path
from itd.training.schedule import Schedule
from itd.training.trainer import LossTerm, Objective, has_folded_bn, run_training
from itd.weights.load import Weights, load_weights, skeleton_of
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.resolve import resolve, weights_name
from itd.weights.state import warn_assumed

ROF_KEY = "itd.rof"
"""In the .safetensors header: how the weights were made, as JSON."""


@dataclass(frozen=True)
class RofRequest(PreprocessChanges):
    """What `itd rof` takes. Texts are as typed; None is the default.

    model, attributes, sites, options, conventions, stride_range, classes_file, num_classes, weights: as of
    `SweepRequest`. data, labels_file: the training images; default $ITD_DATA, else the digits. epoch_images:
    of each epoch, None all. schedule: how it is trained. per_sample: so many configurations in each batch, one for each
    part of it. distill: the default configuration learns from the labels and the drawn one from the default's outputs.
    out: the weights, which keep the preprocessing. Others, by keyword: as of `PreprocessChanges`.
    """

    model: str = "resnet50"
    attributes: str = "stride"
    sites: str | None = None
    options: tuple[str, ...] = ()
    conventions: Conventions = field(default_factory=Conventions)
    stride_range: tuple[int, int] = (4, 288)
    data: str | None = None
    classes_file: str | None = None
    labels_file: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    epoch_images: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    per_sample: int = 1
    distill: bool = False
    device: str | None = None
    workers: int = 0
    out: str | None = None

    def sweep(self, **changed: Any) -> SweepRequest:
        """The sweep of the same space."""
        names = (
            *("model", "attributes", "sites", "options", "conventions", "stride_range"),
            *("classes_file", "num_classes", "crop_fraction", *CHANGEABLE),
        )
        return replace(SweepRequest(**{n: getattr(self, n) for n in names}, device=self.device), **changed)

    def out_path(self) -> Path:
        """Where the weights go.

        >>> str(RofRequest().out_path())
        'rof/resnet50-stride.safetensors'
        """
        return weights_path(self.out or f"rof/{model_slug(self.model)}-{self.attributes.replace(',', '+')}.safetensors")


@dataclass(frozen=True)
class RofReport:
    """What a run did. already: it was there before. before: the weights that it began with, as `--weights` takes it."""

    out: str
    before: str | None
    sha256: str
    epochs: int
    steps: int
    configs: int
    already: bool


def rof(
    request: RofRequest,
    *,
    on_start: Callable[[int], Callable[[int, float], Any] | None] | None = None,
    on_prepare: OnPrepare = draw_bar,
    quiet: bool = False,
) -> RofReport:
    """Fine-tunes a network so that it bears any configuration of a space, and writes a plain torchvision state dict.

    The same request again goes on after the last whole epoch, or says that it is done.

    Args:
        request: what is trained, on what and how.
        on_start: called with the number of steps; returns what is called with (steps done, loss).
        on_prepare, quiet: as of `itd.sweep`.

    Raises:
        ItdError: for anything that cannot be, a loss that is not finite, and a checkpoint of another run.
    """
    if not isinstance(request, RofRequest):
        raise ItdError(f"rof takes a RofRequest, given {type(request).__name__}")
    data, files = data_source(request.data), RunFiles(request.out_path())
    if not 1 <= request.per_sample <= request.schedule.batch_size:
        raise ItdError(f"`per_sample={request.per_sample}` is not allowed; give 1 to the batch size")
    device = resolve_device(request.device)
    space, weights, before = space_and_weights(request, data, device, None if quiet else on_prepare)
    images = training_images(
        data,
        num_classes=request.num_classes,
        weights_classes=weights.num_classes,
        classes_file=request.classes_file,
        labels_file=request.labels_file,
    )
    model = request.sweep().patched(weights)
    _check_bn(request, model, weights)
    warn_assumed(request, weights)
    training = TrainingSet(images, augmentation(data, weights.preprocess), request.schedule.seed, request.epoch_images)
    steps = request.schedule.epochs * training.steps(request.schedule.batch_size)
    identity = rof_identity(request, space, images, weights)
    with disk_errors(files.out):
        files.out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(files, identity, request.schedule)
    if not done:
        objective = rof_objective(model, space, request)
        run_training(
            model, training, request.schedule, objective, files, identity, device=device, workers=request.workers,
            progress=on_start(steps) if on_start else None, layout=layout_of(request.model),
        )  # fmt: skip
        if int(os.environ.get("RANK", "0")) == 0:
            publish(model, weights, files, identity, request.schedule, ROF_KEY)
    sha256 = load_weights(request.model, files.out).sha256 if files.out.exists() else ""
    return RofReport(str(files.out), before, sha256, request.schedule.epochs, steps, len(space), done)


def space_and_weights(
    request: RofRequest, data: str, device: torch.device, on_prepare: OnPrepare | None
) -> tuple[Space, Weights, str | None]:
    """The space, which is refused before any weights are made or fetched; the weights, and what they are called."""
    sweep, skeleton = request.sweep(), skeleton_of(request.model)
    sites, swept = sweep.sites_asked()
    space = sweep.space_of(patch(skeleton, sites, request.conventions), swept)
    name = weights_name(request.model, request.weights, data=data, device=device, on_prepare=on_prepare)
    weights = resolve(
        request.model, name, data=data, num_classes=request.num_classes, skeleton=skeleton, on_prepare=on_prepare,
        size_px=request.size_px,
    )  # fmt: skip
    return space, replace(weights, preprocess=request.preprocess_from(weights.preprocess)), name


def _check_bn(request: RofRequest, model: DynamicModel, weights: Weights) -> None:
    if request.schedule.bn == "train" and weights.state_dict is not None and has_folded_bn(model):
        raise ModelError(
            f"weights {weights.label} have their batch normalisation folded into the convolutions, so its statistics "
            "cannot be trained; give `bn=frozen`"
        )


def draw_configs(seed: int, step: int, configs: int, count: int = 1) -> list[int]:
    """The numbers of the configurations of a step: uniform, and the same for each process and after each resume.

    >>> draw_configs(0, 7, 361) == draw_configs(0, 7, 361)
    True
    """
    return np.random.default_rng(random_seed(seed, 1, step)).integers(0, configs, count).tolist()


def rof_objective(model: DynamicModel, space: Space, request: RofRequest) -> Objective:
    """The terms of a step's loss: cross-entropy at the drawn configurations, or distillation from the default.

    With several configurations each has its part of the batch, weighed by its size, so that the gradients add up to
    those of the batch's mean loss.
    """
    default = tuple(site.default.only(space.attributes) for site in space.sites)
    seed = request.schedule.seed

    def at(config: Sequence[Any], network: nn.Module, pixels: Tensor) -> Tensor:
        with model.configured(config):
            return logits_of(network(pixels))

    def terms(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> list[LossTerm]:
        drawn = draw_configs(seed, step, len(space), request.per_sample)
        losses: list[LossTerm] = []
        taught: dict[str, Tensor] = {}
        if request.distill:

            def teach() -> Tensor:
                logits = at(default, network, pixels)
                taught["p"] = F.softmax(logits.detach().float(), 1)
                return F.cross_entropy(logits, labels)

            losses.append(("default", teach))
        for number, chosen in zip(drawn, torch.arange(len(labels)).tensor_split(len(drawn)), strict=True):
            share = len(chosen) / len(labels)
            config, here = space.configs[number], chosen.to(labels.device)

            def learn(config: Any = config, here: Tensor = here, share: float = share) -> Tensor:
                logits = at(config, network, pixels[here])
                target = taught["p"][here] if request.distill else labels[here]
                return share * F.cross_entropy(logits, target)

            losses.append((f"{number}", learn))
        return losses

    return terms


def rof_identity(request: RofRequest, space: Space, images: ImageSet, weights: Weights) -> dict[str, Any]:
    return {
        "model": canonical_name(request.model),
        "weights_sha256": weights.sha256,
        "space": space.identity(),
        "choices": request.conventions.identity(),
        "data": images.fingerprint(),
        "preprocess": weights.preprocess.identity(),
        "limit": request.epoch_images,
        "per_sample": request.per_sample,
        "distill": request.distill,
    }
