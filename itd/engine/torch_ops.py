"""Layers, functions and methods of torch that a tree runs as they are, and what they cost."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.engine.macs import executed_macs, layer_macs
from itd.engine.op import Op, ShapeError, WindowError, on_meta, tried
from itd.engine.rows import META_ROWS, Rows, mapped
from itd.errors import TraceError
from itd.layers import LAYERS
from itd.layers.conv import PerSampleConv2d
from itd.layers.involution import Involution2d

_POINTWISE_MODULES = (
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Mish,
)
_POINTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    {operator.mul, torch.mul, torch.sigmoid, torch.tanh, F.silu, F.gelu, F.hardswish, F.leaky_relu, F.elu}
)


_WINDOW_FUNCTIONS: frozenset[Any] = frozenset({F.conv2d, F.max_pool2d, F.avg_pool2d, torch.conv2d, torch.max_pool2d})
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, PerSampleConv2d, Involution2d)


Counted = tuple[int, tuple[str, ...]]
"""Multiply-accumulates, and the names of what is not in them."""


class _Counts:
    """What an operator executes on meta tensors, counted once for each set of shapes."""

    def __init__(self) -> None:
        self._known: dict[str, Counted] = {}

    def of(self, args: Any, kwargs: Any, work: Callable[[], Any], name: str) -> Counted:
        key = repr(mapped((args, kwargs), lambda v: tuple(v.shape) if isinstance(v, Tensor) else v))
        if key not in self._known:
            self._known[key] = executed_macs(work, name)
        return self._known[key]


class ModuleOp(Op):
    """Any other layer, run as it is (its in-place flag taken away).

    opaque: a module of modules whose inside was not traced. It is given copies, which it may change in place, and whose
    layout is that of a network's own forward.
    """

    def __init__(self, module: nn.Module, *, opaque: bool = False) -> None:
        self.module, self.opaque = copy.copy(module), opaque
        if getattr(self.module, "inplace", False):
            self.module.inplace = False  # type: ignore[assignment]
        self.pointwise = isinstance(module, _POINTWISE_MODULES)
        self.windowed = isinstance(module, _WINDOWS)
        self._meta: nn.Module | None = None
        self._counts = _Counts()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.opaque:
            args, kwargs = mapped((args, kwargs), _own_copy)
        return self.module(*args, **kwargs)

    def meta(self, *args: Any, **kwargs: Any) -> Any:
        if self._meta is None:
            self._meta = copy.deepcopy(self.module).to("meta").requires_grad_(False)  # made in inference mode or not
        module = self._meta
        kind = WindowError if isinstance(module, _WINDOWS) else ShapeError
        return tried(lambda: module(*on_meta(args), **on_meta(kwargs)), kind)

    def macs(self, out: Any, /, *args: Any, **kwargs: Any) -> int:
        return self._count(out, args, kwargs)[0]

    def uncounted(self, out: Any, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        return self._count(out, args, kwargs)[1]

    def _count(self, out: Any, args: Any, kwargs: Any) -> Counted:
        if self.pointwise:
            return 0, ()
        if isinstance(self.module, LAYERS):
            return layer_macs(self.module, args[0], out), ()
        return self._counts.of(args, kwargs, lambda: self.meta(*args, **kwargs), type(self.module).__name__)

    def scratch(self, out: Any, /, *args: Any) -> int:
        if isinstance(self.module, PerSampleConv2d):
            return out.shape[0] * self.module.scratch_numel(args[0]) * out.element_size()
        return 0


class HeadOp(ModuleOp):
    """The linear layer that makes the logits, its parameters in float32: x (rows, F) of any type -> (rows, K) float32.

    Rounding its logits to bf16 alone would change 1.7% of the predictions of an ImageNet network, and make 2.5% ties.
    """

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.float())

    def meta(self, x: Tensor) -> Tensor:
        return super().meta(x.float())


class FunctionOp(Op):
    """A function or tensor method of the traced network, run as it is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.pointwise = function in _POINTWISE_FUNCTIONS
        self.windowed = function in _WINDOW_FUNCTIONS
        self._counts = _Counts()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def meta(self, *args: Any, **kwargs: Any) -> Any:
        kind = WindowError if self.windowed else ShapeError
        return tried(lambda: self(*on_meta(args), **on_meta(kwargs)), kind)

    def macs(self, out: Any, /, *args: Any, **kwargs: Any) -> int:
        return self._count(args, kwargs)[0]

    def uncounted(self, out: Any, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        return self._count(args, kwargs)[1]

    def _count(self, args: Any, kwargs: Any) -> Counted:
        if self.pointwise:
            return 0, ()
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return self._counts.of(args, kwargs, lambda: self.meta(*args, **kwargs), name)


class ShapeOp(Op):
    """`x.shape`, its first side as a number of rows where it is one. x: (rows * n, ...).

    How many n there are is settled on meta tensors, which every shape goes through before it is run.
    """

    symbolic = True

    def __init__(self) -> None:
        self._times: dict[tuple[int, ...], int] = {}

    def __call__(self, x: Tensor) -> tuple[Any, ...]:
        shape = tuple(x.shape)
        times = self._times.get(shape[1:], 1)
        return shape if not shape or not times else (Rows(times), *shape[1:])

    def meta(self, x: Tensor) -> tuple[Any, ...]:
        if x.ndim:
            rows, rest = divmod(x.shape[0], META_ROWS)
            self._times[tuple(x.shape[1:])] = 0 if rest else rows
        return self(x)


class ScalarOp(Op):
    """What a network works out of sizes alone, with the number of rows as a symbol."""

    symbolic = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def meta(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self(*args, **kwargs)
        except TypeError as error:
            raise TraceError(
                f"the network works with the number of images in a way that cannot be followed ({error})"
            ) from error


def _own_copy(value: Any) -> Any:
    return value.clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value


_VIEWS = ("view", "view_as")
"""Methods that need a layout of their own, which the tree's tensors may lack."""


def tensor_method(name: str) -> Callable[..., Any]:
    """`x.name(...)` as a function of x."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(x, name)(*args, **kwargs)
        except RuntimeError:
            if name not in _VIEWS:
                raise
            return getattr(x.contiguous(), name)(*args, **kwargs)

    call.__name__ = name
    return call
