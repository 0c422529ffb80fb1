"""Random-option fine-tuning: each batch trains a configuration drawn at random (ITD paper, section 3.4, appendix)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd import __version__
from itd.errors import DataError, ItdError, ModelError
from itd.patcher import Choices, DynamicModel
from itd.runner.digits import digits_images
from itd.runner.images import DIGITS, ImageSet, open_images
from itd.runner.preprocess import DIGITS_PREPROCESS
from itd.runner.request import SweepRequest, patched_model, request_space
from itd.runner.weights import NONE, Weights, apply_weights, content_sha256, load_weights
from itd.runner.weights_file import PREPROCESS_KEY
from itd.space import Space
from itd.training.data import Augment, TrainingSet, random_seed
from itd.training.trainer import Objective, Part, RunFiles, Schedule, has_folded_bn, train

DIGITS_SHIFT_PX = 4
ROF_KEY = "itd.rof"
"""In the .safetensors header: how the weights were made, as JSON."""


@dataclass(frozen=True)
class RofRequest:
    """What `itd rof` takes. Texts are as typed; None is the default.

    model, attributes, sites, options, choices, stride_range, classes_file, num_classes, weights: as of `SweepRequest`.
    data: the training images, a folder per class; default $ITD_DATA, else the digits. limit: images of each epoch.
    schedule: how it is trained. per_sample: so many configurations in each batch, one for each part of it. distill: the
    default configuration learns from the labels and the drawn one from the default's outputs. out: the weights.
    """

    model: str = "resnet50"
    attributes: str = "stride"
    sites: str | None = None
    options: tuple[str, ...] = ()
    choices: Choices = field(default_factory=Choices)
    stride_range: tuple[int, int] = (4, 288)
    data: str | None = None
    classes_file: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    limit: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    per_sample: int = 1
    distill: bool = False
    device: str | None = None
    workers: int = 0
    out: str | None = None

    def sweep(self, **changed: Any) -> SweepRequest:
        """The sweep of the same space."""
        names = ("model", "attributes", "sites", "options", "choices", "stride_range", "classes_file", "num_classes")
        return replace(SweepRequest(**{n: getattr(self, n) for n in names}, device=self.device), **changed)

    def out_path(self) -> Path:
        """Where the weights go.

        >>> str(RofRequest().out_path())
        'rof/resnet50-stride.safetensors'
        """
        path = Path(self.out or f"rof/{self.model}-{self.attributes.replace(',', '+')}.safetensors")
        if path.suffix != ".safetensors":
            raise ItdError(f"--out {path} is not a name for weights; it must end in .safetensors")
        return path


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
    quiet: bool = False,
) -> RofReport:
    """Fine-tunes a network so that it bears any configuration of a space, and writes a plain torchvision state dict.

    on_start: called with the number of steps; returns what is told (steps done, loss). quiet: no bar while the network
    is trained on the digits first. The same request again goes on after the last whole epoch, or says that it is done.

    Raises ItdError for anything that cannot be, a loss that is not finite, and a checkpoint of another run.
    """
    data = request.data or os.environ.get("ITD_DATA") or DIGITS
    files = RunFiles(request.out_path())
    if not 1 <= request.per_sample <= request.schedule.batch_size:
        raise ItdError(f"--per-sample {request.per_sample} is not allowed; give 1 to the batch size")
    device = request.sweep().checked_device()
    request_space(request.sweep(), *patched_model(request.sweep(), 10))
    weights, named = _weights(request, data, quiet)
    images = _images(request, data, weights)
    model, swept, own = patched_model(request.sweep(), weights.num_classes)
    apply_weights(model, weights)
    if request.schedule.bn == "train" and weights.state_dict is not None and has_folded_bn(model):
        raise ModelError(
            f"weights {weights.label} have their batch normalisation folded into the convolutions, so its statistics "
            "cannot be trained; give --bn frozen"
        )
    space = request_space(request.sweep(), model, swept, own)
    training = TrainingSet(images, _augment(data, weights), request.schedule.seed, request.limit)
    steps = request.schedule.epochs * training.steps(request.schedule.batch_size)
    identity = _identity(request, space, images, weights)
    files.out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(files, identity, request.schedule)
    if not done:
        objective = rof_objective(model, space, request)
        train(
            model, training, request.schedule, objective, files, identity, device=device, workers=request.workers,
            progress=on_start(steps) if on_start else None,
        )  # fmt: skip
        if int(os.environ.get("RANK", "0")) == 0:
            publish(model, weights, files, identity, request.schedule)
    sha256 = load_weights(request.model, files.out).sha256 if files.out.exists() else ""
    return RofReport(str(files.out), named, sha256, request.schedule.epochs, steps, len(space), done)


def draw_configs(seed: int, step: int, configs: int, count: int = 1) -> list[int]:
    """The numbers of the configurations of a step: uniform, and the same for each process and after each resume.

    >>> draw_configs(0, 7, 361) == draw_configs(0, 7, 361)
    True
    """
    return np.random.default_rng(random_seed(seed, 1, step)).integers(0, configs, count).tolist()


def rof_objective(model: DynamicModel, space: Space, request: RofRequest) -> Objective:
    """The parts of a step's loss: cross-entropy at the drawn configurations, or distillation from the default.

    With several configurations each has its part of the batch, weighed by its size, so that the gradients add up to
    those of the batch's mean loss.
    """
    default = tuple(site.default.only(space.attributes) for site in space.sites)
    seed = request.schedule.seed

    def at(config: Sequence[Any], network: nn.Module, pixels: Tensor) -> Tensor:
        with model.configured(config):
            return network(pixels)

    def parts(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> list[Part]:
        drawn = draw_configs(seed, step, len(space), request.per_sample)
        found: list[Part] = []
        taught: dict[str, Tensor] = {}
        if request.distill:

            def teach() -> Tensor:
                logits = at(default, network, pixels)
                taught["p"] = F.softmax(logits.detach().float(), 1)
                return F.cross_entropy(logits, labels)

            found.append(("default", teach))
        for number, chosen in zip(drawn, torch.arange(len(labels)).tensor_split(len(drawn)), strict=True):
            share = len(chosen) / len(labels)
            config, here = space.configs[number], chosen.to(labels.device)

            def learn(config: Any = config, here: Tensor = here, share: float = share) -> Tensor:
                logits = at(config, network, pixels[here])
                target = taught["p"][here] if request.distill else labels[here]
                return share * F.cross_entropy(logits, target)

            found.append((f"{number}", learn))
        return found

    return parts


def _weights(request: RofRequest, data: str, quiet: bool) -> tuple[Weights, str | None]:
    """The weights to begin with, and how `--weights` names them."""
    named = request.weights
    digits = data == DIGITS
    if digits and named is None:
        from itd.training.digits import train_on_digits

        named = str(train_on_digits(request.model, device=request.sweep().checked_device(), progress=not quiet))
    weights = load_weights(request.model, named, num_classes=request.num_classes or (10 if digits else None))
    return (replace(weights, preprocess=DIGITS_PREPROCESS) if digits and named == NONE else weights), named


def _images(request: RofRequest, data: str, weights: Weights) -> ImageSet:
    if data == DIGITS:
        return digits_images("train")
    return open_images(
        data, num_classes=request.num_classes, weights_classes=weights.num_classes, classes_file=request.classes_file
    )


def _augment(data: str, weights: Weights) -> Augment:
    return Augment(weights.preprocess, DIGITS_SHIFT_PX if data == DIGITS else None)


def _identity(request: RofRequest, space: Space, images: ImageSet, weights: Weights) -> dict[str, Any]:
    return {
        "model": request.model,
        "weights_sha256": weights.sha256,
        "space": space.identity(),
        "choices": request.choices.identity(),
        "data": images.fingerprint(),
        "preprocess": weights.preprocess.identity(),
        "limit": request.limit,
        "per_sample": request.per_sample,
        "distill": request.distill,
    }


def finished(files: RunFiles, identity: dict[str, Any], schedule: Schedule) -> bool:
    """Whether the weights of this run are there; DataError where those of another one are."""
    if not files.out.exists() or files.checkpoint.exists():
        return False
    try:
        told = json.loads(files.sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    wanted = json.loads(json.dumps({"identity": identity, "schedule": asdict(schedule)}))
    if {name: told.get(name) for name in wanted} == wanted:
        return True
    raise DataError(f"{files.out} is there already and is of another run; give another --out, or move it away")


def publish(
    model: nn.Module,
    weights: Weights,
    files: RunFiles,
    identity: dict[str, Any],
    schedule: Schedule,
    key: str = ROF_KEY,
) -> None:
    """Writes the weights and how they were made; then the checkpoint is no longer needed. key: of the header."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    told = {
        "identity": identity,
        "schedule": asdict(schedule),
        "began_with": weights.label,
        "sha256": content_sha256(state),
        "itd": __version__,
        "torch": torch.__version__,
    }
    header = {key: json.dumps(told), PREPROCESS_KEY: json.dumps(weights.preprocess.identity())}
    temporary = files.out.with_name(f".{files.out.name}.{os.getpid()}.tmp")
    try:
        save_file(state, temporary, metadata=header)
        files.sidecar.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, files.out)
        files.checkpoint.unlink(missing_ok=True)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write {files.out}: {error.strerror or error}; free some space") from error
