"""Forms of a graph for networks that concatenate, as DenseNet does: sums shared by siblings, maps that grow in place.

A dense layer reads everything before it in its block: concatenation, normalisation and ReLU, convolution. Each form
gives the same numbers but for rounding. Not here: other operators (`ops`), and where the tree is cut (`stages`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from itd.engine.graph import Graph, Node, Ref, without_dead
from itd.engine.op import CHANNELS_LAST, Op, ShapeError
from itd.engine.ops import BatchNormOp, CatOp, ConvOp
from itd.engine.rows import mapped

FAR = 1e30
"""A bound of a normalised channel that is farther than this is none: the channel is its shift alone."""
LARGE = 100.0
"""A shift beyond this, of a channel that hardly varied, would cancel against the bound and leave less than the rest."""


class ClampOp(Op):
    """Channels between bounds of their own, x: (N, C, H, W). low, high: (C,). Also takes part of a wider tensor."""

    pointwise = takes_part = True

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.channels = low.numel()
        # one bound takes half of the time of two (2 cores of an AMD EPYC, torch 2.14.1)
        self.low = None if bool((low == -torch.inf).all()) else low.view(1, -1, 1, 1)
        self.high = None if bool((high == torch.inf).all()) else high.view(1, -1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high)

    def meta(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape)


class LateConvOp(ConvOp):
    """A convolution of the late part of a concatenation, to which that of the early part is added: `shared` makes it.

    Both have stride 1, so that their outputs are as large where their inputs are, and not broadcast where the network's
    own concatenation would fail.
    """

    def meta(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        out = super().meta(x)
        if other is not None and other.shape != out.shape:
            sizes = " and ".join("x".join(map(str, maps.shape[2:])) for maps in (other, out))
            raise ShapeError(f"a concatenation meets {sizes}")
        return out


class RoomOp(CatOp):
    """Tensors side by side along the channels, with room behind them for `AppendOp`. room: channels in all."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, xs: Any) -> Tensor:
        n, _, h, w = xs[0].shape
        wide = torch.empty((n, self.room, h, w), dtype=xs[0].dtype, device=xs[0].device, memory_format=CHANNELS_LAST)
        return _filled(wide, 0, xs)

    def meta(self, xs: Any) -> Tensor:
        return CatOp().meta(xs)

    def scratch(self, out: Any, /, *args: Any) -> int:
        return (self.room - out.shape[1]) * out.shape[0] * out.shape[2] * out.shape[3] * out.element_size()


class AppendOp(Op):
    """A concatenation whose first operand has room for the others: they are written behind it."""

    pointwise = True

    def __call__(self, x: Tensor, others: Any) -> Tensor:
        n, channels, h, w = x.shape
        total = channels + sum(other.shape[1] for other in others)
        return _filled(x.as_strided((n, total, h, w), x.stride()), channels, others)

    def meta(self, x: Tensor, others: Any) -> Tensor:
        return CatOp().meta([x, *others])


def _filled(wide: Tensor, first: int, xs: Sequence[Tensor]) -> Tensor:
    """The channels of a wide tensor up to the last of `xs`, which are written from channel `first` on."""
    for x in xs:
        wide[:, first : first + x.shape[1]] = x
        first += x.shape[1]
    return wide[:, :first]


def clamped(graph: Graph) -> Graph:
    """Normalisation and ReLU before a 1x1 convolution as a clamp of each channel, the rest of it in the convolution.

    relu(s x + t) is s max(x, -t / s) + t for s > 0 and s min(x, -t / s) + t for s < 0: scale and shift are linear and
    go into the weight and the bias, and what is left is one pass over the maps in place of two.
    """
    users = _users(graph)
    replaced: dict[int, Node] = {}
    by_id = {node.id: node for node in graph.nodes}
    for node in graph.nodes:
        norm = node.op
        if not isinstance(norm, BatchNormOp) or norm.activation != "relu" or len(users[node.id]) != 1:
            continue
        user = by_id.get(next(iter(users[node.id])))
        conv = None if user is None else user.op
        if user is None or not isinstance(conv, ConvOp) or not _reads_once(user, node.id) or not _takes_shift(conv):
            continue
        if not bool((norm.shift.abs() <= LARGE).all()):
            continue
        op, after = _clamp(norm, conv)
        replaced[node.id], replaced[user.id] = replace(node, op=op), replace(user, op=after)
    return replace(graph, nodes=tuple(replaced.get(node.id, node) for node in graph.nodes))


def _takes_shift(conv: ConvOp) -> bool:
    return conv.weight.shape[2:] == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _reads_once(node: Node, value: int) -> bool:
    """Whether a node reads a value as its first argument alone."""
    return node.args[0] == Ref(value) and all(ref != Ref(value) for ref in node.args[1:])


