"""What the usual transforms of torchvision and timm do, read as `Preprocess`, which results say in fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from itd.data.preprocess import INTERPOLATIONS, Preprocess
from itd.errors import DataError

SHAPES = ((40, 64), (371, 300), (256, 256))
"""(width, height) of the pictures that a transform and what was read of it are compared on."""
ROUNDING = 1e-5


def fields_of(transform: Any) -> Preprocess | None:
    """The preprocessing that a callable is, where it is torchvision's preset of some weights, or a chain of resize,
    centre crop, conversion and normalisation, as torchvision and timm make them; None for any other.

    What was read is believed only where it gives the callable's own pixels, on three pictures of noise.

    >>> from torchvision.models import ResNet50_Weights
    >>> fields_of(ResNet50_Weights.IMAGENET1K_V2.transforms()).resize_px
    232
    """
    if isinstance(transform, Preprocess):
        return transform
    try:
        read = _preset(transform) if hasattr(transform, "resize_size") else _chain(transform)
        return read if read is not None and _same(transform, read) else None
    except Exception:  # a callable of the user's may have any attributes, and fail on pictures that are not its own
        return None


def _preset(preset: Any) -> Preprocess | None:
    return _preprocess(_one(preset.resize_size), _one(preset.crop_size), preset.mean, preset.std, preset.interpolation)


def _chain(transform: Any) -> Preprocess | None:
    """Of a composition: each of its steps by the name of its class, in this order and none else."""
    steps = {type(step).__name__: step for step in transform.transforms}
    names = [name for name in steps if name not in ("ToTensor", "MaybeToTensor", "PILToTensor", "ToImage", "ToDtype",
                                                    "ConvertImageDtype")]  # fmt: skip
    if len(steps) != len(transform.transforms) or names not in (
        ["Resize", "CenterCrop", "Normalize"], ["CenterCrop", "Normalize"], ["Resize", "Normalize"]
    ):  # fmt: skip
        return None
    resize, crop, normalise = (steps.get(name) for name in ("Resize", "CenterCrop", "Normalize"))
    size = None if resize is None else _one(resize.size)
    interpolation = "bilinear" if resize is None else resize.interpolation
    return _preprocess(size, size if crop is None else _one(crop.size), normalise.mean, normalise.std, interpolation)  # type: ignore[union-attr]


def _preprocess(resize_px: Any, crop_px: Any, mean: Any, std: Any, interpolation: Any) -> Preprocess | None:
    name = str(getattr(interpolation, "value", interpolation))
    if name not in INTERPOLATIONS:
        return None
    try:
        return Preprocess(resize_px, crop_px, _numbers(mean), _numbers(std), name)  # type: ignore[arg-type]
    except DataError:
        return None


def _numbers(values: Any) -> tuple[float, ...]:
    """As they were written, also where timm keeps them as float32."""
    if isinstance(values, torch.Tensor):
        return tuple(float(f"{value:.7g}") for value in values.flatten().tolist())
    return tuple(float(value) for value in values)


def _one(size: Any) -> int:
    """The side of a size as transforms write it: 224, [224] or (224, 224)."""
    sides = {int(side) for side in (size if isinstance(size, (list, tuple)) else [size])}
    (side,) = sides
    return side


def _same(transform: Any, read: Preprocess) -> bool:
    return all(torch.allclose(transform(image), read(image), rtol=0, atol=ROUNDING) for image in _pictures())


def _pictures() -> Iterator[Image.Image]:
    for width, height in SHAPES:
        pixels = np.random.default_rng(width).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
        yield Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
