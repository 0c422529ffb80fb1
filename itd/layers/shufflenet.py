"""ShuffleNetV2 as WeightNet uses it, plain or with every convolution inside its blocks made by WeightNet.

Widths, projection and halves are those of the WeightNet paper's repository, not torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from itd.layers.weightnet import WeightNet2d, WeightNetReduce

REPEATS = (4, 8, 4)
STEM, LAST = 24, 1024


class ShuffleNetV2(nn.Module):
    """x: (N, 3, H, W) -> logits (N, K) (Ma et al., ShuffleNet V2, 2018; WeightNet, 2020).

    widths: of the three stages. multiplier: None for plain convolutions, else WeightNet's lambda; then the stem, the
    last 1x1 convolution and the classifier, which stay static, have a bias.

    >>> sum(p.numel() for p in ShuffleNetV2((48, 96, 192)).parameters())
    1366792
    """

    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(
        self, widths: tuple[int, int, int], num_classes: int = 1000, dropout: float = 0.0, multiplier: int | None = None
    ) -> None:
        super().__init__()
        bias = multiplier is not None
        self.conv1 = nn.Sequential(nn.Conv2d(3, STEM, 3, 2, 1, bias=bias), nn.BatchNorm2d(STEM), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = STEM
        for number, (width, repeats) in enumerate(zip(widths, REPEATS, strict=True), start=2):
            blocks: list[nn.Module] = [Downsample(channels, width, multiplier)]
            blocks += [Unit(width, multiplier) for _ in range(repeats - 1)]
            setattr(self, f"stage{number}", nn.Sequential(*blocks))
            channels = width
        self.conv_last = nn.Sequential(
            nn.Conv2d(channels, LAST, 1, bias=bias), nn.BatchNorm2d(LAST), nn.ReLU(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(LAST, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        x = torch.flatten(self.pool(self.conv_last(x)), 1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class _Block(nn.Module):
    """The main branch of a block: 1x1, depthwise 3x3, 1x1; with WeightNet all three share one reduction."""

    def __init__(self, channels: int, middle: int, out: int, stride: int, multiplier: int | None) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.reduce = None if multiplier is None else WeightNetReduce(channels)
        self.reduced = 0 if self.reduce is None else self.reduce.reduced
        self.first, self.first_norm = self._conv(channels, middle, 1), nn.BatchNorm2d(middle)
        self.depthwise, self.depthwise_norm = self._conv(middle, middle, 3, stride, middle), nn.BatchNorm2d(middle)
        self.last, self.last_norm = self._conv(middle, out, 1), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)

    def _conv(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
        padding = kernel // 2
        if self.multiplier is None:
            return nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
        return WeightNet2d(
            channels, out, kernel, stride, padding, groups=groups, multiplier=self.multiplier, reduced=self.reduced,
            own_reduce=False,
        )  # fmt: skip

    def _main(self, x: Tensor, z: Tensor | None) -> Tensor:
        x = self.relu(self.first_norm(self._at(self.first, x, z)))
        x = self.depthwise_norm(self._at(self.depthwise, x, z))
        x = self.relu(self.last_norm(self._at(self.last, x, z)))
        return x

    def _at(self, conv: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
        out: Tensor = conv(x) if self.multiplier is None else conv(x, z)
        return out

    def _z(self, x: Tensor) -> Tensor | None:
        return None if self.reduce is None else self.reduce(x)


class Unit(_Block):
    """x: (N, C, H, W) -> (N, C, H, W): every second channel stays, the others go through the main branch."""

    def __init__(self, channels: int, multiplier: int | None = None) -> None:
        half = channels // 2
        super().__init__(half, half, half, 1, multiplier)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x[:, 0::2], x[:, 1::2]
        return torch.cat((kept, self._main(changed, self._z(changed))), 1)


class Downsample(_Block):
    """x: (N, C, H, W) -> (N, O, H/2, W/2): the projection gives C channels, the main branch O - C."""

    def __init__(self, channels: int, out: int, multiplier: int | None = None) -> None:
        super().__init__(channels, out // 2, out - channels, 2, multiplier)
        self.project_depthwise = self._conv(channels, channels, 3, 2, channels)
        self.project_depthwise_norm = nn.BatchNorm2d(channels)
        self.project, self.project_norm = self._conv(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        z = self._z(x)
        projected = self.project_depthwise_norm(self._at(self.project_depthwise, x, z))
        projected = self.relu(self.project_norm(self._at(self.project, projected, z)))
        return torch.cat((projected, self._main(x, z)), 1)
