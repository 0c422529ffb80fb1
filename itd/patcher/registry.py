"""Which models are known, by name: lookups, building and registering. Their sites are in `families`, the rewriting in
`model`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from itd.errors import ModelError
from itd.layers.models import build_learned, is_learned
from itd.patcher.factories import build_factory, check_factory
from itd.patcher.families import ENTRIES, ModelEntry, SiteModule, Sites
from itd.patcher.kinds import check_takes, takes
from itd.patcher.names import WAYS, is_factory, is_timm
from itd.patcher.packages import broken_packages
from itd.patcher.timm_models import build_timm, timm_name
from itd.space import ATTRIBUTES, SITES
from itd.text import first_line, listed

MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in ENTRIES}


def build_model(name: str, num_classes: int = 1000) -> nn.Module:
    """A network with random weights, in evaluation mode; ModelError for a name that nobody knows.

    name: torchvision's, that of a network with learned dynamic convolutions (`itd models --learned`), one that
    `register_model` was given, timm/NAME, FILE.py:NAME or package.module:NAME, which has the classes that it has.
    """
    check_model_name(name)
    if name in _BUILDERS:
        return _built(name, num_classes)
    if is_timm(name):
        return build_timm(name, num_classes)
    if is_factory(name):
        return build_factory(name)
    if is_learned(name):
        return build_learned(name, num_classes)
    from torchvision import models

    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **extra).eval()


def layout_of(name: str) -> torch.memory_format:
    """How maps lie in memory where a network is run: channels last, which is fastest, for networks that are known to
    take it; as images lie by themselves for code of a user's, which may count on it (`x.view(x.size(0), -1)`)."""
    return torch.contiguous_format if is_of_others(name) else torch.channels_last


def is_of_others(name: str) -> bool:
    """Whether code of a user's or of a package's builds it, which may give a network that others have as well."""
    return is_factory(name) or name in _BUILDERS


def _built(name: str, num_classes: int) -> nn.Module:
    """What a registered function gives."""
    try:
        network = _BUILDERS[name](num_classes)
    except Exception as error:  # another's code may raise anything
        raise ModelError(
            f"{name} cannot be built: {type(error).__name__}: {first_line(error)}; mend what it was registered with"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{name} is built as a {type(network).__name__}; what it is registered with gives an nn.Module"
        )
    return network.eval()


def check_model_name(name: str) -> None:
    """ModelError, with the nearest name, for a model that nobody knows; nothing is built."""
    if not isinstance(name, str):
        raise ModelError(f"a model's name is a text, given {type(name).__name__}; registered are {listed(MODELS)}")
    if name in _BUILDERS or is_learned(name):
        return
    if is_timm(name):
        timm_name(name)
        return
    if is_factory(name):
        check_factory(name)
        return
    if registered(name) is None:
        _require_torchvision(name, broken_packages())


