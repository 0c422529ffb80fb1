"""Networks without storage: their modules, names and shapes, for what reads no weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from itd.device import is_out_of_memory, memory_shortage
from itd.errors import ItdError, ModelError
from itd.text import one_line

_MAKERS = (torch.empty, torch.zeros, torch.ones)
_FILLERS = frozenset({"normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_", "kaiming_uniform_"})
"""What an initialisation does to a tensor; without values it is nothing, and costs more than all the rest."""


class WithoutStorage(TorchFunctionMode):
    """Inside the block the tensors that layers are made of go to the meta device.

    `torch.device("meta")` sends every tensor there, also those that a network works its widths out of (RegNet).

    >>> with WithoutStorage():
    ...     torch.nn.Linear(2, 3).weight.device, torch.arange(3).device
    (device(type='meta'), device(type='cpu'))
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        filled = args[0] if args else kwargs.get("tensor")  # as torch.nn.init calls it
        if getattr(func, "__name__", "") in _FILLERS and isinstance(filled, torch.Tensor) and filled.is_meta:
            return filled
        if func in _MAKERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def copy_on(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode with its tensors on a device; those of the meta device take no memory."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if type(value) in (Tensor, nn.Parameter):  # also a tensor that is made of others, as of weight_norm
                moved = value.detach().to(device, copy=True)
                memo[id(value)] = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved
    try:
        with torch.no_grad():  # the copy of a script has no history of its own
            return copy.deepcopy(model, memo).to(device).eval()
    except Exception as error:  # a module may hold anything
        raise uncopied(model, error) from error


def uncopied(model: nn.Module, error: Exception) -> ItdError:
    """Why a network cannot be copied: for want of memory, or because of what it holds."""
    if is_out_of_memory(error):
        return memory_shortage(error, "cpu", "a copy of the network")
    return ModelError(
        f"{type(model).__name__} cannot be copied ({one_line(error)}); take what is no parameter, buffer or plain "
        "value out of it"
    )
