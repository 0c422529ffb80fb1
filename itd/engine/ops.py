"""The operators a tree runs, each with its output shape, its multiply-accumulates and its scratch memory.

Not here: which operator runs when (`graph`, `stages`), and how a site's layer becomes an operator (`site_ops`).
"""

from __future__ import annotations

import copy
import math
import operator
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itd.engine.macs import executed_macs, layer_macs
from itd.engine.onednn import PackedConv, can_fuse
from itd.engine.pieces import Pieces
from itd.engine.rows import META_ROWS, Rows, mapped
from itd.errors import InputSizeError, TraceError
from itd.layers import LAYERS
from itd.layers.conv import PerSampleConv2d
from itd.layers.involution import Involution2d

CHANNELS_LAST = torch.channels_last

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu6": lambda x: F.hardtanh_(x, 0.0, 6.0),
}
"""What changes a tensor of its own in place."""


class WindowError(ValueError):
    """A window that exceeds its input: the configuration cannot run at this image size."""


class ShapeError(ValueError):
    """Shapes that an operator cannot take, such as an addition of two sizes: the setting does not fit the network."""


def on_meta(value: Any) -> Any:
    """The same nest of arguments with every tensor, and every device that is named, the meta device's."""
    return mapped(value, _on_meta)


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def tried(work: Callable[[], Any], error: type[ValueError]) -> Any:
    """What a shape computation gives; torch's complaint about shapes becomes `error`."""
    try:
        return work()
    except (RuntimeError, IndexError, InputSizeError) as reason:
        raise error(str(reason).strip().splitlines()[0]) from reason


def meeting(work: Callable[[], Any], what: str, *tensors: Tensor) -> Any:
    """What a shape computation of several tensors gives; ShapeError saying which sizes met."""
    try:
        return work()
    except RuntimeError as reason:
        sizes = " and ".join("x".join(map(str, t.shape[2:] if t.ndim == 4 else t.shape)) for t in tensors)
        raise ShapeError(f"{what} meets {sizes}") from reason


Finish = Callable[[Tensor, Tensor | None, Tensor | None, str | None], Tensor]
"""Bias, an addition and an activation, each where there is one, after a convolution without them."""


Normalise = Callable[[Tensor, Tensor, Tensor, str | None], Tensor]
"""Scale, shift and an activation, of maps that may be part of wider ones."""


def fused_normalise(scale: Tensor) -> Normalise | None:
    """One kernel for normalisation and activation, where there is one for what follows a convolution."""
    if fused_finish(scale) is None:
        return None
    from itd.engine.kernels import normalise

    return normalise


def fused_finish(weight: Tensor) -> Finish | None:
    """One kernel for what follows a convolution, on a GPU with ITD_FUSED_EPILOGUE=1: it is not measured yet."""
    if weight.device.type != "cuda" or os.environ.get("ITD_FUSED_EPILOGUE") != "1":
        return None
    from itd.engine.kernels import finish  # which loads Triton

    return finish


