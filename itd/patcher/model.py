"""A pretrained network rewritten to take a configuration. The weights stay where they are; nothing is retrained."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from itd.errors import ModelError, SpaceError
from itd.patcher.dynamic import (
    DEFAULT,
    DynamicConv2d,
    DynamicPerSampleConv2d,
    unwrap_layer,
    wrap_layer,
)
from itd.patcher.families import AutoSites, ModelEntry, SiteModule, Sites
from itd.patcher.kinds import check_pool_half, side, why_not
from itd.patcher.output_stride import output_stride
from itd.patcher.registry import MODELS, as_sites, registered, resolve_sites
from itd.patcher.storage import uncopied
from itd.space import ATTRIBUTES, SITES, Conventions, Setting, SiteSpec, Space, build_space, format_value
from itd.space.setting import OPTIONS
from itd.text import listed, shorten


class DynamicModel(nn.Module):
    """What `patch` adds to a network's class: `sites` and `configured`. `forward` and `state_dict` stay its own.

    entry: the registry's, where the network was patched by a registered name.
    """

    sites: Sites
    conventions: Conventions
    entry: ModelEntry | None

    @contextlib.contextmanager
    def configured(self, config: Mapping[str, Setting] | Sequence[Setting]) -> Iterator[DynamicModel]:
        """Run at a configuration inside the block; the former one is restored on the way out.

        config: site name -> setting, or one setting for each site in order. Raises SpaceError for an unknown site or
        a setting that a layer cannot take, or that none of the site's takes.

        >>> from itd.patcher import build_model, patch
        >>> model = patch(build_model("resnet18"), "resnet18")
        >>> with model.configured({"B": Setting(stride=4)}):
        ...     pass  # logits = model(images)
        """
        if not isinstance(config, Mapping):
            config = dict(zip(self.sites, config, strict=True))
        unknown = [name for name in config if name not in self.sites]
        if unknown:
            raise SpaceError(f"no such site: {', '.join(unknown)}; this model has {', '.join(self.sites)}")
        layers: list[tuple[Any, Setting]] = []
        for name, setting in config.items():
            check_site(self, name, setting)
            layers += [(self.get_submodule(m.path), setting.only(m.attributes)) for m in self.sites[name]]
        before = [layer.setting for layer, _ in layers]
        try:
            for layer, setting in layers:
                layer.setting = setting
            yield self
        finally:
            for (layer, _), setting in zip(layers, before, strict=True):
                layer.setting = setting


SitePaths = str | SiteModule | Sequence[str | SiteModule]
"""A site's modules as a user gives them: a path, a module, or several."""


def patch(
    model: nn.Module, sites: str | Mapping[str, SitePaths], conventions: Conventions | None = None
) -> DynamicModel:
    """The same network, its site layers replaced by ones that take a setting.

    Args:
        model: any network, in any mode, on any device, patched already or not; it is left as it was.
        sites: a registered model's name, or site name (A to D) -> a path, a list of paths, or `SiteModule`s. Of
            each layer varies what `itd.patcher.takes` says, or what its `SiteModule` names.
        conventions: readings of what the paper leaves open.

    Returns:
        A network of the same class (a subclass) in evaluation mode, which shares the model's tensors: the same
        `state_dict` keys and tensors.

    Raises:
        ModelError: for a path that is not there, a layer that cannot vary, or a model that cannot be copied.

    Example:
        >>> from torchvision.models import vgg11
        >>> list(patch(vgg11(), {"A": "features.3", "B": ["features.6", "features.8"]}).sites)
        ['A', 'B']
    """
    check_network(model)
    conventions = conventions or Conventions()
    if not isinstance(conventions, Conventions):
        raise ModelError(f"conventions is {type(conventions).__name__}; give an itd.Conventions")
    if isinstance(sites, str):
        entry_of(sites)  # before the copy
    return patch_in_place(unpatched(model), sites, conventions)


