"""A really dynamic network: each image runs only the configuration chosen for it, images of one path in one batch.

The choice can look at the values at the frontier of level 0, which every configuration shares. Stages, prefixes and
scheduling are those of the sweep's tree; rows that nobody chose are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.device import Halves
from itd.engine.precision import Precision
from itd.engine.program import Program, compile_program
from itd.engine.tracing import Trace
from itd.engine.tree import Segment, TreeExecutor, run_nodes
from itd.errors import SpaceError
from itd.patcher import DynamicModel
from itd.space import Space

Frontier = dict[int, Tensor]
"""Value number -> (rows, ...) tensor: what leaves level 0, in the order of the numbers."""

Router = Callable[[Frontier, np.ndarray], np.ndarray]
"""(the frontier of some rows, their images (rows,)) -> the configuration of each (rows,)."""


def routed_program(
    network: DynamicModel | Trace,
    space: Space,
    *,
    swept: tuple[str, ...] | None = None,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
) -> Program:
    """A program for `RoutedExecutor`: strides share nothing, as each image takes one.

    swept: the sites before the first of which level 0 ends, also where no listed configuration moves it; None is the
    space's own. Other arguments as of `compile_program`.
    """
    opened = _opened(space, swept or space.swept)
    return compile_program(network, opened, device=device, precision=precision, subsample=False)


class RoutedExecutor(TreeExecutor):
    """Runs, on each image, the one configuration of a space that is chosen for it.

    program: of `routed_program`. budget_bytes: as of `TreeExecutor`.

    >>> from itd.patcher import build_model, model_space, patch
    >>> model = patch(build_model("resnet18", 10), "resnet18")
    >>> network = RoutedExecutor(routed_program(model, model_space(model, ["dilation"], swept=["D"])))
    >>> network.logits(torch.zeros(2, 3, 64, 64), np.array([0, 3])).shape
    torch.Size([2, 10])
    """

    def __init__(self, program: Program, *, budget_bytes: int | None = None) -> None:
        super().__init__(program, budget_bytes=budget_bytes)
        self._paths = program.prefixes.paths()
        self._chosen: np.ndarray | None = None
        self._router: Router | None = None

    def frontier(self, pixels: Tensor) -> Frontier:
        """What leaves level 0. pixels: (N, C, H, W) float32."""
        self._images = len(pixels)
        limit = self._limit(0, ((1, *pixels.shape[1:]),))

        def run_some(rows: slice) -> Frontier:
            some = pixels[rows].to(self.device, self.precision.dtype, memory_format=torch.channels_last)
            return of_images(run_nodes(self.stages[0], {0: some}, len(some)), len(some))

        with torch.inference_mode(), self.precision.flags():
            found = Halves(self.device).run(len(pixels), run_some, limit)
            return {i: torch.cat([part[i] for part in found]) for i in found[0]} if len(found) > 1 else found[0]

    def logits(self, pixels: Tensor, choose: np.ndarray | Router) -> Tensor:
        """(N, K) float32 on the CPU.

        pixels: (N, C, H, W) float32. choose: (N,) the configuration of each image, or what tells it from the frontier;
        after the call `chosen` has them.
        """
        count = pixels.shape[0]
        self._router = choose if callable(choose) else None
        self._chosen = np.full(count, -1) if callable(choose) else np.asarray(choose, np.int64)
        self._check(self._chosen[self._chosen != -1])
        found: dict[int, Tensor] = {}

        def keep(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            found.update(zip(images.tolist(), logits.float().cpu(), strict=True))

        self.run(pixels, keep)
        return torch.stack([found[i] for i in range(count)])

    @property
    def chosen(self) -> np.ndarray:
        """(N,) the configurations of the last call of `logits`."""
        assert self._chosen is not None
        return self._chosen

    def _check(self, configs: np.ndarray) -> None:
        if len(configs) and not (configs.min() >= 0 and configs.max() < len(self.space)):
            raise SpaceError(f"no such configuration among {len(self.space)}: {configs.min()} to {configs.max()}")

    def _children(self, number: int, column: int, segment: Segment, values: dict[int, Tensor]) -> np.ndarray:
        assert self._chosen is not None
        if number == 0 and self._router is not None and (self._chosen[segment.images] < 0).any():
            chosen = np.asarray(self._router(of_images(values, len(segment)), segment.images), np.int64)
            self._check(chosen)
            self._chosen[segment.images] = chosen
        children = super()._children(number, column, segment, values)
        return np.where(self._paths[number][self._chosen[segment.images]] == children, children, -1)


def of_images(values: dict[int, Any], rows: int) -> Frontier:
    """The tensors among what leaves a stage, one row for each image: several become channels. Sizes are left out."""
    return {
        i: v if v.shape[0] == rows else v.unflatten(0, (rows, -1)).flatten(1, 2)
        for i, v in values.items()
        if isinstance(v, Tensor)
    }


def pooled(frontier: Mapping[int, Tensor]) -> np.ndarray:
    """Mean and standard deviation of each channel at the frontier: (rows, F) float32.

    frontier: (rows, channels, H, W) tensors; one that has no H and W is taken as it is.
    """
    parts = []
    for number in sorted(frontier):
        value = frontier[number].float()
        if value.ndim > 2:
            value = value.flatten(2)
            parts += [value.mean(2), value.std(2, correction=0)]
        else:
            parts.append(value)
    return torch.cat(parts, 1).cpu().numpy()


def pooling_macs(frontier: Mapping[int, Tensor]) -> int:
    """What `pooled` costs for one image: an addition and a square of each value."""
    return sum(2 * value[0].numel() for value in frontier.values() if value.ndim > 2)


def _opened(space: Space, swept: tuple[str, ...]) -> Space:
    """The space with branches at these sites, also at those where all its configurations agree."""
    index = {site.name: i for i, site in enumerate(space.sites)}
    options = {
        name: {
            a: tuple(sorted({v for c in space.configs if (v := getattr(c[index[name]], a)) is not None}))
            for a in space.attributes
        }
        for name in swept
    }
    return replace(space, swept=swept, options=options)
