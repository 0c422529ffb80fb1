"""What layers that convolve with a kernel for each sample have in common. How a kernel is made is the layer's own."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from itd.errors import InputSizeError, ModelError
from itd.layers.functional import Pair, Size, Window, check_images, count, pair, per_sample_conv2d


class PerSampleConv2d(nn.Module):
    """x: (N, I, H, W), weight: (N, O, I/groups, k, k) -> (N, O, H', W'); the arguments are those of `nn.Conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        dilation: Size,
        groups: int,
        padding_mode: str,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels = count(name, "in_channels", in_channels)
        self.out_channels = count(name, "out_channels", out_channels)
        self.kernel_size = pair(name, "kernel_size", kernel_size)
        self.stride = pair(name, "stride", stride)
        self.dilation = pair(name, "dilation", dilation)
        self.groups = count(name, "groups", groups)
        self.padding = self._padding(padding)
        if in_channels % groups or out_channels % groups:
            raise ModelError(
                f"{name}: {in_channels} input and {out_channels} output channels do not divide into {groups} groups; "
                "groups must divide both: take fewer groups or other channels"
            )
        if padding_mode != "zeros":
            raise ModelError(f"{name}: padding_mode is {padding_mode!r}; only 'zeros' is defined: pad before the layer")
        self.padding_mode = padding_mode

    def _padding(self, padding: Size | str) -> Pair | str:
        name = type(self).__name__
        if not isinstance(padding, str):
            return pair(name, "padding", padding, 0)
        if padding not in ("same", "valid"):
            raise ModelError(f"{name}: padding is {padding!r}; give a number, two of them, 'same' or 'valid'")
        if padding == "same" and self.stride != (1, 1):
            raise ModelError(f"{name}: padding 'same' is for stride 1, not {self.stride}; give the padding as a number")
        return padding

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, I/groups, k, k): the kernel of one sample."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def fan_in(self) -> int:
        """How many products one output is a sum of."""
        return self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def check_input(self, x: Tensor) -> None:
        """ModelError unless x is (N, I, H, W) and its padded size takes the dilated kernel."""
        name = type(self).__name__
        check_images(name, x, self.in_channels)
        if self.padding == "same":
            return
        around = (0, 0) if isinstance(self.padding, str) else self.padding
        rows, columns = (d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        if x.shape[2] + 2 * around[0] < rows or x.shape[3] + 2 * around[1] < columns:
            raise InputSizeError(
                f"{name}: the input is {x.shape[2]}x{x.shape[3]} with padding {around}, the dilated kernel "
                f"{rows}x{columns}; the padded input must be at least as large: give larger images or more padding"
            )

    def sample_kernels(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor | None]:
        """x: (N, I, H, W) -> the kernel of each sample, (N, O, I/groups, k, k), and its bias, (N, O) or None.

        given: what `forward` takes beside x.
        """
        raise NotImplementedError

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: (N, I, H, W), weight: (N, O, I/groups, k, k), bias: (N, O) or None -> (N, O, H', W')."""
        return per_sample_conv2d(
            x, weight, bias, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )

    def scratch_numel(self, x: Tensor) -> int:
        """How many numbers `forward` holds for each sample beside input and output: its kernel, if it makes one.

        x: (N, I, H, W), of which only the shape is read.
        """
        return math.prod(self.weight_shape)

    @property
    def window(self) -> Window | None:
        """Where the layer reads; None where its padding is a word."""
        if isinstance(self.padding, str):
            return None
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}"
        )
