"""Where a network's layers are: what shapes they see on one image, and the stages that their resolutions make.

Measured on one forward, on shapes alone where the network bears that. Not here: which of them become sites (`auto`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from itd.device import raise_if_memory
from itd.errors import ModelError
from itd.layers.conv import PerSampleConv2d
from itd.patcher.kinds import POOLS, takes
from itd.patcher.storage import copy_on
from itd.text import first_line

_CONVS = (nn.Conv2d, PerSampleConv2d)


@dataclass(frozen=True)
class Layer:
    """A convolution or a pool on one image.

    path: the module's. kind: its class. takes: the attributes that it can take. input, output: (C, H, W). calls: how
    often it is run. spatial: an odd square kernel of more than one tap.
    """

    path: str
    kind: str
    takes: frozenset[str]
    input: tuple[int, ...]
    output: tuple[int, ...]
    calls: int
    spatial: bool

    @property
    def lowers(self) -> bool:
        """Whether its output is at most about half as large as its input."""
        return min(self.output[1:]) > 1 and max(self.input[1:]) >= 1.5 * max(self.output[1:])


@dataclass(frozen=True)
class Stage:
    """The layers whose output has about the same resolution, in the order that they are run. px: of the first."""

    px: int
    layers: tuple[Layer, ...]


def measurable(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """A copy that one image can be sent through: on shapes alone, or where the network reads values, on zeros.

    Raises ModelError for a network that takes no image of this shape.
    """
    try:
        probe = copy_on(model, torch.device("meta"))
        send(probe, shape)
        return probe
    except Exception:  # a network may do anything with what has no values
        pass
    probe = copy_on(model, next((p.device for p in model.parameters()), torch.device("cpu")))
    try:
        send(probe, shape)
    except Exception as error:
        raise_if_memory(error)
        size = " x ".join(map(str, shape[1:]))
        raise ModelError(
            f"{type(model).__name__} does not take an image of {size} with {shape[0]} channels: {first_line(error)}; "
            "give the size that it takes (`input_px`; of a sweep `crop_px` and `resize_px`)"
        ) from error
    return probe


def send(probe: nn.Module, shape: tuple[int, int, int]) -> Any:
    """What a copy makes of one image."""
    first = next(probe.parameters(), torch.empty(0))
    with torch.no_grad():
        return probe(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))


def layers_of(probe: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """Every convolution and pool that is run, in the order of its first run. probe: of `measurable`."""
    seen: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {}
    calls: Counter[str] = Counter()
    handles = []
    for path, module in probe.named_modules():
        if isinstance(module, (*_CONVS, *POOLS)):

            def keep(layer: nn.Module, inputs: Any, named: Any, output: Any, path: str = path) -> None:
                calls[path] += 1
                x = inputs[0] if inputs else named.get("input")
                if isinstance(x, Tensor) and isinstance(output, Tensor) and x.ndim == output.ndim == 4:
                    seen.setdefault(path, (layer, tuple(x.shape[1:]), tuple(output.shape[1:])))

            handles.append(module.register_forward_hook(keep, with_kwargs=True))
    try:
        send(probe, shape)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(path, type(layer).__name__, takes(layer), before, after, calls[path], _is_spatial(layer))
        for path, (layer, before, after) in seen.items()
    ]


def _is_spatial(layer: Any) -> bool:
    if not isinstance(layer, _CONVS):
        return False
    height, width = layer.kernel_size
    return height == width > 1 and height % 2 == 1


def stages_of(layers: list[Layer], px: int) -> list[Stage]:
    """The stages by output resolution (halvings of the input) with an odd square convolution, the finest first."""
    by_halvings: dict[int, list[Layer]] = {}
    for layer in layers:
        if min(layer.output[1:]) > 1:
            by_halvings.setdefault(round(math.log2(px / max(layer.output[1:]))), []).append(layer)
    return [
        Stage(max(members[0].output[1:]), tuple(members))
        for _, members in sorted(by_halvings.items())
        if any(layer.spatial for layer in members)
    ]


def stem_of(model: nn.Module, layers: list[Layer]) -> set[str]:
    """Paths of the layers that are run before the first block: of the first class of modules that comes again.

    A block holds at least two layers with weights, so that a convolution with its normalisation is none. Where no class
    comes again there is no stem.
    """
    blocks = list(_blocks(model))
    first = next(
        (i for i, layer in enumerate(layers) if any(layer.path.startswith(block + ".") for block in blocks)), None
    )
    return set() if first is None else {layer.path for layer in layers[:first]}


def _blocks(model: nn.Module) -> Iterator[str]:
    classes = Counter(type(m) for m in model.modules())
    for path, module in model.named_modules():
        own = not type(module).__module__.startswith("torch.nn")
        weights = sum(isinstance(m, (*_CONVS, nn.Linear)) for m in module.modules())
        if path and own and classes[type(module)] > 1 and weights > 1:
            yield path
