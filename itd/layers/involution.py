"""Involution: a kernel for each pixel, shared by the channels of a group and made from the pixel itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.errors import ModelError
from itd.layers.functional import Pair, Size, check_images, count, pair


class Involution2d(nn.Module):
    """x: (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)), a kernel for each pixel (Li et al. 2021, eq. 4 and 6).

    kernels: (N, groups*k*k, H', W') = span(relu(norm(reduce(pool(x))))): an average pool of the stride's size where the
    stride is above 1 (over what is there, at the lower and right edge), a 1x1 convolution to max(1, C // reduction)
    channels, BN, ReLU, and a 1x1 convolution. `bias` is that of both 1x1 convolutions. The arguments up to `dilation`
    are those of `nn.Conv2d`, with as many output as input channels, an odd kernel and padding dilation * (k // 2), for
    which None (or "same") stands, so the output is as large as the convolution's.
    Raises ModelError for other arguments, and for an input with other channels.

    >>> layer = Involution2d(64, 64, 3, stride=2, padding=1)
    >>> layer(torch.ones(2, 64, 7, 7)).shape
    torch.Size([2, 64, 4, 4])
    >>> sum(p.numel() for p in layer.parameters())
    2208
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str | None = None,
        dilation: Size = 1,
        *,
        groups: int = 8,
        reduction: int = 4,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = "Involution2d"
        self.in_channels = self.out_channels = count(name, "in_channels", in_channels)
        self.kernel_size = pair(name, "kernel_size", kernel_size)
        self.stride, self.dilation = pair(name, "stride", stride), pair(name, "dilation", dilation)
        self.groups, self.reduction = count(name, "groups", groups), count(name, "reduction", reduction)
        self._check_channels(out_channels)
        self.padding = self._own_padding(padding)
        reduced = max(1, in_channels // reduction)
        kind = {"device": device, "dtype": dtype}
        strided = self.stride != (1, 1)
        self.pool = nn.AvgPool2d(self.stride, self.stride, ceil_mode=True) if strided else nn.Identity()
        self.reduce = nn.Conv2d(in_channels, reduced, 1, bias=bias, **kind)
        self.norm = nn.BatchNorm2d(reduced, **kind)
        self.span = nn.Conv2d(reduced, groups * self.kernel_size[0] * self.kernel_size[1], 1, bias=bias, **kind)

    def _check_channels(self, out_channels: int) -> None:
        if out_channels != self.in_channels:
            raise ModelError(
                f"Involution2d: {self.in_channels} input and {out_channels} output channels; it keeps the channels, so "
                "both must be the same: change them with a 1x1 convolution before or behind"
            )
        if self.in_channels % self.groups:
            raise ModelError(
                f"Involution2d: {self.in_channels} channels do not divide into {self.groups} groups; "
                "groups must divide the channels: take other groups"
            )

    def _own_padding(self, padding: Size | str | None) -> Pair:
        if not all(k % 2 for k in self.kernel_size):
            raise ModelError(
                f"Involution2d: kernel_size is {self.kernel_size}; it must be odd, to have a middle: take 1, 3, 5, ..."
            )
        own = (self.dilation[0] * (self.kernel_size[0] // 2), self.dilation[1] * (self.kernel_size[1] // 2))
        if padding in (None, "same"):
            return own
        if isinstance(padding, str) or padding is None or pair("Involution2d", "padding", padding, 0) != own:
            raise ModelError(
                f"Involution2d: padding is {padding!r}; with kernel {self.kernel_size} and dilation {self.dilation} it "
                f"must be dilation * (k // 2) = {own}: give that, or None"
            )
        return own

    def forward(self, x: Tensor) -> Tensor:
        check_images("Involution2d", x, self.in_channels)
        kernels = self.span(F.relu(self.norm(self.reduce(self.pool(x)))))
        return self._apply_kernels(x, kernels.unflatten(1, (self.groups, -1, 1)))

    def _apply_kernels(self, x: Tensor, kernels: Tensor) -> Tensor:
        """x: (N, C, H, W), kernels: (N, groups, k*k, 1, H', W') -> (N, C, H', W').

        One shifted view of x at a time: unfolding x would hold k*k copies of it, for the gradient too.
        """
        (above, left), (down, across), (rows, columns) = self.padding, self.stride, kernels.shape[-2:]
        padded = F.pad(x, (left, left, above, above)).unflatten(1, (self.groups, -1))
        out: Tensor | None = None
        for tap in range(kernels.shape[2]):
            top = self.dilation[0] * (tap // self.kernel_size[1])
            start = self.dilation[1] * (tap % self.kernel_size[1])
            bottom, end = top + (rows - 1) * down + 1, start + (columns - 1) * across + 1
            window = padded[..., top:bottom:down, start:end:across]
            kernel = kernels[:, :, tap]
            out = window * kernel if out is None else torch.addcmul(out, window, kernel)
        assert out is not None  # a kernel has at least one tap
        return out.flatten(1, 2)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, reduction={self.reduction}"
        )
