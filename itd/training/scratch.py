"""Training a network from scratch, as the learned dynamic convolutions and what they are compared with are, alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.data.cifar import CIFAR10_PREPROCESS, cifar_of
from itd.data.images import ImageSet
from itd.data.open import data_source, is_digits, open_images
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess, PreprocessChanges
from itd.device import resolve_device
from itd.errors import DataError, ItdError
from itd.layers.models import is_learned
from itd.patcher import logits_of
from itd.patcher.names import canonical_name, model_slug
from itd.patcher.registry import layout_of
from itd.training.curve import Curve, CurvePoint
from itd.training.data import TrainingSet, augmentation, training_images
from itd.training.evaluate import label_ranks
from itd.training.run_files import RunFiles, disk_errors, finished, publish, weights_path
from itd.training.schedule import Schedule
from itd.training.trainer import Objective, run_training
from itd.weights.load import Weights, load_weights
from itd.weights.prepare import OnPrepare, draw_bar

TRAIN_KEY = "itd.train"
"""In the .safetensors header: how the weights were made, as JSON."""


@dataclass(frozen=True)
class TrainRequest(PreprocessChanges):
    """What `itd train` takes.

    model: a name of `itd models --learned`, such as cifar-resnet18+condconv, or as of `SweepRequest`. data,
    labels_file: training images. test_labels_file: of `test`. weights: to begin with; "none" for random ones. schedule:
    how it is trained. label_smoothing: share of the target that all classes have alike. epoch_images: of each epoch,
    None all. out: the weights. test: held-out images for the learning curve, every `test_every`th; they change no
    weight. Others, by keyword: as of `PreprocessChanges`, in place of what is usual for the images.
    """

    model: str = "cifar-resnet18"
    data: str | None = None
    classes_file: str | None = None
    labels_file: str | None = None
    num_classes: int | None = None
    weights: str = "none"
    schedule: Schedule = field(default_factory=lambda: Schedule(30, 0.1, shape="onecycle", weight_decay=5e-4))
    label_smoothing: float = 0.0
    epoch_images: int | None = None
    device: str | None = None
    workers: int = 0
    out: str | None = None
    test: str | None = None
    test_labels_file: str | None = None
    test_every: int = 1

    def out_path(self) -> Path:
        """Where the weights go.

        >>> str(TrainRequest("cifar-resnet18+se").out_path())
        'trained/cifar-resnet18+se.safetensors'
        """
        return weights_path(self.out or f"trained/{model_slug(self.model)}.safetensors")


@dataclass(frozen=True)
class TrainReport:
    """What a run did. already: it was there before."""

    out: str
    model: str
    epochs: int
    steps: int
    images: int
    already: bool


def train(
    request: TrainRequest,
    *,
    on_start: Callable[[int], Callable[[int, float], Any] | None] | None = None,
    on_prepare: OnPrepare | None = draw_bar,
) -> TrainReport:
    """Trains a network and writes a plain state dict with its preprocessing.

    on_start: called with the number of steps; returns what is told (steps done, loss). on_prepare: shows that weights
    are fetched; None shows nothing. The same request again goes on after the last whole epoch, or says that it is done.
    Raises ItdError for anything that cannot be, a loss that is not finite, and a checkpoint of another run.
    """
    if not isinstance(request, TrainRequest):
        raise ItdError(f"train takes a TrainRequest, given {type(request).__name__}")
    if not 0 <= request.label_smoothing < 1:
        raise ItdError(f"`label_smoothing={request.label_smoothing:g}` is not allowed; give 0 up to 1, as in 0.1")
    data = data_source(request.data)
    files, name = RunFiles(request.out_path()), request.model
    device = resolve_device(request.device)
    images = _training_images(request, data)
    weights = load_weights(name, request.weights, num_classes=images.num_classes, on_prepare=on_prepare)
    preprocess = request.preprocess_from(preprocess_of(name, data))
    training = TrainingSet(images, augmentation(data, preprocess), request.schedule.seed, request.epoch_images)
    steps = request.schedule.epochs * training.steps(request.schedule.batch_size)
    identity = _identity(request, images, weights, preprocess)
    with disk_errors(files.out):
        files.out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(files, identity, request.schedule)
    held_out = _held_out(request, images)
    if done and held_out is not None and not files.curve.exists():
        raise ItdError(
            f"{files.out} is trained already, without `test`: its curve cannot be had any more; give another `out`, or "
            "leave `test` out"
        )
    if not done:
        model = weights.network()
        test = _tester(request, held_out, Curve(files.curve), files.checkpoint.exists(), model, preprocess, device)
        run_training(
            model, training, request.schedule, cross_entropy(request.label_smoothing), files, identity, device=device,
            workers=request.workers, progress=on_start(steps) if on_start else None, on_epoch=test,
            layout=layout_of(name),
        )  # fmt: skip
        if int(os.environ.get("RANK", "0")) == 0:
            publish(model, replace(weights, preprocess=preprocess), files, identity, request.schedule, TRAIN_KEY)
    return TrainReport(str(files.out), name, request.schedule.epochs, steps, len(images), done)


def _identity(request: TrainRequest, images: ImageSet, weights: Weights, preprocess: Preprocess) -> dict[str, Any]:
    return {
        "model": canonical_name(request.model),
        "weights_sha256": weights.sha256,
        "data": images.fingerprint(),
        "preprocess": preprocess.identity(),
        "label_smoothing": request.label_smoothing,
        "limit": request.epoch_images,
    }


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """A step's loss: the mean cross-entropy of the batch."""

    def parts(
        network: nn.Module, pixels: Tensor, labels: Tensor, step: int
    ) -> Sequence[tuple[str, Callable[[], Tensor]]]:
        return [("-", lambda: F.cross_entropy(logits_of(network(pixels)), labels, label_smoothing=label_smoothing))]

    return parts


