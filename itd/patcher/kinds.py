"""What a layer can take: which layers can vary at all, and which of stride, dilation and size each one can.

Not here: what an option of an attribute does (`geometry`), and the layers that do it (`dynamic`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from itd.errors import ModelError, SpaceError
from itd.layers.conv import PerSampleConv2d
from itd.patcher.geometry import Geometry, by
from itd.space import ATTRIBUTES

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def takes(layer: nn.Module) -> frozenset[str]:
    """The attributes that a layer takes where a user names none: by its kind and by its own values.

    A 1x1 convolution and a pool take the stride; an even or non-square convolution stride and dilation; an odd square
    one all. What differs between rows and columns cannot vary. Of a layer that cannot vary at all: none.

    >>> sorted(takes(nn.Conv2d(3, 8, 2))), sorted(takes(nn.Conv2d(3, 8, 3, stride=(2, 1)))), takes(nn.ReLU())
    (['dilation', 'stride'], ['dilation', 'size'], frozenset())
    """
    try:
        check_layer("layer", layer)
    except ModelError:
        return frozenset()
    kind = _kind(layer)
    if not issubclass(kind, POOLS) and Geometry.of("layer", layer).pointwise:  # type: ignore[arg-type]
        return frozenset({"stride"} - set(_refused(layer)))
    return frozenset(ATTRIBUTES) - set(_refused(layer))


def check_takes(path: str, layer: nn.Module, attributes: frozenset[str]) -> None:
    """ModelError by module path for a layer that cannot vary, or for an attribute that it cannot take.

    attributes: those that a user names; none is all that the layer takes.
    """
    check_layer(path, layer)
    can, refused = takes(layer), _refused(layer)
    wrong = [a for a in ATTRIBUTES if a in refused and (a in attributes or not can)]
    if wrong:
        next_step = f"it takes {' and '.join(sorted(can))}: name nothing else" if can else "choose another layer"
        raise ModelError(f"{path}: {refused[wrong[0]]}; {next_step}")


def why_not(path: str, layer: nn.Module, attribute: str) -> str | None:
    """Why a layer cannot take an attribute, by module path; None where it can."""
    reason = _refused(layer).get(attribute)
    return None if reason is None else f"{path}: {reason}"


def check_layer(path: str, layer: nn.Module) -> None:
    """ModelError by module path for a layer that can take no attribute: of another kind, or made otherwise."""
    kind = _kind(layer)
    if issubclass(kind, (nn.Conv2d, *POOLS)):
        _check_own_forward(path, layer, kind)
    if issubclass(kind, POOLS):
        _check_pool(path, layer)
    elif issubclass(kind, (nn.Conv2d, PerSampleConv2d)):
        Geometry.of(path, layer)  # type: ignore[arg-type]
    else:
        raise ModelError(
            f"{path} is a {kind.__name__}, which cannot vary; a site takes Conv2d, CondConv2d, WeightNet2d, "
            "MaxPool2d or AvgPool2d"
        )


def _kind(layer: nn.Module) -> type[nn.Module]:
    """The layer's class, of one that takes a setting already the class that it was made of."""
    return layer.__dict__.get("_plain_class", type(layer))


def _refused(layer: Any) -> dict[str, str]:
    """attribute -> why a layer that can vary cannot take it."""
    if issubclass(_kind(layer), POOLS):
        return dict.fromkeys(("dilation", "size"), f"a {_kind(layer).__name__} has no kernel that could change")
    geometry, found = Geometry.of("layer", layer), {}
    for name, pair in (("stride", geometry.stride), ("dilation", geometry.dilation)):
        if pair[0] != pair[1]:
            found[name] = f"{name} {by(pair)} differs between rows and columns, and an option is one number for both"
    if not geometry.odd_square:
        fault = "not square" if geometry.kernel[0] != geometry.kernel[1] else "even"
        found["size"] = f"kernel {by(geometry.kernel)} is {fault}, and only odd square kernels are resized"
    return found


def _check_own_forward(path: str, module: nn.Module, cls: type[nn.Module]) -> None:
    """ModelError for a convolution or pool of a class of its own, whose forward a setting would take the place of."""
    kind = next(kind for kind in (nn.Conv2d, *POOLS) if issubclass(cls, kind))
    own = [m for m in ("forward", "_conv_forward") if getattr(cls, m, None) is not getattr(kind, m, None)]
    if own:
        raise ModelError(
            f"{path} is a {cls.__name__}, which computes in its own way ({own[0]}); a site takes a plain "
            f"{kind.__name__}"
        )
    if kind is nn.Conv2d and not isinstance(module._parameters.get("weight"), torch.Tensor):
        raise ModelError(
            f"{path} has a weight that is made anew from others (weight or spectral normalisation, pruning); "
            "remove the parametrisation first, which keeps the value"
        )


def _check_pool(path: str, pool: Any) -> None:
    """ModelError by path for a pool whose stride cannot vary."""
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if any(side(value) is None for value in (kernel, stride, padding)):
        raise ModelError(f"{path}: a pool with kernel {kernel}, stride {stride} is not square; it cannot vary")
    if getattr(pool, "return_indices", False) or side(getattr(pool, "dilation", 1)) != 1:
        raise ModelError(f"{path}: a pool with return_indices or dilation cannot vary")


def check_pool_half(path: str, pool: Any) -> None:
    """SpaceError for a pool that stride 1/2 is not defined for: max k=3, p=1 and average k=2, p=0 are."""
    kind = "max" if isinstance(pool, nn.MaxPool2d) else "average"
    if (kind, side(pool.kernel_size), side(pool.padding)) not in (("max", 3, 1), ("average", 2, 0)):
        raise SpaceError(
            f"{path}: stride 1/2 is defined for a max pool of 3 (padding 1) and an average pool of 2, not for a "
            f"{kind} pool of {pool.kernel_size} (padding {pool.padding}); leave out stride 1/2"
        )


def side(value: int | tuple[int, ...]) -> int | None:
    """The number of a pool's rows and columns, None where they differ.

    >>> side(2), side((2, 2)), side((2, 1))
    (2, 2, None)
    """
    if isinstance(value, int):
        return value
    return value[0] if len(set(value)) == 1 else None
