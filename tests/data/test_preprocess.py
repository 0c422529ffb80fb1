"""Preprocessing equals torchvision's own on PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import DataError


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (333, 501), (256, 256), (227, 227), (256, 400), (40, 900), (257, 258)])
def test_default_is_torchvisions_v1_preset(size: tuple[int, int]) -> None:
    image = picture(*size)
    preset = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert torch.equal(Preprocess()(image), preset(image))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (231, 300)])
def test_other_sizes_equal_resize_and_centre_crop(size: tuple[int, int]) -> None:
    image = picture(*size)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    reference = transforms.Compose(
        [transforms.Resize(233), transforms.CenterCrop(225), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    assert torch.equal(Preprocess(233, 225, mean, std)(image), reference(image))


def test_bicubic_equals_torchvisions_preset() -> None:
    image = picture(300, 411)
    preset = models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms()
    ours = Preprocess(preset.resize_size[0], preset.crop_size[0], interpolation=preset.interpolation.value)
    assert torch.equal(ours(image), preset(image))


def test_without_resize_a_small_image_gets_the_border_of_centre_crop() -> None:
    image = picture(51, 70)
    reference = transforms.Compose([transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    assert torch.equal(DIGITS_PREPROCESS(image), reference(image))


def test_identity_is_json_and_reads_back() -> None:
    import json

    chosen = Preprocess(resize_px=None, crop_px=64, mean=(0.5, 0.25, 0.125))
    assert Preprocess.from_identity(json.loads(json.dumps(chosen.identity()))) == chosen


def test_crop_larger_than_resize_is_refused() -> None:
    with pytest.raises(DataError, match=r"`resize_px=200` is smaller than `crop_px=224`.*at least 224"):
        Preprocess(resize_px=200)
    with pytest.raises(DataError, match="`crop_px=0`"):
        Preprocess(crop_px=0)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (100, 90)])
@pytest.mark.parametrize(("scale", "side"), [(0.25, 56), (0.5, 112), (1.0, 224), (4.0, 896)])
def test_a_scale_resizes_both_sides_then_crops_then_resizes_by_the_factor(size, scale: float, side: int) -> None:
    image = picture(*size)
    square = transforms.functional.resize(image, [256, 256])
    crop = transforms.functional.center_crop(square, [224, 224])
    pixels = transforms.functional.to_tensor(transforms.functional.resize(crop, [side, side]))
    changed = Preprocess(scale=scale)
    assert torch.equal(changed(image), transforms.functional.normalize(pixels, changed.mean, changed.std))
    assert changed.side_px == side and changed.variation == {"scale": scale}


@pytest.mark.parametrize("side", [1, 50, 225, 256])
def test_a_context_crops_the_square_to_that_many_pixels(side: int) -> None:
    image = picture(500, 375)
    crop = transforms.functional.center_crop(transforms.functional.resize(image, [256, 256]), [side, side])
    changed = Preprocess(context_px=side)
    reference = transforms.functional.normalize(transforms.functional.to_tensor(crop), changed.mean, changed.std)
    assert torch.equal(changed(image), reference)
    assert changed.side_px == side and changed.variation == {"context_px": side}


def test_the_digits_are_varied_on_their_own_canvas() -> None:
    from dataclasses import replace

    image = picture(64, 64)
    assert replace(DIGITS_PREPROCESS, scale=0.5)(image).shape == (3, 32, 32)
    assert torch.equal(replace(DIGITS_PREPROCESS, context_px=32)(image), DIGITS_PREPROCESS(image)[:, 16:48, 16:48])


def test_a_variation_is_no_part_of_the_preprocessing_it_varies() -> None:
    assert Preprocess(scale=2).identity() == Preprocess().identity() and Preprocess().variation is None


def test_variations_that_cannot_be_are_refused() -> None:
    for wrong, words in (
        ({"scale": 0.0}, "`scale=0` is not allowed"),
        ({"scale": float("nan")}, "`scale=nan`"),
        ({"context_px": 257}, "`context_px=257` .* 1 to 256"),
        ({"context_px": 0}, "`context_px=0`"),
        ({"scale": 1.0, "context_px": 50}, "give one of them"),
    ):
        with pytest.raises(DataError, match=words):
            Preprocess(**wrong)
