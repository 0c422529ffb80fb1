"""How torch.fx goes through a network that was not written for it.

`ModuleTracer` takes a module that it cannot go into as one operator. `ShapedTracer` also knows every shape, on images
of one size, so that a network may decide by them what it does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from itd.engine.rows import META_ROWS, mapped, symbolic
from itd.layers import LAYERS
from itd.patcher.storage import copy_on


class ModuleTracer(fx.Tracer):
    """Goes into modules as far as it can: one without a site whose inside cannot be traced is one operator.

    opaque: the paths of those.
    """

    def __init__(self, model: nn.Module, site_paths: set[str]) -> None:
        functions, modules = _not_traced()
        super().__init__(autowrap_functions=functions)
        self.site_paths, self.modules, self.opaque = site_paths, modules, set[str]()
        self.holding = {".".join(path.split(".")[:i]) for path in site_paths for i in range(path.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        if qualified_name in self.site_paths or isinstance(m, LAYERS):
            return True
        if qualified_name not in self.holding and (isinstance(m, self.modules) or qualified_name in self.opaque):
            self.opaque.add(qualified_name)
            return True
        return super().is_leaf_module(m, qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if path in self.holding or self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        last, stack, scope = next(iter(reversed(self.graph.nodes)), None), self.module_stack.copy(), self.scope
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # torch.fx raises many kinds, and so does what it traces
            self.module_stack, self.scope = stack, scope
            self._forget_after(last)
            self.opaque.add(path)
            return super().call_module(m, forward, args, kwargs)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        """What a `forward` takes beside the images has its default, as in a sweep; `*images` are the images alone."""
        others = kind == "placeholder" and any(node.op == "placeholder" for node in self.graph.nodes)
        if kind != "placeholder" or not (others or target.startswith("*")):
            return super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if target.startswith("**"):
            return {}
        if target.startswith("*"):
            return () if others else (super().create_proxy(kind, target[1:], (), kwargs, *rest, **named),)
        return args[0] if args else super().create_proxy(kind, target, args, kwargs, *rest, **named)

    def _forget_after(self, last: fx.Node | None) -> None:
        """Takes out of the graph what was traced since a node."""
        for node in reversed(list(self.graph.nodes)):
            if node is last:
                return
            self.graph.erase_node(node)


def _not_traced() -> tuple[tuple[Callable[..., Any], ...], tuple[type[nn.Module], ...]]:
    """The functions and modules that timm says torch.fx cannot go into, where timm is in use."""
    timm = sys.modules.get("timm.layers")
    if timm is None:
        return (), ()
    try:
        return tuple(timm.get_notrace_functions()), tuple(timm.get_notrace_modules())
    except AttributeError:  # an older timm
        return (), ()


class _ShapedProxy(fx.Proxy):
    """A value of which the shape is known: its sizes are numbers, as in a forward.

    meta: the value itself, its tensors on the meta device, with `META_ROWS` images; None where nobody knows.
    """

    meta: Any = None

    def __getattr__(self, name: str) -> Any:
        if isinstance(self.meta, Tensor) and name in ("shape", "ndim", "dtype"):
            return getattr(self.meta, name)
        return super().__getattr__(name)

    def size(self, dim: int | None = None) -> Any:
        return self.meta.size() if dim is None else self.meta.size(dim)

    def dim(self) -> int:
        return self.meta.dim()

    def numel(self) -> int:
        return self.meta.numel()

    def __len__(self) -> int:
        return len(self.meta)

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self.meta))])  # type: ignore[index]

    def __bool__(self) -> bool:
        if isinstance(self.meta, bool):
            return self.meta
        return super().__bool__()


class ShapedTracer(ModuleTracer):
    """Traces a network as it is on images of one size, with as many rows as a meta tensor has.

    Only for spaces whose configurations all have the shapes of the default one. shape: (C, H, W).
    """

    def __init__(self, model: nn.Module, site_paths: set[str], shape: tuple[int, int, int]) -> None:
        super().__init__(model, site_paths)
        self.on_meta, self.shape, self.running = copy_on(model, torch.device("meta")), shape, False

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> _ShapedProxy:
        return _ShapedProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        made: Any = super().create_proxy(kind, target, symbolic(args), symbolic(kwargs), *rest, **named)
        inside = made[0] if kind == "placeholder" and isinstance(made, tuple) and made else made
        if isinstance(inside, _ShapedProxy):
            inside.meta = self._run(kind, target, args, kwargs)
        return made

    def _run(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return torch.empty(META_ROWS, *self.shape, device="meta") if not args else None
        if kind == "get_attr":
            return self._value(_reached(self.root if target.startswith("_tensor_constant") else self.on_meta, target))
        args, kwargs = mapped((args, kwargs), self._value)
        self.running = True
        try:
            with torch.no_grad():
                if kind == "call_module":
                    return self.on_meta.get_submodule(target)(*args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs) if kind == "call_function" else None
        finally:
            self.running = False

    def _value(self, value: Any) -> Any:
        """What stands for an argument where shapes are worked out."""
        if isinstance(value, _ShapedProxy):
            return value.meta
        if isinstance(value, Tensor):
            return value.to("meta")
        return torch.device("meta") if isinstance(value, torch.device) else value


def _reached(root: Any, target: str) -> Any:
    for part in target.split("."):
        root = getattr(root, part)
    return root
