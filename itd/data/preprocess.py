"""From a PIL image to a network's input: resize, crop, normalise. Not for augmentation, nor for reading files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from itd.errors import DataError
from itd.text import shorten

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
MAX_SIDE_PX = 6144
"""Of what an image is resized and cropped to. At it, preprocessing an image takes about 1 GB."""
MAX_RESIZED_PIXELS = 2**26
"""A resized image that would have more (0.25 GB) is made only where the crop is."""


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before the network sees it; the default is torchvision's for its V1 ImageNet weights.

    resize_px: length of the shorter side after resizing (None: not resized). crop_px: side of the square cut from the
    centre. mean, std: per channel, of values in 0 to 1. interpolation: bilinear, bicubic or nearest, with PIL's filter.

    The two variations of the preference studies (ITD paper, section 4.5), at most one of them: both sides are resized
    to resize_px, whatever the image's shape. scale: the crop is then resized by this factor, so that every scale shows
    the same content. context_px: the centre is cropped to this many pixels in place of crop_px.

    Raises DataError where the crop is larger than the resized image, for a variation that cannot be, and for values of
    other types or without sense, which a file of weights may have.

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
        for name in ("resize_px", "crop_px", "context_px"):
            value = getattr(self, name)
            if not _is_side(value) and (value is not None or name == "crop_px"):
                raise DataError(
                    f"`{name}={shorten(value)}` is not an image size; give a whole number of pixels of at least 1 and "
                    f"at most {MAX_SIDE_PX:,}"
                )
        if self.resize_px is not None and self.resize_px < self.crop_px:
            raise DataError(
                f"`resize_px={self.resize_px}` is smaller than `crop_px={self.crop_px}`, which would add a black "
                f"border; give `resize_px` of at least {self.crop_px}"
            )
        if not isinstance(self.interpolation, str) or self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise DataError(
                f"no such interpolation: {shorten(repr(self.interpolation))}; the interpolations are {allowed}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            least = 1e-6 if name == "std" else -1e6
            if not isinstance(values, (tuple, list)) or len(values) != 3 or not all(_is_real(v, least) for v in values):
                shown = ",".join(map(_number_text, values)) if isinstance(values, (tuple, list)) else str(values)
                above = " above 0" if name == "std" else ""
                raise DataError(
                    f"`{name}={shorten(shown)}` is not allowed; give three numbers{above}, one for each of red, green "
                    "and blue, of values in 0 to 1"
                )
        self._check_variation()

    def _check_variation(self) -> None:
        if self.scale is not None and self.context_px is not None:
            raise DataError("`scale` and `context_px` vary the images in two ways at once; give one of them")
        if self.scale is not None and not (_is_real(self.scale, 1 / 16) and self.scale <= 16):
            shown = _number_text(self.scale)
            raise DataError(f"`scale={shown}` is not allowed; give factors from 0.0625 to 16, as in 0.5")
        if self.scale is not None and self.side_px > MAX_SIDE_PX:
            raise DataError(
                f"`scale={self.scale:g}` makes images of {self.side_px:,} pixels a side; allowed are {MAX_SIDE_PX:,}: "
                "give a smaller one"
            )
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
        return self.normalised(self.crop(image))

    def crop(self, image: Image.Image) -> np.ndarray:
        """image: a PIL image -> (side_px, side_px, 3) uint8, all but the mean and the standard deviation."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        image = self._square(image, self.context_px or self.crop_px)
        if image.width != self.side_px:
            image = image.resize((self.side_px, self.side_px), INTERPOLATIONS[self.interpolation])
        return np.array(image, dtype=np.uint8)

    def normalised(self, crop: np.ndarray) -> torch.Tensor:
        """crop: (side_px, side_px, 3) uint8 -> pixels: (3, side_px, side_px) float32."""
        return self.normalise(as_values(crop))

    def normalise(self, values: torch.Tensor) -> torch.Tensor:
        """values: (..., 3, H, W) uint8 -> pixels: (..., 3, H, W) float32, where they are.

        The bits are the same on every device. A GPU would divide by a number of Python's as it multiplies by the
        inverse, which is rounded in another way, so 255 is a tensor as well.
        """
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=values.device).view(3, 1, 1) for v in (self.mean, self.std)
        )
        largest = torch.full((1, 1, 1), 255.0, device=values.device)
        return values.to(torch.float32).div_(largest).sub_(mean).div_(std)

    def _square(self, image: Image.Image, crop_px: int) -> Image.Image:
        """The centre of the resized image, crop_px pixels a side."""
        size, filter_ = self._resized(image), INTERPOLATIONS[self.interpolation]
        if size == image.size:
            return _centre_crop(image, crop_px)
        if size[0] * size[1] <= MAX_RESIZED_PIXELS:
            return _centre_crop(image.resize(size, filter_), crop_px)
        return _resized_centre(image, size, crop_px, filter_)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) of the whole image once it is resized."""
        short = min(image.size)
        if self.resize_px is None:
            return image.size
        if self.variation:
            return self.resize_px, self.resize_px
        # Truncation, not rounding, of the longer side is torchvision's.
        width, height = (int(self.resize_px * side / short) if side != short else self.resize_px for side in image.size)
        return width, height

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


def as_values(crop: np.ndarray) -> torch.Tensor:
    """crop: (H, W, 3) uint8 -> (3, H, W) uint8, a copy."""
    return torch.from_numpy(np.array(crop, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class PreprocessChanges:
    """What is asked for in place of the weights' own preprocessing; None keeps theirs.

    resize_px, crop_px, mean, std, interpolation: fields of `Preprocess`. crop_fraction: the crop's share of the resized
    side, in place of resize_px: `resize_px = round(crop_px / crop_fraction)`.
    """

    resize_px: int | None = None
    crop_px: int | None = None
    crop_fraction: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None

    def preprocess_from(self, own: Preprocess) -> Preprocess:
        """The weights' own preprocessing with what is asked for.

        Raises DataError where that cannot be, as for a crop larger than the image.

        >>> PreprocessChanges(crop_px=240, crop_fraction=0.9).preprocess_from(Preprocess()).resize_px
        267
        """
        asked = {name: getattr(self, name) for name in CHANGEABLE if getattr(self, name) is not None}
        if self.crop_fraction is not None:
            asked["resize_px"] = self._resize_of(asked.get("crop_px", own.crop_px))
        return replace(own, **asked)

    @property
    def size_px(self) -> tuple[int | None, int | None]:
        """(resize_px, crop_px) that are asked for, as far as they are known without the weights' own."""
        by_fraction = self.crop_fraction is not None and self.crop_px is not None
        return self._resize_of(self.crop_px) if by_fraction else self.resize_px, self.crop_px

    @property
    def kept(self) -> tuple[str, ...]:
        """The fields of `CHANGEABLE` that stay the weights' own."""
        sized = () if self.crop_fraction is None else ("resize_px",)
        return tuple(name for name in CHANGEABLE if getattr(self, name) is None and name not in sized)

    def _resize_of(self, crop_px: int | None) -> int:
        assert self.crop_fraction is not None and crop_px is not None
        if self.resize_px is not None:
            raise DataError("`resize_px` and `crop_fraction` both say what images are resized to; give one of them")
        if not 0 < self.crop_fraction <= 1:
            raise DataError(
                f"`crop_fraction={self.crop_fraction:g}` is not allowed; give a number above 0 and at most 1, as in "
                "0.875"
            )
        return round(crop_px / self.crop_fraction)


