"""What a sweep launches and moves on a GPU, counted on shapes: the tree run on meta tensors, no number computed.

A kernel is an operator of torch that is neither a view nor an allocation. Its bytes are its inputs' and its outputs',
each once, as a perfect kernel would move them. A convolution with a bias is two kernels, as cuDNN's is; of rows that
are selected only those that are taken are read. Not a command: `roofline.py` and `gpu.py` use it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from itd.engine.precision import Precision
from itd.engine.program import Program, compile_program
from itd.engine.rows import leaves
from itd.engine.tree import TreeExecutor, default_batch_size
from itd.patcher import MODELS, build_model, model_space, patch

GB = 10**9
NAMES = ("resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121")
ATTRIBUTES = ("stride", "dilation", "size")
SWEEPS = tuple((name, attribute) for name in NAMES for attribute in ATTRIBUTES)
"""The twelve sweeps."""
FLOPS, BYTES_PER_S = 790e12, 4.3e12
"""What an H200 reaches in bf16 matrix products and in copies: two operations for each multiply-accumulate."""
BUDGET_SHARE = 16
"""One chunk gets one part in so many of a GPU's memory, as of `default_budget_bytes`."""

_NOTHING = ("empty", "new_empty", "detach", "alias", "lift_fresh", "_unsafe_view", "sym_", "prim")
_WRITES_ONLY = ("copy_", "zero_", "fill_")
_SELECTS = ("index_select", "index", "gather", "embedding")


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution. x: (rows, I, H, W); weight: (O, I/g, kh, kw), of a transposed one (I, O/g, kh, kw)."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


class Kernels(TorchDispatchMode):
    """Counts what is launched inside its block.

    bound_s: of all kernels one after the other, each at what bounds it on an H200. convolutions: how often each occurs;
    each_s: its bound.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = self.macs = 0
        self.bound_s = 0.0
        self.convolutions: Counter[Convolution] = Counter()
        self.each_s: dict[Convolution, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        if name == "batch_norm":  # torch's own way on shapes takes as long as all the rest
            out = torch.empty_like(args[0])
        else:
            with self:  # in inference mode operators come whole, such as conv2d and contiguous
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            out = func(*args, **kwargs)
        if func.is_view or name.startswith(_NOTHING):
            return out
        before = self.bound_s
        macs = 0
        if func.overloadpacket in flop_registry:
            macs = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)) // 2
        written = _bytes(out)
        given = args[1:] if name in _WRITES_ONLY else args
        biased = name == "convolution" and args[2] is not None
        read = written if name in _SELECTS else _bytes(given) - (_bytes(args[2]) if biased else 0)
        self._add(macs, read + written)
        if biased:
            self._add(0, 2 * written + _bytes(args[2]))
        if name == "convolution":
            key = Convolution(tuple(args[0].shape), tuple(args[1].shape), biased, *map(_hashable, args[3:9]))
            self.convolutions[key] += 1
            self.each_s[key] = self.bound_s - before
        return out

    def _add(self, macs: int, moved: int) -> None:
        self.launches += 1
        self.macs += macs
        self.bytes += moved
        self.bound_s += max(2 * macs / FLOPS, moved / BYTES_PER_S)


class Chunks(TreeExecutor):
    """A tree that counts its chunks."""

    chunks = 0

    def _run_rows(self, number: int, segment: Any, sink: Any) -> Any:
        self.chunks += 1
        return super()._run_rows(number, segment, sink)


@dataclass(frozen=True)
class Counts:
    """Of one image of a sweep."""

    launches: float
    bytes: float
    macs: float
    chunks: float
    bound_s: float


def program_on_shapes(name: str, attribute: str, px: int = 224) -> Program:
    """A registered network's whole space in bf16 on the meta device."""
    with torch.device("meta"):
        model = patch(build_model(name, 1000), name)
    space = model_space(model, [attribute], entry=MODELS[name])
    return worked_out(compile_program(model, space, device="meta", precision=Precision("bf16")), px)


def worked_out(program: Program, px: int = 224) -> Program:
    """A program on the meta device with its costs known, the working out of which runs shapes itself."""
    TreeExecutor(program, budget_bytes=GB).run(_images(1, px), _nowhere)
    return program


def kernels(program: Program, memory_bytes: int, images: int | None = None, px: int = 224) -> tuple[Kernels, Counts]:
    """What a batch of images launches on a GPU of a memory, and what that is for each image.

    program: as `worked_out` gave it. images: as many as a sweep puts into the tree at once where nobody says.
    """
    images = images or default_batch_size(torch.device("cuda"))
    executor = Chunks(program, budget_bytes=max(1, memory_bytes // BUDGET_SHARE))
    pixels = _images(images, px)
    with Kernels() as counted:
        executor.run(pixels, _nowhere)
    totals = (counted.launches, counted.bytes, counted.macs, executor.chunks, counted.bound_s)
    return counted, Counts(*(total / images for total in totals))


@contextlib.contextmanager
def one_kernel_finishes() -> Iterator[None]:
    """Programs compiled and run inside do bias, addition and activation by one kernel, as ITD_FUSED_EPILOGUE=1 does.

    Normalisation and activation, too.
    """
    with (
        mock.patch("itd.engine.ops.fused_finish", lambda weight: _finish),
        mock.patch("itd.engine.ops.fused_normalise", lambda scale: _normalise),
    ):
        yield


def _finish(out: Tensor, bias: Tensor | None, other: Tensor | None, activation: str | None) -> Tensor:
    """What it reads and writes; a bias is small."""
    if bias is None and other is None and activation is None:
        return out
    return torch.relu_(out) if other is None else out.add_(other)


def _normalise(x: Tensor, scale: Tensor, shift: Tensor, activation: str | None) -> Tensor:
    return torch.relu(x)


def _images(count: int, px: int) -> Tensor:
    return torch.empty(count, 3, px, px, device="meta")


def _nowhere(*_: Any) -> None:
    pass


def _bytes(value: Any) -> int:
    return sum(_distinct(v) * v.element_size() for v in leaves(value) if isinstance(v, Tensor))


def _distinct(value: Tensor) -> int:
    """Elements that lie in memory: what is expanded is read once."""
    return torch.Size(n for n, step in zip(value.shape, value.stride(), strict=True) if step).numel()


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
