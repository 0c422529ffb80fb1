"""A tree's own forms of convolutions, normalisations, concatenations, additions and activations.

Not here: which operator runs when (`graph`, `stages`), and how a site's layer becomes an operator (`site_ops`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itd.engine.onednn import PackedConv, can_fuse
from itd.engine.op import ACTIVATIONS, CHANNELS_LAST, Op, ShapeError, WindowError, meeting, on_meta
from itd.engine.pieces import Pieces
from itd.engine.winograd import WinogradConv, is_worth_it

Finish = Callable[[Tensor, Tensor | None, Tensor | None, str | None], Tensor]
"""Bias, an addition and an activation, each where there is one, after a convolution without them."""


Normalise = Callable[[Tensor, Tensor, Tensor, str | None], Tensor]
"""Scale, shift and an activation, of maps that may be part of wider ones."""


def fused_normalise(scale: Tensor) -> Normalise | None:
    """One kernel for normalisation and activation, where there is one for what follows a convolution."""
    if fused_finish(scale) is None:
        return None
    from itd.engine.kernels import normalise

    return normalise


def fused_finish(weight: Tensor) -> Finish | None:
    """One kernel for what follows a convolution, on a GPU with ITD_FUSED_EPILOGUE=1: it is not measured yet."""
    if weight.device.type != "cuda" or os.environ.get("ITD_FUSED_EPILOGUE") != "1":
        return None
    from itd.engine.kernels import finish  # which loads Triton

    return finish


class ConvOp(Op):
    """A convolution with its normalisation folded in, an optional addition and an optional activation.

    weight: (O, I/g, kh, kw); bias: (O,) or None, in float32 whatever the weight is in. Called with x (N, I, H, W) and,
    where something is added before the activation, `other` (N, O, H', W'), which may be in pieces; where it is spent,
    the output may take its place in memory. trims: whether taps that meet padding alone are left out, and not counted.
    inside: the bias where it is of the weight's type, as torch wants it; added: (1, O, 1, 1), where it is not.
    winograd: a form with fewer multiplications, where there is one; multiply-accumulates are the convolution's own.
    """

    windowed = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        activation: str | None = None,
        *,
        trims: bool = True,
    ) -> None:
        self.weight = weight.contiguous(memory_format=CHANNELS_LAST)
        self.bias = bias
        self.inside = bias if bias is None or bias.dtype == weight.dtype else None
        self.added = None if bias is self.inside or bias is None else bias.view(1, -1, 1, 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.activation = activation
        self.pointwise = weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0)
        geometry = (stride, padding, dilation, groups)
        self.packed = PackedConv(self.weight, bias, *geometry) if can_fuse(weight) else None
        self.winograd = WinogradConv(self.weight, bias, padding) if is_worth_it(weight, *geometry) else None
        self.finish = fused_finish(weight)
        self.trims = trims
        self._trimmed: dict[torch.Size, ConvOp] = {}

    def __call__(self, x: Tensor, other: Tensor | Pieces | None = None, *, spent: bool = False) -> Tensor:
        op = self.on(x)
        if isinstance(other, Pieces):
            if op.packed is None and op._is_like_output(other, x):
                return op._run_on_pieces(x, other)
            other = other.joined()
        return op._run(x, other, spent)

    def on(self, x: Tensor) -> ConvOp:
        """The same without the taps that meet nothing but padding on maps of this size."""
        return self._trim(x.shape[2:]) if self.trims and max(self.padding) >= min(x.shape[2:]) else self

    def _run(self, x: Tensor, other: Tensor | None, spent: bool) -> Tensor:
        alike = other is None or self._is_like_output(other, x)
        if self.winograd is not None and self.winograd.takes(x):
            return self._finished(self.winograd(x), other, alike)
        if self.packed is not None and alike:
            out, activated = self.packed(x, other, self.activation, spent=spent)
            return out if activated or self.activation is None else ACTIVATIONS[self.activation](out)
        if self.finish is not None and (other is None or other.dtype == self.weight.dtype):
            out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
            return self.finish(out, self.bias, other, self.activation)
        return self._finished(self._convolved(x), other, alike)

    def _finished(self, out: Tensor, other: Tensor | None, alike: bool) -> Tensor:
        """A convolution's own output with what follows it. alike: whether `other` has its shape and type."""
        if other is not None:
            out = out.add_(other) if alike else out + other
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def _is_like_output(self, other: Tensor | Pieces, x: Tensor) -> bool:
        """Whether what is added has the shape and the type of the output, so that it can be added in place."""
        return other.dtype == self.weight.dtype and tuple(other.shape) == self._out_shape(tuple(x.shape))

    def _run_on_pieces(self, x: Tensor, other: Pieces) -> Tensor:
        if self.finish is None:
            out = other.add_to(self._convolved(x))
            return ACTIVATIONS[self.activation](out) if self.activation else out
        out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        for rows, tensor, times in other.repeats():
            for part in out[rows].split(len(tensor)) if times > 1 else [out[rows]]:
                self.finish(part, self.bias, tensor, self.activation)
        return out

    def _convolved(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight, self.inside, self.stride, self.padding, self.dilation, self.groups)
        return out if self.added is None else out.add_(self.added)

    def _trim(self, size: torch.Size) -> ConvOp:
        """A dilation as wide as the map leaves one row or column of taps; with all of them oneDNN is far slower."""
        if size not in self._trimmed:
            rows, columns = (self._unmet(side, size[side]) for side in (0, 1))
            self._trimmed[size] = self
            if rows or columns:
                kh, kw = self.weight.shape[2:]
                weight = self.weight[:, :, rows : kh - rows, columns : kw - columns]
                padding = self.padding[0] - rows * self.dilation[0], self.padding[1] - columns * self.dilation[1]
                geometry = (self.stride, padding, self.dilation, self.groups)
                self._trimmed[size] = ConvOp(weight, self.bias, *geometry, self.activation)
        return self._trimmed[size]

    def _unmet(self, side: int, length: int) -> int:
        """How many taps, at each end of the kernel's side, meet padding alone on a map of a length."""
        k, s, p, d = self.weight.shape[2 + side], self.stride[side], self.padding[side], self.dilation[side]
        last = (length + 2 * p - d * (k - 1) - 1) // s * s  # where the last window begins, from the first
        met = [i for i in range(k) if any(0 <= at + i * d - p < length for at in range(0, last + 1, s))]
        if not met:
            return 0
        return min(met[0], k - 1 - met[-1], p // d)

    def _out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sides = zip(shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        size = ((length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, s, p, d in sides)
        return shape[0], self.weight.shape[0], *size

    def meta(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.shape[1] != self.weight.shape[1] * self.groups:
            raise ShapeError(
                f"a convolution takes {self.weight.shape[1] * self.groups} channels, and {x.shape[1]} are given"
            )
        shape = self._out_shape(tuple(x.shape))
        if min(shape[2:]) < 1:
            raise WindowError("a convolution's window exceeds its input")
        out = x.new_empty(shape)
        return out if other is None else meeting(lambda: out + other, "an addition", out, other)

    def macs(self, out: Tensor, /, *args: Any, **kwargs: Any) -> int:
        return out.numel() * math.prod(self.on(args[0]).weight.shape[1:])


class BatchNormOp(Op):
    """A normalisation that could not be folded, as a scale and a shift, with an optional activation."""

    pointwise = True

    def __init__(self, scale: Tensor, shift: Tensor, activation: str | None = None) -> None:
        self.scale, self.shift, self.activation = scale, shift, activation
        self.zeros, self.ones = torch.zeros_like(scale), torch.ones_like(scale)
        self.normalise = fused_normalise(scale)
        self.takes_part = self.normalise is not None

    @property
    def channels(self) -> int:
        """How many it takes."""
        return self.scale.numel()

    def __call__(self, x: Tensor) -> Tensor:
        if self.normalise is not None:
            return self.normalise(x, self.scale, self.shift, self.activation)
        out = F.batch_norm(x, self.zeros, self.ones, self.scale, self.shift, False, 0.0, 0.0)
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def meta(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)


class CatOp(Op):
    """Tensors side by side along the channels."""

    pointwise = True

    def __call__(self, xs: Any) -> Tensor:
        return torch.cat(xs, dim=1)

    def meta(self, xs: Any) -> Tensor:
        return meeting(lambda: self(on_meta(xs)), "a concatenation", *xs)


class AddOp(Op):
    """An addition of two tensors with an optional activation."""

    pointwise = True

    def __init__(self, activation: str | None = None) -> None:
        self.activation = activation

    def __call__(self, x: Any, y: Any) -> Any:
        out = x + y
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def meta(self, x: Any, y: Any) -> Any:
        return meeting(lambda: self(*on_meta((x, y))), "an addition", x, y)


class ActivationOp(Op):
    """An activation that could not be fused into what came before it."""

    pointwise = True

    def __init__(self, activation: str) -> None:
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.activation == "relu" else F.relu6(x)

    def meta(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)
