"""The layers that take a setting: the plain, differentiable reading of DESIGN's "What a setting computes"."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.layers.conv import PerSampleConv2d
from itd.layers.functional import check_images, per_sample_conv2d
from itd.patcher.geometry import Geometry, half_stride_weight, pad_extra, resize_kernel
from itd.patcher.kinds import check_layer, side
from itd.space import Conventions, Setting

DEFAULT = Setting()


def conv_at(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    """A convolution at a setting.

    x: (N, I, H, W). weight: (O, I/g, rows, columns), untouched. geometry: the pretrained layer's. Returns
    (N, O, H', W'), with H' = 2H at stride 1/2.
    """
    kernel = weight if setting.size is None else resize_kernel(weight, setting.size, conventions)
    return _convolve(x, kernel, bias, geometry, setting, conventions)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    at = geometry.at(setting)
    if not at.half:
        return F.conv2d(pad_extra(x, at), weight, bias, at.steps, at.padding, at.dilation, at.groups)
    if geometry.pointwise and conventions.shortcut == "nearest":
        return F.interpolate(F.conv2d(x, weight, bias, 1, 0, 1, at.groups), scale_factor=2, mode="nearest")
    flipped = half_stride_weight(weight, at.groups)
    return F.conv_transpose2d(x, flipped, bias, 2, at.padding, 1, at.groups, at.dilation)


def pool_at(x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d, setting: Setting, conventions: Conventions) -> Tensor:
    """A pool at a stride: kernel and padding kept. x: (N, C, H, W) -> (N, C, H', W'), exactly 2H at stride 1/2.

    A pool of 2 that also takes windows which begin inside and end outside (`ceil_mode`) gives exactly H at stride 1.
    """
    own, kernel, padding = (side(value) for value in (pool.stride, pool.kernel_size, pool.padding))
    stride: float = setting.stride or own or 1
    partial = pool.ceil_mode and stride == 1 and own != 1 and padding == 0
    if stride == 0.5:
        x, stride, partial = _upsample(x, conventions), 1, True
    if partial and kernel == 2:  # one row below and one column at the right; a window that holds them is what it holds
        x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    if isinstance(pool, nn.MaxPool2d):
        return F.max_pool2d(x, pool.kernel_size, int(stride), pool.padding, pool.dilation, pool.ceil_mode)
    return F.avg_pool2d(
        x, pool.kernel_size, int(stride), pool.padding, pool.ceil_mode, pool.count_include_pad, pool.divisor_override
    )


def _upsample(x: Tensor, conventions: Conventions) -> Tensor:
    if conventions.pool_half == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return _zeros_between(x)


def _zeros_between(x: Tensor) -> Tensor:
    """x: (N, C, H, W) -> (N, C, 2H, 2W), x at the even rows and columns."""
    out = x.new_zeros(x.shape[0], x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


class DynamicConv2d(nn.Conv2d):
    """A pretrained `nn.Conv2d` that takes a setting; it shares the original's parameters and their names."""

    setting: Setting
    conventions: Conventions
    geometry: Geometry
    _resized: dict[tuple[Any, ...], Tensor]

    @classmethod
    def wrap(cls, path: str, conv: nn.Conv2d, conventions: Conventions) -> DynamicConv2d:
        """The same layer with `setting` left at the pretrained values."""
        new = cls.__new__(cls)
        new.__dict__ = {**conv.__dict__, "_parameters": dict(conv._parameters)}
        new.geometry = Geometry.of(path, conv)
        new.setting, new.conventions, new._resized = DEFAULT, conventions, {}
        return new

    def forward(self, input: Tensor) -> Tensor:  # as torch's own calls it
        if self.setting == DEFAULT:
            return super().forward(input)
        return _convolve(
            input, self._kernel(self.setting.size), self.bias, self.geometry, self.setting, self.conventions
        )

    def _kernel(self, k: int | None) -> Tensor:
        """The resized kernel; without gradients it is made once for each state of the weight."""
        if k is None:
            return self.weight
        if k == self.geometry.kernel[0] or torch.is_grad_enabled():
            return resize_kernel(self.weight, k, self.conventions)
        key = (k, self.weight._version, self.weight.dtype, self.weight.device)
        if key not in self._resized:
            self._resized = {old: w for old, w in self._resized.items() if old[1:] == key[1:]}
            kernel = resize_kernel(self.weight.detach(), k, self.conventions)
            self._resized[key] = kernel.contiguous(memory_format=_layout(self.weight))
        return self._resized[key]


