"""What torch.fx records of a patched network, once, with every change in place written as a value of its own."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, fx, nn

from itd.engine.tracers import ModuleTracer, ShapedTracer
from itd.errors import ModelError, TraceError
from itd.patcher import DynamicModel
from itd.patcher.dynamic import DynamicLayer
from itd.text import first_line


@dataclass(frozen=True, eq=False)
class Trace:
    """A patched network and what torch.fx traced of it, once: every graph of the network is built from it.

    opaque: paths of the modules of modules that are run as they are. constants: tensors that the network makes of
    numbers when it is run, by the names that torch.fx gave them.
    """

    model: DynamicModel
    graph: fx.Graph
    opaque: frozenset[str] = frozenset()
    constants: Mapping[str, Tensor] = field(default_factory=dict)


def trace(model: DynamicModel, shape: tuple[int, int, int] | None = None) -> Trace:
    """Traces a patched network in evaluation mode.

    shape: (C, H, W) of every image, where no configuration that is to be run changes the shape of a value: a network
    that decides by shapes what it does is then traced as it is at these. Raises TraceError for a network that torch.fx
    cannot trace.
    """
    if not isinstance(model, DynamicModel):
        raise ModelError(
            f"only what itd.patch returned can be run, given {type(model).__name__}; patch the model first"
        )
    if model.training:
        raise ModelError("the network is in training mode; call model.eval() first")
    paths = {m.path for modules in model.sites.values() for m in modules}
    tracer: ModuleTracer = ModuleTracer(model, paths)
    copied = _sharing_tensors(model)
    try:
        graph = tracer.trace(copied)
    except Exception as error:  # torch.fx raises many kinds, and so does what it traces; each means the same here
        if shape is None:
            raise _not_traceable(model, error) from error
        tracer, copied = ShapedTracer(model, paths, shape), _sharing_tensors(model)
        try:
            graph = tracer.trace(copied)
        except Exception:
            raise _not_traceable(model, error) from error
    _positional(graph, dict(model.named_modules()))
    in_place_reads(graph, dict(model.named_modules()))
    constants = {name: value for name, value in vars(copied).items() if name.startswith("_tensor_constant")}
    return Trace(model, graph, frozenset(tracer.opaque), constants)


def _sharing_tensors(model: DynamicModel) -> DynamicModel:
    """A copy for the tracer: what a module keeps of a forward, as a cache does, is not kept of a tracing."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def _not_traceable(model: DynamicModel, error: Exception) -> TraceError:
    name = type(model).__bases__[-1].__name__
    return TraceError(f"torch.fx cannot trace {name}: {first_line(error)}")


def _positional(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Lets a layer of torch's own that is called as `layer(input=x)` be called as `layer(x)`."""
    for node in graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        known = isinstance(module, DynamicLayer) or type(module).__module__.startswith("torch.nn.")
        if known and not node.args and set(node.kwargs) == {"input"}:
            node.args, node.kwargs = (node.kwargs["input"],), {}


def in_place_reads(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Let whoever reads a value after it was changed in place read the changed one: the graph then has no side effects.

    Raises TraceError for an in-place method that is not known.
    """
    for node in graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        changes = bool(getattr(module, "inplace", False)) or bool(node.kwargs.get("inplace", False))
        changes |= node.target in (operator.iadd, F.relu_)
        if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            if node.target not in ("relu_", "add_"):
                raise TraceError(
                    f"the traced network changes a tensor in place by {node.target}; that is not supported"
                )
            changes = True
        if not changes or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        order = list(graph.nodes)
        after = frozenset(order[order.index(node) + 1 :])
        node.args[0].replace_all_uses_with(node, delete_user_cb=after.__contains__)
