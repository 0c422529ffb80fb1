"""The plain executor: one forward of the patched network for each configuration. The reference, not the engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from itd.engine.executor import Sink
from itd.engine.precision import Precision
from itd.patcher import DynamicModel, logits_of
from itd.space import Space


class PlainExecutor:
    """Runs a space on batches of images, nothing shared, folded or fused. model: what `itd.patch` returned."""

    def __init__(
        self,
        model: DynamicModel,
        space: Space,
        *,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        self.precision, self.device, self.space = precision or Precision(), torch.device(device), space
        model = copy.deepcopy(model).to(device=self.device, dtype=self.precision.dtype)
        self.model = model.to(memory_format=torch.channels_last)

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Every configuration, or those given, on every image. pixels: (N, C, H, W) float32."""
        pixels = pixels.to(self.device, self.precision.dtype, memory_format=torch.channels_last)
        images = np.arange(pixels.shape[0])
        with torch.inference_mode(), self.precision.flags():
            for number in range(len(self.space)) if configs is None else configs:
                with self.model.configured(self.space.configs[number]):
                    logits = logits_of(self.model(pixels))
                sink(np.full(len(images), number), images, logits)
