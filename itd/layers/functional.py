"""One convolution with a kernel for each sample, and the checks all layers share. No parameters live here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from itd.errors import ModelError

Pair = tuple[int, int]
_TINY = 4  # places of a map
Size = int | tuple[int, ...]  # a number or two, as the attributes of `nn.Conv2d` are typed


def per_sample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution in which each sample has its own kernel, as one grouped convolution (CondConv: Yang et al. 2019).

    On a CPU, where a sample's kernel is large beside its image, as a batch of matrix products: a grouped convolution
    repacks every kernel (`benchmarks/per_sample.py`).

    x: (N, I, H, W). weight: (N, O, I/groups, k, k). bias: (N, O) or None. Returns (N, O, H', W').
    stride, padding (zeros; "same" and "valid" too), dilation, groups: as in `torch.nn.functional.conv2d`.
    Raises ModelError when the shapes do not belong together.

    >>> import torch
    >>> x, weight = torch.ones(2, 3, 5, 5), torch.ones(2, 4, 3, 3, 3)
    >>> weight[1] = 0
    >>> out = per_sample_conv2d(x, weight, padding=1)
    >>> out.shape, out[0].max().item(), out[1].max().item()
    (torch.Size([2, 4, 5, 5]), 27.0, 0.0)
    """
    _check_shapes(x, weight, bias, groups)
    samples, _, height, width = x.shape
    if x.device.type == "cpu" and not isinstance(padding, str):
        window = Window((weight.shape[3], weight.shape[4]), _both(stride), _both(padding), _both(dilation))
        if _products_pay(x, window, weight.shape[1], groups):
            return _products(x, window, weight, bias, groups)
    out = F.conv2d(
        x.reshape(1, -1, height, width),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride,
        padding,
        dilation,
        samples * groups,
    )
    return out.unflatten(1, (samples, weight.shape[1])).squeeze(0)


def mixed_conv2d(x: Tensor, weight: Tensor, shares: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    """The convolution with `shares @ weight` for each sample, no kernel made: the static outputs are mixed instead.

    x: (N, I, H, W). weight: (m, O, I, k, k). shares: (N, m). bias: (N, O) or None. Returns (N, O, H', W'). It
    multiplies m times as often as a convolution, and where a map has few places that costs less than to write kernels.
    """
    samples, (count, out_channels) = x.shape[0], weight.shape[:2]
    size = window.size(x)
    if math.prod(size) <= _TINY:  # a convolution would repack its kernels for next to nothing
        unfolded = window.unfold(x).transpose(0, 1).flatten(1)
        each = (weight.flatten(0, 1).flatten(1) @ unfolded).view(count, out_channels, samples, -1)
        out = torch.einsum("nm,monp->nop", shares, each).unflatten(2, size)
    else:
        each = F.conv2d(x, weight.flatten(0, 1), None, window.stride, window.padding, window.dilation)
        out = (each.unflatten(1, (count, out_channels)) * shares[:, :, None, None, None]).sum(1)
    return out if bias is None else out + bias[:, :, None, None].to(out.dtype)


def _products_pay(x: Tensor, window: Window, out_channels: int, groups: int) -> bool:
    """Whether a kernel has four numbers or more for each of the unfolded image, or there is nothing to unfold."""
    return 4 * math.prod(window.size(x)) <= out_channels // groups or (groups == 1 and window.pointwise)


def _products(x: Tensor, window: Window, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Each sample's kernel times its unfolded image: (N, O, H', W')."""
    samples, out_channels = weight.shape[:2]
    matrices = weight.flatten(2).reshape(samples * groups, out_channels // groups, -1)
    out = torch.bmm(matrices, window.unfold(x).reshape(samples * groups, matrices.shape[2], -1))
    out = out.view(samples, out_channels, *window.size(x))
    return out if bias is None else out + bias[:, :, None, None].to(out.dtype)


@dataclass(frozen=True)
class Window:
    """Where a convolution reads: each (rows, columns). The padding is of zeros."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def pointwise(self) -> bool:
        """Whether each output reads one pixel, its own."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def size(self, x: Tensor) -> Pair:
        """x: (N, I, H, W) -> (H', W') of the output."""
        around = zip(x.shape[2:], self.padding, self.dilation, self.kernel, self.stride, strict=True)
        rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in around)
        return rows, columns

    def unfold(self, x: Tensor) -> Tensor:
        """x: (N, I, H, W) -> (N, I*k*k, H'*W'): what each output reads."""
        if self.pointwise:
            return x.flatten(2)
        return F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)


def _both(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    shapes = f"got x {tuple(x.shape)}, weight {tuple(weight.shape)}, groups {groups}"
    if x.dim() != 4 or weight.dim() != 5 or x.shape[0] != weight.shape[0] or x.shape[0] == 0:
        raise ModelError(
            f"per_sample_conv2d: one kernel is needed for each sample: {shapes}; "
            "x is (N, I, H, W) and weight (N, O, I/groups, k, k) with the same N, at least 1"
        )
    if groups < 1 or weight.shape[2] * groups != x.shape[1] or weight.shape[1] % groups:
        raise ModelError(
            f"per_sample_conv2d: channels and groups do not belong together: {shapes}; "
            "weight is (N, O, I/groups, k, k) and groups divides both I and O: correct groups or the weight"
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ModelError(
            f"per_sample_conv2d: bias is {tuple(bias.shape)}; with weight {tuple(weight.shape)} it must be "
            f"{tuple(weight.shape[:2])}, one row for each sample, or None"
        )


def check_images(layer: str, x: Tensor, channels: int) -> None:
    """ModelError unless x is (N, channels, H, W)."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ModelError(
            f"{layer}: the input is {tuple(x.shape)}; it must be (N, {channels}, H, W): "
            "give images with these channels, or build the layer for the channels there are"
        )


def count(layer: str, name: str, value: int) -> int:
    """The value; ModelError unless it is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{layer}: {name} is {value!r}; it must be a whole number, at least 1")
    return value


def pair(layer: str, name: str, value: Size, least: int = 1) -> Pair:
    """(rows, columns) of a number or of two; ModelError unless both are whole numbers of at least `least`."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(v, int) and v >= least for v in both):
        raise ModelError(f"{layer}: {name} is {value!r}; it must be a whole number, at least {least}, or two of them")
    return both[0], both[1]
