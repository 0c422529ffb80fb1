"""The plain executor: one forward of the patched network for each configuration, nothing shared.

The reference for the tree, and what runs a network that cannot be traced.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.device import MOST_ELEMENTS, Halves, moved, raise_if_memory
from itd.engine.costs import PrefixCosts
from itd.engine.executor import Sink
from itd.engine.macs import Macs, macs
from itd.engine.precision import NARROW, Precision
from itd.engine.sizes import LargestValue, within
from itd.errors import ItdError, ModelError, SpaceError
from itd.patcher import DynamicModel, logits_of
from itd.space import Setting, Space, format_config
from itd.text import first_line

M = TypeVar("M", bound=nn.Module)
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""What takes maps of fewer bits than its parameters have."""


class PlainExecutor:
    """Runs a space on batches of images, nothing shared, folded or fused. model: what `itd.patch` returned.

    Images are laid out as a data set gives them, channel after channel, for a network may count on that (`x.view`).
    """

    def __init__(
        self,
        model: DynamicModel,
        space: Space,
        *,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        self.precision, self.device, self.space = precision or Precision(), torch.device(device), space
        self.model = narrowed(copy.deepcopy(model).to(device=self.device), self.precision.dtype)
        self._whole = model
        self._head_is_wide = self.precision.dtype not in NARROW
        self._limits: dict[tuple[int, torch.Size], int] = {}

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Every configuration, or those given, on every image. pixels: (N, C, H, W) float32."""
        images, halves = np.arange(len(pixels)), Halves(self.device)
        with torch.inference_mode(), self.precision.flags():
            if pixels.numel() <= MOST_ELEMENTS:
                pixels = moved(pixels, self.device, self.precision.dtype)
            for number in range(len(self.space)) if configs is None else configs:
                limit = self._limit(number, pixels, halves)
                halves.run(len(images), partial(self._run_some, number, pixels, images, sink), limit)

    def _run_some(self, number: int, pixels: Tensor, images: np.ndarray, sink: Sink, rows: slice) -> None:
        """One configuration on some rows of the images."""
        logits = self._logits(number, pixels, rows)
        count = len(images[rows])
        if logits.ndim != 2 or len(logits) != count:
            raise ModelError(
                f"the network gives logits of the shape {tuple(logits.shape)} for {count} images; they "
                f"must be ({count}, K), a row for each image: a squeeze may take the images' side away"
            )
        sink(np.full(count, number), images[rows], logits)

    def _logits(self, number: int, pixels: Tensor, rows: slice) -> Tensor:
        some = pixels[rows].to(self.device, self.precision.dtype).contiguous()
        with self.model.configured(self.space.configs[number]):
            if not self._head_is_wide:
                widen_head(self.model, some[:1], self._whole)
                self._head_is_wide = True
            return logits_of(self.model(some))

    def _limit(self, number: int, pixels: Tensor, halves: Halves) -> int | None:
        """How many images have no value with more elements than a GPU takes, told from one; a CPU takes any."""
        if self.device.type == "cpu" or len(pixels) < 2:
            return None
        key = number, pixels.shape[1:]
        if key not in self._limits:
            with LargestValue([pixels[:1]]) as largest:
                halves.run(1, partial(self._logits, number, pixels))
            self._limits[key] = within(largest.elements)
        return self._limits[key]


def narrowed(model: M, dtype: torch.dtype) -> M:
    """A network's weights in a type, in place; normalisation stays in float32 where that is narrower."""
    for module in model.modules():
        own = torch.float32 if dtype in NARROW and isinstance(module, _NORMALISATIONS) else dtype
        module._apply(lambda t, own=own: t.to(own) if t.is_floating_point() else t, recurse=False)
    return model


def widen_head(model: nn.Module, pixels: Tensor, whole: nn.Module | None = None) -> None:
    """Makes the linear layer whose output is the logits compute that output in float32; where there is none, nothing.

    What else the layer computes, and who else reads its parameters, stays as it is. pixels: (N, C, H, W), to see which
    layer that is. whole: the same network before its parameters were rounded, where it is at hand.
    """
    made: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: made.append((name, out)))
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        logits = logits_of(model(pixels))
    finally:
        for hook in hooks:
            hook.remove()
    found = next(((name, out) for name, out in made if out.data_ptr() == logits.data_ptr()), None)
    if found is not None:
        calls = [out for name, out in made if name == found[0]]
        last = next(number for number, out in enumerate(calls) if out is found[1])
        _WideHead(model.get_submodule(found[0]), (whole or model).get_submodule(found[0]), last).put_into(model)


