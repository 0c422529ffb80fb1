"""Any network with chosen convolutions replaced by learned ones."""

from __future__ import annotations

import copy
import inspect
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

    model: any network; it is left as it was. layer: se, condconv, weightnet or involution, with its own options, conv,
    which replaces nothing, or a function that makes a module of a convolution. se keeps the convolution and puts its
    gate behind it. where: paths, or a function of path and convolution; by default every convolution larger than 1x1
    but the first that the layer can stand for. What is new is in the mode, training or evaluation, of what it replaces.

    Raises ModelError for an unknown layer or option, a path that is no convolution, nothing to replace, and a
    convolution that the layer cannot stand for, by its path.

    >>> from torchvision.models import resnet18
    >>> model = replace_convs(resnet18(), "condconv", ["layer4.1.conv2"], experts=8)
    >>> model.layer4[1].conv2.experts
    8
    """
    make = _maker(layer, options)
    new = copy.deepcopy(model)
    convs = {path: m for path, m in new.named_modules(remove_duplicate=False) if isinstance(m, nn.Conv2d)}
    asked = not (where is None or callable(where))
    made: dict[int, nn.Module] = {}  # a convolution that is at two paths becomes one layer at both
    why = ""
    for path in _paths(convs, where):
        conv = convs[path]
        try:
            made[id(conv)] = made.get(id(conv)) or make(conv)
        except ModelError as error:
            if where is None:
                why = why or f" ({path}: {error})"
                continue
            raise ModelError(f"{path} cannot be replaced: {error}") from error
        if not path:  # the network is a convolution itself
            return made[id(conv)]
        parent, _, child = path.rpartition(".")
        new.get_submodule(parent)._modules[child] = made[id(conv)]
    if not made:
        what = "no path was given" if asked else f"none of its {len(convs)} convolutions fits{why}"
        raise ModelError(f"there is nothing to replace in {type(model).__name__}: {what}; give where=[path, ...]")
    return new


def _maker(layer: str | Make, options: dict[str, Any]) -> Make:
    if isinstance(layer, str):
        if layer not in MAKERS:
            raise ModelError(
                f"no such layer: {layer!r}; allowed are {', '.join(MAKERS)}, or a function of a convolution"
            )
        named, allowed = MAKERS[layer]
        wrong = [name for name in options if name not in allowed]
        if wrong:
            instead = f"allowed are {', '.join(allowed)}" if allowed else "it takes none: leave them out"
            raise ModelError(f"layer {layer} has no option {', '.join(wrong)}; {instead}")
        return lambda conv: named(conv, **options).train(conv.training)
    if options:
        raise ModelError(f"options {', '.join(options)} are for a layer given by its name; set them in the function")
    own = layer

    def make(conv: nn.Conv2d) -> nn.Module:
        module: Any = own(conv)
        if not isinstance(module, nn.Module):
            raise ModelError(f"the function returned a {type(module).__name__}; it must return an nn.Module")
        return module.train(conv.training)

    return make


def _paths(convs: dict[str, nn.Conv2d], where: Iterable[str] | Callable[[str, nn.Conv2d], bool] | None) -> list[str]:
    if where is None:
        first = next(iter(convs.values()), None)
        return [path for path, conv in convs.items() if conv is not first and max(conv.kernel_size) > 1]
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


def _own(layer: type[nn.Module], *without: str) -> tuple[str, ...]:
    """A layer's arguments beyond a convolution's."""
    keywords = (p.name for p in inspect.signature(layer).parameters.values() if p.kind is p.KEYWORD_ONLY)
    return tuple(name for name in keywords if name not in ("device", "dtype", *without))


MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "conv": (lambda conv: conv, ()),
    "se": (_se, ("reduction",)),
    "condconv": (_condconv, _own(CondConv2d)),
    "weightnet": (_weightnet, _own(WeightNet2d, "own_reduce")),  # without its own reduce nobody would give it z
    "involution": (_involution, _own(Involution2d)),
}
"""name -> what makes the layer of a convolution, and the options that it takes."""
