"""Any network with chosen convolutions replaced by learned ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from itd.errors import ModelError
from itd.layers.condconv import CondConv2d
from itd.layers.involution import Involution2d
from itd.layers.se import SqueezeExcitation
from itd.layers.weightnet import WeightNet2d

Make = Callable[[nn.Conv2d], nn.Module]


def replace_convs(
    model: nn.Module,
    layer: str | Make,
    where: Iterable[str] | Callable[[str, nn.Conv2d], bool] | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of a network in which some convolutions are replaced by a layer that stands for them.

    model: any network; it is left as it was. layer: se, condconv, weightnet or involution, with its own options, or a
    function that makes a module of a convolution. se keeps the convolution and puts its gate behind it. where: paths,
    or a function of path and convolution; by default every convolution larger than 1x1 but the first that the layer
    can stand for.

    Raises ModelError for an unknown layer, a path that is no convolution, nothing to replace, and a convolution that
    the layer cannot stand for, by its path.

    >>> from torchvision.models import resnet18
    >>> model = replace_convs(resnet18(), "condconv", ["layer4.1.conv2"], experts=8)
    >>> model.layer4[1].conv2.experts
    8
    """
    if isinstance(layer, str) and layer not in MAKERS:
        raise ModelError(f"no such layer: {layer!r}; allowed are {', '.join(MAKERS)}, or a function of a convolution")
    new = copy.deepcopy(model)
    convs = {path: m for path, m in new.named_modules() if isinstance(m, nn.Conv2d)}
    asked = not (where is None or callable(where))
    paths = _paths(convs, where)
    replaced = 0
    for path in paths:
        try:
            made = MAKERS[layer](convs[path], **options) if isinstance(layer, str) else layer(convs[path])
        except ModelError as error:
            if where is None:
                continue
            raise ModelError(f"{path} cannot be replaced: {error}") from error
        parent, _, child = path.rpartition(".")
        new.get_submodule(parent)._modules[child] = made
        replaced += 1
    if not replaced:
        what = "no path was given" if asked else f"none of its {len(convs)} convolutions fits"
        raise ModelError(f"there is nothing to replace in {type(model).__name__}: {what}; give where=[path, ...]")
    return new


def _paths(convs: dict[str, nn.Conv2d], where: Iterable[str] | Callable[[str, nn.Conv2d], bool] | None) -> list[str]:
    if where is None:
        return [path for path, conv in list(convs.items())[1:] if max(conv.kernel_size) > 1]
    if callable(where):
        return [path for path, conv in convs.items() if where(path, conv)]
    paths = [where] if isinstance(where, str) else list(where)
    for path in paths:
        if path not in convs:
            raise ModelError(
                f"{path!r} is no convolution of the network; it has {', '.join(list(convs)[:3])} and so on"
            )
    return paths


def _arguments(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None, **_kind(conv)}


def _kind(conv: nn.Conv2d) -> dict[str, Any]:
    return {"device": conv.weight.device, "dtype": conv.weight.dtype}


def _se(conv: nn.Conv2d, **options: Any) -> nn.Module:
    return nn.Sequential(conv, SqueezeExcitation(conv.out_channels, **options, **_kind(conv)))


def _condconv(conv: nn.Conv2d, **options: Any) -> nn.Module:
    return CondConv2d(**_arguments(conv), **options)


def _weightnet(conv: nn.Conv2d, **options: Any) -> nn.Module:
    return WeightNet2d(**_arguments(conv), **options)


def _involution(conv: nn.Conv2d, **options: Any) -> nn.Module:
    """Its groups are its own: those of a convolution say something else."""
    if conv.groups != 1 or conv.padding_mode != "zeros":
        raise ModelError(
            f"Involution2d stands for groups 1 and zeros around, not {conv.groups} and {conv.padding_mode}"
        )
    given = _arguments(conv)
    del given["groups"], given["padding_mode"], given["bias"]
    return Involution2d(**given, **options)


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "se": _se,
    "condconv": _condconv,
    "weightnet": _weightnet,
    "involution": _involution,
}
"""name -> what makes the layer of a convolution."""