def preprocess_of(name: str, data: str) -> Preprocess:
    """What a network that is trained from scratch on these images expects."""
    if is_digits(data):
        return DIGITS_PREPROCESS
    cifar = cifar_of(data)
    if cifar is not None:
        return cifar.preprocess
    if is_learned(name) and name.startswith("cifar"):
        return CIFAR10_PREPROCESS
    return Preprocess()


def _held_out(request: TrainRequest, images: ImageSet) -> ImageSet | None:
    if request.test is None:
        if request.test_every != 1:
            raise ItdError(f"`test_every={request.test_every}` is of `test`, which is not given; give `test=DIR` too")
        return None
    held_out = open_images(
        request.test, num_classes=request.num_classes, weights_classes=images.num_classes,
        classes_file=request.classes_file, labels_file=request.test_labels_file, split="eval",
    )  # fmt: skip
    if held_out.class_names != images.class_names:
        ours, theirs = ", ".join(images.class_names[:3]), ", ".join(held_out.class_names[:3])
        raise DataError(
            f"`test={request.test}` has the classes {theirs}, ..., and `data={images.source}` {ours}, ...; give images "
            "of the classes that are trained"
        )
    if held_out.fingerprint() == images.fingerprint():
        raise DataError(f"`test={request.test}` holds the very images that are trained on; give others")
    return held_out


def _tester(
    request: TrainRequest,
    held_out: ImageSet | None,
    curve: Curve,
    resumed: bool,
    model: nn.Module,
    preprocess: Preprocess,
    device: torch.device,
) -> Callable[[int, int, float], None] | None:
    """What adds a point to the curve after an epoch, if images are held out. An old curve of another run goes."""
    of = "" if held_out is None else f"{held_out.fingerprint()[:16]}/{request.test_every}"
    if int(os.environ.get("RANK", "0")) == 0:
        curve.begin(of, resumed)
    if held_out is None:
        return None
    samples = range(0, len(held_out), request.test_every)

    def test(epochs: int, seen: int, loss: float) -> None:
        rank = label_ranks(
            model, held_out, samples, preprocess, device, workers=request.workers, layout=layout_of(request.model)
        )
        curve.add(CurvePoint(epochs, seen, loss, len(rank), float((rank == 0).mean()), of))

    return test


def _training_images(request: TrainRequest, data: str) -> ImageSet:
    return training_images(
        data, num_classes=request.num_classes, classes_file=request.classes_file, labels_file=request.labels_file,
        own_classes=True,
    )  # fmt: skip
