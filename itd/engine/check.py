"""Whether the tree is the network: what torch.fx traced, folded and fused gives the logits of the module itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from itd.engine.plain import PlainExecutor
from itd.engine.program import Program
from itd.engine.tree import TreeExecutor
from itd.errors import ModelError


def check_tree(program: Program, input_shape: tuple[int, int, int], name: str) -> None:
    """ModelError where the tree gives other logits than the network itself.

    One configuration (the default, where it is in the space) on one image of seeded noise. A network that looks at its
    input's values, or changes a tensor in place through another name, is found here. program: in float32, or the
    difference could be rounding. name: of the network, for the message.
    """
    number = program.space.default or 0
    pixels = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    logits: list[Tensor] = []

    def keep(configs: np.ndarray, images: np.ndarray, values: Tensor) -> None:
        logits.append(values)

    TreeExecutor(program).run(pixels, keep, [number])
    PlainExecutor(program.model, program.space, device=program.device).run(pixels, keep, [number])
    tree, plain = logits
    if tree.shape != plain.shape:
        raise ModelError(
            f"{name} as torch.fx traces it is not the same network: its logits are {tuple(tree.shape)}, those of the "
            f"network {tuple(plain.shape)}; choose another model"
        )
    difference = float((tree - plain).abs().max() / plain.abs().max())
    if plain.isfinite().all() and not difference <= 1e-3:
        raise ModelError(
            f"{name} as torch.fx traces it is not the same network: its logits differ by {difference:.0e} of their "
            "scale; rewrite what it does in place or by value, or choose another model"
        )
