"""3x3 convolutions by Winograd's filtering against the plain convolution in float64, and where they are not used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.engine import winograd
from itd.engine.ops import ConvOp
from itd.engine.plain import PlainExecutor
from itd.engine.winograd import Side, WinogradConv, is_worth_it, tiles
from itd.patcher import model_space, patch
from tests.support.engine import logits, maps, tree

PLAIN = (1, 1), (1, 1), (1, 1), 1
"""Stride, padding, dilation and groups of a convolution that is worth it."""


def weight_of(out, channels, k=3, seed=1):
    return maps(out, channels, k, k, seed=seed) / (channels * k * k) ** 0.5


@pytest.mark.parametrize("length", [*range(1, 20), 56])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_one_side_is_the_sum_of_three_neighbours_times_three_taps(length, padding):
    found = Side.of(length, padding)
    outputs = length + 2 * padding - 2
    sizes = tiles(outputs) if outputs > 0 else None
    if sizes is None:
        assert found is None and outputs in (0, -1, 1, 2, 5)
        return
    assert sum(sizes) == outputs and set(sizes) <= {3, 4} and found.tiles == len(sizes)
    rng = np.random.default_rng(length)
    x, taps = rng.normal(size=length), rng.normal(size=3)
    at_points = np.concatenate(
        [
            [value] * (part.stop - part.start)
            for value, part in zip(winograd._taps().numpy() @ taps, found.at, strict=True)
        ]
    )
    made = found.back.double().numpy() @ (found.into.double().numpy() @ x * at_points)
    assert np.allclose(made, np.correlate(np.pad(x, padding), taps, "valid"), atol=1e-12)


def test_seven_outputs_take_eleven_products_in_place_of_twenty_one():
    assert Side.of(7, 1).into.shape == (11, 7) and Side.of(14, 1).into.shape == (22, 14)


CASES = [  # rows, channels in and out, height, width, padding, whether it has a bias
    (16, 192, 192, 7, 7, (1, 1), True),
    (70, 160, 224, 3, 4, (1, 1), False),
    (6, 224, 160, 14, 10, (1, 1), True),
    (9, 160, 160, 13, 12, (0, 1), True),
    (2, 160, 192, 26, 25, (2, 0), True),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [None, 1, 3])
def test_it_is_the_plain_convolution_but_for_rounding(case, block, monkeypatch):
    n, channels, out, height, width, padding, biased = case
    weight, x = weight_of(out, channels), maps(n, channels, height, width, seed=2)
    bias = torch.linspace(-1, 1, out) if biased else None
    conv = WinogradConv(weight, bias, padding)
    with torch.inference_mode():
        assert conv.takes(x) and conv.agrees
        if block:
            tall, wide = conv._side(height, 0), conv._side(width, 1)
            monkeypatch.setattr(winograd, "BLOCK_BYTES", block * conv._bytes_of_image(tall, wide))
        made = conv(x)
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), 1, padding)
    assert made.shape == expected.shape and made.is_contiguous(memory_format=torch.channels_last)
    assert (made - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("adds", [False, True])
def test_what_follows_a_convolution_follows_it_here_too(activation, adds, monkeypatch):
    weight, x, bias = weight_of(160, 160), maps(16, 160, 7, 7, seed=2), torch.linspace(-1, 1, 160)
    other = [maps(16, 160, 7, 7, seed=3)] if adds else []
    op = ConvOp(weight, bias, *PLAIN, activation)
    plain = ConvOp(weight, bias, *PLAIN, activation)
    plain.winograd = plain.packed = None
    with torch.inference_mode():
        expected = plain(x, *other)
        assert torch.allclose(op(x, *other), expected, atol=1e-4) and op.winograd.agrees
        monkeypatch.setattr(op, "packed", None)  # which would have made it without the first form
        assert torch.allclose(op(x, *other), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "geometry"),
    [
        (weight_of(192, 192, 5), PLAIN),
        (weight_of(192, 192, 1), PLAIN),
        (weight_of(128, 128), PLAIN),
        (weight_of(512, 32), PLAIN),
        (weight_of(192, 192), ((2, 2), *PLAIN[1:])),
        (weight_of(192, 192), ((1, 1), (2, 2), (2, 2), 1)),
        (weight_of(192, 192), ((1, 1), (3, 3), (1, 1), 1)),
        (weight_of(384, 192), (*PLAIN[:3], 2)),
        (weight_of(192, 192).bfloat16(), PLAIN),
        (weight_of(192, 192).to("meta"), PLAIN),
    ],
)
def test_other_convolutions_are_left_as_they_are(weight, geometry):
    assert is_worth_it(weight_of(192, 192), *PLAIN)
    assert not is_worth_it(weight, *geometry)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("ITD_WINOGRAD", "0")
    assert ConvOp(weight_of(192, 192), None, *PLAIN).winograd is None
    monkeypatch.setenv("ITD_WINOGRAD", "1")
    assert ConvOp(weight_of(192, 192), None, *PLAIN).winograd is not None


def test_few_maps_maps_that_no_tiles_fill_and_huge_ones_are_convolved_plainly(monkeypatch):
    conv = WinogradConv(weight_of(160, 160), None, (1, 1))
    assert conv.takes(maps(16, 160, 7, 7))
    assert not conv.takes(maps(15, 160, 7, 7))  # 60 rows of each product
    assert not conv.takes(maps(64, 160, 5, 5))
    assert not conv.takes(maps(64, 160, 7, 2))
    assert not conv.takes(maps(0, 160, 7, 7))
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 11 * 11 * 4 * 160 - 1)
    assert not conv.takes(maps(16, 160, 7, 7))


def test_what_differs_from_the_plain_convolution_is_never_used():
    op = ConvOp(weight_of(160, 160), None, *PLAIN)
    made = op.winograd._made
    op.winograd._made = lambda: [[matrix * 1.01 for matrix in row] for row in made()]
    x = maps(16, 160, 7, 7, seed=2)
    with torch.inference_mode():
        expected = F.conv2d(x, op.weight, None, 1, 1)
        assert torch.allclose(op(x), expected, atol=1e-5)
    assert op.winograd.agrees is False and not op.winograd.takes(x)


@pytest.mark.parametrize("padding", [(1, 1), (2, 1)])
def test_what_it_decides_does_not_depend_on_the_maps_that_come(padding):
    weight = weight_of(160, 160)
    weight -= weight.mean((1, 2, 3), keepdim=True)
    for scale, offset in [(1, 0), (1, 1000), (0, 0), (1e37, 0), (1, torch.nan)]:
        conv = WinogradConv(weight, None, padding)
        with torch.inference_mode():
            assert conv.takes(maps(64, 160, 7, 7) * scale + offset) and conv.agrees


def test_maps_that_are_not_finite_keep_to_themselves():
    conv = WinogradConv(weight_of(160, 160), None, (1, 1))
    x = maps(32, 160, 7, 7, seed=2)
    broken = x.clone()
    broken[3, 5, 2, 2] = torch.nan
    with torch.inference_mode():
        made, clean = conv(broken), conv(x)
    others = [row for row in range(32) if row != 3]
    assert torch.equal(made[others], clean[others]) and made[3].isnan().any()


@pytest.mark.parametrize(("images", "each", "blocks"), [(10, 0.9, 10), (10, 0.4, 5), (7, 0.3, 3), (3, 1.0, 3)])
def test_no_block_of_maps_is_larger_than_it_may_be(images, each, blocks, monkeypatch):
    conv = WinogradConv(weight_of(160, 160), None, (1, 1))
    monkeypatch.setattr(winograd, "BLOCK_BYTES", int(11 * 11 * 4 * 160 / each))
    sizes = []
    block = conv._block
    monkeypatch.setattr(conv, "_block", lambda x, *sides: sizes.append(len(x)) or block(x, *sides))
    conv(maps(images, 160, 7, 7))
    assert len(sizes) == blocks and all(size * each <= 1 for size in sizes) and sum(sizes) == images


class Wide(nn.Module):
    """A site whose options all lead to 3x3 convolutions of 160 channels on 7 x 7 maps, one of them with an addition."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 160, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(160, 160, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(160)
        self.added = nn.Conv2d(160, 160, 3, padding=1)
        self.head = nn.Linear(160, 10)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.norm(self.wide(x)).relu()
        x = (self.added(x) + x).relu()
        return self.head(x.mean((2, 3)))


def test_a_tree_with_them_gives_the_logits_of_plain_forwards():
    torch.manual_seed(0)
    model = patch(Wide().eval(), {"A": "first"})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2, 3, 4)})
    executor = tree(model, space)
    wide = [n.op for n in executor.program.graph.nodes if isinstance(n.op, ConvOp) and n.op.winograd is not None]
    assert len(wide) == 2
    pixels = maps(8, 3, 14, 14)
    made, expected = (logits(e, pixels, 10) for e in (executor, PlainExecutor(model, space)))
    assert all(op.winograd.agrees for op in wide)
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()
