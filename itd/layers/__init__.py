"""Layers whose weights follow from their input: what a model is built from. Nothing here takes a setting."""

from __future__ import annotations

from torch import nn

from itd.layers.condconv import CondConv2d
from itd.layers.functional import per_sample_conv2d
from itd.layers.involution import Involution2d
from itd.layers.se import SqueezeExcitation
from itd.layers.weightnet import WeightNet2d, WeightNetReduce

LAYERS: tuple[type[nn.Module], ...] = (SqueezeExcitation, CondConv2d, WeightNet2d, WeightNetReduce, Involution2d)
"""What `torch.fx` must keep whole: each checks its input's shape, which a symbolic trace cannot."""

__all__ = [
    "LAYERS",
    "CondConv2d",
    "Involution2d",
    "SqueezeExcitation",
    "WeightNet2d",
    "WeightNetReduce",
    "per_sample_conv2d",
]