class _WideHead:
    """A linear layer that computes one of its calls of each forward, the one that makes the logits, in float32.

    layer: the layer. whole: that has its parameters. call: the number of that call.
    """

    def __init__(self, layer: nn.Module, whole: nn.Module, call: int) -> None:
        weight, bias = whole.get_parameter("weight"), getattr(whole, "bias", None)
        device = next(layer.parameters()).device
        self.layer, self.call, self.calls = layer, call, 0
        self.weight = weight.detach().to(device, torch.float32)
        self.bias = None if bias is None else bias.detach().to(device, torch.float32)

    def put_into(self, model: nn.Module) -> None:
        """From now on the network's forwards are counted, and the layer's calls in them."""
        model.register_forward_pre_hook(self._begin)
        self.layer.register_forward_hook(self._again)

    def _begin(self, *_: Any) -> None:
        self.calls = 0

    def _again(self, _: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        self.calls += 1
        return F.linear(given[0].float(), self.weight, self.bias) if self.calls == self.call + 1 else out


_TOO_SMALL = re.compile(r"[Kk]ernel size|[Oo]utput size is too small|smaller than|window")
"""What torch says of a window that exceeds its input."""


def forward_costs(model: DynamicModel, space: Space, input_shape: tuple[int, int, int]) -> PrefixCosts:
    """What every configuration's plain forward costs for one image of (C, H, W), by running it on shapes.

    For a network that cannot be traced; `itd.engine.program.plain_costs` is the same of one that can. Raises SpaceError
    naming a configuration where a setting does not fit the network.
    """
    per_config: list[int | None] = []
    unknown: set[str] = set()
    for config in space.configs:
        counted = _counted(model, space, config, input_shape)
        per_config.append(None if counted is None else int(counted))
        unknown |= set(counted.unknown if counted is not None else ())
    possible = next((i for i, count in enumerate(per_config) if count is not None), None)
    output = None if possible is None else _logits_shape(model, space.configs[possible], input_shape)
    return PrefixCosts(sum(m for m in per_config if m is not None), tuple(per_config), tuple(sorted(unknown)), output)


def _counted(
    model: DynamicModel, space: Space, config: tuple[Setting, ...], input_shape: tuple[int, int, int]
) -> Macs | None:
    """The multiply-accumulates of a configuration, None where a window exceeds its input."""
    try:
        return macs(model, config, input_shape)
    except ModelError as error:
        if error.__cause__ is not None and _TOO_SMALL.search(str(error.__cause__)):
            return None
        shown, why = format_config(space.sites, config), first_line(error.__cause__ or error)
        raise SpaceError(
            f"{shown} does not fit the network ({why}); leave that option out, let the layers that must follow take "
            "the same setting (`sites=A=conv+projection`), or give images of another size"
        ) from error


def _logits_shape(
    model: DynamicModel, config: tuple[Setting, ...], input_shape: tuple[int, int, int]
) -> tuple[int, ...]:
    """(1, K) as a rule: of the logits of one image of zeros. Raises ModelError for a network that takes none."""
    first = next(model.parameters(), torch.empty(0))
    pixels = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    with torch.no_grad(), model.configured(config):
        try:
            return tuple(logits_of(model(pixels)).shape)
        except ItdError:
            raise
        except Exception as error:  # a network may raise anything
            raise_if_memory(error, pixels.device)
            size = " x ".join(map(str, input_shape))
            raise ModelError(
                f"the network cannot be run on an image of zeros of {size} ({first_line(error)}); mend it, or give "
                "images of another size"
            ) from error
