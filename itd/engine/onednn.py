"""oneDNN's convolution on a CPU: the weight laid out beforehand; bias, addition and activation in the same pass.

Not here: what is convolved (`ops`), and GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last

MOST_LAYOUTS = 4
"""Of one weight that are kept; one or two occur, unless another oneDNN describes equal ones in several ways."""

_ACTIVATION: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


def can_fuse(weight: Tensor) -> bool:
    """Whether this machine's oneDNN takes a weight: on a CPU, in fp32, or in bf16 where the processor has it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class PackedConv:
    """A convolution whose weight is kept in the layouts that oneDNN asks for.

    Which layout is fast depends on the size of the input. With another one the weight is laid out anew at every call,
    which took up to seven times as long as the convolution (1024 -> 2048 channels, 1x1, 28 x 28 pixels). So each
    distinct layout is made once, and each shape of input knows its own.

    weight: (O, I/g, kh, kw) channels-last, fp32 or bf16. bias: (O,) fp32 or None; where something is added, torch wants
    it in the weight's type. Called with x (N, I, H, W) and, where something is added, `other`, which has the shape of
    the output; where it is spent, it becomes the output. Gives the output and whether the activation is in it.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self.weight, self.bias = weight, bias
        self.narrow_bias = bias if bias is None else bias.to(weight.dtype)
        self.geometry = (list(padding), list(stride), list(dilation), groups)
        # of a convolution with an addition torch fuses this alone
        self.after_addition = (None, "relu") if weight.dtype == torch.float32 else (None,)
        self._layouts: dict[bytes, Tensor] = {}
        self._packed: dict[torch.Size, Tensor] = {}

    def __call__(
        self, x: Tensor, other: Tensor | None, activation: str | None, *, spent: bool = False
    ) -> tuple[Tensor, bool]:
        x = x.contiguous(memory_format=CHANNELS_LAST)
        run, packed = torch.ops.mkldnn._convolution_pointwise, self._packed_for(x.shape)
        if other is None:
            name, scalars = _ACTIVATION[activation]
            return run(x, packed, self.bias, *self.geometry, name, scalars, ""), True
        other, fused = other.contiguous(memory_format=CHANNELS_LAST), activation in self.after_addition
        with_add: Any = ("add", 1.0, activation if fused else None, [], "")
        if spent:
            into = torch.ops.mkldnn._convolution_pointwise_.binary
            return into(other, x, packed, self.narrow_bias, *self.geometry, *with_add), fused
        return run.binary(x, other, packed, self.narrow_bias, *self.geometry, *with_add), fused

    def _packed_for(self, shape: torch.Size) -> Tensor:
        if shape not in self._packed:
            packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(shape))
            layout = _layout_of(packed)
            if layout not in self._layouts and len(self._layouts) >= MOST_LAYOUTS:
                return packed  # made anew at each call, as torch does; its memory is not kept
            self._packed[shape] = self._layouts.setdefault(layout, packed)
        return self._packed[shape]


_UNSET = slice(108, 112)
"""Bytes between two fields of oneDNN's description of a layout that hold whatever was there (oneDNN 3.12)."""


def _layout_of(packed: Tensor) -> bytes:
    """What tells layouts apart. Were two taken for one, a convolution would be slower, and as right as before."""
    description = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().copy()
    description[_UNSET] = 0
    return bytes(description.tobytes())
