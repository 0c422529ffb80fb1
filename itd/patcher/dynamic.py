"""The layers that take a setting: the plain, differentiable reading of DESIGN's "What a setting computes"."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.errors import ModelError, SpaceError
from itd.layers.conv import PerSampleConv2d
from itd.layers.functional import check_images, per_sample_conv2d
from itd.patcher.geometry import Geometry, half_stride_weight, resize_kernel
from itd.space import Conventions, Setting

DEFAULT = Setting()


def conv_at(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    """A convolution at a setting.

    x: (N, I, H, W). weight: (O, I/g, k0, k0), untouched. geometry: the pretrained layer's. Returns (N, O, H', W'),
    with H' = 2H at stride 1/2.
    """
    kernel = resize_kernel(weight, setting.size or geometry.kernel, conventions)
    return _convolve(x, kernel, bias, geometry, setting, conventions)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    at = geometry.at(setting)
    if at.stride != 0.5:
        return F.conv2d(x, weight, bias, int(at.stride), at.padding, at.dilation, at.groups)
    if geometry.kernel == 1 and conventions.shortcut == "nearest":
        return F.interpolate(F.conv2d(x, weight, bias, 1, 0, 1, at.groups), scale_factor=2, mode="nearest")
    flipped = half_stride_weight(weight, at.groups)
    return F.conv_transpose2d(x, flipped, bias, 2, at.padding, 1, at.groups, at.dilation)


def pool_at(x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d, setting: Setting, conventions: Conventions) -> Tensor:
    """A pool at a stride: kernel and padding kept. x: (N, C, H, W) -> (N, C, H', W'), exactly 2H at stride 1/2."""
    own: Any = pool.stride
    stride: float = setting.stride or own
    if stride == 0.5:
        x, stride = _upsample(x, conventions), 1
        if pool.kernel_size == 2:  # one row below and one column at the right keep the output at exactly 2H
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

    def forward(self, x: Tensor) -> Tensor:
        if self.setting == DEFAULT:
            return super().forward(x)
        kernel = self._kernel(self.setting.size or self.geometry.kernel)
        return _convolve(x, kernel, self.bias, self.geometry, self.setting, self.conventions)

    def _kernel(self, k: int) -> Tensor:
        """The resized kernel; without gradients it is made once for each state of the weight."""
        if k == self.geometry.kernel or torch.is_grad_enabled():
            return resize_kernel(self.weight, k, self.conventions)
        key = (k, self.weight._version, self.weight.dtype, self.weight.device)
        if key not in self._resized:
            self._resized = {old: w for old, w in self._resized.items() if old[1:] == key[1:]}
            kernel = resize_kernel(self.weight.detach(), k, self.conventions)
            self._resized[key] = kernel.contiguous(memory_format=torch.channels_last)
        return self._resized[key]


def per_sample_conv_at(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, setting: Setting, conventions: Conventions
) -> Tensor:
    """`conv_at` where each sample has its own kernel.

    x: (N, I, H, W). weight: (N, O, I/g, k0, k0). bias: (N, O) or None. Returns (N, O, H', W'), H' = 2H at stride 1/2.
    """
    at = geometry.at(setting)
    kernel = resize_kernel(weight.flatten(0, 1), at.kernel, conventions).unflatten(0, weight.shape[:2])
    how = {"padding": at.padding, "dilation": at.dilation, "groups": at.groups}
    if at.stride != 0.5:
        return per_sample_conv2d(x, kernel, bias, stride=int(at.stride), **how)
    if geometry.kernel == 1 and conventions.shortcut == "nearest":
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

    def forward(self, x: Tensor) -> Tensor:
        if self.setting == DEFAULT:
            return super().forward(x)  # type: ignore[misc]
        return pool_at(x, self, self.setting, self.conventions)  # type: ignore[arg-type]


class DynamicMaxPool2d(_DynamicPool, nn.MaxPool2d):
    """A max pool that takes a stride."""


class DynamicAvgPool2d(_DynamicPool, nn.AvgPool2d):
    """An average pool that takes a stride."""


DynamicLayer = DynamicConv2d | DynamicPerSampleConv2d | DynamicMaxPool2d | DynamicAvgPool2d


def wrap_layer(path: str, module: nn.Module, conventions: Conventions) -> DynamicLayer:
    """The layer at `path` as one that takes a setting; ModelError for a layer that cannot."""
    _check_own_forward(path, module)
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


def _check_own_forward(path: str, module: nn.Module) -> None:
    """ModelError for a convolution or pool of a class of its own, whose forward a setting would take the place of."""
    for kind in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
        if not isinstance(module, kind):
            continue
        own = [m for m in ("forward", "_conv_forward") if getattr(type(module), m, None) is not getattr(kind, m, None)]
        if own:
            raise ModelError(
                f"{path} is a {type(module).__name__}, which computes in its own way ({own[0]}); a site takes a plain "
                f"{kind.__name__}"
            )
        if kind is nn.Conv2d and not isinstance(module._parameters.get("weight"), torch.Tensor):
            raise ModelError(
                f"{path} has a weight that is made anew from others (weight or spectral normalisation, pruning); "
                "remove the parametrisation first, which keeps the value"
            )


def _wrapped(path: str, module: nn.Module, conventions: Conventions) -> DynamicLayer:
    if isinstance(module, nn.Conv2d):
        return DynamicConv2d.wrap(path, module, conventions)
    if isinstance(module, PerSampleConv2d):
        return DynamicPerSampleConv2d.wrap(path, module, conventions)
    for kind, dynamic in ((nn.MaxPool2d, DynamicMaxPool2d), (nn.AvgPool2d, DynamicAvgPool2d)):
        if isinstance(module, kind):
            check_pool(path, module)
            new: Any = dynamic.__new__(dynamic)
            new.__dict__ = dict(module.__dict__)
            new.setting, new.conventions = DEFAULT, conventions
            return new
    raise ModelError(
        f"{path} is a {type(module).__name__}, which cannot vary; a site takes Conv2d, CondConv2d, WeightNet2d, "
        "MaxPool2d or AvgPool2d"
    )


def check_pool(path: str, pool: nn.Module) -> None:
    """ModelError by path for a pool whose stride cannot vary."""
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if not all(isinstance(v, int) for v in (kernel, stride, padding)):
        raise ModelError(f"{path}: a pool with kernel {kernel}, stride {stride} is not square; it cannot vary")
    if pool.ceil_mode or getattr(pool, "return_indices", False) or getattr(pool, "dilation", 1) != 1:
        raise ModelError(f"{path}: a pool with ceil_mode, return_indices or dilation cannot vary")


def check_pool_half(path: str, pool: nn.Module) -> None:
    """SpaceError for a pool that stride 1/2 is not defined for: max k=3, p=1 and average k=2, p=0 are."""
    kind = "max" if isinstance(pool, nn.MaxPool2d) else "average"
    if (kind, pool.kernel_size, pool.padding) not in (("max", 3, 1), ("average", 2, 0)):
        raise SpaceError(
            f"{path}: stride 1/2 is defined for a max pool of 3 (padding 1) and an average pool of 2, not for a "
            f"{kind} pool of {pool.kernel_size} (padding {pool.padding}); leave out stride 1/2"
        )
