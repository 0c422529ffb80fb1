"""From a PIL image to a network's input: resize, crop, normalise. Not for augmentation, nor for reading files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from itd.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before the network sees it; the default is torchvision's for its V1 ImageNet weights.

    resize_px: length of the shorter side after resizing (None: not resized). crop_px: side of the square cut from the
    centre. mean, std: per channel, of values in 0 to 1. interpolation: bilinear, bicubic or nearest, with PIL's filter.

    The two variations of the preference studies (ITD paper, section 4.5), at most one of them: both sides are resized
    to resize_px, whatever the image's shape. scale: the crop is then resized by this factor, so that every scale shows
    the same content. context_px: the centre is cropped to this many pixels in place of crop_px.

    Raises DataError where the crop is larger than the resized image, and for a variation that cannot be.

    >>> Preprocess()(Image.new("RGB", (300, 500))).shape
    torch.Size([3, 224, 224])
    >>> Preprocess(scale=0.25)(Image.new("RGB", (300, 500))).shape
    torch.Size([3, 56, 56])
    """

    resize_px: int | None = 256
    crop_px: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    scale: float | None = None
    context_px: int | None = None

    def __post_init__(self) -> None:
        if self.crop_px < 1:
            raise DataError(
                f"`crop_px={self.crop_px}` is not an image size; give a whole number of pixels of at least 1"
            )
        if self.resize_px is not None and self.resize_px < self.crop_px:
            raise DataError(
                f"`resize_px={self.resize_px}` is smaller than `crop_px={self.crop_px}`, which would add a black "
                f"border; give `resize_px` of at least {self.crop_px}"
            )
        if self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise DataError(f"no such interpolation: {self.interpolation!r}; the interpolations are {allowed}")
        self._check_variation()

    def _check_variation(self) -> None:
        if self.scale is not None and self.context_px is not None:
            raise DataError("`scale` and `context_px` vary the images in two ways at once; give one of them")
        if self.scale is not None and not 1 / 16 <= self.scale <= 16:
            raise DataError(f"`scale={self.scale:g}` is not allowed; give factors from 0.0625 to 16, as in 0.5")
        most = self.resize_px or self.crop_px
        if self.context_px is not None and not 1 <= self.context_px <= most:
            raise DataError(
                f"`context_px={self.context_px}` is not allowed; give 1 to {most} pixels, the side that the images are "
                "resized to (`resize_px`)"
            )

    @property
    def side_px(self) -> int:
        """The side of the square that the network sees."""
        return self.context_px or max(1, round(self.crop_px * (self.scale or 1)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network sees."""
        return 3, self.side_px, self.side_px

    @property
    def variation(self) -> dict[str, float] | None:
        """What is varied, as JSON values for a result's identity: `{"scale": 0.5}`, `{"context_px": 50}` or None."""
        if self.scale is not None:
            return {"scale": self.scale}
        return None if self.context_px is None else {"context_px": self.context_px}

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """image: a PIL image -> pixels: (3, side_px, side_px) float32."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        image = _centre_crop(self._resize(image), self.context_px or self.crop_px)
        if image.width != self.side_px:
            image = image.resize((self.side_px, self.side_px), INTERPOLATIONS[self.interpolation])
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous().to(torch.float32)
        mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (self.mean, self.std))
        return pixels.div_(255).sub_(mean).div_(std)

    def _resize(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        if self.resize_px is not None and self.variation:
            square = (self.resize_px, self.resize_px)
            return image if image.size == square else image.resize(square, INTERPOLATIONS[self.interpolation])
        if self.resize_px is None or short == self.resize_px:
            return image
        # Truncation, not rounding, of the longer side is torchvision's.
        width, height = (int(self.resize_px * side / short) if side != short else self.resize_px for side in image.size)
        return image.resize((width, height), INTERPOLATIONS[self.interpolation])

    def identity(self) -> dict[str, Any]:
        """The preprocessing as JSON values, for a result's identity, without the variation, which stands beside it.

        `from_identity` reads it back.
        """
        values = {name: value for name, value in asdict(self).items() if name not in ("scale", "context_px")}
        return values | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_identity(cls, values: dict[str, Any]) -> Preprocess:
        """The preprocessing that `identity` wrote down."""
        return cls(**(values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])}))


DIGITS_PREPROCESS = Preprocess(resize_px=None, crop_px=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""For the embedded digits: the 64 x 64 canvas as it is, in -1 to 1."""


def _centre_crop(image: Image.Image, crop_px: int) -> Image.Image:
    """The square at the centre, placed as torchvision's CenterCrop does; a smaller image gets a black border."""
    width, height = image.size
    left, top = (
        round((side - crop_px) / 2.0) if side >= crop_px else -((crop_px - side) // 2) for side in (width, height)
    )
    return image.crop((left, top, left + crop_px, top + crop_px))