def _clamp(norm: BatchNormOp, conv: ConvOp) -> tuple[ClampOp, ConvOp]:
    scale, shift = norm.scale.double(), norm.shift.double()
    bound = -shift / scale
    flat = (scale == 0) | ~(bound.abs() < FAR)
    zero, infinite = torch.zeros_like(bound), torch.full_like(bound, torch.inf)
    low = torch.where(flat, zero, torch.where(scale > 0, bound, -infinite))
    high = torch.where(flat, zero, torch.where(scale > 0, infinite, bound))
    constant = torch.where(flat, shift.relu(), shift)
    weight = conv.weight.double()
    bias = (weight[:, :, 0, 0] * constant).sum(1)
    bias = bias if conv.bias is None else bias + conv.bias.double()
    weight = weight * torch.where(flat, zero, scale).view(1, -1, 1, 1)
    clamp = ClampOp(low.to(norm.scale), high.to(norm.scale))
    return clamp, _with(conv, weight.to(conv.weight), bias.to(norm.shift), conv.activation)


def _with(
    conv: ConvOp, weight: Tensor, bias: Tensor | None, activation: str | None, kind: type[ConvOp] | None = None
) -> ConvOp:
    """A convolution of the same geometry. kind: its class, None for the same."""
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return (kind or type(conv))(weight, bias, *geometry, activation, trims=conv.trims)


def shared(graph: Graph, levels: Mapping[int, int]) -> Graph:
    """Convolutions of concatenations in two parts: what an earlier level knows already is summed there, once.

    A convolution is linear in its channels, and normalisation and ReLU keep them apart. Those that were made before the
    last branch are convolved there, and every sibling adds the sum to that of its own channels. levels: value number ->
    the level of the tree that it is made at.
    """
    by_id = {node.id: node for node in graph.nodes}
    users = _users(graph)
    number = max(by_id, default=0)
    made: dict[int, list[Node]] = {}  # after which node
    known: dict[tuple[Any, ...], int] = {}  # concatenations that were made here, early ones and late ones
    replaced: dict[int, Node] = {}

    def new(op: Op, args: tuple[Any, ...], after: list[Node]) -> Ref:
        nonlocal number
        number += 1
        after.append(Node(number, op, args))
        return Ref(number)

    for node in graph.nodes:
        found = _split(node, by_id, users, levels)
        if found is None:
            continue
        norm, early, late = found
        conv = node.op
        assert isinstance(conv, ConvOp)
        sums: list[Node] = []
        rest: list[Node] = []
        parts = {}
        for name, chosen, nodes in (("early", early, sums), ("late", late, rest)):
            refs = tuple(ref for ref, _ in chosen)
            channels = torch.cat([channels for _, channels in chosen])
            if len(refs) == 1:
                value = refs[0]
            elif (key := (name, *(ref.id for ref in refs))) in known:
                value = Ref(known[key])
            else:
                value = new(CatOp(), (list(refs),), nodes)
                known[key] = value.id
            if norm is not None:
                value = new(_some_channels(norm, channels), (value,), nodes)
            parts[name] = value, conv.weight[:, channels]
        value, weight = parts["early"]
        total = new(_with(conv, weight, None, None), (value,), sums)
        value, weight = parts["late"]
        op = _with(conv, weight, conv.bias, conv.activation, LateConvOp)
        replaced[node.id] = replace(node, op=op, args=(value, total))
        last = max((ref.id for ref, _ in early), key=lambda i: _place(graph, i))
        made.setdefault(last, []).extend(sums)
        made.setdefault(-node.id, []).extend(rest)
    if not replaced:
        return graph
    nodes = list(made.get(0, ()))
    for node in graph.nodes:
        nodes += made.get(-node.id, ())
        nodes.append(replaced.get(node.id, node))
        nodes += made.get(node.id, ())
    return _numbered(without_dead(nodes, graph.output), graph.output)


Chosen = list[tuple[Ref, Tensor]]
"""Parts of a concatenation, and the channels of each in it."""


def _split(
    node: Node, by_id: Mapping[int, Node], users: Mapping[int, Collection[int]], levels: Mapping[int, int]
) -> tuple[BatchNormOp | None, Chosen, Chosen] | None:
    """The normalisation, and the early and late parts of the concatenation, before a convolution worth splitting."""
    conv = node.op
    if not isinstance(conv, ConvOp) or conv.groups != 1 or conv.stride != (1, 1):
        return None
    if len(node.args) != 1 or not isinstance(node.args[0], Ref):
        return None
    before = by_id.get(node.args[0].id)
    norm = None
    if before is not None and isinstance(before.op, BatchNormOp):
        if len(users[before.id]) != 1:
            return None
        norm, before = before.op, by_id.get(before.args[0].id)
    if before is None or type(before.op) is not CatOp:
        return None
    parts = before.args[0]
    widths = _widths(parts, by_id, conv.weight.shape[1])
    if widths is None:
        return None
    early: Chosen = []
    late: Chosen = []
    first = 0
    for ref, width in zip(parts, widths, strict=True):
        chosen = early if levels[ref.id] < levels[node.id] else late
        chosen.append((ref, torch.arange(first, first + width)))
        first += width
    return (norm, early, late) if early and late else None


