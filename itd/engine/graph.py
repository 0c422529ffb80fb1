"""A traced network as a flat list of operators: normalisations folded, additions and activations fused.

Not here: the tracing (`tracing`), what a node is by itself (`fx_nodes`), the cutting into levels (`stages`) and the
operators themselves (`ops`, `site_ops`).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from itd.engine.fx_nodes import (
    activation_of,
    has_statistics,
    is_channel_cat,
    is_identity,
    is_plain,
    only_user,
    returned,
    scale_shift,
)
from itd.engine.op import Op
from itd.engine.ops import ActivationOp, AddOp, BatchNormOp, CatOp, ConvOp
from itd.engine.precision import NARROW
from itd.engine.rows import Rows, leaves
from itd.engine.site_ops import SiteOp
from itd.engine.torch_ops import FunctionOp, HeadOp, ModuleOp, ScalarOp, ShapeOp, tensor_method
from itd.engine.tracing import Trace
from itd.errors import ModelError
from itd.layers.conv import PerSampleConv2d
from itd.patcher import DynamicConv2d


@dataclass(frozen=True)
class Ref:
    """The value that operator number `id` makes; number 0 is the input."""

    id: int


@dataclass
class Node:
    """One operator of the graph and where its arguments come from.

    site: the module path, for a site's layer. counts: its arguments may hold the number of rows. free: it reads sizes
    and parameters alone, no image, so that each stage that wants its value makes it anew.
    """

    id: int
    op: Op | SiteOp
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    site: str | None = None
    counts: bool = False
    free: bool = False

    def inputs(self) -> set[int]:
        """Numbers of the values it reads."""
        return {ref.id for ref in _refs((self.args, self.kwargs))}


@dataclass(frozen=True)
class Graph:
    """Operators in an order that can be run, and the number of the value that holds the logits."""

    nodes: tuple[Node, ...]
    output: int


def _refs(value: Any) -> Iterator[Ref]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Ref))


_SCALAR_MODULES = ("_operator", "operator", "builtins", "math")
"""Modules whose functions make a number of numbers, a tuple of tuples, and never a tensor of them."""

_ADDITIONS: tuple[Any, ...] = (operator.add, torch.add, operator.iadd)


def build_graph(
    traced: Trace,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    optimise: bool = True,
    moving: Collection[str] | None = None,
) -> Graph:
    """The operators of a traced network.

    dtype, device: of weights and activations; folding is done in float64. optimise: fold, fuse and factor; False keeps
    the plain operators, for counting alone: convolutions then have the shapes of their weights and not the values.
    moving: paths of the sites' layers that take a setting; None is all.
    """
    return _Builder(traced, dtype, torch.device(device), optimise, moving).build()


class _Builder:
    def __init__(
        self,
        traced: Trace,
        dtype: torch.dtype,
        device: torch.device,
        optimise: bool,
        moving: Collection[str] | None,
    ) -> None:
        self.model, self.fx, self.opaque, self.constants = traced.model, traced.graph, traced.opaque, traced.constants
        self.dtype, self.device, self.optimise = dtype, device, optimise
        model = self.model
        self.modules = dict(model.named_modules())
        self.site_paths = {m.path for modules in model.sites.values() for m in modules}
        self.moving = self.site_paths if moving is None else moving
        self.value: dict[fx.Node, Any] = {}
        self.nodes: list[Node] = []
        self.done: set[fx.Node] = set()
        self.scalars: set[int] = set()
        self.free: set[int] = set()
        self.under_way: set[fx.Node] = set()
        self.output = 0

    def build(self) -> Graph:
        self.sites_before = self._sites_before()
        for node in list(self.fx.nodes):
            self._visit(node)
        nodes = without_dead(self.nodes, self.output)
        missing = self.site_paths - {n.site for n in nodes}
        if missing:
            raise ModelError(f"no logit depends on {', '.join(sorted(missing))}; choose other `sites`")
        return Graph(tuple(nodes), self.output)

    def _visit(self, node: fx.Node) -> None:
        if node in self.done or node in self.value:
            return
        if node.op == "placeholder":
            first = not any(n.op == "placeholder" for n in self.value)
            self.value[node] = Ref(0) if first else node.args[0] if node.args else None
        elif node.op == "output":
            self._finish(node)
        elif node.op == "get_attr":
            self.value[node] = self._cast(self._attribute(str(node.target)))
        else:
            self.under_way.add(node)
            self._lower(node)
            self.under_way.discard(node)

    def _finish(self, node: fx.Node) -> None:
        out = self._resolve(returned(node))
        if not isinstance(out, Ref):
            raise ModelError("the network must return logits: a tensor, the first of a tuple, or .logits")
        self.output = out.id

    def _sites_before(self) -> dict[fx.Node, frozenset[fx.Node]]:
        """For each node the layers that take a setting and that it depends on."""
        before: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in self.fx.nodes:
            own = {node} if node.op == "call_module" and str(node.target) in self.moving else set()
            before[node] = frozenset().union(own, *(before[n] for n in node.all_input_nodes))
        return before

    # -- one node -------------------------------------------------------------------------------------------------

    def _lower(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if module is not None and str(node.target) in self.site_paths:
            self._site(node, module)
        elif self._is_fixed(node):
            self._emit_as_it_is(node, module)
        elif isinstance(module, nn.Conv2d) and is_plain(module):
            self._conv(node, module)
        elif isinstance(module, nn.BatchNorm2d) and has_statistics(module):
            self._emit_fused(node, lambda act: BatchNormOp(*self._affine(module), act))
        elif is_identity(node, module):
            self.value[node] = self._resolve(node.args[0])
        elif self._is_addition(node):
            self._emit_fused(node, AddOp)
        elif self._is_size(node):
            self._size(node)
        elif is_channel_cat(node):
            parts = self._resolve(node.args[0])
            if len(parts) == 1:
                self.value[node] = parts[0]
            else:
                self._emit(node, CatOp(), (parts,))
        elif (kind := activation_of(node, module)) is not None:
            self._emit(node, ActivationOp(kind), (self._resolve(node.args[0]),))
        elif type(module) is nn.Linear and self._is_head(node) and self.dtype in NARROW:
            self._emit(node, HeadOp(self._moved(module, torch.float32)), (self._resolve(node.args[0]),))
        else:
            self._emit_as_it_is(node, module)

    def _emit_as_it_is(self, node: fx.Node, module: nn.Module | None) -> None:
        if module is not None:
            self._emit_any(node, ModuleOp(self._moved(module), opaque=str(node.target) in self.opaque))
        else:
            function = tensor_method(str(node.target)) if node.op == "call_method" else node.target
            self._emit_any(node, FunctionOp(function))  # type: ignore[arg-type]

    def _emit_any(self, node: fx.Node, op: Op) -> None:
        """Any operator; what depends on parameters alone is computed here, once."""
        args, kwargs = self._resolve(node.args), self._resolve(node.kwargs)
        inside = leaves((args, kwargs))
        read = {leaf.id for leaf in inside if isinstance(leaf, Ref)}
        counts = any(isinstance(leaf, Rows) for leaf in inside) or not read.isdisjoint(self.scalars)
        if not read and not counts:
            with torch.no_grad():
                self.value[node] = op(*args, **kwargs)
            self.done.add(node)
            return
        sizes_alone = read <= self.scalars and not any(isinstance(leaf, Tensor) for leaf in inside)
        if sizes_alone and isinstance(op, FunctionOp) and _module_of(op.function) in _SCALAR_MODULES:
            self._emit(node, ScalarOp(op.function), args, kwargs)
            self.scalars.add(len(self.nodes))
            return
        self._emit(node, op, args, kwargs)
        made = self.nodes[-1]
        made.counts = counts
        made.free = read <= self.scalars | self.free and not isinstance(op, ModuleOp)
        if made.free:
            self.free.add(made.id)

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a node reads a shape, a number of sides, a type of numbers or a device off a tensor of images."""
        if not node.args or not isinstance(node.args[0], fx.Node) or node.kwargs:
            return False
        if not isinstance(self.value.get(node.args[0]), Ref) or self._is_scalar(node.args[0]):
            return False
        if node.target is getattr:
            return node.args[1] in ("shape", "ndim", "dtype", "device")
        return node.op == "call_method" and node.target in ("size", "dim")

    def _size(self, node: fx.Node) -> None:
        x, what = self.value[node.args[0]], node.args[1] if node.target is getattr else node.target  # type: ignore[index]
        if what == "device":
            self.value[node] = self.device
            self.done.add(node)
            return
        if what == "dtype":
            self._emit(node, FunctionOp(getattr), (x, "dtype"))
        else:
            self._emit(node, ShapeOp(), (x,))
            index = node.args[1:] if what == "size" else ()
            self.scalars.add(len(self.nodes))
            if index:
                self._emit(node, ScalarOp(operator.getitem), (self.value[node], self._resolve(index[0])))
            elif what in ("ndim", "dim"):
                self._emit(node, ScalarOp(len), (self.value[node],))
        self.scalars.add(len(self.nodes))

    def _emit(self, node: fx.Node, op: Op | SiteOp, args: Any, kwargs: Any = None, site: str | None = None) -> None:
        self.nodes.append(Node(len(self.nodes) + 1, op, tuple(args), kwargs or {}, site))
        self.value[node] = Ref(len(self.nodes))
        self.done.add(node)

    def _emit_fused(self, node: fx.Node, make: Callable[[str | None], Op]) -> None:
        """An operator with the activation that follows it, if that is its only reader."""
        follower, kind = self._next_activation(node)
        self._emit(node, make(kind), self._resolve(node.args))
        self._alias(follower, node)

    def _alias(self, follower: fx.Node | None, node: fx.Node) -> None:
        if follower is not None:
            self.value[follower] = self.value[node]
            self.done.add(follower)

    # -- convolutions -----------------------------------------------------------------------------------------------

    def _conv(self, node: fx.Node, module: nn.Conv2d) -> None:
        last, (weight, bias) = self._folded(node, module)
        args = [self._resolve(node.args[0])]
        end = last
        if (addition := self._addition_after(last)) is not None:
            other = next(a for a in addition.args if a is not last)
            args.append(self._resolve(other))
            end = addition
        follower, kind = self._next_activation(end)
        geometry: Any = (module.stride, module.padding, module.dilation, module.groups, kind)
        op = ConvOp(weight, bias, *geometry, trims=self.optimise)
        self._emit(node, op, args)
        for covered in (last, end):
            if covered is not node:
                self._alias(covered, node)
        self._alias(follower, node)

    def _site(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, PerSampleConv2d):
            op = SiteOp(str(node.target), self._moved(module), None, None, self.model.conventions)
            named = [node.kwargs[name] for name in ("x", "z") if name in node.kwargs]
            self._emit(node, op, self._resolve((*node.args, *named)), site=str(node.target))
            return
        if not isinstance(module, DynamicConv2d):
            op = SiteOp(str(node.target), module, None, None, self.model.conventions)
            self._emit(node, op, (self._resolve(node.args[0]),), site=str(node.target))
            return
        last, (weight, bias) = self._folded(node, module)
        follower, kind = self._next_activation(last)
        op = SiteOp(
            str(node.target), module, weight, bias, self.model.conventions, activation=kind, factored=self.optimise
        )
        self._emit(node, op, (self._resolve(node.args[0]),), site=str(node.target))
        if last is not node:
            self._alias(last, node)
        self._alias(follower, node)

    def _folded(self, node: fx.Node, conv: nn.Conv2d) -> tuple[fx.Node, tuple[Tensor, Tensor | None]]:
        """The convolution's weight and bias with the normalisation after it folded in, and the last node covered."""
        if not self.optimise:
            return node, (conv.weight.detach().to("meta", self.dtype), None)
        weight, bias = conv.weight.detach().double(), conv.bias
        bias = None if bias is None else bias.detach().double()
        follower = only_user(node)
        norm = self.modules.get(str(follower.target)) if follower is not None and follower.op == "call_module" else None
        if follower is not None and isinstance(norm, nn.BatchNorm2d) and has_statistics(norm):
            scale, shift = scale_shift(norm)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = shift if bias is None else bias * scale + shift
            node = follower
        return node, (self._cast(weight), None if bias is None else self._wide(bias))

    def _addition_after(self, node: fx.Node) -> fx.Node | None:
        """The addition that this value alone goes to, where the other operand can be there before it."""
        user = only_user(node) if self.optimise else None
        if user is None or not self._is_addition(user) or user.args[0] is user.args[1]:
            return None
        other: Any = next(a for a in user.args if a is not node)
        # what is added later in the tree than the convolution would hold it back to where it is run more often
        if not self.sites_before[other] <= self.sites_before[node] or not self._visited_before(other):
            return None
        return user if isinstance(self.value.get(other), Ref) else None

    def _visited_before(self, node: fx.Node) -> bool:
        """Visits a node now, after what it reads; False where that includes one that is under way."""
        waiting, found = [node], set[fx.Node]()
        while waiting:
            one = waiting.pop()
            if one in self.value or one in found:
                continue
            if one in self.under_way:
                return False
            found.add(one)
            waiting += one.all_input_nodes
        for one in self.fx.nodes:
            if one in found:
                self._visit(one)
        return True

    # -- what a node is -----------------------------------------------------------------------------------------------

    def _next_activation(self, node: fx.Node) -> tuple[fx.Node | None, str | None]:
        user = only_user(node) if self.optimise else None
        kind = None if user is None else activation_of(user, self.modules.get(str(user.target)))
        return (user, kind) if kind is not None else (None, None)

    def _is_addition(self, node: fx.Node) -> bool:
        named = node.op == "call_function" and node.target in _ADDITIONS
        named |= node.op == "call_method" and node.target in ("add", "add_")
        tensors = all(isinstance(a, fx.Node) and a.op != "get_attr" and not self._is_scalar(a) for a in node.args)
        return named and len(node.args) == 2 and tensors and not node.kwargs

    def _is_fixed(self, node: fx.Node) -> bool:
        """Whether a node reads parameters alone, and no image."""
        return not any(isinstance(leaf, (Ref, Rows)) for leaf in leaves(self._resolve((node.args, node.kwargs))))

    def _is_scalar(self, node: fx.Node) -> bool:
        """Whether a node that was lowered is a size, or made of sizes alone."""
        value = self.value.get(node)
        return isinstance(value, Ref) and value.id in self.scalars

    def _is_head(self, node: fx.Node) -> bool:
        """Whether the network returns what this node makes as its logits."""
        last = returned(next(n for n in self.fx.nodes if n.op == "output"))
        while isinstance(last, fx.Node) and is_identity(last, self.modules.get(str(last.target))):
            last = last.args[0]
        return last is node

    def _attribute(self, target: str) -> Any:
        if target in self.constants:
            return self.constants[target]
        value: Any = self.model
        for part in target.split("."):
            value = getattr(value, part)
        return value

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _affine(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        scale, shift = scale_shift(norm)
        return self._wide(scale), self._wide(shift)

    def _cast(self, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(self.device, dtype)

    def _wide(self, tensor: Tensor) -> Tensor:
        """A bias, a scale or a shift: in float32 also where maps are in fewer bits, as one error moves a whole map."""
        return tensor.detach().to(self.device, torch.promote_types(self.dtype, torch.float32))

    def _moved(self, module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        return copy.deepcopy(module).to(device=self.device, dtype=dtype or self.dtype)

    def _resolve(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda n: self.value[n])


def _module_of(function: Any) -> str:
    return getattr(function, "__module__", None) or ""


def without_dead(nodes: Sequence[Node], output: int) -> list[Node]:
    """The nodes less those whose values nothing reads on the way to the output."""
    needed, kept = {output}, []
    for node in reversed(nodes):
        if node.id in needed:
            kept.append(node)
            needed |= node.inputs()
    return kept[::-1]
