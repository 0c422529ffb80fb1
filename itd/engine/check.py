"""Whether an executor is the network: whether it gives the logits of the module itself, run on each image alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from itd.engine.executor import Sink
from itd.engine.plain import PlainExecutor
from itd.engine.program import Program
from itd.engine.tree import TreeExecutor
from itd.errors import ModelError, TraceError
from itd.patcher import DynamicModel
from itd.space import Space


def check_tree(program: Program, input_shape: tuple[int, int, int], name: str) -> None:
    """TraceError where the tree gives other logits than the network itself.

    Two images of seeded noise, at the default (where it is in the space) and one other configuration: together through
    the tree, each alone through the network. A network that looks at its input's values, changes a tensor in place
    through another name, or lets one image of a batch touch another, is found here. program: in float32, or the
    difference could be rounding. name: of the network, for the message.
    """
    configs, pixels = _some(program.space), _noise(input_shape)
    tree: dict[tuple[int, int], Tensor] = {}
    TreeExecutor(program).run(pixels, _keep(tree), configs)
    plain = _each_alone(PlainExecutor(program.model, program.space, device=program.device), pixels, configs)
    for key, expected in plain.items():
        if tree[key].shape != expected.shape:
            raise TraceError(
                f"{name} as torch.fx traces it is not the same network: it has {tree[key].numel()} logits, the network "
                f"itself {expected.numel()}"
            )
        difference = _difference(tree[key], expected)
        if difference > MOST:
            raise TraceError(
                f"{name} as torch.fx traces it is not the same network: its logits differ by {difference:.0e} of their "
                "scale, because of something that it does in place, by value or across the images of a batch"
            )


def check_images_apart(model: DynamicModel, space: Space, input_shape: tuple[int, int, int], name: str) -> None:
    """ModelError where a network gives an image other logits beside another one than alone.

    As `check_tree`, for plain forwards of several images at once.
    """
    executor, configs, pixels = PlainExecutor(model, space), _some(space), _noise(input_shape)
    together: dict[tuple[int, int], Tensor] = {}
    executor.run(pixels, _keep(together), configs)
    for key, expected in _each_alone(executor, pixels, configs).items():
        if _difference(together[key], expected) > MOST:
            raise ModelError(
                f"{name} lets one image of a batch touch another, so that its logits depend on which images are run "
                "together; give `batch_size=1`, which runs each alone"
            )


MOST = 1e-3
"""The largest difference of logits, in units of their scale, that can be rounding."""


def _some(space: Space) -> list[int]:
    """The default configuration, where there is one, and the last."""
    return sorted({space.default or 0, len(space) - 1})


def _noise(shape: tuple[int, int, int]) -> Tensor:
    """(2, C, H, W): two images, of which the second is brighter."""
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([1.0, 1.25]).view(2, 1, 1, 1)


def _each_alone(executor: PlainExecutor, pixels: Tensor, configs: list[int]) -> dict[tuple[int, int], Tensor]:
    """(configuration, image) -> logits."""
    found: dict[tuple[int, int], Tensor] = {}
    for image in range(len(pixels)):
        executor.run(pixels[image : image + 1], _keep(found, image), configs)
    return found


def _keep(found: dict[tuple[int, int], Tensor], start: int = 0) -> Sink:
    def keep(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        for row, key in enumerate(zip(configs.tolist(), (images + start).tolist(), strict=True)):
            found[key] = logits[row]

    return keep


def _difference(logits: Tensor, expected: Tensor) -> float:
    """How far logits are apart, in units of their scale; 0 where they are not finite, which a sweep says itself."""
    if not expected.isfinite().all():
        return 0.0
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((logits - expected).abs().max()) / scale
    return difference if difference == difference else float("inf")
