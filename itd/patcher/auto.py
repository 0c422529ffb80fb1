"""Sites found without being named: the last four stages of a network, what each can take, and what must follow it.

Which layers have to take a stride together is settled by trying: a setting that does not fit is tried again with the
other layers that lower the same resolution. Not here: the shapes themselves (`layout`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from itd.device import raise_if_memory
from itd.errors import ItdError, ModelError
from itd.patcher.families import AutoSites, ModelEntry, SiteModule
from itd.patcher.layout import Layer, Stage, layers_of, measurable, send, stages_of, stem_of
from itd.patcher.model import DynamicModel, check_network, patch, site_specs
from itd.patcher.registry import MODELS, build_model
from itd.patcher.storage import WithoutStorage
from itd.space import ATTRIBUTES, SITES, Setting, SiteSpec
from itd.space.setting import OPTIONS

KERNEL = ("dilation", "size")
_TOO_SMALL = re.compile(r"[Kk]ernel size|too small")
_MOST_FOLLOWERS = 6
"""Layers that are tried as followers of a stride, the nearest first."""


def auto_sites(model: nn.Module, input_px: int = 224) -> AutoSites:
    """Sites for a network, found by its shapes on one image.

    The registry's, where the network's parameters have a registered one's names and shapes, the classifier's apart.
    Otherwise the last four stages by output resolution, the stem left out: stride at the layer that lowers the
    resolution, with the shortcut's 1x1 or pool that must follow it; dilation and size at the stage's first odd square
    convolution. A stage that only the stem lowers takes the stride at its first odd square convolution and its
    shortcut's 1x1. Every option was tried on shapes.

    Args:
        model: any network.
        input_px: the side of an image; the number of channels is read off the first convolution.

    Returns:
        What `itd.patch` takes; `why` says what was not found where there are fewer than four sites.

    Raises:
        ModelError: for a network that takes no such image, or has no layer that can be a site.

    Example:
        >>> from torchvision.models import vgg11
        >>> [module.path for module in auto_sites(vgg11())["D"]]
        ['features.15', 'features.16']
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"auto_sites takes an nn.Module, given {type(model).__name__}; build the network first")
    if type(input_px) is not int or input_px < 1:
        raise ModelError(f"input_px is {input_px!r}; give the side of an image, a whole number of pixels")
    check_network(model)
    name = registered_like(model)
    if name is not None:
        return AutoSites(MODELS[name], registered=name)
    shape = (channels_of(model), input_px, input_px)
    probe = measurable(model, shape)
    layers = layers_of(probe, shape)
    search = _Search(probe, shape, layers, stem_of(model, layers))
    return search.run(type(model).__name__)


def channels_of(model: nn.Module) -> int:
    """Channels of a network's images, read off its first convolution."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def registered_like(model: nn.Module) -> str | None:
    """The registered network whose names and shapes of parameters a network has, the classifier's apart."""
    own = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    paths = dict(model.named_modules())
    for name, entry in MODELS.items():
        if not all(module.path in paths for modules in entry.sites.values() for module in modules):
            continue
        with WithoutStorage():
            skeleton = build_model(name)
        theirs = {key: tuple(t.shape) for key, t in skeleton.state_dict().items()}
        head = _classifier(skeleton)
        if own.keys() == theirs.keys() and all(own[k] == theirs[k] for k in own if not k.startswith(head)):
            return name
    return None


