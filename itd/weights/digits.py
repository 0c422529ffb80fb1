"""Trains a torchvision network once on the embedded digits, all at one scale, and keeps the weights in a cache.

So every command works without data or network, and feature scale, which varies only at evaluation, is what is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from itd.data.cache import cache_folder
from itd.data.digits import digits_images
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.device import raise_if_memory
from itd.errors import ModelError
from itd.files import temporary, unwritable, write_atomic
from itd.patcher.names import is_timm, model_slug
from itd.patcher.registry import build_model
from itd.patcher.timm_models import timm_module
from itd.text import one_line
from itd.weights.content import content_sha256
from itd.weights.files import PREPROCESS_KEY, read_file
from itd.weights.prepare import OnPrepare, draw_bar

TRAINED_KEY = "itd.trained"
"""In the .safetensors header: how the weights were made and how accurate they are, as JSON."""
_NUM_CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW under a one-cycle learning rate, digits shifted but never scaled.

    shift_px: largest shift of a batch, in both directions. enough: accuracy on the training digits below which the
    network is trained again from the start with twice the steps, at most twice; not measured where it is 0.
    """

    steps: int = 180
    batch_size: int = 32
    lr: float = 0.002
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    shift_px: int = 4
    seed: int = 0
    enough: float = 0.95


RECIPES = {
    "mobilenet_v2": Recipe(steps=440, lr=0.003),
    "resnet50": Recipe(steps=400, lr=0.001),
}
"""Where another recipe than the default is better."""


def train_on_digits(
    model_name: str,
    *,
    device: str | torch.device = "cpu",
    on_prepare: OnPrepare | None = draw_bar,
    cache_dir: str | Path | None = None,
    recipe: Recipe | None = None,
) -> Path:
    """The .safetensors file of `model_name` trained on the embedded digits; trained now if it is not in the cache.

    model_name: torchvision's or timm/NAME. on_prepare: shows the training; None shows nothing. cache_dir: in place of
    $ITD_CACHE, or the user's cache folder. recipe: in place of the model's own. The cache goes by content: model,
    recipe, digits and torch version.

    Raises ModelError for a model that torchvision lacks or that cannot take 64 x 64 images, or a cache that cannot be
    written.
    """
    recipe = recipe or RECIPES.get(model_name, Recipe())
    path = digits_file(model_name, cache_dir=cache_dir, recipe=recipe)
    present = path.exists()
    if present and is_whole(path):
        return path
    _require_writable(path)
    if present:  # but damaged
        path.unlink(missing_ok=True)
    model = _trained(model_name, recipe, torch.device(device), on_prepare)
    facts = {
        "model": model_name,
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "accuracy_train_scale": accuracy(model, "train-scale-eval"),
        "accuracy_varying_scale": accuracy(model, "eval"),
    }
    _publish(model, facts, path)
    return path


def digits_file(model_name: str, *, cache_dir: str | Path | None = None, recipe: Recipe | None = None) -> Path:
    """Where `train_on_digits` keeps its weights, there or not. Arguments as there."""
    key = _key(model_name, recipe or RECIPES.get(model_name, Recipe()))
    return cache_folder(cache_dir) / f"digits-{model_slug(model_name)}-{key[:16]}.safetensors"


def accuracy(model: nn.Module, split: str) -> float:
    """Top-1 accuracy, as a fraction, on one split of the digits; the model stays in evaluation mode."""
    pixels, labels = _tensors(split)
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        hits = [
            (model(_to(x, device)).argmax(1).cpu() == y).sum().item()
            for x, y in zip(pixels.split(64), labels.split(64), strict=True)
        ]
    return sum(hits) / len(labels)


def _trained(model_name: str, recipe: Recipe, device: torch.device, on_prepare: OnPrepare | None) -> nn.Module:
    devices = [device] if device.type == "cuda" else []
    for _ in range(3):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(recipe.seed)
            model = build_model(model_name, _NUM_CLASSES).to(device).to(memory_format=torch.channels_last)
            _require_fit(model_name, model, device)
            what = f"training {model_name} on the embedded digits (once)"
            step_done = on_prepare(what, recipe.steps) if on_prepare else None
            _fit(model, recipe, device, step_done)
        if recipe.enough <= 0 or accuracy(model, "train") >= recipe.enough:
            break
        recipe = replace(recipe, steps=2 * recipe.steps)
    return model


def _fit(model: nn.Module, recipe: Recipe, device: torch.device, step_done: Callable[[int], object] | None) -> None:
    """Train in place for `recipe.steps` steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model.train()
    for pixels, labels in _training_batches(recipe):
        loss = loss_of(model(_to(pixels, device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step_done is not None:
            step_done(1)
    model.eval()


def _training_batches(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """`recipe.steps` batches: digits in a new order each epoch, each batch shifted by a few pixels."""
    pixels, labels = _tensors("train")
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(recipe.steps):
        if len(order) < recipe.batch_size:  # what is left of an epoch is dropped: batches are of one size
            order = torch.randperm(len(labels), generator=generator)
        chosen, order = order.split([recipe.batch_size, len(order) - recipe.batch_size])
        shift = torch.randint(-recipe.shift_px, recipe.shift_px + 1, (2,), generator=generator).tolist()
        # At 32 px there are 16 px of background on each side, so rolling moves no ink across the border.
        yield torch.roll(pixels[chosen], shift, (2, 3)), labels[chosen]


def _tensors(split: str) -> tuple[Tensor, Tensor]:
    """(pixels: (N, 3, 64, 64) float32, labels: (N,) int64), preprocessed as for evaluation."""
    images = digits_images(split)
    pixels = torch.stack([DIGITS_PREPROCESS(images.load(i)) for i in range(len(images))])
    return pixels, torch.from_numpy(images.labels).long()


def _to(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device).contiguous(memory_format=torch.channels_last)


def _require_fit(model_name: str, model: nn.Module, device: torch.device) -> None:
    """ModelError for a network that 64 x 64 images are too small for."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, 64, 64, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise_if_memory(error, device)
        raise ModelError(
            f"{model_name} cannot take the 64 x 64 images of the embedded digits ({one_line(error)}); pass `data=DIR` "
            "and `weights`, or another `model`"
        ) from error


def _key(model_name: str, recipe: Recipe) -> str:
    """SHA-256 of everything that the trained weights depend on."""
    parts = {
        "model": model_name,
        "recipe": asdict(recipe),
        "data": digits_images("train").fingerprint(),
        "preprocess": DIGITS_PREPROCESS.identity(),
        "torch": [torch.__version__, timm_module().__version__ if is_timm(model_name) else torchvision.__version__],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _require_writable(path: Path) -> None:
    """Find out before the training, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as probe:
            probe.touch()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        unwritable(f"the trained weights into {path.parent}", error, "set ITD_CACHE to a folder that can be written")
    )


def is_whole(path: Path) -> bool:
    """Whether a weights file can be read."""
    try:
        read_file(path)
    except ModelError:
        return False
    return True


def _publish(model: nn.Module, facts: dict[str, object], path: Path) -> None:
    """Write whole or not at all. The first of several processes wins, so that all go on with the same weights."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    facts = {**facts, "sha256": content_sha256(state)}
    header = {TRAINED_KEY: json.dumps(facts), PREPROCESS_KEY: json.dumps(DIGITS_PREPROCESS.identity())}
    try:
        write_atomic(path, save(state, metadata=header), exclusive=True)
    except OSError as error:
        raise _unwritable(path, error) from error
