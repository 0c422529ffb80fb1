"""Sites as they are typed: letters of the registered ones, paths of one's own, or `auto`; and as text again."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ModelError, SpaceError
from itd.patcher import DynamicModel, Sites, parse_sites, registered
from itd.patcher.auto import auto_sites, channels_of
from itd.patcher.families import AutoSites
from itd.patcher.kinds import takes
from itd.patcher.layout import layers_of, measurable
from itd.patcher.model import check_network
from itd.patcher.names import canonical_name
from itd.patcher.registry import build_model
from itd.space import ATTRIBUTES
from itd.weights.state import skeleton_of

AUTO = "auto"


def sites_asked(
    model: str, text: str | None, *, digits: bool, crop_px: int | None
) -> tuple[str | Sites, tuple[str, ...]]:
    """(what `itd.patch` takes, the sites that are swept).

    model: a network's name. text: as `--sites` takes it. digits, crop_px: of the images that `auto` looks with.
    """
    if text is None or text.strip().lower() != AUTO:
        own, swept = parse_sites(model, text)
        return own or model, swept
    entry = registered(model)
    if entry is not None:
        return model, tuple(entry.sites)
    found = _found(canonical_name(model), crop_px or (DIGITS_PREPROCESS.crop_px if digits else None))
    return found, tuple(found)


@functools.lru_cache(maxsize=8)
def _found(model: str, px: int | None) -> AutoSites:
    """The sites of a network that is not registered; found once for a size."""
    skeleton = skeleton_of(model)
    try:
        return auto_sites(skeleton, px or usual_px(skeleton))
    except ModelError:
        if not any(p.is_meta for p in skeleton.parameters()):
            raise
    network = build_model(model)  # one that has to look at values
    return auto_sites(network, px or usual_px(network))


def usual_px(network: nn.Module) -> int:
    """The side of a network's images: what timm says of its own, else that of torchvision's V1 weights."""
    config = getattr(network, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    return int(size[1]) if size else Preprocess().crop_px


def sites_texts(model: DynamicModel) -> dict[str, list[str]]:
    """Site name -> its modules' paths, each with the attributes that it takes where those are not all that it can.

    A registered network's sites are known by its name, and are paths alone.
    """
    if model.entry is not None and registered(model.entry.name) is model.entry:
        return {name: [m.path for m in modules] for name, modules in model.sites.items()}
    return {
        name: [
            ":".join([m.path, *sorted(m.attributes)]) if m.attributes != takes(model.get_submodule(m.path)) else m.path
            for m in modules
        ]
        for name, modules in model.sites.items()
    }


def sites_text(model: str, sites: Mapping[str, Sequence[str]]) -> str | None:
    """Sites of a result as `--sites` takes them; None where they are the registered ones."""
    entry = registered(model)
    own = {name: [m.path for m in modules] for name, modules in entry.sites.items()} if entry else {}
    if {name: list(paths) for name, paths in sites.items()} == own:
        return None
    return ",".join(f"{name}={'+'.join(paths)}" for name, paths in sites.items())


def sites(model: str, attribute: str | None = None, input_px: int | None = None) -> dict[str, Any]:
    """What the layers of a network can take, and the sites that `auto` takes: what `itd sites` prints.

    Args:
        model: a network's name.
        attribute: only the layers that take it; None is all layers.
        input_px: the side of an image; None is the network's own.

    Returns:
        JSON values: model, input_px, layers (path, kind, takes, input, output), auto (attribute -> site -> paths), why.

    Raises:
        ModelError: for a name that nobody knows, or a network that takes no such image. SpaceError: for an attribute
            that is none.
    """
    if attribute is not None and attribute not in ATTRIBUTES:
        raise SpaceError(f"no such attribute: {attribute!r}; allowed are {', '.join(ATTRIBUTES)}")
    network = skeleton_of(model)
    check_network(network)
    px = input_px or usual_px(network)
    shape = (channels_of(network), px, px)
    try:
        probe = measurable(network, shape)
    except ModelError:
        probe = measurable(build_model(model), shape)
    auto, why = _auto(model, px, ATTRIBUTES if attribute is None else (attribute,))
    return {
        "model": model,
        "input_px": px,
        "layers": [
            {
                "path": layer.path,
                "kind": layer.kind,
                "takes": sorted(layer.takes),
                "input": list(layer.input),
                "output": list(layer.output),
            }
            for layer in layers_of(probe, shape)
            if attribute is None or attribute in layer.takes
        ],
        "auto": auto,
        "why": why,
    }


def _auto(model: str, px: int, asked: Sequence[str]) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """(attribute -> site -> paths, as `auto` takes them; what was not found, and what keeps its value)."""
    auto: dict[str, dict[str, list[str]]] = {a: {} for a in asked}
    try:
        found = registered(model) or _found(canonical_name(model), px)
    except ModelError as error:
        return auto, [str(error)]
    entry, why = (found.entry, list(found.why)) if isinstance(found, AutoSites) else (found, [])
    for name, modules in entry.sites.items():
        for a in asked:
            paths = [m.path for m in modules if a in m.attributes]
            if paths and (name, a) not in entry.fixed:
                auto[a][name] = paths
    return auto, why + [f"site {s} keeps its {a}: {w}" for (s, a), w in entry.fixed.items() if a in asked]