def _widths(parts: Sequence[Any], by_id: Mapping[int, Node], total: int) -> list[int] | None:
    """How many channels each part of a concatenation has, where all but one say so; None where they do not."""
    widths = [channels_of(by_id.get(ref.id), by_id) if isinstance(ref, Ref) else None for ref in parts]
    if any(not isinstance(ref, Ref) for ref in parts) or widths.count(None) > 1:
        return None
    known = sum(width for width in widths if width is not None)
    widths = [total - known if width is None else width for width in widths]
    return [width for width in widths if width is not None] if sum(w or 0 for w in widths) == total else None


def channels_of(node: Node | None, by_id: Mapping[int, Node]) -> int | None:
    """The channels of what a node makes, where its operator says so by itself."""
    op: Any = None if node is None else node.op
    weight = getattr(op, "weight", None)
    if node is not None and isinstance(weight, Tensor) and weight.ndim == 4:
        adds = isinstance(op, ConvOp) and len(node.args) > 1
        return None if adds and len(weight) == 1 else len(weight)  # one channel may be added to many
    if node is not None and isinstance(op, CatOp):
        widths = [channels_of(by_id.get(ref.id), by_id) if isinstance(ref, Ref) else None for ref in node.args[0]]
        return None if None in widths else sum(w for w in widths if w is not None)
    if isinstance(op, (BatchNormOp, ClampOp)):
        return op.channels
    return None


def _some_channels(norm: BatchNormOp, channels: Tensor) -> BatchNormOp:
    channels = channels.to(norm.scale.device)
    return BatchNormOp(norm.scale[channels], norm.shift[channels], norm.activation)


def grown(nodes: Sequence[Node], leaving: Collection[int]) -> list[Node]:
    """Concatenations of a stage that begin with an earlier one's parts, made by adding to it in place.

    Only where all that reads them is as fast on part of a wider tensor. leaving: values that later stages read, for
    which there has to be a tensor of their own.
    """
    users = _users(Graph(tuple(nodes), 0))
    by_id = {node.id: node for node in nodes}

    def inner(node: Node) -> bool:
        takes = [getattr(by_id[user].op, "takes_part", False) for user in users[node.id]]
        return type(node.op) is CatOp and node.id not in leaving and all(takes)

    chains: list[list[Node]] = []
    for node in nodes:
        if not inner(node):
            continue
        parts = node.args[0]
        chain = next((c for c in chains if parts[: len(c[-1].args[0])] == c[-1].args[0] != parts), None)
        if chain is None:
            chains.append([node])
        else:
            chain.append(node)
    replaced = {}
    for chain in chains:
        room = _room(chain[-1], users, by_id)
        if len(chain) < 2 or room is None:
            continue
        replaced[chain[0].id] = replace(chain[0], op=RoomOp(room))
        for before, node in itertools.pairwise(chain):
            added = node.args[0][len(before.args[0]) :]
            replaced[node.id] = replace(node, op=AppendOp(), args=(Ref(before.id), added))
    return [replaced.get(node.id, node) for node in nodes]


def _room(last: Node, users: Mapping[int, Collection[int]], by_id: Mapping[int, Node]) -> int | None:
    """Channels of the last concatenation of a chain, as what reads it has them."""
    ops = (by_id[user].op for user in users[last.id])
    return next((op.channels for op in ops if isinstance(op, (BatchNormOp, ClampOp))), None)


def _users(graph: Graph) -> dict[int, set[int]]:
    users: dict[int, set[int]] = {node.id: set() for node in graph.nodes}
    for node in graph.nodes:
        for i in node.inputs():
            users.setdefault(i, set()).add(node.id)
    users.setdefault(graph.output, set()).add(-1)  # whoever takes the logits
    return users


def _place(graph: Graph, value: int) -> int:
    return next((place for place, node in enumerate(graph.nodes) if node.id == value), -1)


def _numbered(nodes: Sequence[Node], output: int) -> Graph:
    """The nodes numbered in their order."""
    numbers = {0: 0} | {node.id: number for number, node in enumerate(nodes, start=1)}
    renamed: Callable[[Any], Any] = lambda v: Ref(numbers[v.id]) if isinstance(v, Ref) else v  # noqa: E731
    return Graph(
        tuple(
            replace(node, id=numbers[node.id], args=mapped(node.args, renamed), kwargs=mapped(node.kwargs, renamed))
            for node in nodes
        ),
        numbers[output],
    )
