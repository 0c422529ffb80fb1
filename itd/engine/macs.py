"""Multiply-accumulates of the learned layers: their convolutions and linear layers, and the mixing of kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from itd.errors import ModelError
from itd.layers import LAYERS
from itd.layers.condconv import CondConv2d
from itd.layers.conv import PerSampleConv2d
from itd.layers.involution import Involution2d
from itd.layers.se import SqueezeExcitation
from itd.layers.weightnet import WeightNet2d, WeightNetReduce

_UNCOUNTED: tuple[type[nn.Module], ...] = (_ConvNd, nn.MultiheadAttention, nn.Bilinear, nn.RNNBase)
"""What multiplies in its own way, `nn.Conv2d` apart: reported, for a sum without it would be wrong."""


def layer_macs(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """Of one of `LAYERS` on a batch. x, out: its input and output, of which only the shapes are read.

    An involution's products of pixels and kernels count, as a convolution's do. Pooling, activations and the scaling
    by a gate do not.

    >>> layer_macs(SqueezeExcitation(32, 16), torch.empty(2, 32, 5, 5), torch.empty(2, 32, 5, 5))
    256
    """
    samples = x.shape[0]
    if isinstance(module, SqueezeExcitation):
        return samples * (module.fc1.weight.numel() + module.fc2.weight.numel())
    if isinstance(module, WeightNetReduce):
        return samples * module.fc.weight.numel()
    if isinstance(module, Involution2d):
        made = module.reduce.weight.numel() + module.span.weight.numel()
        return samples * math.prod(out.shape[2:]) * made + out.numel() * math.prod(module.kernel_size)
    if isinstance(module, PerSampleConv2d):
        return out.numel() * module.fan_in + samples * kernel_macs(module)
    raise TypeError(f"{type(module).__name__} is none of {', '.join(layer.__name__ for layer in LAYERS)}")


def kernel_macs(module: PerSampleConv2d) -> int:
    """What making the kernel of one sample costs."""
    if isinstance(module, CondConv2d):
        return module.router.weight.numel() + module.kernels.numel()
    assert isinstance(module, WeightNet2d)
    own = 0 if module.reduce is None else module.reduce.fc.weight.numel()
    return own + module.fc1.weight.numel() + module.weight.numel()


def model_macs(model: nn.Module, side_px: int) -> int:
    """Of one side_px x side_px image through a network of convolutions, linear layers and `LAYERS`; nothing is run.

    Raises ModelError for a network with another layer that multiplies, and for an image that it cannot take.
    """
    import copy

    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(module, LAYERS):
            total += layer_macs(module, inputs[0], out)
        elif isinstance(module, nn.Conv2d):
            total += out.numel() * math.prod(module.weight.shape[1:])
        elif isinstance(module, nn.Linear):
            total += out.numel() * module.in_features
        elif isinstance(module, _UNCOUNTED):
            raise ModelError(
                f"the network has a {type(module).__name__}, which is not counted; counted are Conv2d, Linear and the "
                "learned layers: give a network of these"
            )

    network = copy.deepcopy(model).to("meta").eval()
    inside = {id(child) for m in network.modules() if isinstance(m, LAYERS) for child in m.modules() if child is not m}
    for module in network.modules():
        if id(module) not in inside:
            module.register_forward_hook(count)
    try:
        with torch.no_grad():
            network(torch.empty(1, 3, side_px, side_px, device="meta"))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(model).__name__} does not take an image of {side_px} x {side_px}: {reason}; give another side"
        ) from error
    return total
