"""The fast forms of a convolution on a CPU against torch's own convolution in float32 on the same numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from itd.engine import onednn
from itd.engine.op import ACTIVATIONS
from itd.engine.ops import ConvOp
from itd.engine.site_ops import HalfStrideOp
from itd.patcher import Geometry
from tests.support.engine import maps

CL = torch.channels_last
SHAPES = [  # rows, channels in and out, side, kernel, stride, dilation, groups
    (3, 16, 32, 9, 3, 1, 1, 1),
    (2, 32, 32, 7, 3, 2, 2, 32),
    (4, 16, 24, 5, 1, 1, 1, 1),
    (2, 32, 32, 7, 3, 1, 8, 32),
    (2, 16, 16, 5, 3, 1, 5, 4),
    (2, 8, 8, 6, 5, 2, 3, 1),
    (2, 16, 16, 3, 9, 1, 1, 16),
]
WITHIN = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize(
    ("activation", "adds", "biased"), list(itertools.product([None, "relu", "relu6"], [0, 1], [0, 1]))
)
def test_a_convolution_is_torchs_own(dtype, activation, adds, biased):
    for n, i, o, side, k, stride, d, groups in SHAPES:
        padding = d * (k - 1) // 2
        weight = (maps(o, i // groups, k, k, seed=1) / (i // groups * k * k) ** 0.5).to(dtype)
        bias = torch.linspace(-1, 1, o) if biased else None
        x = maps(n, i, side, side, dtype=dtype, seed=2)
        expected = F.conv2d(x.float(), weight.float(), bias, stride, padding, d, groups)
        others = [maps(*expected.shape, dtype=dtype, seed=3)][: int(adds)]
        expected = sum((other.float() for other in others), expected)
        expected = ACTIVATIONS[activation](expected) if activation else expected
        op = ConvOp(weight, bias, (stride,) * 2, (padding,) * 2, (d,) * 2, groups, activation)
        with torch.inference_mode():
            found = op(x, *others)
        assert found.dtype == dtype and found.shape == expected.shape
        assert (found.float() - expected).abs().max() <= WITHIN[dtype] * expected.abs().max()


def test_a_bias_keeps_its_float32_beside_a_weight_in_bf16():
    bias = torch.tensor([1 / 3, 1e-3] * 8)
    op = ConvOp(torch.zeros(16, 16, 1, 1, dtype=torch.bfloat16), bias, (1, 1), (0, 0), (1, 1), 1)
    op.packed = None  # the plain form; oneDNN's own keeps it inside
    x = maps(1, 16, 2, 2, dtype=torch.bfloat16)
    assert op.bias.dtype == torch.float32 and torch.equal(op(x)[0, :, 0, 0], bias.bfloat16())


@pytest.mark.parametrize(("out", "channels", "k"), [(2048, 512, 1), (256, 256, 3)])
def test_each_shape_has_the_layout_that_it_asks_for_and_each_layout_is_made_once(out, channels, k):
    op = ConvOp(maps(out, channels, k, k), None, (1, 1), (k // 2, k // 2), (1, 1), 1)
    shapes = [torch.Size((n, channels, side, side)) for n in (1, 2) for side in (7, 14, 28, 56)]
    held = [op.packed._packed_for(shape) for shape in shapes * 2]
    for shape, packed in zip(shapes, held, strict=False):
        own = torch.ops.mkldnn._reorder_convolution_weight(op.weight, *op.packed.geometry, list(shape))
        assert onednn._layout_of(packed) == onednn._layout_of(own)
    assert len({id(packed) for packed in held}) <= 2


def test_no_more_than_a_few_layouts_are_kept_whatever_they_are_called(monkeypatch):
    names = itertools.count()
    monkeypatch.setattr(onednn, "_layout_of", lambda packed: str(next(names)).encode())
    weight = maps(8, 8, 3, 3)
    op = ConvOp(weight, None, (1, 1), (1, 1), (1, 1), 1)
    for side in range(2, 12):
        x = maps(1, 8, side, side)
        assert torch.allclose(op(x), F.conv2d(x, weight, None, 1, 1), atol=1e-4)
    assert len(op.packed._layouts) == len(op.packed._packed) == onednn.MOST_LAYOUTS


@pytest.mark.parametrize(
    ("side", "k", "stride", "d", "left"),
    [
        (7, 3, 1, 8, 1),
        (7, 3, 1, 7, 1),
        (7, 3, 1, 6, 3),
        (7, 3, 2, 7, 1),
        (2, 9, 1, 1, 3),
        (3, 5, 1, 2, 3),
        (4, 5, 2, 2, 3),
    ],
)
def test_taps_that_meet_padding_alone_are_left_out(side, k, stride, d, left):
    padding = d * (k - 1) // 2
    weight, x = maps(4, 4, k, k, seed=1), maps(2, 4, side, side, seed=2)
    op = ConvOp(weight, None, (stride,) * 2, (padding,) * 2, (d,) * 2, 1)
    expected = F.conv2d(x, weight, None, stride, padding, d)
    assert (op(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert op._trim(x.shape[2:]).weight.shape[2:] == (left, left)
    reached = [torch.zeros(1, 1, k, k) for _ in range(k)]
    for tap, kernel in enumerate(reached):  # which taps touch an image at all, asked of torch
        kernel[:, :, tap] = 1
    touched = [
        bool(F.conv2d(torch.ones(1, 1, side, side), kernel, None, stride, padding, d).any()) for kernel in reached
    ]
    trimmed = (k - left) // 2
    assert not any(touched[:trimmed]) and not any(touched[k - trimmed :])


def test_one_side_of_a_map_may_be_narrower():
    weight, x = maps(4, 4, 3, 3, seed=1), maps(2, 4, 9, 2, seed=2)
    op = ConvOp(weight, torch.ones(4), (1, 1), (3, 3), (3, 3), 1, "relu")
    expected = F.conv2d(x, weight, torch.ones(4), 1, 3, 3).relu()
    assert (op(x) - expected).abs().max() <= 1e-5 and op._trim(x.shape[2:]).weight.shape[2:] == (3, 1)


@pytest.mark.parametrize(("groups", "d", "dtype"), list(itertools.product([1, 2, 8], [1, 2], WITHIN)))
def test_stride_a_half_is_a_convolution_of_spread_zeros(groups, d, dtype):
    weight, bias, x = maps(8, 8 // groups, 3, 3, dtype=dtype), torch.linspace(-1, 1, 8), maps(2, 8, 5, 5, dtype=dtype)
    at = Geometry.square(3, 0.5, d, d, groups)
    spread = torch.zeros(2, 8, 10, 10)
    spread[:, :, ::2, ::2] = x.float()
    expected = F.relu(F.conv2d(spread, weight.float(), bias, 1, d, d, groups))
    found = HalfStrideOp(weight, bias, at, nearest=False, activation="relu")(x)
    assert found.dtype == dtype and found.is_contiguous(memory_format=CL)
    assert (found.float() - expected).abs().max() <= WITHIN[dtype] * expected.abs().max()