CHANGEABLE = ("resize_px", "crop_px", "interpolation", "mean", "std")
"""The fields of `Preprocess` that can be asked for."""


def assumed_text(label: str, preprocess: Preprocess, fields: Sequence[str]) -> str:
    """What is assumed of weights that do not say how their images are preprocessed, and what changes it.

    >>> assumed_text("w.pth", Preprocess(), ("crop_px", "std"))
    'weights w.pth do not say how images are preprocessed; assumed: crop 224 px, std 0.229,0.224,0.225; change it with \
`crop_px`, `std`'
    """
    values = {
        "resize_px": "not resized" if preprocess.resize_px is None else f"resize {preprocess.resize_px} px",
        "crop_px": f"crop {preprocess.crop_px} px",
        "interpolation": preprocess.interpolation,
        "mean": f"mean {_triple(preprocess.mean)}",
        "std": f"std {_triple(preprocess.std)}",
    }
    said, changes = ", ".join(values[name] for name in fields), ", ".join(f"`{name}`" for name in fields)
    return f"weights {label} do not say how images are preprocessed; assumed: {said}; change it with {changes}"


def _triple(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _centre_crop(image: Image.Image, crop_px: int) -> Image.Image:
    """The square at the centre, placed as torchvision's CenterCrop does; a smaller image gets a black border."""
    left, top = (_start(side, crop_px) for side in image.size)
    return image.crop((left, top, left + crop_px, top + crop_px))


def _resized_centre(image: Image.Image, size: tuple[int, int], crop_px: int, filter_: Image.Resampling) -> Image.Image:
    """The centre of the image resized to `size`, made alone: of an image of 1 x 65,000, the whole has 4 billion pixels.

    The pixels are those of the whole but for rounding by 1 of 255, as Pillow has the edges as float32; of
    `nearest`, a place between two pixels may go to the other.
    """
    box, inside = [], []
    for side, own in zip(size, image.size, strict=True):
        first, last = (place * own / side for place in (_start(side, crop_px), _start(side, crop_px) + crop_px))
        reach = 3 * max(1.0, own / side)  # beyond any filter's
        start = max(0, math.floor(first - reach))
        box.append((start, min(own, math.ceil(last + reach))))
        inside.append((first - start, last - start))
    near = image.crop((box[0][0], box[1][0], box[0][1], box[1][1]))
    return near.resize((crop_px, crop_px), filter_, box=(inside[0][0], inside[1][0], inside[0][1], inside[1][1]))


def _start(side: int, crop_px: int) -> int:
    """Where a crop at the centre begins."""
    return round((side - crop_px) / 2.0) if side >= crop_px else -((crop_px - side) // 2)


def _is_side(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(1 <= value <= MAX_SIDE_PX)


def _is_real(value: Any, least: float) -> bool:
    """Whether a value is a number from `least` to a million."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(least <= value <= 1e6)


def _number_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shorten(value)


DIGITS_PREPROCESS = Preprocess(resize_px=None, crop_px=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""For the embedded digits: the 64 x 64 canvas as it is, in -1 to 1."""
