"""CondConv: a convolution whose kernel is a mixture of experts, mixed for each sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from itd.layers.conv import PerSampleConv2d
from itd.layers.functional import Size, Window, count, mixed_conv2d

FEW_PLACES = 16
"""An output of so many places or fewer is mixed from the experts' outputs, on a CPU (`benchmarks/per_sample.py`)."""


class CondConv2d(PerSampleConv2d):
    """x: (N, I, H, W) -> (N, O, H', W') with a kernel for each sample, mixed from m experts (Yang et al. 2019, eq. 1).

    alpha: (N, m) = sigmoid(router(mean over H and W)), neither softmax nor temperature; the kernel is
    sum_j alpha_j weight_j, and the bias, where there is one, mixes likewise.
    weight: (m, O, I/groups, k, k). bias: (m, O).
    The arguments up to `padding_mode` are those of `nn.Conv2d` (padding by zeros only). Raises ModelError for arguments
    that do not go together, other channels in the input, and an input smaller than the kernel.

    >>> layer = CondConv2d(8, 16, 3, stride=2, padding=1, experts=4)
    >>> layer(torch.ones(2, 8, 7, 7)).shape
    torch.Size([2, 16, 4, 4])
    >>> layer.weight.shape, layer.bias.shape, layer.router.weight.shape
    (torch.Size([4, 16, 8, 3, 3]), torch.Size([4, 16]), torch.Size([4, 8]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        experts: int = 4,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.experts = count("CondConv2d", "experts", experts)
        # Of three axes: torch converts those of four and five to channels-last, and refuses five.
        shape = (experts, out_channels, self.fan_in)
        self.kernels = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(experts, out_channels, device=device, dtype=dtype)) if bias else None
        self.router = nn.Linear(in_channels, experts, device=device, dtype=dtype)
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:
        """(m, O, I/groups, k, k): a view of the parameter `kernels`, (m, O, I/groups*k*k)."""
        return self.kernels.unflatten(2, self.weight_shape[1:])

    def reset_parameters(self) -> None:
        """Each expert as `nn.Conv2d` starts; all at once, torch would take O * fan-in for the fan-in."""
        for expert in self.weight:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.fan_in)
            nn.init.uniform_(self.bias, -bound, bound)
        self.router.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        window = self._mixing_window(x)
        if window is None:
            return self.convolve(x, *self.sample_kernels(x))
        alpha = self._alpha(x)
        return mixed_conv2d(x, self.weight, alpha, None if self.bias is None else alpha @ self.bias, window)

    def _mixing_window(self, x: Tensor) -> Window | None:
        """Where the layer reads, if it mixes outputs; None where it makes kernels. x: (N, I, H, W), its shape."""
        window = self.window
        if self.kernels.device.type != "cpu" or self.groups != 1 or window is None:
            return None
        return window if math.prod(window.size(x)) <= FEW_PLACES else None

    def scratch_numel(self, x: Tensor) -> int:
        """As in `PerSampleConv2d`: the kernel, or what each expert gives and the unfolded image."""
        window = self._mixing_window(x)
        if window is None:
            return super().scratch_numel(x)
        return math.prod(window.size(x)) * (self.experts * self.out_channels + self.fan_in)

    def _alpha(self, x: Tensor) -> Tensor:
        """x: (N, I, H, W) -> (N, m): the share of each expert, between 0 and 1."""
        return torch.sigmoid(self.router(x.mean((2, 3))))

    def sample_kernels(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor | None]:
        """The experts' kernels and biases, mixed; as in `PerSampleConv2d`."""
        alpha = self._alpha(x)
        weight = (alpha @ self.kernels.flatten(1)).unflatten(1, self.weight_shape)
        return weight, None if self.bias is None else alpha @ self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bias={self.bias is not None}, experts={self.experts}"