def patch_in_place(new: nn.Module, sites: str | Mapping[str, SitePaths], conventions: Conventions) -> DynamicModel:
    """What `patch` gives, of a network that nobody else has and that was never patched: made of it, without a copy."""
    entry = entry_of(sites) if isinstance(sites, str) else sites.entry if isinstance(sites, AutoSites) else None
    resolved = resolve_sites(new, entry.sites if entry else as_sites(sites))
    for modules in resolved.values():
        for module in modules:
            layer = new.get_submodule(module.path)
            _replace(new, layer, wrap_layer(module.path, layer, conventions))
    new.__class__ = _dynamic_class(type(new))  # type: ignore[arg-type]
    new.sites, new.conventions, new.entry = resolved, conventions, entry  # type: ignore[assignment]
    return new.eval()  # type: ignore[return-value]


def check_network(model: Any) -> None:
    """ModelError for what cannot be rewritten: no module, or one that torch made of another."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"patch takes an nn.Module, given {type(model).__name__}; build the network first")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("patch cannot rewrite a TorchScript module; give the nn.Module that it was made of")
    for name, what in (("_orig_mod", "torch.compile made"), ("module", "is wrapped for several devices")):
        inner = model._modules.get(name)
        if inner is not None and (name == "_orig_mod" or isinstance(model, _WRAPPERS)):
            raise ModelError(f"the network {what if name == 'module' else 'is what ' + what}; give its .{name}")
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has lazy layers that know no shape yet; run it once on an image first"
        )


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unpatched(model: nn.Module) -> nn.Module:
    """A copy that shares the model's tensors, its site layers what they were before it was patched, if it was.

    Raises ModelError for a model that cannot be copied.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        new = copy.deepcopy(model, memo=dict(shared))
    except Exception as error:  # a module may hold anything
        raise uncopied(model, error) from error
    if not isinstance(new, DynamicModel):
        return new
    for modules in new.sites.values():
        for module in modules:
            layer = new.get_submodule(module.path)
            _replace(new, layer, unwrap_layer(layer))
    new.__class__ = type(new).__bases__[1]
    for name in ("sites", "conventions", "entry"):
        del new.__dict__[name]
    return new


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a layer in another's place, under every name that it is reached by."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new


