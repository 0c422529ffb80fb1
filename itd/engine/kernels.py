"""Kernels for what lies between two convolutions on a GPU, each in one pass over the maps.

`finish`: bias, an addition and an activation after a convolution, in place. `normalise`: a normalisation and an
activation, also of a part of a wider tensor, as DenseNet's maps grow in one. Without them each step is a kernel of its
own, which reads and writes the whole map. `finish_plain` and `normalise_plain` are their references. Not here: the
convolution, and whether its user wants this (`ops`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch has it on Linux alone
    triton = None

CHANNELS_LAST = torch.channels_last
BLOCK, VECTOR = 1024, 8
ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "relu6": 2}
"""What the kernel knows, by the number that it is compiled for."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def finish(out: Tensor, bias: Tensor | None, other: Tensor | None, activation: str | None) -> Tensor:
    """A convolution's output with its bias, an addition and an activation, each where there is one, in place.

    Args:
        out: (N, C, H, W), the result of a convolution without a bias. It is changed, except where `other` is larger.
        bias: (C,) float32 or None.
        other: what is added, (N, C, H, W) or a shape that broadcasts with it, or None.
        activation: None, relu or relu6.

    Returns:
        `out`, or where `other` is larger a new tensor.

    Example:
        >>> finish(torch.ones(1, 2, 1, 1), torch.tensor([-2.0, 2.0]), None, "relu").flatten()
        tensor([0., 3.])
    """
    if bias is None and other is None and activation is None:
        return out
    if out.device.type == "cuda" and applies(out, other):
        return finish_in_one_pass(out, bias, other, activation)
    return finish_plain(out, bias, other, activation)


def finish_plain(out: Tensor, bias: Tensor | None, other: Tensor | None, activation: str | None) -> Tensor:
    """The same, one after the other. What is rounded to fewer bits is rounded after each."""
    if bias is not None:
        out = out.add_(bias.view(1, -1, 1, 1))
    if other is not None:
        out = out.add_(other) if out.shape == other.shape else out + other
    if activation is None:
        return out
    return torch.relu_(out) if activation == "relu" else F.hardtanh_(out, 0.0, 6.0)


def normalise(x: Tensor, scale: Tensor, shift: Tensor, activation: str | None) -> Tensor:
    """Maps scaled and shifted by channel, with an activation, as maps of their own.

    Args:
        x: (N, C, H, W), channels-last, also the first channels of a wider channels-last tensor.
        scale: (C,) float32.
        shift: (C,) float32.
        activation: None, relu or relu6.

    Returns:
        (N, C, H, W) of the type of `x`, channels-last and without gaps.

    Example:
        >>> normalise(torch.ones(1, 2, 1, 1), torch.tensor([2.0, -2.0]), torch.ones(2), "relu").flatten()
        tensor([3., 0.])
    """
    if x.device.type == "cuda" and _room(x) is not None:
        return normalise_in_one_pass(x, scale, shift, activation)
    return normalise_plain(x, scale, shift, activation)


def normalise_plain(x: Tensor, scale: Tensor, shift: Tensor, activation: str | None) -> Tensor:
    """The same, one after the other."""
    out = F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, False, 0.0, 0.0)
    return finish_plain(out, None, None, activation)


def _room(x: Tensor) -> int | None:
    """Channels from one pixel to the next in memory; None where the kernel does not take the maps."""
    if triton is None or x.ndim != 4 or x.numel() == 0 or x.dtype not in _DTYPES:
        return None
    _, channels, height, width = x.shape
    if _dense(x):
        return channels
    room = x.stride(3)
    return room if room >= channels and x.stride() == (height * width * room, 1, width * room, room) else None


def applies(out: Tensor, other: Tensor | None) -> bool:
    """Whether the kernel takes these: maps that lie channels-last and without gaps, and no broadcasting."""
    if triton is None or out.ndim != 4 or out.numel() == 0 or out.dtype not in _DTYPES or not _dense(out):
        return False
    return other is None or (other.shape == out.shape and other.dtype in _DTYPES and _dense(other))


def _dense(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=CHANNELS_LAST)


