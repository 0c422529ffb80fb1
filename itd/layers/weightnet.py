"""WeightNet: a convolution whose kernel is made by a grouped fully connected layer from gates, for each sample."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.errors import ModelError
from itd.layers.conv import PerSampleConv2d
from itd.layers.functional import Size, check_images, count


class WeightNetReduce(nn.Module):
    """x: (N, C, H, W) -> z: (N, reduced) = fc(mean over H and W), shared by a block's convolutions (Ma et al. 2020).

    reduced: max(16, C // 16) unless given. There is no activation. Raises ModelError for other channels in the input.

    >>> reduce = WeightNetReduce(512)
    >>> reduce(torch.ones(2, 512, 7, 7)).shape
    torch.Size([2, 32])
    """

    def __init__(self, in_channels: int, reduced: int | None = None, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_channels = count("WeightNetReduce", "in_channels", in_channels)
        self.reduced = _reduced("WeightNetReduce", in_channels, reduced)
        self.fc = nn.Linear(in_channels, self.reduced, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_images("WeightNetReduce", x, self.in_channels)
        z: Tensor = self.fc(x.mean((2, 3)))
        return z


class WeightNet2d(PerSampleConv2d):
    """x: (N, I, H, W), z: (N, reduced) or None -> (N, O, H', W'), a kernel for each sample (WeightNet: Ma et al. 2020).

    gates = sigmoid(fc1(z)); a grouped FC without bias then makes the kernel. With lambda = `multiplier`, G = `g` and
    M = G * lambda, a dense convolution (groups 1) has M*O gates and an FC of G*O groups, a depthwise one (groups = I =
    O) lambda*O gates and an FC of O groups. weight: (groups of the FC, its outputs in a group, lambda).
    Without z the layer takes it from x with its own `reduce`; `own_reduce=False` leaves that away and needs z: one
    `WeightNetReduce` for a whole block. bias, if wanted, is the same for all samples.
    The FC starts so that gates of 1/2 give a kernel with the spread of `nn.Conv2d`'s (the authors rely on the BN).
    Raises ModelError for arguments that do not go together, and for an x or z of another shape.

    >>> layer = WeightNet2d(88, 88, 1, multiplier=4, own_reduce=False)
    >>> sum(p.numel() for p in layer.parameters())
    42944
    >>> x = torch.ones(2, 88, 7, 7)
    >>> layer(x, WeightNetReduce(88)(x)).shape
    torch.Size([2, 88, 7, 7])
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
        bias: bool = False,
        padding_mode: str = "zeros",
        *,
        multiplier: int = 1,
        g: int = 2,
        reduced: int | None = None,
        own_reduce: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.multiplier, self.g = count("WeightNet2d", "multiplier", multiplier), count("WeightNet2d", "g", g)
        self.reduced = _reduced("WeightNet2d", in_channels, reduced)
        fc_groups = self._fc_groups()
        kind = {"device": device, "dtype": dtype}
        self.reduce = WeightNetReduce(in_channels, self.reduced, **kind) if own_reduce else None
        self.fc1 = nn.Linear(self.reduced, fc_groups * multiplier, **kind)
        outputs = math.prod(self.weight_shape) // fc_groups
        self.weight = nn.Parameter(torch.empty(fc_groups, outputs, multiplier, **kind))
        self.bias = nn.Parameter(torch.empty(out_channels, **kind)) if bias else None
        self.reset_parameters()

    def _fc_groups(self) -> int:
        if self.groups != 1:
            if self.groups == self.in_channels == self.out_channels:
                return self.out_channels
            raise ModelError(
                f"WeightNet2d: groups is {self.groups} with {self.in_channels} input and {self.out_channels} output "
                "channels; groups must be 1, or the channels' number where both are the same: else take CondConv2d"
            )
        if self.fan_in % self.g:
            raise ModelError(
                f"WeightNet2d: g is {self.g}, which does not divide the {self.fan_in} weights of one output "
                f"({self.in_channels} channels, kernel {self.kernel_size}); take a g that does: 1 always does"
            )
        return self.g * self.out_channels

    def reset_parameters(self) -> None:
        """The FC as the class says, the rest as torch starts it."""
        bound = 1 / math.sqrt(self.fan_in)
        spread = 2 * bound / math.sqrt(self.multiplier)
        nn.init.uniform_(self.weight, -spread, spread)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        self.fc1.reset_parameters()
        if self.reduce is not None:
            self.reduce.fc.reset_parameters()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        self.check_input(x)
        if self._gates_outputs:
            return self._gated(x, self._gates(x, z))
        return self.convolve(x, *self.sample_kernels(x, z))

    @property
    def _gates_outputs(self) -> bool:
        """Whether each gate multiplies whole channels of the input, so that no kernel need be made."""
        return self.multiplier == 1 and (self.groups != 1 or self.in_channels % self.g == 0)

    def scratch_numel(self, x: Tensor) -> int:
        """As in `PerSampleConv2d`: the kernel, or what each of the G parts gives."""
        if not self._gates_outputs or isinstance(self.padding, str):
            return super().scratch_numel(x)
        assert self.window is not None
        return 2 * self.out_channels * math.prod(self.window.size(x))

    def sample_kernels(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor | None]:
        """What the grouped FC makes of the gates; as in `PerSampleConv2d`. given: z, or nothing."""
        gates = self._gates(x, *given).unflatten(1, (self.weight.shape[0], self.multiplier))
        weight = torch.einsum("ngl,gpl->ngp", gates, self.weight).reshape(-1, *self.weight_shape)
        return weight, None if self.bias is None else self.bias.expand(x.shape[0], -1)

    def _gates(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x: (N, I, H, W), z: (N, reduced) or None -> (N, groups of the FC * lambda), between 0 and 1."""
        return torch.sigmoid(self.fc1(self._reduce(x) if z is None else self._checked(z, x)))

    def _gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """At lambda 1 a gate multiplies a whole block of a kernel, so it can multiply what the block gives: static
        convolutions of G parts of the channels, no kernel for each sample. gates: (N, O*G), (N, O) where depthwise."""
        kernels = self.weight.view(self.weight_shape)
        if self.groups != 1:
            out = self._static(x, kernels) * gates[:, :, None, None]
        else:
            each = gates.view(-1, self.out_channels, self.g, 1, 1).unbind(2)
            parts = zip(x.chunk(self.g, 1), kernels.chunk(self.g, 1), each, strict=True)
            out, *rest = (self._static(part, kernel) * gate for part, kernel, gate in parts)
            for term in rest:
                out = out + term
        return out if self.bias is None else out + self.bias[:, None, None].to(out.dtype)

    def _static(self, x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def _reduce(self, x: Tensor) -> Tensor:
        if self.reduce is None:
            raise ModelError(
                "WeightNet2d: z is None, and the layer was built with own_reduce=False; give z, (N, "
                f"{self.reduced}), from the block's WeightNetReduce, or build the layer with own_reduce=True"
            )
        z: Tensor = self.reduce(x)
        return z

    def _checked(self, z: Tensor, x: Tensor) -> Tensor:
        if z.shape != (x.shape[0], self.reduced):
            raise ModelError(
                f"WeightNet2d: z is {tuple(z.shape)}; it must be ({x.shape[0]}, {self.reduced}), one row for each "
                "sample: build the block's WeightNetReduce and this layer with the same reduced width"
            )
        return z

    def extra_repr(self) -> str:
        own = f"multiplier={self.multiplier}, g={self.g}, reduced={self.reduced}"
        return f"{super().extra_repr()}, bias={self.bias is not None}, {own}"


def _reduced(layer: str, in_channels: int, reduced: int | None) -> int:
    return max(16, in_channels // 16) if reduced is None else count(layer, "reduced", reduced)
