"""What a setting does to one layer: kernel, stride, padding, dilation. Numbers and kernels only; no modules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.errors import ModelError, SpaceError
from itd.layers.conv import PerSampleConv2d
from itd.layers.functional import Pair
from itd.space import Conventions, Setting


@dataclass(frozen=True)
class Geometry:
    """A convolution, each pair (rows, columns): `kernel`, `stride` (1/2 allowed), `padding`, `dilation`, `groups`.

    padding: zeros above and at the left, and as many below and at the right. extra: how many more zeros are below and
    at the right, 0 or 1.
    """

    kernel: Pair
    stride: tuple[float, float]
    padding: Pair
    dilation: Pair
    groups: int
    extra: Pair = (0, 0)

    @classmethod
    def square(cls, kernel: int, stride: float, padding: int, dilation: int, groups: int) -> Geometry:
        """The geometry of a convolution whose rows and columns are alike."""
        return cls((kernel, kernel), (stride, stride), (padding, padding), (dilation, dilation), groups)

    @classmethod
    def of(cls, path: str, conv: nn.Conv2d | PerSampleConv2d) -> Geometry:
        """The geometry of a pretrained convolution; ModelError by module path where its padding is not of zeros."""
        if conv.padding_mode != "zeros":
            raise ModelError(
                f"{path}: padding_mode {conv.padding_mode!r} cannot vary; only padding with zeros can: choose another "
                "layer for the site"
            )
        kernel, stride, dilation = _pair(conv.kernel_size), _pair(conv.stride), _pair(conv.dilation)
        if conv.padding == "same":
            rows, columns = _spread(kernel, dilation)
            return cls(kernel, stride, (rows // 2, columns // 2), dilation, conv.groups, (rows % 2, columns % 2))
        padding = (0, 0) if isinstance(conv.padding, str) else _pair(conv.padding)
        return cls(kernel, stride, padding, dilation, conv.groups)

    @property
    def pointwise(self) -> bool:
        """Whether the kernel is a single tap."""
        return self.kernel == (1, 1)

    @property
    def odd_square(self) -> bool:
        """Whether the kernel can be resized, and its input spread by zeros: k x k with an odd k."""
        return self.kernel[0] == self.kernel[1] and self.kernel[0] % 2 == 1

    @property
    def half(self) -> bool:
        """Whether the stride is 1/2."""
        return self.stride == (0.5, 0.5)

    @property
    def steps(self) -> Pair:
        """The stride, where it is of whole numbers."""
        return int(self.stride[0]), int(self.stride[1])

    def at(self, setting: Setting, path: str = "convolution") -> Geometry:
        """The geometry at a setting: in all 2 p0 + d (k-1) - d0 (k0-1) zeros, the odd one below and at the right.

        >>> Geometry.square(3, 2, 1, 1, 1).at(Setting(dilation=2, size=5)).padding
        (4, 4)
        >>> Geometry.square(2, 2, 0, 1, 1).at(Setting(dilation=4)).extra
        (1, 1)
        """
        kernel = self.kernel if setting.size is None else _pair(int(setting.size))
        dilation = self.dilation if setting.dilation is None else _pair(int(setting.dilation))
        stride = self.stride if setting.stride is None else (setting.stride, setting.stride)
        if kernel != self.kernel and not (self.odd_square and kernel[0] % 2):
            raise SpaceError(
                f"{path}: size {setting.size} is not defined for a kernel of {by(self.kernel)}; an odd square kernel "
                "is resized to another odd size: leave out that option"
            )
        now, own = _spread(kernel, dilation), _spread(self.kernel, self.dilation)
        rows = 2 * self.padding[0] + self.extra[0] + now[0] - own[0]
        columns = 2 * self.padding[1] + self.extra[1] + now[1] - own[1]
        if rows < 0 or columns < 0:
            least = min(rows, columns) / 2
            raise SpaceError(f"{path}: {setting} would need a padding of {least:g}; leave out that option")
        new = Geometry(kernel, stride, (rows // 2, columns // 2), dilation, self.groups, (rows % 2, columns % 2))
        if new.half:
            new._check_half(path)
        return new

    def _check_half(self, path: str) -> None:
        """SpaceError where stride 1/2 is not defined."""
        if not self.odd_square:
            raise SpaceError(
                f"{path}: stride 1/2 is not defined for a kernel of {by(self.kernel)}; it is for odd square ones: "
                "leave out stride 1/2"
            )
        rows, columns = _spread(self.kernel, self.dilation)
        wanted = rows // 2, columns // 2
        if self.padding != wanted:
            raise SpaceError(
                f"{path}: stride 1/2 needs a padding of {_one(wanted)}, this layer's is {_one(self.padding)}; leave "
                "out stride 1/2"
            )


def by(pair: tuple[float, float]) -> str:
    """Rows and columns as a message says them.

    >>> by((1, 7))
    '1x7'
    """
    return f"{pair[0]:g}x{pair[1]:g}"


def _one(pair: Pair) -> str:
    """One number where rows and columns are alike."""
    return str(pair[0]) if pair[0] == pair[1] else by(pair)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _spread(kernel: Pair, dilation: Pair) -> Pair:
    """How far apart the first and the last tap of a kernel are."""
    return dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)


def pad_extra(x: Tensor, at: Geometry) -> Tensor:
    """x: (N, I, H, W) with the zeros that a convolution has below and at the right alone; x itself where none are."""
    return F.pad(x, (0, at.extra[1], 0, at.extra[0])) if any(at.extra) else x


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
