"""How large values are while something is run. Not here: bytes and multiply-accumulates (`costs`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from itd.device import MOST_ELEMENTS
from itd.engine.rows import leaves


def within(elements: int) -> int:
    """How many rows have no more elements than a GPU's convolutions take. elements: of the largest value of one row.

    >>> within(2**30)
    1
    """
    return max(1, MOST_ELEMENTS // max(1, elements))


class LargestValue(TorchDispatchMode):
    """Counts the elements of the largest tensor that an operator of torch makes inside its block.

    values: what is there before it. elements: of the largest tensor so far.

    >>> import torch
    >>> with LargestValue([torch.empty(5)]) as largest:
    ...     wide = torch.empty(3).repeat(4).sum()
    >>> largest.elements
    12
    """

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__()
        self.elements = 0
        self._count(list(values))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._count(out)
        return out

    def _count(self, value: Any) -> None:
        self.elements = max([self.elements, *(v.numel() for v in leaves(value) if isinstance(v, Tensor))])
