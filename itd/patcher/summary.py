"""What `itd models` tells of each registered model."""

from __future__ import annotations

from typing import Any

import torch

from itd.patcher.model import model_space, patch
from itd.patcher.registry import MODELS, build_model
from itd.space import ATTRIBUTES


def model_summaries() -> list[dict[str, Any]]:
    """One row for each model: `model`, `sites` (site -> module paths), `configs` (attribute -> count), `v1_top1`.

    v1_top1: the published ImageNet accuracy of torchvision's IMAGENET1K_V1 weights in percent.
    """
    rows = []
    for entry in MODELS.values():
        with torch.device("meta"):
            model = patch(build_model(entry.name), entry.name)
        rows.append(
            {
                "model": entry.name,
                "sites": {name: [m.path for m in modules] for name, modules in entry.sites.items()},
                "configs": {a: len(model_space(model, [a], entry=entry)) for a in ATTRIBUTES},
                "v1_top1": entry.v1_top1,
            }
        )
    return rows
