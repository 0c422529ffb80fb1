"""Transforms of torchvision and timm read as fields: by their own pixels, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import (
    EfficientNet_B0_Weights,
    Inception_V3_Weights,
    RegNet_Y_32GF_Weights,
    ResNet50_Weights,
    VGG16_Weights,
)
from torchvision.transforms import InterpolationMode, v2

from itd.data.preprocess import Preprocess
from itd.data.transforms import fields_of

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
NORMALISE = transforms.Normalize(MEAN, STD)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (ResNet50_Weights.IMAGENET1K_V1, Preprocess()),
        (ResNet50_Weights.IMAGENET1K_V2, Preprocess(232)),
        (EfficientNet_B0_Weights.IMAGENET1K_V1, Preprocess(256, interpolation="bicubic")),
        (Inception_V3_Weights.IMAGENET1K_V1, Preprocess(342, 299)),
        (RegNet_Y_32GF_Weights.IMAGENET1K_SWAG_E2E_V1, Preprocess(384, 384, interpolation="bicubic")),
        (VGG16_Weights.IMAGENET1K_FEATURES, Preprocess(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)),
    ],
)
def test_torchvisions_presets_are_read(member, expected):
    found = fields_of(member.transforms())
    assert found is not None and found.std == pytest.approx(expected.std)
    assert (found.resize_px, found.crop_px, found.interpolation, found.mean) == (
        expected.resize_px, expected.crop_px, expected.interpolation, expected.mean,
    )  # fmt: skip


def test_chains_are_read():
    chain = [transforms.Resize(70), transforms.CenterCrop((64, 64)), transforms.ToTensor(), NORMALISE]
    expected = Preprocess(70, 64, MEAN, STD)
    assert fields_of(transforms.Compose(chain)) == expected
    modern = [v2.Resize(70), v2.CenterCrop(64), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    assert fields_of(v2.Compose([*modern, v2.Normalize(MEAN, STD)])) == expected
    nearest = transforms.Resize(70, InterpolationMode.BICUBIC)
    assert fields_of(transforms.Compose([nearest, *chain[1:]])).interpolation == "bicubic"
    assert fields_of(transforms.Compose(chain[1:])) == Preprocess(None, 64, MEAN, STD)
    assert fields_of(expected) is expected
    pixels = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 130, 3), np.uint8))
    assert torch.allclose(transforms.Compose(chain)(pixels), expected(pixels), atol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [
        None,
        lambda image: image,
        transforms.ToTensor(),
        transforms.Compose([transforms.Resize(70), transforms.RandomCrop(64), transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.CenterCrop(64), transforms.Resize(70), transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.Resize((70, 90)), transforms.CenterCrop(64), transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.Resize(70), transforms.CenterCrop(64), transforms.Grayscale(3),
                            transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.Resize(70), transforms.CenterCrop(64), transforms.ToTensor(), NORMALISE,
                            transforms.Normalize((0.1, 0.1, 0.1), (1, 1, 1))]),
        transforms.Compose([transforms.Resize(60), transforms.CenterCrop(64), transforms.ToTensor(), NORMALISE]),
        transforms.Compose([transforms.ToTensor(), transforms.Resize(70), transforms.CenterCrop(64), NORMALISE]),
        transforms.Compose([transforms.Resize(70, InterpolationMode.LANCZOS), transforms.CenterCrop(64),
                            transforms.ToTensor(), NORMALISE]),
    ],
)  # fmt: skip
def test_nothing_else_is_taken_for_one(transform):
    """The last but one resizes tensors, which rounds otherwise than PIL: its pixels are its own."""
    assert fields_of(transform) is None


@pytest.mark.timm
@pytest.mark.parametrize(
    "name", ["resnet50.a1_in1k", "convnext_tiny.fb_in22k_ft_in1k", "mobilenetv3_large_100.ra_in1k"]
)
def test_timms_transforms_of_evaluation_are_read(name):
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    found = fields_of(timm.data.create_transform(**config))
    assert found is not None and found.crop_px == config["input_size"][1]
    assert found.resize_px == int(config["input_size"][1] / config["crop_pct"])
    assert found.interpolation == config["interpolation"] and found.mean == pytest.approx(config["mean"])
