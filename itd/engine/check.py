"""Whether the tree is the network: what torch.fx traced, folded and fused gives the logits of the module itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from itd.engine.executor import Sink
from itd.engine.plain import PlainExecutor
from itd.engine.program import Program
from itd.engine.tree import TreeExecutor
from itd.errors import TraceError


def check_tree(program: Program, input_shape: tuple[int, int, int], name: str) -> None:
    """TraceError where the tree gives other logits than the network itself.

    Two images of seeded noise, at the default (where it is in the space) and one other configuration: together through
    the tree, each alone through the network. A network that looks at its input's values, changes a tensor in place
    through another name, or lets one image of a batch touch another, is found here. program: in float32, or the
    difference could be rounding. name: of the network, for the message.
    """
    first = program.space.default or 0
    configs = sorted({first, len(program.space) - 1})
    pixels = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    tree: dict[tuple[int, int], Tensor] = {}
    TreeExecutor(program).run(pixels, _keep(tree), configs)
    plain: dict[tuple[int, int], Tensor] = {}
    network = PlainExecutor(program.model, program.space, device=program.device)
    for image in range(len(pixels)):
        network.run(pixels[image : image + 1], _keep(plain, image), configs)
    for key, expected in plain.items():
        _compare(tree[key], expected, name)


def _keep(found: dict[tuple[int, int], Tensor], start: int = 0) -> Sink:
    def keep(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        for row, key in enumerate(zip(configs.tolist(), (images + start).tolist(), strict=True)):
            found[key] = logits[row]

    return keep


def _compare(tree: Tensor, plain: Tensor, name: str) -> None:
    if tree.shape != plain.shape:
        raise TraceError(
            f"{name} as torch.fx traces it is not the same network: it has {tree.numel()} logits, the network itself "
            f"{plain.numel()}; choose another model"
        )
    scale = max(float(plain.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((tree - plain).abs().max()) / scale
    if plain.isfinite().all() and not difference <= 1e-3:
        raise TraceError(
            f"{name} as torch.fx traces it is not the same network: its logits differ by {difference:.0e} of their "
            "scale; rewrite what it does in place, by value or across the images of a batch, or choose another model"
        )
