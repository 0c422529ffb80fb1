"""A small network as a user's own, for sweeps that are not about the network: `--model support.small:two_classes`.

A sweep of two of its configurations and a few images takes a tenth of one of ResNet-18, whose 11 million weights are
made, hashed, folded and checked each time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SITES = "A=stem,D=body"


class Small(nn.Module):
    """Two convolutions with normalisation, and a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.body, self.body_norm = nn.Conv2d(8, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """logits: (N, classes) of x: (N, 3, H, W)."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        return self.head(torch.relu(self.body_norm(self.body(x))).mean((2, 3)))


def two_classes() -> Small:
    """For images of two classes."""
    return Small(2)


def three_classes() -> Small:
    """For images of three classes."""
    return Small(3)


def ten_classes() -> Small:
    """For the digits."""
    return Small(10)
