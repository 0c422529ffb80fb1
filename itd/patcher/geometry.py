"""What a setting does to one layer: kernel, stride, padding, dilation. Numbers and kernels only; no modules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.errors import ModelError, SpaceError
from itd.layers.conv import PerSampleConv2d
from itd.space import Conventions, Setting


@dataclass(frozen=True)
class Geometry:
    """A square convolution: `kernel`, `stride` (1/2 allowed), `padding`, `dilation`, `groups`."""

    kernel: int
    stride: float
    padding: int
    dilation: int
    groups: int

    @classmethod
    def of(cls, path: str, conv: nn.Conv2d | PerSampleConv2d) -> Geometry:
        """The geometry of a pretrained convolution; ModelError by module path where it is not one that can vary."""

        def square(name: str, pair: tuple[int, ...] | int) -> int:
            low, high = (pair, pair) if isinstance(pair, int) else pair
            if low != high:
                raise ModelError(f"{path}: {name} {low}x{high} is not square; only square convolutions can vary")
            return low

        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ModelError(
                f"{path}: padding {conv.padding_mode!r} / {conv.padding!r} cannot vary; only a number of zeros can"
            )
        kernel = square("kernel", conv.kernel_size)
        if kernel % 2 == 0:
            raise ModelError(f"{path}: kernel {kernel}x{kernel} is even; only odd kernels can vary")
        return cls(
            kernel,
            square("stride", conv.stride),
            square("padding", conv.padding),
            square("dilation", conv.dilation),
            conv.groups,
        )

    def at(self, setting: Setting, path: str = "convolution") -> Geometry:
        """The geometry at a setting: padding p0 + (d (k-1) - d0 (k0-1)) / 2.

        >>> Geometry(3, 2, 1, 1, 1).at(Setting(dilation=2, size=5))
        Geometry(kernel=5, stride=2, padding=4, dilation=2, groups=1)
        """
        k = setting.size or self.kernel
        d = setting.dilation or self.dilation
        stride = setting.stride or self.stride
        double = 2 * self.padding + d * (k - 1) - self.dilation * (self.kernel - 1)
        if double < 0 or double % 2:
            raise SpaceError(f"{path}: {setting} would need a padding of {double / 2:g}; leave out that option")
        if stride == 0.5 and double != d * (k - 1):
            raise SpaceError(
                f"{path}: stride 1/2 needs a padding of {d * (k - 1) / 2:g}, this layer's is {double / 2:g}; "
                "leave out stride 1/2"
            )
        return replace(self, kernel=k, stride=stride, padding=double // 2, dilation=d)


def resize_kernel(weight: Tensor, k: int, conventions: Conventions) -> Tensor:
    """A kernel resized bilinearly and scaled, so that it can stand in for the pretrained one.

    weight: (out, in/groups, k0, k0). Returns (out, in/groups, k, k) of the same dtype: resized in float32 (ITD paper,
    section 3.1), times (k0/k)**2 in the default reading. With aligned corners a single tap would be the kernel's top
    left one; it is the centre's.
    """
    k0 = weight.shape[-1]
    if k == k0:
        return weight
    if k == 1 and conventions.align_corners:
        resized = weight[:, :, k0 // 2, k0 // 2, None, None].float()
    else:
        resized = F.interpolate(
            weight.float(), size=(k, k), mode="bilinear", align_corners=conventions.align_corners, antialias=False
        )
    return (resized * conventions.scale(k0, k)).to(weight.dtype)


def resize_matrix(k0: int, k: int, align_corners: bool) -> Tensor:
    """The rows of bilinear resizing: (k0, k) float32 `U` with `resized = U.T @ kernel @ U`."""
    return F.interpolate(torch.eye(k0)[None], size=k, mode="linear", align_corners=align_corners)[0]


def half_stride_weight(weight: Tensor, groups: int) -> Tensor:
    """The kernel that `conv_transpose2d` needs for a fractionally-strided convolution (ITD paper, appendix).

    weight: (O, I/g, k, k). Returns (I, O/g, k, k): flipped in space, channels swapped within each group.
    """
    out, per_group, kh, kw = weight.shape
    grouped = weight.view(groups, out // groups, per_group, kh, kw).transpose(1, 2)
    return grouped.reshape(groups * per_group, out // groups, kh, kw).flip(-2, -1)
