"""What a node of a traced graph is, seen by itself: an activation, an identity, a normalisation that is a scale.

Not here: what has to be known of other nodes to tell (`graph`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_ACTIVATIONS: dict[Any, str] = {F.relu: "relu", torch.relu: "relu", F.relu_: "relu", F.relu6: "relu6"}


def activation_of(node: fx.Node, module: nn.Module | None) -> str | None:
    """relu or relu6, where a node is one and nothing else. module: that it calls."""
    if node.op == "call_module":
        kinds: dict[type, str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
        return kinds.get(type(module))
    if node.op == "call_method":
        return "relu" if node.target in ("relu", "relu_") else None
    return _ACTIVATIONS.get(node.target)


def is_channel_cat(node: fx.Node) -> bool:
    """Whether a node concatenates maps by their channels."""
    if node.target not in (torch.cat, torch.concat) or not node.args or not isinstance(node.args[0], (list, tuple)):
        return False
    return bool(node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) == 1)


def is_identity(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node gives what it is given, in evaluation mode. module: that it calls."""
    if type(module) in (nn.Dropout, nn.Dropout2d, nn.Identity):
        return True
    return node.target in (F.dropout, F.dropout2d) and not node.kwargs.get("training", True)


def returned(output: fx.Node) -> Any:
    """The logits among what the network returns, as `itd.patcher.logits_of` finds them."""
    value: Any = output.args[0]
    if isinstance(value, fx.Node) and isinstance(value.target, type) and "logits" in value.kwargs:
        value = value.kwargs["logits"]  # a dataclass, which torch.fx records as a call of its class
    value = getattr(value, "logits", value) if not isinstance(value, fx.Node) else value
    return value[0] if isinstance(value, (tuple, list)) and value else value


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads what a node makes; None where several do, or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is computed as torch's own class computes it."""
    own = type(conv).forward is nn.Conv2d.forward and type(conv)._conv_forward is nn.Conv2d._conv_forward
    return own and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def has_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether it is a scale and a shift: torch's own class, with statistics."""
    own = type(norm).forward is nn.BatchNorm2d.forward
    return own and norm.running_mean is not None and norm.running_var is not None


def scale_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies each channel by and adds to it: (C,) float64 each."""
    mean, var = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    scale = 1.0 / torch.sqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()
