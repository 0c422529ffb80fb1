"""What a sweep costs before it is run: multiply-accumulates, bytes, and which configurations cannot run at all.

Shapes are followed with meta tensors, one image at a time, each distinct shape once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itd.runner.graph import Node, Ref
from itd.runner.ops import Op, WindowError
from itd.runner.site_ops import SiteOp
from itd.runner.stages import Branch, Stage
from itd.runner.trie import Choice, Fork, Trie
from itd.space import Setting, Space

Shapes = tuple[tuple[int, ...], ...]
Values = Mapping[int, Any]


@dataclass(frozen=True)
class Cost:
    """One stage or branch for one image of given shapes: multiply-accumulates, most bytes in use, what leaves."""

    macs: int
    peak_bytes: int
    out: Shapes


def resolve(value: Any, values: Values) -> Any:
    """Arguments of a node with its references replaced by values."""
    if isinstance(value, Ref):
        return values[value.id]
    if isinstance(value, (tuple, list)):
        return type(value)(resolve(v, values) for v in value)
    if isinstance(value, dict):
        return {k: resolve(v, values) for k, v in value.items()}
    return value


def site_op(node: Node, setting: Setting, attributes: Mapping[str, frozenset[str]]) -> Op:
    """The operator of a site's layer at a setting, of which the layer takes what it can."""
    assert isinstance(node.op, SiteOp) and node.site is not None
    return node.op.at(setting.only(attributes[node.site]))


def fixed_op(node: Node) -> Op:
    """The operator of a node that no branch sets: a site's layer that is not swept runs at its default."""
    return node.op.at(Setting()) if isinstance(node.op, SiteOp) else node.op


class Costs:
    """The costs of a tree's stages and branches, each shape worked out once.

    attributes: module path -> what the layer takes. Raises WindowError where a window exceeds its input.
    """

    def __init__(self, stages: Sequence[Stage], attributes: Mapping[str, frozenset[str]], dtype: torch.dtype) -> None:
        self.stages, self.attributes, self.dtype = stages, attributes, dtype
        self._stage: dict[tuple[int, Shapes], Cost | None] = {}
        self._branch: dict[tuple[int, Choice, Shapes], Cost | None] = {}

    def stage(self, number: int, shapes: Shapes) -> Cost:
        """The nodes of a stage, from what enters it to what leaves it."""
        key = (number, shapes)
        if key not in self._stage:
            self._stage[key] = self._tried(lambda: self._run_stage(self.stages[number], shapes))
        return _known(self._stage[key])

    def branch(self, number: int, choice: Choice, shapes: Shapes) -> Cost:
        """The branch into stage `number`, from what left the stage before to what enters."""
        key = (number, choice, shapes)
        if key not in self._branch:
            self._branch[key] = self._tried(lambda: self._run_branch(number, choice, shapes))
        return _known(self._branch[key])

    def work_bytes(self, number: int, shapes: Shapes, fork: Fork | None) -> int:
        """Bytes for one row of a stage and then of every branch out of it: what a chunk is sized by."""
        stage = self.stage(number, shapes)
        peak = stage.peak_bytes
        if fork is not None:
            held = self._bytes(stage.out)
            for choice in fork.choices:
                try:
                    cost = self.branch(number + 1, choice, stage.out)
                except WindowError:
                    continue
                peak = max(peak, held + cost.peak_bytes)
                held += self._bytes(cost.out)
        return peak

    def _tried(self, work: Any) -> Cost | None:
        try:
            return work()
        except WindowError:
            return None

    def _metas(self, ids: Sequence[int], shapes: Shapes) -> dict[int, Tensor]:
        return {i: torch.empty(s, dtype=self.dtype, device="meta") for i, s in zip(ids, shapes, strict=True)}

    def _run_stage(self, stage: Stage, shapes: Shapes) -> Cost:
        values: dict[int, Any] = self._metas(stage.entering, shapes)
        macs, peak = 0, _live(values)
        for node, frees in zip(stage.nodes, stage.frees, strict=True):
            op = fixed_op(node)
            args = resolve(node.args, values)
            out = op.meta(*args, **resolve(node.kwargs, values))
            values[node.id] = out
            macs += op.macs(out, *args)
            peak = max(peak, _live(values) + op.scratch(out, *args))
            for i in frees:
                del values[i]
        return Cost(macs, peak, tuple(tuple(values[i].shape) for i in stage.leaving))

    def _run_branch(self, number: int, choice: Choice, shapes: Shapes) -> Cost:
        stage, before = self.stages[number], self.stages[number - 1]
        assert stage.branch is not None
        values = self._metas(before.leaving, shapes)
        macs, scratch = apply_meta(stage.branch, choice, values, self.attributes)
        out = tuple(tuple(values[i].shape) for i in stage.entering)
        return Cost(macs, scratch + self._bytes(out), out)

    def _bytes(self, shapes: Shapes) -> int:
        return sum(torch.Size(s).numel() for s in shapes) * self.dtype.itemsize


def apply_meta(
    branch: Branch, choice: Choice, values: dict[int, Any], attributes: Mapping[str, frozenset[str]]
) -> tuple[int, int]:
    """Take a branch on meta tensors, in place: (multiply-accumulates, scratch bytes)."""
    macs = scratch = 0
    if isinstance(choice, int):
        for i in branch.values & values.keys():
            values[i] = values[i][:, :, ::choice, ::choice]
        return 0, 0
    for node in branch.nodes:
        op = site_op(node, choice, attributes)
        args = resolve(node.args, values)
        out = op.meta(*args)
        macs += op.macs(out, *args)
        scratch = max(scratch, op.scratch(out, *args))
        values[node.id] = out
    return macs, scratch


def _live(values: Values) -> int:
    return sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, Tensor))


def _known(cost: Cost | None) -> Cost:
    if cost is None:
        raise WindowError
    return cost


@dataclass(frozen=True)
class Walk:
    """A trie walked for one image. macs: of everything the tree runs. per_config: of each configuration's own path,
    None where its windows exceed their inputs. rows[i]: prefixes at stage i that can run."""

    macs: int
    per_config: tuple[int | None, ...]
    rows: tuple[int, ...]

    def impossible(self) -> list[int]:
        """Numbers of the configurations that cannot run."""
        return [i for i, macs in enumerate(self.per_config) if macs is None]


def walk(space: Space, trie: Trie, costs: Costs, crop_px: int) -> Walk:
    """Follow one crop_px x crop_px image through every prefix of a trie."""
    total = 0
    state: dict[int, tuple[Shapes, int]] = {0: (((1, 3, crop_px, crop_px),), 0)}
    rows = []
    for number in range(len(costs.stages)):
        leaving: dict[int, tuple[Shapes, int]] = {}
        for prefix, (shapes, path) in state.items():
            try:
                cost = costs.stage(number, shapes)
            except WindowError:
                continue
            total += cost.macs
            leaving[prefix] = (cost.out, path + cost.macs)
        rows.append(len(leaving))
        if number == len(costs.stages) - 1:
            state = leaving
            break
        state = {}
        fork = trie.forks[number]
        for prefix, (shapes, path) in leaving.items():
            for column, choice in enumerate(fork.choices):
                child = int(fork.children[prefix, column])
                if child < 0:
                    continue
                try:
                    cost = costs.branch(number + 1, choice, shapes)
                except WindowError:
                    continue
                total += cost.macs
                state[child] = (cost.out, path + cost.macs)
    per_config: list[int | None] = [None] * len(space)
    for prefix, (_, path) in state.items():
        per_config[int(trie.configs[prefix])] = path
    return Walk(total, tuple(per_config), tuple(rows))