def _require_torchvision(name: str, broken: Sequence[str] = ()) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return
    if name.endswith(".py"):
        raise ModelError(f"{name} is a file; name the function or class in it that gives a network, {name}:NAME")
    near = difflib.get_close_matches(name, [*known, *_BUILDERS], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelError(
        f"no such model: {name!r}; {hint}registered are {listed(MODELS)}; any other torchvision classifier, {WAYS} "
        f"work with `sites=A=path[+path],B=path` (see: itd models){''.join(f'; {line}' for line in broken)}"
    )


def registered(name: str) -> ModelEntry | None:
    """The registry's entry of a name, those of installed packages among them; None for a network without one."""
    if name not in MODELS and not is_factory(name):
        broken_packages()  # which registers theirs
    return MODELS.get(name)


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {}


def register_model(entry: ModelEntry, build: Callable[[int], nn.Module] | None = None) -> None:
    """Makes a network known by name, with its sites, to every verb and command of this process.

    Args:
        entry: its name, sites and restrictions.
        build: makes the network for a number of classes, with random weights; None where torchvision knows the name.

    Raises:
        ModelError: for a name that is registered already, sites that are none of A to D, or, without `build`, a name
            that torchvision lacks.

    Example:
        >>> register_model(ModelEntry("vgg11", {"A": (SiteModule("features.3", frozenset()),)}, 32, 69.02))
        >>> del MODELS["vgg11"]
    """
    if not isinstance(entry, ModelEntry):
        raise ModelError(f"register_model takes a ModelEntry, given {type(entry).__name__}")
    if entry.name in MODELS or entry.name in _BUILDERS or is_learned(entry.name):
        raise ModelError(f"{entry.name} is registered already; give another name")
    if not isinstance(entry.name, str) or not entry.name:
        raise ModelError(f"the entry's name is {entry.name!r}; give a text")
    if build is not None and not callable(build):
        raise ModelError(f"build is {type(build).__name__}; give a function from a number of classes to a network")
    entry = replace(entry, sites=as_sites(entry.sites))
    if build is None and is_timm(entry.name):
        timm_name(entry.name)
    elif build is None:
        _require_torchvision(entry.name)
    else:
        _BUILDERS[entry.name] = build
    MODELS[entry.name] = entry


def parse_sites(name: str, text: str | None) -> tuple[Sites | None, tuple[str, ...]]:
    """What `--sites` says: (own sites or None for the registered ones, names of the swept sites).

    >>> parse_sites("resnet50", "AB")[1]
    ('A', 'B')
    """
    if text is not None and "=" in text:
        return _parse_paths(text)
    entry = registered(name)
    if entry is None:
        raise ModelError(
            f"{name} has no registered sites; let them be found: `sites=auto`, or name them: "
            "`sites=A=path[+path],B=path` "
            f"(registered models: {listed(MODELS)}; see: itd models)"
        )
    letters = (text if text is not None else "".join(entry.sites)).upper().replace(",", "")
    wrong = [letter for letter in letters if letter not in SITES]
    if wrong or not letters or len(set(letters)) != len(letters):
        raise ModelError(f"no such sites: {letters!r}; allowed are letters of ABCD, each once, or A=path[+path],B=path")
    return None, tuple(s for s in SITES if s in letters)


def _parse_paths(text: str) -> tuple[Sites, tuple[str, ...]]:
    sites: Sites = {}
    for part in text.split(","):
        letter, _, paths = part.strip().partition("=")
        if letter not in SITES or letter in sites or not all(path.strip() for path in paths.split("+")):
            raise ModelError(f"`sites` has {part.strip()!r}; allowed is A=path[+path], each of A to D once")
        sites[letter] = tuple(_site_module(path.strip()) for path in paths.split("+"))
    sites = {s: sites[s] for s in SITES if s in sites}
    return sites, tuple(sites)


def _site_module(text: str) -> SiteModule:
    """A module of a site as it is typed.

    >>> sorted(_site_module("layer1.0.conv1:dilation:size").attributes)
    ['dilation', 'size']
    """
    path, *attributes = text.split(":")
    unknown = [a for a in attributes if a not in ATTRIBUTES]
    if unknown:
        raise ModelError(f"`sites` has {text!r}, and {unknown[0]!r} is none of {', '.join(ATTRIBUTES)}")
    return SiteModule(path, frozenset(attributes))


def as_sites(sites: Any) -> Sites:
    """Sites as a user gives them, in the order A to D: site name -> a path, a list of paths, or `SiteModule`s.

    >>> as_sites({"B": "conv2", "A": ["conv1", "shortcut"]})["A"][1].path
    'shortcut'
    """
    if not isinstance(sites, Mapping) or not sites:
        raise ModelError(
            f"sites is {type(sites).__name__}; give a registered model's name, or a dict such as "
            "{'A': 'layer1.0.conv1'}"
        )
    strange = [name for name in sites if name not in SITES]
    if strange:
        raise ModelError(
            f"no such site: {strange[0]!r}; allowed are {', '.join(SITES)}, each with the paths of its layers"
        )
    made: Sites = {}
    for name in SITES:
        if name not in sites:
            continue
        value = sites[name]
        modules = [value] if isinstance(value, (str, SiteModule)) else value
        if (
            not isinstance(modules, Sequence)
            or not modules
            or not all(isinstance(m, (str, SiteModule)) for m in modules)
        ):
            raise ModelError(f"site {name} is {value!r}; give a path, a list of paths, or SiteModules")
        made[name] = tuple(m if isinstance(m, SiteModule) else SiteModule(m, frozenset()) for m in modules)
    return made


def _is_set(value: Any) -> bool:
    return isinstance(value, (set, frozenset))


def layer_attributes(sites: Sites) -> dict[str, frozenset[str]]:
    """Module path -> the attributes that the layer takes."""
    return {module.path: module.attributes for modules in sites.values() for module in modules}


def resolve_sites(model: nn.Module, sites: Sites) -> Sites:
    """Sites whose modules all say what they take: by `takes` where a user names no attributes.

    Raises ModelError by module path for a path that is not there, a layer that cannot vary, or one that cannot take
    what is named.
    """
    by_path = dict(model.named_modules(remove_duplicate=False))
    first = {id(module): path for path, module in model.named_modules()}  # a shared module has several names
    resolved: Sites = {}
    seen: dict[str, str] = {}
    for name, modules in sites.items():
        found: list[SiteModule] = []
        for module in modules:
            if module.path not in by_path:
                raise ModelError(f"site {name}: the model has no module {module.path!r}; see model.named_modules()")
            layer = by_path[module.path]
            path = first[id(layer)]
            if path in (other.path for other in found):
                raise ModelError(f"{module.path} is twice in site {name}; name it once")
            if seen.setdefault(path, name) != name:
                raise ModelError(f"{module.path} is in sites {seen[path]} and {name}; a module has one site")
            strange = [a for a in module.attributes if a not in ATTRIBUTES] if _is_set(module.attributes) else ["?"]
            if strange:
                raise ModelError(
                    f"{module.path} takes {module.attributes!r}; give a frozenset of {', '.join(ATTRIBUTES)}, or an "
                    "empty one for all that the layer can take"
                )
            check_takes(module.path, layer, module.attributes)
            found.append(SiteModule(path, module.attributes or takes(layer)))
        resolved[name] = tuple(found)
    return resolved
