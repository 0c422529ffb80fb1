"""What a sweep costs before it is run: multiply-accumulates, bytes, elements, and which configurations cannot run.

Shapes are followed with meta tensors, one image at a time, each distinct shape once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from itd.engine.graph import Node, Ref
from itd.engine.op import Op, ShapeError, WindowError
from itd.engine.prefixes import BranchSetting, Fork, Prefixes
from itd.engine.rows import META_ROWS, Scalar, counted, mapped, scalar_key
from itd.engine.site_ops import SiteOp
from itd.engine.sizes import LargestValue
from itd.engine.stages import Branch, Stage
from itd.errors import SpaceError, TraceError
from itd.space import Setting, Space, format_config

Shapes = tuple[tuple[int, ...] | Scalar, ...]
Values = Mapping[int, Any]


@dataclass(frozen=True)
class Cost:
    """One stage or branch for one image of some shapes: multiply-accumulates, most bytes in use, what leaves.

    largest: elements of the largest value in it. unknown: names of operators whose multiply-accumulates are not
    counted.
    """

    macs: int
    peak_bytes: int
    largest: int
    out: Shapes
    unknown: frozenset[str] = frozenset()


def resolve(value: Any, values: Values) -> Any:
    """Arguments of a node with its references replaced by values."""
    if isinstance(value, Ref):
        return values[value.id]
    if isinstance(value, (tuple, list, dict, slice)):
        return mapped(value, lambda v: values[v.id] if isinstance(v, Ref) else v)
    return value


def arguments(node: Node, values: Values, rows: int) -> tuple[Any, Any]:
    """Positional and named arguments of a node. rows: of the values, for what counts them."""
    args, kwargs = resolve(node.args, values), resolve(node.kwargs, values)
    if node.counts and not node.op.symbolic:  # type: ignore[union-attr]
        args, kwargs = counted(args, rows), counted(kwargs, rows)
    return args, kwargs


def site_op(node: Node, setting: Setting, attributes: Mapping[str, frozenset[str]]) -> Op:
    """The operator of a site's layer at a setting, of which the layer takes what it can."""
    assert isinstance(node.op, SiteOp) and node.site is not None
    return node.op.at(setting.only(attributes[node.site]))


def fixed_op(node: Node) -> Op:
    """The operator of a node that no branch sets: a site's layer that is not swept runs at its default."""
    return node.op.at(Setting()) if isinstance(node.op, SiteOp) else node.op