def logits_of(output: Any) -> Any:
    """The logits among what a network returns: a tensor, the first of a tuple or list, or what is called `.logits`.

    >>> logits_of((torch.zeros(2, 10), "something else")).shape
    torch.Size([2, 10])
    """
    if isinstance(output, torch.Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    raise ModelError(
        f"the network returns a {type(output).__name__}; logits are a tensor, the first of a tuple, or .logits"
    )


@functools.cache
def _dynamic_class(cls: Any) -> type[DynamicModel]:
    return type(f"Dynamic{cls.__name__}", (DynamicModel, cls), {"__init__": cls.__init__, "forward": cls.forward})


def entry_of(name: str) -> ModelEntry:
    """The registry's entry; ModelError for a model without one."""
    entry = registered(name)
    if entry is None:
        raise ModelError(f"{name} has no registered sites; registered are {listed(MODELS)} (see: itd models)")
    return entry


def check_site(model: DynamicModel, name: str, setting: Setting) -> None:
    """SpaceError where a layer of a site cannot take a setting, or no layer of it takes an attribute of the setting."""
    modules = model.sites[name]
    for attribute, value in setting.values().items():
        if not any(attribute in m.attributes for m in modules):
            reason = _why_none(model, modules, attribute)
            raise SpaceError(f"site {name} cannot take {attribute} {format_value(value)}: {reason}; leave it out")
    for module in modules:
        check_setting(module.path, model.get_submodule(module.path), setting.only(module.attributes))


def check_setting(path: str, layer: Any, setting: Setting) -> None:
    """SpaceError where a layer cannot take a setting."""
    if setting == DEFAULT:
        return
    if isinstance(layer, (DynamicConv2d, DynamicPerSampleConv2d)):
        layer.geometry.at(setting, path)
    elif setting.stride == 0.5:
        check_pool_half(path, layer)


def site_specs(model: DynamicModel, entry: ModelEntry | None = None) -> tuple[SiteSpec, ...]:
    """Each site's defaults and default options, read off its layers; `entry` adds the registry's restrictions."""
    upsampling = entry.upsampling if entry else frozenset("CD")
    fixed, asked = (entry.fixed, entry.options) if entry else ({}, {})
    specs = []
    for name, modules in model.sites.items():
        default = Setting()
        options: dict[str, tuple[float, ...]] = {}
        why: dict[str, str] = {}
        for attribute in ATTRIBUTES:
            takers = {m.path: model.get_submodule(m.path) for m in modules if attribute in m.attributes}
            if not takers:
                why[attribute] = _why_none(model, modules, attribute)
                continue
            own = _own_value(name, attribute, takers)
            default |= Setting(**{attribute: own})
            options[attribute] = asked.get((name, attribute)) or (
                _defined_for_all(takers, attribute, name in upsampling) or (own,)
            )
            if (name, attribute) in fixed:
                why[attribute] = fixed[name, attribute]
        specs.append(SiteSpec(name, default, options, why))
    return tuple(specs)


def _why_none(model: DynamicModel, modules: Sequence[SiteModule], attribute: str) -> str:
    """Why no layer of a site takes an attribute: what is not defined for them, else that none is said to."""
    reasons = (why_not(m.path, model.get_submodule(m.path), attribute) for m in modules)
    return "; ".join(filter(None, reasons)) or f"no layer of it takes {attribute}"


def _own_value(site: str, attribute: str, layers: Mapping[str, Any]) -> Any:
    """What the layers of a site, by path, have before any setting; ModelError where they differ."""
    own = {path: _default_of(attribute, layer) for path, layer in layers.items()}
    if len(set(own.values())) > 1:
        shown = ", ".join(f"{path} has {value}" for path, value in own.items())
        raise ModelError(f"site {site}: its layers differ in {attribute} ({shown}); put them in sites of their own")
    return next(iter(own.values()))


def _defined_for_all(layers: Mapping[str, Any], attribute: str, upsampling: bool) -> tuple[float, ...]:
    """The usual options that every layer, by path, can take; stride 1/2 only where the site is `upsampling`."""
    values = (v for v in OPTIONS[attribute] if v >= 1 or upsampling)
    return tuple(v for v in values if all(_can(path, layer, attribute, v) for path, layer in layers.items()))


def _can(path: str, layer: Any, attribute: str, value: float) -> bool:
    """Whether an option is defined for a layer."""
    try:
        check_setting(path, layer, Setting(**{attribute: value}))  # type: ignore[arg-type]
    except SpaceError:
        return False
    return True


def _default_of(attribute: str, layer: Any) -> Any:
    if not isinstance(layer, (DynamicConv2d, DynamicPerSampleConv2d)):
        return side(layer.stride)
    geometry = layer.geometry
    return {"stride": geometry.stride, "dilation": geometry.dilation, "size": geometry.kernel}[attribute][0]


def model_space(
    model: DynamicModel,
    attributes: Sequence[str],
    *,
    entry: ModelEntry | None = None,
    stem_stride: float | None = None,
    swept: Sequence[str] | None = None,
    options: Mapping[tuple[str, str], Sequence[float]] | None = None,
    stride_range: tuple[int, int] = (4, 288),
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> Space:
    """The allowed configurations of a patched model by the rules of `build_space`; every option is tried on its layers.

    Args:
        model: what `patch` returned.
        attributes: stride, dilation or size, one or several.
        entry: a registered model's restrictions; the model's own where it was patched by name.
        stem_stride: the output stride with every site at stride 1; the registry's, else measured by one forward.
        swept: the sites that vary; None is all.
        options: (site, attribute) -> values that replace the site's own list exactly.
        stride_range: the allowed total output stride; it applies where stride is swept.
        input_shape: (C, H, W) of an image.

    Raises:
        SpaceError: for a site or option that cannot be, more than 32,767 configurations, or none.

    Example:
        >>> from itd.patcher import build_model, patch
        >>> len(model_space(patch(build_model("resnet50"), "resnet50"), ["stride"]))
        361
    """
    if not isinstance(model, DynamicModel):
        raise ModelError(
            f"model_space takes what itd.patch returned, given {type(model).__name__}; patch the model first"
        )
    if isinstance(attributes, str):
        attributes = [attributes]
    if not isinstance(attributes, (list, tuple)):
        raise SpaceError(f"attributes is {attributes!r}; give a list of {', '.join(ATTRIBUTES)}")
    unknown = [a for a in attributes if a not in ATTRIBUTES]
    if unknown or not attributes:
        raise SpaceError(f"no such attribute: {listed(unknown) or '(none)'}; allowed are {', '.join(ATTRIBUTES)}")
    _check_asked(entry, stem_stride, swept, options, stride_range, input_shape)
    entry = entry or model.entry
    if stem_stride is None and entry is not None:
        stem_stride = entry.stem_stride or None
    if stem_stride is None and "stride" in attributes:
        stem_stride = measured_stem_stride(model, input_shape)
    space = build_space(
        attributes,
        site_specs(model, entry),
        swept=swept,
        options=options,
        stem_stride=1 if stem_stride is None else stem_stride,
        stride_range=stride_range,
    )
    return check_space(model, space)


def _check_asked(entry: Any, stem_stride: Any, swept: Any, options: Any, stride_range: Any, input_shape: Any) -> None:
    """SpaceError for an argument of `model_space` of another kind than it says."""
    faults = {
        "entry": entry is not None and not isinstance(entry, ModelEntry),
        "stem_stride": stem_stride is not None and not (isinstance(stem_stride, (int, float)) and stem_stride > 0),
        "swept": swept is not None and not (isinstance(swept, (str, list, tuple)) and all(s in SITES for s in swept)),
        "options": options is not None and not _are_options(options),
        "stride_range": not _whole(stride_range, 2) or stride_range[0] > stride_range[1],
        "input_shape": not _whole(input_shape, 3),
    }
    given = {"entry": entry, "stem_stride": stem_stride, "swept": swept, "options": options}
    given |= {"stride_range": stride_range, "input_shape": input_shape}
    wanted = {
        "entry": "a ModelEntry", "stem_stride": "a number above 0", "swept": "site names, as in ['A', 'B']",
        "options": "{('A', 'dilation'): (1, 2)}", "stride_range": "(low, high)", "input_shape": "(C, H, W)",
    }  # fmt: skip
    for name, wrong in faults.items():
        if wrong:
            raise SpaceError(f"{name} is {shorten(repr(given[name]))}; give {wanted[name]}")


def _whole(value: Any, count: int) -> bool:
    """Whether a value is so many whole numbers of at least 1."""
    return (
        isinstance(value, (tuple, list, torch.Size))
        and len(value) == count
        and all(type(part) is int and part >= 1 for part in value)
    )


def _are_options(options: Any) -> bool:
    return isinstance(options, Mapping) and all(
        isinstance(key, tuple) and len(key) == 2 and isinstance(values, (list, tuple, range))
        and all(isinstance(value, (int, float)) for value in values)
        for key, values in options.items()
    )  # fmt: skip


def measured_stem_stride(model: DynamicModel, input_shape: tuple[int, int, int] = (3, 224, 224)) -> float:
    """The output stride with every site at stride 1, read off one forward of the default configuration."""
    sites = math.prod(spec.default.stride or 1 for spec in site_specs(model))
    return max(1.0, output_stride(model, input_shape) / sites)


def check_space(model: DynamicModel, space: Space) -> Space:
    """The space itself; SpaceError where one of its settings is one that a layer cannot take."""
    for i, spec in enumerate(space.sites):
        for setting in dict.fromkeys(config[i] for config in space.configs):
            check_site(model, spec.name, setting)
    return space
