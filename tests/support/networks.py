"""A network of a user's own, written out twice: as modules, and as plain functions of a configuration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block with a projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.project = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + self.project(x))


class MyNet(nn.Module):
    """A stem, a residual block and a global pool; logits, or a tuple or an object that holds them."""

    def __init__(self, channels: int = 3, classes: int = 5, seed: int = 0, returns: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential()
        self.stem.conv = nn.Conv2d(channels, 8, 3, 2, 1)
        self.stem.act = nn.ReLU(inplace=True)
        self.block2 = Block(8, 12)
        self.head = nn.Linear(12, classes)
        self.returns = returns
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        x = self.block2(self.stem.act(self.stem.conv(x)))
        logits = self.head(x.mean((2, 3)))
        if self.returns == "tuple":
            return logits, x
        return Output(logits, x) if self.returns == "logits" else logits


class Output:
    """Logits among other things."""

    def __init__(self, logits, features) -> None:
        self.logits, self.features = logits, features


SITES = {"A": "stem.conv", "B": ["block2.conv", "block2.project"]}


def narrow_head(vgg: nn.Module) -> nn.Module:
    """A VGG of torchvision whose hidden linear layers are 32 wide, as they take longer than all that can be a site."""
    head = vgg.classifier
    head[0], head[3] = nn.Linear(head[0].in_features, 32), nn.Linear(32, 32)
    head[6] = nn.Linear(32, head[6].out_features)
    return vgg


def convolved(x, conv: nn.Conv2d, stride=None, dilation=None, size=None):
    """A convolution at a setting by its definition: kernel resized and scaled, zeros inserted at stride 1/2."""
    k0 = conv.kernel_size[0]
    k, d, s = size or k0, dilation or conv.dilation[0], stride or conv.stride[0]
    weight = conv.weight
    if k != k0:
        weight = F.interpolate(weight, (k, k), mode="bilinear", align_corners=False) * (k0 / k) ** 2
    if s == 0.5:
        zeros = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        zeros[:, :, ::2, ::2] = x
        x, s = zeros, 1
    return F.conv2d(x, weight, conv.bias, int(s), d * (k // 2), d, conv.groups)


def by_hand(net: MyNet, x, a: dict, b: dict):
    """MyNet's logits with site A at setting `a` and site B at `b`; the 1x1 projection takes only the stride."""
    x = F.relu(convolved(x, net.stem.conv, **a))
    block, norm = net.block2, net.block2.norm
    y = F.batch_norm(convolved(x, block.conv, **b), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    x = F.relu(y + convolved(x, block.project, stride=b.get("stride")))
    return net.head(x.mean((2, 3)))