class Costs:
    """The costs of a tree's stages and branches, each shape worked out once.

    attributes: module path -> what the layer takes. Raises WindowError where a window exceeds its input, ShapeError
    where a setting does not fit the network, TraceError for a network that mixes rows.
    """

    def __init__(self, stages: Sequence[Stage], attributes: Mapping[str, frozenset[str]], dtype: torch.dtype) -> None:
        self.stages, self.attributes, self.dtype = stages, attributes, dtype
        self._stage: dict[tuple[int, Shapes], Cost | ValueError] = {}
        self._branch: dict[tuple[int, BranchSetting, Shapes], Cost | ValueError] = {}

    def stage(self, number: int, shapes: Shapes) -> Cost:
        """The nodes of a stage, from what enters it to what leaves it."""
        key = (number, shapes)
        if key not in self._stage:
            self._stage[key] = self._tried(lambda: self._run_stage(self.stages[number], shapes))
        return _known(self._stage[key])

    def branch(self, number: int, setting: BranchSetting, shapes: Shapes) -> Cost:
        """The branch into stage `number`, from what left the stage before to what enters."""
        key = (number, setting, shapes)
        if key not in self._branch:
            self._branch[key] = self._tried(lambda: self._run_branch(number, setting, shapes))
        return _known(self._branch[key])

    def of_row(self, number: int, shapes: Shapes, fork: Fork | None) -> tuple[int, int]:
        """What a chunk is sized by, of one row of a stage and then of every branch out of it.

        Bytes, and elements of the largest value. Siblings hold what the branch left in place together.
        """
        stage = self.stage(number, shapes)
        peak, largest = stage.peak_bytes, stage.largest
        if fork is not None:
            held, made = self._bytes(stage.out), self._made(number + 1)
            for setting in fork.settings:
                try:
                    cost = self.branch(number + 1, setting, stage.out)
                except WindowError:
                    continue
                peak, largest = max(peak, held + cost.peak_bytes), max(largest, cost.largest)
                held += self._bytes([cost.out[place] for place in made])
        return peak, largest

    def _made(self, number: int) -> list[int]:
        """Places, among the values that enter a stage, of those that the branch into it makes for each setting."""
        stage, carried = self.stages[number], set(self.stages[number - 1].leaving)
        assert stage.branch is not None
        return [k for k, i in enumerate(stage.entering) if i not in carried or i in stage.branch.values]

    def _tried(self, work: Callable[[], Cost]) -> Cost | ValueError:
        try:
            return work()
        except (WindowError, ShapeError) as error:
            return error

    def _metas(self, ids: Sequence[int], shapes: Shapes) -> dict[int, Any]:
        return {
            i: s.value if isinstance(s, Scalar) else self._meta((META_ROWS * s[0], *s[1:]))
            for i, s in zip(ids, shapes, strict=True)
        }

    def _meta(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def _run_stage(self, stage: Stage, shapes: Shapes) -> Cost:
        values: dict[int, Any] = self._metas(stage.entering, shapes)
        macs, peak, unknown, largest = 0, _live(values), set[str](), LargestValue(values.values())
        for node, frees in zip(stage.nodes, stage.frees, strict=True):
            op = fixed_op(node)
            args, kwargs = arguments(node, values, META_ROWS)
            with largest:
                out = op.meta(*args, **kwargs)
            values[node.id] = out
            macs += op.macs(out, *args, **kwargs)
            unknown |= set(op.uncounted(out, *args, **kwargs))
            peak = max(peak, _live(values) + op.scratch(out, *args))
            for i in frees:
                del values[i]
        out = self._shapes(stage.leaving, values)
        return Cost(macs // META_ROWS, peak // META_ROWS, _each(largest.elements), out, frozenset(unknown))

    def _run_branch(self, number: int, setting: BranchSetting, shapes: Shapes) -> Cost:
        stage, before = self.stages[number], self.stages[number - 1]
        assert stage.branch is not None
        values = self._metas(before.leaving, shapes)
        with LargestValue(values.values()) as largest:
            macs, scratch = apply_meta(stage.branch, setting, values, self.attributes)
        out = self._shapes(stage.entering, values)
        peak = scratch // META_ROWS + self._bytes(out)
        return Cost(macs // META_ROWS, peak, _each(largest.elements), out)

    def _shapes(self, ids: Sequence[int], values: Values) -> Shapes:
        """The shapes of one image's rows, and sizes; TraceError for a value that is neither."""
        found: list[tuple[int, ...] | Scalar] = []
        for i in ids:
            value = values[i]
            scalar = None if isinstance(value, Tensor) else scalar_key(value)
            rowed = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] % META_ROWS == 0
            if scalar is None and not rowed:
                shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TraceError(
                    f"a value that does not have as many rows for each image ({shown}) crosses a site in this network; "
                    "keep images apart, or choose other `sites`"
                )
            found.append(scalar or (value.shape[0] // META_ROWS, *value.shape[1:]))
        return tuple(found)

    def _bytes(self, shapes: Iterable[tuple[int, ...] | Scalar]) -> int:
        return sum(torch.Size(s).numel() for s in shapes if not isinstance(s, Scalar)) * self.dtype.itemsize


def apply_meta(
    branch: Branch, setting: BranchSetting, values: dict[int, Any], attributes: Mapping[str, frozenset[str]]
) -> tuple[int, int]:
    """Take a branch on meta tensors, in place: (multiply-accumulates, scratch bytes)."""
    macs = scratch = 0
    if isinstance(setting, int):
        for i in branch.values & values.keys():
            values[i] = values[i][:, :, ::setting, ::setting]
        return 0, 0
    for node in branch.nodes:
        op = site_op(node, setting, attributes)
        args = resolve(node.args, values)
        out = op.meta(*args)
        macs += op.macs(out, *args)
        scratch = max(scratch, op.scratch(out, *args))
        values[node.id] = out
    return macs, scratch


def _live(values: Values) -> int:
    return sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, Tensor))


def _each(elements: int) -> int:
    """Elements for each row of a meta tensor, rounded up."""
    return -(-elements // META_ROWS)


def _known(cost: Cost | ValueError) -> Cost:
    if isinstance(cost, ValueError):
        raise cost
    return cost


@dataclass(frozen=True)
class PrefixCosts:
    """What all prefixes of a space cost for one image.

    macs: multiply-accumulates of everything the tree runs. per_config: of each configuration's own path, None where its
    windows exceed their inputs. unknown: names of operators that are not counted in either. output: the shape of the
    logits of one image, (1, K) as a rule; None where no configuration can run.
    """

    macs: int
    per_config: tuple[int | None, ...]
    unknown: tuple[str, ...] = ()
    output: tuple[int, ...] | None = None

    def impossible(self) -> list[int]:
        """Numbers of the configurations that cannot run."""
        return [i for i, macs in enumerate(self.per_config) if macs is None]


def prefix_costs(
    space: Space, prefixes: Prefixes, costs: Costs, input_shape: tuple[int, int, int], output: int
) -> PrefixCosts:
    """Follow one image through every prefix of a space.

    input_shape: (C, H, W). output: the number of the value that holds the logits. Raises SpaceError naming a
    configuration where a setting does not fit the network.
    """
    total, unknown = 0, set[str]()
    state: dict[int, tuple[Shapes, int]] = {0: (((1, *input_shape),), 0)}
    leaving: dict[int, tuple[Shapes, int]] = {}
    for number in range(len(costs.stages)):
        leaving = {}
        for prefix, (shapes, path) in state.items():
            cost = _possible(partial(costs.stage, number, shapes), space, prefixes, number, prefix)
            if cost is not None:
                total += cost.macs
                unknown |= cost.unknown
                leaving[prefix] = (cost.out, path + cost.macs)
        if number == len(prefixes.forks):
            break
        state = {}
        for prefix, child, setting in _edges(prefixes.forks[number], leaving):
            shapes, path = leaving[prefix]
            branch = partial(costs.branch, number + 1, setting, shapes)
            cost = _possible(branch, space, prefixes, number + 1, child)
            if cost is not None:
                total += cost.macs
                state[child] = (cost.out, path + cost.macs)
    per_config: list[int | None] = [None] * len(space)
    logits = None
    for prefix, (shapes, path) in leaving.items():
        per_config[int(prefixes.configs[prefix])] = path
        found = shapes[costs.stages[-1].leaving.index(output)]
        logits = None if isinstance(found, Scalar) else found
    return PrefixCosts(total, tuple(per_config), tuple(sorted(unknown)), logits)


def _edges(fork: Fork, prefixes: Iterable[int]) -> Iterator[tuple[int, int, BranchSetting]]:
    """(prefix, longer prefix, setting) of every setting that is allowed."""
    for prefix in prefixes:
        for column, setting in enumerate(fork.settings):
            child = int(fork.children[prefix, column])
            if child >= 0:
                yield prefix, child, setting


def _possible(work: Callable[[], Cost], space: Space, prefixes: Prefixes, number: int, prefix: int) -> Cost | None:
    """The cost, or None where a window exceeds its input."""
    try:
        return work()
    except WindowError:
        return None
    except ShapeError as error:
        while number < len(prefixes.forks):  # any configuration that begins so
            _, prefix, _ = next(_edges(prefixes.forks[number], [prefix]))
            number += 1
        config = space.configs[int(prefixes.configs[prefix])]
        advice = "leave that option out, or give images of another size"
        if "stride" in space.attributes:
            advice = "let the shortcut's projection take the same stride (`sites=A=conv+projection`), or " + advice
        raise SpaceError(
            f"{format_config(space.sites, config)} does not fit the network ({error}); {advice}"
        ) from error
