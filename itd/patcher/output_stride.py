"""By how much a network makes its maps smaller: measured on the shapes of one forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from itd.errors import ModelError
from itd.patcher.storage import copy_on
from itd.text import first_line

_PROBE_PX = 512
_aten = torch.ops.aten
_WINDOWS = (
    _aten.convolution, _aten.max_pool2d_with_indices, _aten.avg_pool2d,
    _aten.conv2d, _aten.max_pool2d,  # what they are in inference mode
)  # fmt: skip


class _Maps(TorchDispatchMode):
    """Keeps the smallest side of more than one position that a convolution or a pooling window leaves."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.smallest = side
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _WINDOWS:
            values = out[0] if isinstance(out, tuple) else out
            if isinstance(values, Tensor) and values.ndim == 4 and values.shape[2] > 1:
                self.smallest, self.seen = min(self.smallest, values.shape[2]), True
        return out


def output_stride(model: nn.Module, input_shape: tuple[int, int, int] = (3, 224, 224)) -> int:
    """The network's output stride: a side of the input over one of the smallest map before all is pooled to one.

    input_shape: (C, H, W) of the images that the network takes. The forward is of shapes alone where the network bears
    that, and on a larger image where it bears one, so that rounding does not matter. Raises ModelError for a network
    that takes none of these.

    >>> from torchvision.models import resnet18
    >>> output_stride(resnet18())
    32
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    channels, height, width = input_shape
    times = max(1, -(-_PROBE_PX // max(height, width)))
    reason = ""
    for device in dict.fromkeys((torch.device("meta"), first.device)):  # for real where the network reads values
        probe = copy_on(model, device)
        for factor in dict.fromkeys((times, 1)):
            maps = _Maps(height * factor)
            try:
                with torch.no_grad(), maps:
                    probe(torch.zeros(1, channels, height * factor, width * factor, device=device, dtype=first.dtype))
            except Exception as error:  # a classifier of a fixed size: what comes before it is all that is wanted
                reason = first_line(error)
            if maps.seen:
                return max(1, round(height * factor / maps.smallest))
    raise ModelError(
        f"the output stride of {type(model).__name__} cannot be measured on an image of {input_shape}"
        f"{f' ({reason})' if reason else ''}; give stem_stride= or another input_shape="
    )