def _classifier(model: nn.Module) -> str:
    """The prefix of the names of the last layer with weights."""
    linear = [path for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return linear[-1] + "."


@dataclass
class _Found:
    """One site in the making. strided: layers that take the stride together. kernel: the one that takes the rest."""

    strided: tuple[Layer, ...]
    kernel: Layer | None

    def modules(self) -> tuple[SiteModule, ...]:
        """As `itd.patch` takes them."""
        taken: dict[str, set[str]] = {layer.path: {"stride"} for layer in self.strided}
        if self.kernel is not None:
            taken.setdefault(self.kernel.path, set()).update(a for a in KERNEL if a in self.kernel.takes)
        return tuple(SiteModule(path, frozenset(attributes)) for path, attributes in taken.items())


class _Search:
    """The search for the sites of one network. probe: a copy that shapes can be sent through."""

    def __init__(self, probe: nn.Module, shape: tuple[int, int, int], layers: list[Layer], stem: set[str]) -> None:
        self.probe, self.shape, self.layers, self.stem = probe, shape, layers, stem
        self.why: list[str] = []

    def run(self, name: str) -> AutoSites:
        stages = [s for s in stages_of(self.layers, self.shape[1]) if any(self._candidates(s))]
        stages = [s for s in stages if not all(layer.path in self.stem for layer in s.layers if layer.spatial)]
        found = [f for f in (self._site(stage) for stage in stages[-len(SITES) :]) if f.modules()]
        if len(stages) < len(SITES):
            self.why.append(
                f"{len(stages)} stages of different resolution beside the stem hold an odd square convolution"
            )
        if not found:
            raise ModelError(f"{name} has no layer that can be a site: {'; '.join(self.why)}; give `sites=A=path`")
        entry = ModelEntry(name, dict(zip(SITES, (f.modules() for f in found), strict=False)), 1, None)
        return AutoSites(self._tried(entry), self.why)

    def _candidates(self, stage: Stage) -> Iterator[Layer]:
        """The odd square convolutions of a stage that can take something."""
        return (layer for layer in stage.layers if layer.spatial and layer.takes and layer.calls == 1)

    def _site(self, stage: Stage) -> _Found:
        kernel = next(
            (la for la in self._candidates(stage) if la.path not in self.stem and "dilation" in la.takes), None
        )
        return _Found(self._strided(stage), kernel)

    # -- what takes the stride ---------------------------------------------------------------------------------------

    def _strided(self, stage: Stage) -> tuple[Layer, ...]:
        """The layers of a stage that take the stride together, none where nothing fits."""
        lowering = [la for la in stage.layers if la.lowers and la.path not in self.stem]
        if lowering:
            first = next((la for la in lowering if "stride" in la.takes and la.calls == 1), None)
            others = [la for la in lowering if la is not first]
        else:
            first = next(
                (la for la in self._candidates(stage) if la.path not in self.stem and "stride" in la.takes), None
            )
            others = [la for la in stage.layers if la is not first and not la.spatial and la.path not in self.stem]
        if first is None:
            self.why.append(f"at {stage.px} px no layer that lowers the resolution can take a stride")
            return ()
        for followers in self._followers(first, others):
            if self._fits((first, *followers)):
                return (first, *followers)
        self.why.append(
            f"at {stage.px} px no set of layers that follow {first.path} fits when its stride changes: its block has "
            "no projection on the shortcut, or later layers expect its size"
        )
        return ()

    def _followers(self, first: Layer, others: list[Layer]) -> Iterator[tuple[Layer, ...]]:
        """Sets of layers that may have to follow, the likeliest first: none, one that is near, several, all."""
        able = [la for la in others if "stride" in la.takes and la.calls == 1 and la.input[1:] == first.input[1:]]
        near = sorted(able, key=lambda la: -_shared(la.path, first.path))
        yield ()
        for layer in near[:_MOST_FOLLOWERS]:
            yield (layer,)
        for count in range(2, len(near) + 1):
            yield tuple(near[:count])

    def _fits(self, layers: tuple[Layer, ...]) -> bool:
        """Whether these layers, and no others, can run at another stride."""
        try:
            model = patch(self.probe, {"A": [SiteModule(la.path, frozenset({"stride"})) for la in layers]})
            own = site_specs(model)[0].default.stride
        except ItdError:
            return False
        return any(self._runs(model, {"A": Setting(stride=s)}) for s in (1, 2, 3) if s != own)

    # -- which options fit ------------------------------------------------------------------------------------------

    def _tried(self, entry: ModelEntry) -> ModelEntry:
        """The entry with the options that run, each tried by itself and the extremes of all sites together."""
        model = patch(self.probe, entry.sites)
        options: dict[tuple[str, str], tuple[float, ...]] = {}
        specs = site_specs(model, entry)
        everywhere = {(a, v) for a in KERNEL for v in OPTIONS[a] if self._runs_everywhere(model, specs, a, v)}
        for spec in specs:
            for attribute, values in spec.options.items():
                own = getattr(spec.default, attribute)
                good = tuple(
                    v
                    for v in values
                    if v == own
                    or (attribute, v) in everywhere
                    or self._runs(model, {spec.name: setting_of(attribute, v)})
                )
                lost = [f"{v:g}" for v in values if v not in good]
                if lost:
                    self.why.append(f"site {spec.name} does not fit at {attribute} {', '.join(lost)}")
                options[spec.name, attribute] = good
        fixed = {key: "no other option fits the network" for key, values in options.items() if len(values) < 2}
        options = {key: values for key, values in options.items() if key not in fixed}
        for attribute in ATTRIBUTES:
            self._together(model, attribute, options)
        return replace(entry, stem_stride=0, options=options, fixed=fixed)

    def _runs_everywhere(self, model: DynamicModel, specs: Sequence[SiteSpec], attribute: str, value: float) -> bool:
        """Whether an option that changes no size runs at all sites that have it at once."""
        setting = setting_of(attribute, value)
        config = {s.name: setting for s in specs if value in s.options.get(attribute, ())}
        return bool(config) and self._runs(model, config)

    def _together(self, model: DynamicModel, attribute: str, options: dict[tuple[str, str], tuple[float, ...]]) -> None:
        """Whether the smallest and the largest options of all sites run together; a note where they do not."""
        for pick in (min, max):
            config = {s: setting_of(a, pick(v)) for (s, a), v in options.items() if a == attribute}
            if config and not self._runs(model, config, window=True):
                self.why.append(f"the {pick.__name__}imal options of {attribute} do not fit at all sites together")

    def _runs(self, model: DynamicModel, config: dict[str, Any], window: bool = False) -> bool:
        """Whether one image goes through at a configuration. window: whether one that is too small is as good."""
        try:
            with model.configured(config):
                send(model, self.shape)
        except Exception as error:  # whatever the network raises, it does not run
            raise_if_memory(error)
            return window and _TOO_SMALL.search(str(error)) is not None
        return True


def _shared(path: str, other: str) -> int:
    """How many names two paths have in common from the start."""
    return next(
        (i for i, (a, b) in enumerate(zip(path.split("."), other.split("."), strict=False)) if a != b),
        min(path.count("."), other.count(".")) + 1,
    )


def setting_of(attribute: str, value: float) -> Setting:
    """A setting of one attribute."""
    return Setting(**{attribute: value})  # type: ignore[arg-type]
