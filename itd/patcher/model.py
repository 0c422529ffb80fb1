"""A pretrained network rewritten to take a configuration. The weights stay where they are; nothing is retrained."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from itd.errors import ModelError, SpaceError
from itd.patcher.dynamic import DEFAULT, DynamicConv2d, DynamicPerSampleConv2d, check_pool_half, wrap_layer
from itd.patcher.registry import MODELS, ModelEntry, Sites, resolve_sites
from itd.space import ATTRIBUTES, Conventions, Setting, SiteSpec, Space, build_space
from itd.space.setting import OPTIONS


class DynamicModel(nn.Module):
    """What `patch` adds to a network's class: `sites` and `configured`. `forward` and `state_dict` stay its own."""

    sites: Sites
    conventions: Conventions

    @contextlib.contextmanager
    def configured(self, config: Mapping[str, Setting] | Sequence[Setting]) -> Iterator[DynamicModel]:
        """Run at a configuration inside the block; the former one is restored on the way out.

        config: site name -> setting, or one setting for each site in order. Raises SpaceError for an unknown site or
        a setting that a layer cannot take.

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
        layers: list[tuple[str, Any, Setting]] = [
            (m.path, self.get_submodule(m.path), config[name].only(m.attributes))
            for name, modules in self.sites.items()
            for m in modules
            if name in config
        ]
        for path, layer, setting in layers:
            check_setting(path, layer, setting)
        before = [layer.setting for _, layer, _ in layers]
        try:
            for _, layer, setting in layers:
                layer.setting = setting
            yield self
        finally:
            for (_, layer, _), setting in zip(layers, before, strict=True):
                layer.setting = setting


def patch(model: nn.Module, sites: str | Sites, conventions: Conventions | None = None) -> DynamicModel:
    """The same network, its site layers replaced by ones that take a setting.

    model: any network; it is left as it was, and the returned one shares its tensors. sites: a registered model's name
    or site name -> modules. Returns a network of the same class (a subclass), with the same `state_dict` keys and
    tensors. Raises ModelError for a path that is not there or a layer that cannot vary.
    """
    conventions = conventions or Conventions()
    if isinstance(sites, str):
        sites = entry_of(sites).sites
    resolved = resolve_sites(model, sites)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    new = copy.deepcopy(model, memo=dict(shared))
    for modules in resolved.values():
        for module in modules:
            parent, _, child = module.path.rpartition(".")
            layer = wrap_layer(module.path, new.get_submodule(module.path), conventions)
            new.get_submodule(parent)._modules[child] = layer
    new.__class__ = _dynamic_class(type(new))  # type: ignore[arg-type]
    new.sites, new.conventions = resolved, conventions  # type: ignore[assignment]
    return new  # type: ignore[return-value]


@functools.cache
def _dynamic_class(cls: Any) -> type[DynamicModel]:
    return type(f"Dynamic{cls.__name__}", (DynamicModel, cls), {"__init__": cls.__init__, "forward": cls.forward})


def entry_of(name: str) -> ModelEntry:
    """The registry's entry; ModelError for a model without one."""
    if name not in MODELS:
        raise ModelError(f"{name} has no registered sites; registered are {', '.join(MODELS)}")
    return MODELS[name]


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
    fixed = entry.fixed if entry else {}
    specs = []
    for name, modules in model.sites.items():
        default = Setting()
        options: dict[str, tuple[float, ...]] = {}
        why: dict[str, str] = {}
        for attribute in ATTRIBUTES:
            takers = [m.path for m in modules if attribute in m.attributes]
            if not takers:
                why[attribute] = f"no layer of it takes {attribute}"
                continue
            own = {path: _default_of(attribute, model.get_submodule(path)) for path in takers}
            if len(set(own.values())) > 1:
                shown = ", ".join(f"{path} has {value}" for path, value in own.items())
                raise ModelError(
                    f"site {name}: its layers differ in {attribute} ({shown}); put them in sites of their own"
                )
            default |= Setting(**{attribute: own[takers[0]]})
            values = OPTIONS[attribute]
            if attribute == "stride" and not (
                name in upsampling and all(map(_upsamples, map(model.get_submodule, takers)))
            ):
                values = tuple(v for v in values if v >= 1)
            options[attribute] = values
            if (name, attribute) in fixed:
                why[attribute] = fixed[name, attribute]
        specs.append(SiteSpec(name, default, options, why))
    return tuple(specs)


def _upsamples(layer: Any) -> bool:
    """Whether stride 1/2 is defined for a layer."""
    try:
        check_setting("layer", layer, Setting(stride=0.5))
    except SpaceError:
        return False
    return True


def _default_of(attribute: str, layer: Any) -> Any:
    if not isinstance(layer, (DynamicConv2d, DynamicPerSampleConv2d)):
        return layer.stride
    return {"stride": layer.geometry.stride, "dilation": layer.geometry.dilation, "size": layer.geometry.kernel}[
        attribute
    ]


def model_space(
    model: DynamicModel,
    attributes: Sequence[str],
    *,
    entry: ModelEntry | None = None,
    stem_stride: float | None = None,
    swept: Sequence[str] | None = None,
    options: Mapping[tuple[str, str], Sequence[float]] | None = None,
    stride_range: tuple[int, int] = (4, 288),
) -> Space:
    """The allowed configurations of a patched model by the rules of `build_space`; every option is tried on its layers.

    stem_stride: the output stride with every site at stride 1; the registry's where `entry` is given.

    >>> from itd.patcher import MODELS, build_model, patch
    >>> model = patch(build_model("resnet50"), "resnet50")
    >>> len(model_space(model, ["stride"], entry=MODELS["resnet50"]))
    361
    """
    space = build_space(
        attributes,
        site_specs(model, entry),
        swept=swept,
        options=options,
        stem_stride=stem_stride if stem_stride is not None else (entry.stem_stride if entry else 1),
        stride_range=stride_range,
    )
    return check_space(model, space)


def check_space(model: DynamicModel, space: Space) -> Space:
    """The space itself; SpaceError where one of its settings is one that a layer cannot take."""
    for i, spec in enumerate(space.sites):
        for setting in dict.fromkeys(config[i] for config in space.configs):
            for module in model.sites[spec.name]:
                check_setting(module.path, model.get_submodule(module.path), setting.only(module.attributes))
    return space
