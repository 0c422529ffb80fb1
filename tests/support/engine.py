"""Executors of a network and a space, and what they cost, in one call."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itd.engine.costs import PrefixCosts
from itd.engine.program import compile_program, plain_costs
from itd.engine.routed import RoutedExecutor, routed_program
from itd.engine.tree import TreeExecutor


def maps(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Seeded noise (N, C, H, W), channels-last."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(dtype).contiguous(memory_format=torch.channels_last)


def tree(model, space, *, budget_bytes=None, **how) -> TreeExecutor:
    """The prefix tree of a patched network over a space."""
    return TreeExecutor(compile_program(model, space, **how), budget_bytes=budget_bytes)


def routed(model, space, *, budget_bytes=None, **how) -> RoutedExecutor:
    """The really dynamic network of a space."""
    return RoutedExecutor(routed_program(model, space, **how), budget_bytes=budget_bytes)


def logits(executor, pixels: Tensor, classes: int) -> Tensor:
    """pixels: (N, C, H, W) -> (configurations, N, classes); every (configuration, image) has to come exactly once."""
    shape = (len(executor.space), len(pixels))
    values, seen = torch.full((*shape, classes), torch.nan), np.zeros(shape, int)

    def sink(configs, rows, some):
        values[torch.from_numpy(configs), torch.from_numpy(rows)] = some.float().cpu()
        np.add.at(seen, (configs, rows), 1)

    executor.run(pixels, sink)
    assert (seen == 1).all()
    return values


def costs(model, space, px: int) -> tuple[PrefixCosts, PrefixCosts]:
    """Of one RGB image of px x px pixels: plain forwards, and the tree."""
    shape = (3, px, px)
    return plain_costs(model, space, shape), compile_program(model, space).prefix_costs(shape)


def quick_normalisation(monkeypatch) -> None:
    """Normalises nothing where there are shapes alone: torch's own way with them takes as long as all the rest."""
    normalise = F.batch_norm

    def batch_norm(x, *args, **kwargs):
        return torch.empty_like(x) if x.is_meta else normalise(x, *args, **kwargs)

    monkeypatch.setattr(F, "batch_norm", batch_norm)


class CheckedTree(TreeExecutor):
    """A tree of which no map enters a branch or a stage unless it is channels-last. crossed: how many enter a stage."""

    crossed = 0

    def _push(self, queues, number, segment):
        self.crossed += _require_channels_last(segment.values, number)
        super()._push(queues, number, segment)

    def _branch(self, stage, setting, values):
        _require_channels_last(values, setting)
        return super()._branch(stage, setting, values)


def _require_channels_last(values, where) -> int:
    """How many maps there are, all of them channels-last."""
    maps = [value for value in values.values() if isinstance(value, Tensor) and value.ndim == 4]
    for value in maps:
        assert is_channels_last(value), (where, value.shape, value.stride())
    return len(maps)


def is_channels_last(maps: Tensor) -> bool:
    """Whether the channels of a place lie beside one another."""
    return maps.is_contiguous(memory_format=torch.channels_last)
