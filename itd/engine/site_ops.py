"""A site's layer as an operator at a setting: the fast forms of what `itd.patcher` defines plainly."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.engine.macs import sample_kernel_numel
from itd.engine.op import ACTIVATIONS, CHANNELS_LAST, Op, WindowError, tried
from itd.engine.ops import ConvOp
from itd.engine.torch_ops import ModuleOp
from itd.patcher import (
    Conventions,
    DynamicPerSampleConv2d,
    Geometry,
    half_stride_weight,
    pad_extra,
    pool_at,
    resize_kernel,
    resize_matrix,
)
from itd.space import Setting


class HalfStrideOp(Op):
    """A convolution at stride 1/2: x (N, I, H, W) -> (N, O, 2H, 2W)."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, at: Geometry, nearest: bool, activation: str | None = None
    ) -> None:
        self.bias, self.at, self.nearest, self.shape, self.activation = bias, at, nearest, weight.shape, activation
        self.pointwise_conv = None
        if at.pointwise:
            self.pointwise_conv = ConvOp(weight, bias, (1, 1), (0, 0), (1, 1), at.groups)
        self.flipped = half_stride_weight(weight, at.groups).contiguous(memory_format=CHANNELS_LAST)

    def __call__(self, x: Tensor) -> Tensor:
        out = self._convolve(x)
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def _convolve(self, x: Tensor) -> Tensor:
        if self.pointwise_conv is None:
            at = self.at
            out = F.conv_transpose2d(x, self.flipped, None, 2, at.padding, 1, at.groups, at.dilation)
            # on a CPU oneDNN adds a bias of its own some 15 times slower than this (576 channels, 3x3, depthwise)
            return out if self.bias is None else out.add_(self.bias.view(1, -1, 1, 1))
        small = self.pointwise_conv(x)
        if self.nearest:
            return F.interpolate(small, scale_factor=2, mode="nearest")
        n, c, h, w = small.shape
        out = torch.empty((n, c, 2 * h, 2 * w), dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
        if self.bias is None:
            out.zero_()
        else:
            out.copy_(self.bias.view(1, -1, 1, 1))
        out[:, :, ::2, ::2] = small
        return out

    def meta(self, x: Tensor) -> Tensor:
        return x.new_empty((x.shape[0], self.shape[0], 2 * x.shape[2], 2 * x.shape[3]))

    def macs(self, out: Tensor, /, *args: Any, **kwargs: Any) -> int:
        x = args[0]
        return x.shape[0] * x.shape[2] * x.shape[3] * self.shape.numel()


class PaddedConvOp(Op):
    """A convolution that has one row of zeros more below than above, or one column more at the right than at the left.

    x: (N, I, H, W) -> (N, O, H', W').
    """

    windowed = True

    def __init__(self, conv: ConvOp, at: Geometry) -> None:
        self.conv, self.geometry = conv, at

    def __call__(self, x: Tensor) -> Tensor:
        return self.conv(pad_extra(x, self.geometry))

    def meta(self, x: Tensor) -> Tensor:
        return self.conv.meta(pad_extra(x, self.geometry))

    def macs(self, out: Tensor, /, *args: Any, **kwargs: Any) -> int:
        return self.conv.macs(out, pad_extra(args[0], self.geometry))

    def scratch(self, out: Tensor, /, *args: Any) -> int:
        padded = pad_extra(args[0], self.geometry)
        return padded.numel() * padded.element_size()


class FactoredSizeOp(Op):
    """A kernel resized from k0 to k > k0 in its own k0*k0 degrees of freedom.

    Bilinear resizing is separable, `W_k = U.T W U`, so the convolution equals k0*k0 depthwise-filtered copies of the
    input, one for each pair of rows of U, followed by one 1x1 convolution. x: (N, I, H, W) -> (N, O, H', W').
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, at: Geometry, conventions: Conventions, activation: str | None = None
    ) -> None:
        out, channels, k0, _ = weight.shape
        self.k0, self.channels = k0, channels
        k = at.kernel[0]
        rows = resize_matrix(k0, k, conventions.align_corners).to(weight)
        stride, pad, d = at.steps, at.padding, at.dilation
        self.columns = [self._depthwise(row.view(1, 1, -1, 1), (stride[0], 1), (pad[0], 0), (d[0], 1)) for row in rows]
        self.rows = [self._depthwise(row.view(1, 1, 1, -1), (1, stride[1]), (0, pad[1]), (1, d[1])) for row in rows]
        # channel order of the filtered copies: (row of U over y, row of U over x, input channel)
        mixed = (weight * conventions.scale(k0, k)).permute(0, 2, 3, 1).reshape(out, -1, 1, 1)
        self.mix = ConvOp(mixed, bias, (1, 1), (0, 0), (1, 1), 1, activation)

    def _depthwise(self, row: Tensor, stride: tuple[int, int], pad: tuple[int, int], d: tuple[int, int]) -> ConvOp:
        return ConvOp(row.expand(self.channels, -1, -1, -1).clone(), None, stride, pad, d, self.channels)

    def __call__(self, x: Tensor) -> Tensor:
        filtered = [across(tall) for tall in (down(x) for down in self.columns) for across in self.rows]
        return self.mix(torch.cat(filtered, dim=1))

    def meta(self, x: Tensor) -> Tensor:
        wide = self.rows[0].meta(self.columns[0].meta(x))
        return self.mix.meta(wide.new_empty((wide.shape[0], self.k0**2 * wide.shape[1], *wide.shape[2:])))

    def macs(self, out: Tensor, /, *args: Any, **kwargs: Any) -> int:
        tall = self.columns[0].meta(args[0])
        wide = self.rows[0].meta(tall)
        filters = self.k0 * self.columns[0].macs(tall, args[0]) + self.k0**2 * self.rows[0].macs(wide, tall)
        return filters + self.mix.macs(out, wide)

    def scratch(self, out: Tensor, /, *args: Any) -> int:
        wide = self.rows[0].meta(self.columns[0].meta(args[0]))
        return (2 * self.k0**2 + 1) * wide.numel() * wide.element_size()


class PoolOp(Op):
    """A pool at a stride. On a GPU, what enlarges its input at stride 1/2 writes channel by channel; put back here."""

    windowed = True

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, setting: Setting, conventions: Conventions) -> None:
        self.pool, self.setting, self.conventions = pool, setting, conventions

    def __call__(self, x: Tensor) -> Tensor:
        out = pool_at(x, self.pool, self.setting, self.conventions)
        if self.setting.stride != 0.5 or x.device.type == "cpu":
            return out
        return out.contiguous(memory_format=CHANNELS_LAST)

    def meta(self, x: Tensor) -> Tensor:
        return tried(lambda: self(x), WindowError)

    def scratch(self, out: Tensor, /, *args: Any) -> int:
        return 2 * out.numel() * out.element_size() if self.setting.stride == 0.5 else 0


class PerSampleOp(ModuleOp):
    """A layer that makes a kernel for each sample, at a setting. x: (N, I, H, W) -> (N, O, H', W')."""

    module: DynamicPerSampleConv2d

    def __init__(self, layer: DynamicPerSampleConv2d, setting: Setting) -> None:
        super().__init__(layer)
        self.module.setting = setting

    def scratch(self, out: Tensor, /, *args: Any) -> int:
        if self.module.setting == Setting():
            return super().scratch(out, *args)
        made = math.prod(self.module.weight_shape)
        resized = sample_kernel_numel(self.module)
        between = 4 * args[0].numel() if self.module.setting.stride == 0.5 else 0
        at = self.module.geometry.at(self.module.setting)
        between += pad_extra(args[0], at).numel() if any(at.extra) else 0
        return (out.shape[0] * (made + (resized if resized != made else 0)) + between) * out.element_size()


class SiteOp:
    """A site's layer before its setting is known: `at(setting)` is the operator that runs.

    factored: whether larger kernels run in their own degrees of freedom, and taps that meet padding alone are left out;
    False is the plain convolution.
    """

    def __init__(
        self,
        path: str,
        layer: Any,
        weight: Tensor | None,
        bias: Tensor | None,
        conventions: Conventions,
        *,
        activation: str | None = None,
        factored: bool = True,
    ) -> None:
        self.path, self.layer, self.weight, self.bias, self.conventions = path, layer, weight, bias, conventions
        self.activation, self.factored = activation, factored
        self._ops: dict[Setting, Op] = {}

    @property
    def subsamples(self) -> bool:
        """Whether a larger stride is a smaller one's output subsampled, which a pool that takes partial windows is not.

        A pool of 2 is all the same, as `pool_at` has it.
        """
        pool = self.layer
        if self.weight is not None or not getattr(pool, "ceil_mode", False):
            return True
        return pool.kernel_size == 2 and pool.padding == 0 and pool.stride != 1

    def at(self, setting: Setting) -> Op:
        """The operator at a setting; made once."""
        if setting not in self._ops:
            self._ops[setting] = self._make(setting)
        return self._ops[setting]

    def _make(self, setting: Setting) -> Op:
        if isinstance(self.layer, DynamicPerSampleConv2d):
            return PerSampleOp(self.layer, setting)
        if self.weight is None:
            return PoolOp(self.layer, setting, self.conventions)
        own, at = self.layer.geometry, self.layer.geometry.at(setting, self.path)
        weight = self.weight if setting.size is None else resize_kernel(self.weight, setting.size, self.conventions)
        if at.half:
            nearest = own.pointwise and self.conventions.shortcut == "nearest"
            return HalfStrideOp(weight, self.bias, at, nearest, self.activation)
        if self.factored and at.kernel[0] > own.kernel[0] and _factoring_pays(self.weight, at):
            return FactoredSizeOp(self.weight, self.bias, at, self.conventions, self.activation)
        geometry = (at.steps, at.padding, at.dilation, at.groups)
        conv = ConvOp(weight, self.bias, *geometry, self.activation, trims=self.factored)
        return PaddedConvOp(conv, at) if any(at.extra) else conv


def _factoring_pays(weight: Tensor, at: Geometry) -> bool:
    """Fewer multiply-accumulates, the depthwise filters counted at ten times theirs: they wait for memory."""
    out, per_group, k0, _ = weight.shape
    if at.groups != 1:
        return False
    k = at.kernel[0]
    plain = out * per_group * k**2
    filters = per_group * (k0 * k + k0**2 * k)
    return out * per_group * k0**2 + 10 * filters < plain