def finish_in_one_pass(out: Tensor, bias: Tensor | None, other: Tensor | None, activation: str | None) -> Tensor:
    """`finish` by the kernel, computed in float32 and rounded once. The tensors are as `applies` asks."""
    count = out.numel()
    _finish[(triton.cdiv(count, BLOCK),)](
        out,
        out if bias is None else bias,
        out if other is None else other,
        count,
        out.shape[1],
        HAS_BIAS=bias is not None,
        HAS_OTHER=other is not None,
        ACTIVATION=ACTIVATIONS[activation],
        VECTOR=VECTOR if out.shape[1] % VECTOR == 0 else 1,
        BLOCK=BLOCK,
    )
    return out


def normalise_in_one_pass(x: Tensor, scale: Tensor, shift: Tensor, activation: str | None) -> Tensor:
    """`normalise` by the kernel, computed in float32 and rounded once."""
    out, room = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST), _room(x)
    assert room is not None
    count, channels = out.numel(), out.shape[1]
    _normalise[(triton.cdiv(count, BLOCK),)](
        x,
        scale,
        shift,
        out,
        count,
        channels,
        room,
        ACTIVATION=ACTIVATIONS[activation],
        VECTOR=VECTOR if channels % VECTOR == 0 and room % VECTOR == 0 else 1,
        BLOCK=BLOCK,
    )
    return out


if triton is not None:

    @triton.jit
    def _activated(x, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
        # not a maximum, which would make 0 of what is not a number
        if ACTIVATION > 0:
            x = tl.where(x < 0, 0.0, x)
        if ACTIVATION == 2:
            x = tl.where(x > 6, 6.0, x)
        return x

    @triton.jit
    def _normalise(  # type: ignore[no-untyped-def]
        x,
        scale,
        shift,
        out,
        count,
        channels,
        room,
        ACTIVATION: tl.constexpr,
        VECTOR: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        # `out` has the channels of a pixel side by side, `x` has `room` from one pixel's to the next's
        start = tl.program_id(0).to(tl.int64) * BLOCK
        inside = tl.arange(0, BLOCK)
        there = inside < count - start
        group = (start % channels).to(tl.int32) + inside // VECTOR * VECTOR
        channel = group % channels + inside % VECTOR
        channel = tl.max_contiguous(tl.multiple_of(channel, VECTOR), VECTOR)
        at = (start // channels + group // channels) * room + channel
        at = tl.max_contiguous(tl.multiple_of(at, VECTOR), VECTOR)
        y = tl.load(x + at, mask=there).to(tl.float32)
        y = y * tl.load(scale + channel, mask=there) + tl.load(shift + channel, mask=there)
        tl.store(out + start + inside, _activated(y, ACTIVATION).to(out.dtype.element_ty), mask=there)

    @triton.jit
    def _finish(  # type: ignore[no-untyped-def]
        out,
        bias,
        other,
        count,
        channels,
        HAS_BIAS: tl.constexpr,
        HAS_OTHER: tl.constexpr,
        ACTIVATION: tl.constexpr,
        VECTOR: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        # In memory a channels-last map is rows of channels. Where a block begins has 64 bits, for the last one may end
        # beyond 2^31; inside of it 32 bits do, which divide faster.
        start = tl.program_id(0).to(tl.int64) * BLOCK
        inside = tl.arange(0, BLOCK)
        there = inside < count - start
        x = tl.load(out + start + inside, mask=there).to(tl.float32)
        if HAS_BIAS:
            # VECTOR values beside one another are of channels beside one another, and one division finds all of them
            group = inside // VECTOR * VECTOR
            channel = ((start % channels).to(tl.int32) + group) % channels + inside % VECTOR
            channel = tl.max_contiguous(tl.multiple_of(channel, VECTOR), VECTOR)
            x += tl.load(bias + channel, mask=there).to(tl.float32)
        if HAS_OTHER:
            x += tl.load(other + start + inside, mask=there).to(tl.float32)
        tl.store(out + start + inside, _activated(x, ACTIVATION).to(out.dtype.element_ty), mask=there)