class Op:
    """A pure function of tensors. Subclasses say what it costs without running it, by way of meta tensors.

    pointwise: each output position depends on the same input position alone, so that it commutes with subsampling.
    windowed: a convolution or a pool that slides a window over maps (N, C, H, W). symbolic: takes the number of rows as
    a symbol (`rows`), not as a number. takes_part: is as fast on the first channels of wider maps.
    """

    pointwise = False
    windowed = False
    symbolic = False
    takes_part = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def meta(self, *args: Any, **kwargs: Any) -> Any:
        """The output's shape and type, as a meta tensor, from meta tensors."""
        return self(*args, **kwargs)

    def macs(self, out: Any, /, *args: Any, **kwargs: Any) -> int:
        """Multiply-accumulates for these (meta) tensors."""
        return 0

    def uncounted(self, out: Any, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Names of what multiplies in it and is not in `macs`."""
        return ()

    def scratch(self, out: Any, /, *args: Any) -> int:
        """Bytes in use while it runs, beyond its inputs and its output."""
        return 0


class ConvOp(Op):
    """A convolution with its normalisation folded in, an optional addition and an optional activation.

    weight: (O, I/g, kh, kw); bias: (O,) or None, in float32 whatever the weight is in. Called with x (N, I, H, W) and,
    where something is added before the activation, `other` (N, O, H', W'), which may be in pieces. trims: whether taps
    that meet padding alone are left out, and not counted. inside: the bias where it is of the weight's type, as torch
    wants it; added: (1, O, 1, 1), where it is not.
    """

    windowed = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        activation: str | None = None,
        *,
        trims: bool = True,
    ) -> None:
        self.weight = weight.contiguous(memory_format=CHANNELS_LAST)
        self.bias = bias
        self.inside = bias if bias is None or bias.dtype == weight.dtype else None
        self.added = None if bias is self.inside or bias is None else bias.view(1, -1, 1, 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.activation = activation
        self.pointwise = weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0)
        geometry = (stride, padding, dilation, groups)
        self.packed = PackedConv(self.weight, bias, *geometry) if can_fuse(weight) else None
        self.finish = fused_finish(weight)
        self.trims = trims
        self._trimmed: dict[torch.Size, ConvOp] = {}

    def __call__(self, x: Tensor, other: Tensor | Pieces | None = None) -> Tensor:
        op = self.on(x)
        if isinstance(other, Pieces):
            if op.packed is None and op._is_like_output(other, x):
                return op._run_on_pieces(x, other)
            other = other.joined()
        return op._run(x, other)

    def on(self, x: Tensor) -> ConvOp:
        """The same without the taps that meet nothing but padding on maps of this size."""
        return self._trim(x.shape[2:]) if self.trims and max(self.padding) >= min(x.shape[2:]) else self

    def _run(self, x: Tensor, other: Tensor | None) -> Tensor:
        alike = other is None or self._is_like_output(other, x)
        if self.packed is not None and alike:
            out, activated = self.packed(x, other, self.activation)
            return out if activated or self.activation is None else ACTIVATIONS[self.activation](out)
        if self.finish is not None and (other is None or other.dtype == self.weight.dtype):
            out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
            return self.finish(out, self.bias, other, self.activation)
        out = self._convolved(x)
        if other is not None:
            out = out.add_(other) if alike else out + other
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def _is_like_output(self, other: Tensor | Pieces, x: Tensor) -> bool:
        """Whether what is added has the shape and the type of the output, so that it can be added in place."""
        return other.dtype == self.weight.dtype and tuple(other.shape) == self._out_shape(tuple(x.shape))

    def _run_on_pieces(self, x: Tensor, other: Pieces) -> Tensor:
        if self.finish is None:
            out = other.add_to(self._convolved(x))
            return ACTIVATIONS[self.activation](out) if self.activation else out
        out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        for rows, tensor, times in other.repeats():
            for part in out[rows].split(len(tensor)) if times > 1 else [out[rows]]:
                self.finish(part, self.bias, tensor, self.activation)
        return out

    def _convolved(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight, self.inside, self.stride, self.padding, self.dilation, self.groups)
        return out if self.added is None else out.add_(self.added)

    def _trim(self, size: torch.Size) -> ConvOp:
        """A dilation as wide as the map leaves one row or column of taps; with all of them oneDNN is far slower."""
        if size not in self._trimmed:
            rows, columns = (self._unmet(side, size[side]) for side in (0, 1))
            self._trimmed[size] = self
            if rows or columns:
                kh, kw = self.weight.shape[2:]
                weight = self.weight[:, :, rows : kh - rows, columns : kw - columns]
                padding = self.padding[0] - rows * self.dilation[0], self.padding[1] - columns * self.dilation[1]
                geometry = (self.stride, padding, self.dilation, self.groups)
                self._trimmed[size] = ConvOp(weight, self.bias, *geometry, self.activation)
        return self._trimmed[size]

    def _unmet(self, side: int, length: int) -> int:
        """How many taps, at each end of the kernel's side, meet padding alone on a map of a length."""
        k, s, p, d = self.weight.shape[2 + side], self.stride[side], self.padding[side], self.dilation[side]
        last = (length + 2 * p - d * (k - 1) - 1) // s * s  # where the last window begins, from the first
        met = [i for i in range(k) if any(0 <= at + i * d - p < length for at in range(0, last + 1, s))]
        if not met:
            return 0
        return min(met[0], k - 1 - met[-1], p // d)

    def _out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sides = zip(shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        size = ((length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, s, p, d in sides)
        return shape[0], self.weight.shape[0], *size

    def meta(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.shape[1] != self.weight.shape[1] * self.groups:
            raise ShapeError(
                f"a convolution takes {self.weight.shape[1] * self.groups} channels, and {x.shape[1]} are given"
            )
        shape = self._out_shape(tuple(x.shape))
        if min(shape[2:]) < 1:
            raise WindowError("a convolution's window exceeds its input")
        out = x.new_empty(shape)
        return out if other is None else meeting(lambda: out + other, "an addition", out, other)

    def macs(self, out: Tensor, /, *args: Any, **kwargs: Any) -> int:
        return out.numel() * math.prod(self.on(args[0]).weight.shape[1:])


class BatchNormOp(Op):
    """A normalisation that could not be folded, as a scale and a shift, with an optional activation."""

    pointwise = True

    def __init__(self, scale: Tensor, shift: Tensor, activation: str | None = None) -> None:
        self.scale, self.shift, self.activation = scale, shift, activation
        self.zeros, self.ones = torch.zeros_like(scale), torch.ones_like(scale)
        self.normalise = fused_normalise(scale)
        self.takes_part = self.normalise is not None

    @property
    def channels(self) -> int:
        """How many it takes."""
        return self.scale.numel()

    def __call__(self, x: Tensor) -> Tensor:
        if self.normalise is not None:
            return self.normalise(x, self.scale, self.shift, self.activation)
        out = F.batch_norm(x, self.zeros, self.ones, self.scale, self.shift, False, 0.0, 0.0)
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def meta(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)


class CatOp(Op):
    """Tensors side by side along the channels."""

    pointwise = True

    def __call__(self, xs: Any) -> Tensor:
        return torch.cat(xs, dim=1)

    def meta(self, xs: Any) -> Tensor:
        return meeting(lambda: self(on_meta(xs)), "a concatenation", *xs)


class AddOp(Op):
    """An addition of two tensors with an optional activation."""

    pointwise = True

    def __init__(self, activation: str | None = None) -> None:
        self.activation = activation

    def __call__(self, x: Any, y: Any) -> Any:
        out = x + y
        return ACTIVATIONS[self.activation](out) if self.activation else out

    def meta(self, x: Any, y: Any) -> Any:
        return meeting(lambda: self(*on_meta((x, y))), "an addition", x, y)


class ActivationOp(Op):
    """An activation that could not be fused into what came before it."""

    pointwise = True

    def __init__(self, activation: str) -> None:
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.activation == "relu" else F.relu6(x)

    def meta(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)


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
