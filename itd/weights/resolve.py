"""Which weights are meant: those of a name or, for the embedded digits and no name, those trained once on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from itd.data.open import is_digits
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.device import resolve_device
from itd.errors import ModelError
from itd.patcher.names import is_factory
from itd.weights.digits import digits_file, is_whole, train_on_digits
from itd.weights.load import NONE, Weights, load_weights, plan_weights
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.state import NOT_TRAINED, random_weights

DIGITS_CLASSES = 10


def resolve(
    model_name: str,
    weights: str | Path | None = None,
    *,
    data: str = "",
    num_classes: int | None = None,
    device: Any = None,
    only_plan: bool = False,
    on_prepare: OnPrepare | None = draw_bar,
    skeleton: nn.Module | None = None,
    size_px: tuple[int | None, int | None] = (None, None),
) -> Weights:
    """The weights of a network, for some data.

    Args:
        model_name: as of `load_weights`.
        weights: as of `load_weights`; None is torchvision's IMAGENET1K_V1 or timm's own, for the digits those trained
            on them; of FILE.py:NAME and package.module:NAME it is always what they were built with.
        data: what the images are called (`itd.data.open.data_source`); of it only whether they are the digits is asked.
        num_classes: what the user says; None is the weights' own.
        device: where a network is trained on the digits.
        only_plan: nothing is trained or fetched; weights that are not there stay random (`Weights.pending`).
        on_prepare: shows that weights are trained or fetched; None shows nothing.
        skeleton, size_px: as of `load_weights`.

    Raises:
        ModelError: for weights that are not there, cannot be read, or are for other classes.
    """
    digits = is_digits(data)
    if digits and is_factory(model_name):
        return _factory_on_digits(model_name, weights, num_classes, skeleton, size_px)
    classes = num_classes or (DIGITS_CLASSES if digits else None)
    if only_plan and digits and weights is None:
        path = digits_file(model_name)
        if path.exists() and is_whole(path):
            return load_weights(model_name, path, num_classes=classes, skeleton=skeleton)
        random = random_weights(model_name, classes, DIGITS_PREPROCESS)
        return replace(random, label=path.name, pending=NOT_TRAINED)
    if only_plan:
        return plan_weights(model_name, weights, num_classes=classes, digits=digits, skeleton=skeleton, size_px=size_px)
    name = weights_name(model_name, weights, data=data, device=device, on_prepare=on_prepare)
    loaded = load_weights(
        model_name, name, num_classes=classes, skeleton=skeleton, on_prepare=on_prepare, size_px=size_px
    )
    return replace(loaded, preprocess=DIGITS_PREPROCESS) if digits and name == NONE else loaded


def _factory_on_digits(
    model_name: str,
    weights: str | Path | None,
    num_classes: int | None,
    skeleton: nn.Module | None,
    size_px: tuple[int | None, int | None],
) -> Weights:
    """A factory's network for the digits: as it was built, for what it was built with may be its weights."""
    own = weights not in (None, NONE)
    crop_px = size_px[1] if own or size_px[1] is not None else DIGITS_PREPROCESS.crop_px
    loaded = load_weights(
        model_name, weights, num_classes=num_classes, skeleton=skeleton, size_px=(size_px[0], crop_px)
    )
    if loaded.num_classes != DIGITS_CLASSES:
        raise ModelError(
            f"{loaded.model_name} gives {loaded.num_classes} logits, and the embedded digits have {DIGITS_CLASSES} "
            "classes; give `data=DIR`, images of its classes, and `weights=FILE` where it is built without its weights"
        )
    return loaded if own else replace(loaded, preprocess=DIGITS_PREPROCESS, assumed=False)


def weights_name(
    model_name: str,
    weights: str | Path | None,
    *,
    data: str,
    device: Any = None,
    on_prepare: OnPrepare | None = draw_bar,
) -> str | None:
    """What `load_weights` takes: the name as given, or, for the digits and none given, the file of those trained."""
    if weights is not None or not is_digits(data) or is_factory(model_name):
        return None if weights is None else str(weights)
    return str(train_on_digits(model_name, device=resolve_device(device), on_prepare=on_prepare))