def _layout(weight: Tensor) -> torch.memory_format:
    """How a weight is laid out: the output of a convolution is laid out so too."""
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def per_sample_conv_at(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    """`conv_at` where each sample has its own kernel.

    x: (N, I, H, W). weight: (N, O, I/g, rows, columns). bias: (N, O) or None. Returns (N, O, H', W'), H' = 2H at
    stride 1/2.
    """
    at = geometry.at(setting)
    kernel = weight
    if setting.size is not None:
        kernel = resize_kernel(weight.flatten(0, 1), setting.size, conventions).unflatten(0, weight.shape[:2])
    how: dict[str, Any] = {"padding": at.padding, "dilation": at.dilation, "groups": at.groups}
    if not at.half:
        return per_sample_conv2d(pad_extra(x, at), kernel, bias, stride=at.steps, **how)
    if geometry.pointwise and conventions.shortcut == "nearest":
        return F.interpolate(per_sample_conv2d(x, kernel, bias, **how), scale_factor=2, mode="nearest")
    return per_sample_conv2d(_zeros_between(x), kernel, bias, **how)


class DynamicPerSampleConv2d(PerSampleConv2d):
    """What `wrap` adds to the class of a layer that makes a kernel for each sample: it takes a setting.

    x: (N, I, H, W), z: as the layer takes it, or None. At a setting every sample's kernel is made, also where the layer
    has a faster form of its own.
    """

    setting: Setting
    conventions: Conventions
    geometry: Geometry

    @staticmethod
    def wrap(path: str, layer: PerSampleConv2d, conventions: Conventions) -> DynamicPerSampleConv2d:
        """The same layer, sharing its parameters, with `setting` left at the pretrained values."""
        cls = _dynamic_per_sample(type(layer))  # type: ignore[arg-type]
        new = cls.__new__(cls)
        new.__dict__ = {**layer.__dict__, "_parameters": dict(layer._parameters), "_modules": dict(layer._modules)}
        new.geometry = Geometry.of(path, layer)
        new.setting, new.conventions = DEFAULT, conventions
        return new

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        given = () if z is None else (z,)
        if self.setting == DEFAULT:
            return super().forward(x, *given)
        check_images(type(self).__name__, x, self.in_channels)
        weight, bias = self.sample_kernels(x, *given)
        return per_sample_conv_at(x, weight, bias, self.geometry, self.setting, self.conventions)


@functools.cache
def _dynamic_per_sample(cls: Any) -> type[DynamicPerSampleConv2d]:
    return type(cls.__name__, (DynamicPerSampleConv2d, cls), {})  # errors call it what the user does


class _DynamicPool:
    setting: Setting
    conventions: Conventions

    def forward(self, input: Tensor) -> Tensor:
        if self.setting == DEFAULT:
            return super().forward(input)  # type: ignore[misc]
        return pool_at(input, self, self.setting, self.conventions)  # type: ignore[arg-type]


class DynamicMaxPool2d(_DynamicPool, nn.MaxPool2d):
    """A max pool that takes a stride."""


class DynamicAvgPool2d(_DynamicPool, nn.AvgPool2d):
    """An average pool that takes a stride."""


DynamicLayer = DynamicConv2d | DynamicPerSampleConv2d | DynamicMaxPool2d | DynamicAvgPool2d


def wrap_layer(path: str, module: nn.Module, conventions: Conventions) -> DynamicLayer:
    """The layer at `path` as one that takes a setting; ModelError for a layer that cannot."""
    check_layer(path, module)
    new = _wrapped(path, module, conventions)
    new.__dict__["_plain_class"] = type(module)
    return new


def unwrap_layer(layer: Any) -> nn.Module:
    """What `wrap_layer` was given, with the same parameters."""
    cls = layer.__dict__["_plain_class"]
    new = cls.__new__(cls)
    own = ("setting", "conventions", "geometry", "_resized", "_plain_class")
    new.__dict__ = {name: value for name, value in layer.__dict__.items() if name not in own}
    return new


def _wrapped(path: str, module: nn.Module, conventions: Conventions) -> DynamicLayer:
    if isinstance(module, nn.Conv2d):
        return DynamicConv2d.wrap(path, module, conventions)
    if isinstance(module, PerSampleConv2d):
        return DynamicPerSampleConv2d.wrap(path, module, conventions)
    dynamic = DynamicMaxPool2d if isinstance(module, nn.MaxPool2d) else DynamicAvgPool2d
    new: Any = dynamic.__new__(dynamic)
    new.__dict__ = dict(module.__dict__)
    for name in ("kernel_size", "stride", "padding"):
        setattr(new, name, side(getattr(module, name)))
    new.setting, new.conventions = DEFAULT, conventions
    return new
