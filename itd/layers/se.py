"""Squeeze-and-excitation: each channel scaled by a gate taken from all channels' means."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.layers.functional import check_images, count


class SqueezeExcitation(nn.Module):
    """x: (N, C, H, W) -> (N, C, H, W), channel c times gate c (squeeze-and-excitation, Hu et al. 2018, eq. 2 to 4).

    gates: (N, C) = sigmoid(fc2(relu(fc1(mean over H and W)))), with max(1, C // reduction) values in between.
    Raises ModelError for a size below 1 or an input with other channels.

    >>> layer = SqueezeExcitation(64)
    >>> layer(torch.ones(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    >>> sum(p.numel() for p in layer.parameters())
    580
    """

    def __init__(self, channels: int, reduction: int = 16, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.channels = count("SqueezeExcitation", "channels", channels)
        self.reduction = count("SqueezeExcitation", "reduction", reduction)
        squeezed = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, squeezed, device=device, dtype=dtype)
        self.fc2 = nn.Linear(squeezed, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_images("SqueezeExcitation", x, self.channels)
        gates = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gates[:, :, None, None]
