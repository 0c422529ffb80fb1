"""The prefixes of a space's configurations along the stages of a tree: which settings a prefix can still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itd.engine.stages import Stage
from itd.space import Setting, Space

BranchSetting = Setting | int
"""A setting of the branch's layers, or how many-fold a subsampling branch subsamples."""


@dataclass(frozen=True)
class Fork:
    """One branch of the tree.

    settings: every one that any prefix may take there. children: (prefixes, settings) int32, the number of the longer
    prefix, -1 where the setting is not allowed.
    """

    settings: tuple[BranchSetting, ...]
    children: np.ndarray


@dataclass(frozen=True)
class Prefixes:
    """All prefixes of the configurations of a space.

    forks[i] leads from stage i to i + 1; configs[p] is the configuration that prefix p of the last stage is.
    """

    forks: tuple[Fork, ...]
    configs: np.ndarray

    def paths(self) -> list[np.ndarray]:
        """For each fork (C,): the longer prefix that each configuration goes on with."""
        prefix = np.empty(len(self.configs), np.int64)
        prefix[self.configs] = np.arange(len(self.configs))
        paths = []
        for fork in reversed(self.forks):
            paths.append(prefix)
            parent = np.full(int(fork.children.max()) + 1, -1)
            rows, columns = np.nonzero(fork.children >= 0)
            parent[fork.children[rows, columns]] = rows
            prefix = parent[prefix]
        return paths[::-1]


def build_prefixes(space: Space, stages: Sequence[Stage]) -> Prefixes:
    """The prefixes of a space. stages: as `cut` made them."""
    prefix = [0] * len(space)
    forks: list[Fork] = []
    branches = [stage.branch for stage in stages[1:]]
    position = 0
    while position < len(branches):
        branch = branches[position]
        assert branch is not None
        settings = [config[branch.site].only(branch.attributes) for config in space.configs]
        if branch.base:
            bases = _bases(prefix, settings)
            factors: list[BranchSetting] = [
                int(s.stride / b.stride) if s.stride != b.stride else 1  # type: ignore[operator]
                for s, b in zip(settings, bases, strict=True)
            ]
            prefix = _fork(prefix, bases, forks)
            prefix = _fork(prefix, factors, forks)
            position += 2
        else:
            prefix = _fork(prefix, settings, forks)
            position += 1
    configs = np.full(max(prefix) + 1, -1, np.int64)
    for number, last in enumerate(prefix):
        if configs[last] >= 0:
            raise ValueError(f"configurations {configs[last]} and {number} are the same network")
        configs[last] = number
    return Prefixes(tuple(forks), configs)


def _bases(prefix: list[int], settings: list[Setting]) -> list[Setting]:
    """For each configuration the setting at whose stride its layers run: the smallest allowed divisor of its own."""
    allowed: dict[tuple[int, Setting], set[float]] = {}
    for p, s in zip(prefix, settings, strict=True):
        allowed.setdefault((p, s.only(("dilation", "size"))), set()).add(s.stride)  # type: ignore[arg-type]
    bases = []
    for p, s in zip(prefix, settings, strict=True):
        divisors = [v for v in allowed[p, s.only(("dilation", "size"))] if v >= 1 and s.stride % v == 0]  # type: ignore[operator]
        bases.append(s if s.stride == 0.5 else s | Setting(stride=min(divisors)))
    return bases


def _fork(prefix: list[int], taken: Sequence[BranchSetting], forks: list[Fork]) -> list[int]:
    settings = tuple(dict.fromkeys(sorted(set(taken), key=_order)))
    column = {setting: i for i, setting in enumerate(settings)}
    children = np.full((max(prefix) + 1, len(settings)), -1, np.int32)
    longer = []
    count = 0
    for p, setting in zip(prefix, taken, strict=True):
        if children[p, column[setting]] < 0:
            children[p, column[setting]] = count
            count += 1
        longer.append(int(children[p, column[setting]]))
    forks.append(Fork(settings, children))
    return longer


def _order(setting: BranchSetting) -> tuple[float, ...]:
    if isinstance(setting, int):
        return (setting,)
    return tuple(value or 0 for value in (setting.stride, setting.dilation, setting.size))
