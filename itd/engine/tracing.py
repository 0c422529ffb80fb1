"""What torch.fx records of a patched network, once, with every change in place written as a value of its own."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx, nn

from itd.errors import ModelError
from itd.layers import LAYERS
from itd.patcher import DynamicModel
from itd.text import first_line


class _Tracer(fx.Tracer):
    def __init__(self, site_paths: set[str]) -> None:
        super().__init__()
        self.site_paths = site_paths

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return qualified_name in self.site_paths or isinstance(m, LAYERS) or super().is_leaf_module(m, qualified_name)


@dataclass(frozen=True, eq=False)
class Trace:
    """A patched network and what torch.fx traced of it, once: every graph of the network is built from it."""

    model: DynamicModel
    graph: fx.Graph


def trace(model: DynamicModel) -> Trace:
    """Traces a patched network in evaluation mode; ModelError for one that torch.fx cannot trace."""
    if not isinstance(model, DynamicModel):
        raise ModelError(
            f"only what itd.patch returned can be run, given {type(model).__name__}; patch the model first"
        )
    if model.training:
        raise ModelError("the network is in training mode; call model.eval() first")
    tracer = _Tracer({m.path for modules in model.sites.values() for m in modules})
    try:
        graph = tracer.trace(model)
    except Exception as error:  # torch.fx raises many kinds; each means the same here
        raise ModelError(
            f"torch.fx cannot trace {type(model).__name__}: {first_line(error)}; pass a traceable network"
        ) from error
    in_place_reads(graph, dict(model.named_modules()))
    return Trace(model, graph)


def in_place_reads(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Let whoever reads a value after it was changed in place read the changed one: the graph then has no side effects.

    Raises ModelError for an in-place method that is not known.
    """
    for node in graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        changes = bool(getattr(module, "inplace", False)) or bool(node.kwargs.get("inplace", False))
        changes |= node.target in (operator.iadd, F.relu_)
        if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            if node.target not in ("relu_", "add_"):
                raise ModelError(
                    f"the traced network changes a tensor in place by {node.target}; that is not supported"
                )
            changes = True
        if not changes or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        order = list(graph.nodes)
        after = frozenset(order[order.index(node) + 1 :])
        node.args[0].replace_all_uses_with(node, delete_user_cb=after.__contains__)
