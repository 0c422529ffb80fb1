"""What runs a space on images, whatever the way: the prefix tree, plain forwards, or an executor of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from itd.engine.precision import Precision
from itd.space import Space

Sink = Callable[[np.ndarray, np.ndarray, Tensor], None]
"""Takes configurations (rows,), images (rows,) and logits (rows, K)."""


class Executor(Protocol):
    """Runs every configuration of a space on a batch of images.

    device, precision: where and in which number format. space: the configurations.
    """

    device: torch.device
    precision: Precision
    space: Space

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Hands the logits of every configuration, or of some, on every image to `sink`, in any order.

        pixels: (N, C, H, W) float32, on any device.
        """
        ...
