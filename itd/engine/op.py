"""What an operator of a tree is: its output shape, multiply-accumulates and scratch memory; and errors about shapes.

Not here: the operators themselves (`ops`, `torch_ops`, `site_ops`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itd.engine.rows import mapped
from itd.errors import InputSizeError

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
