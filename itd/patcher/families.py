"""The registered networks as data: where the four sites of each are, family by family (docs/networks.md says why).

Not here: looking one up, building it, and networks that a user registers (`registry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from itd.layers.models import LEARNED, OPS, SHUFFLENETS, learned_name
from itd.space import ATTRIBUTES, SITES

ALL = frozenset(ATTRIBUTES)
STRIDE = frozenset({"stride"})
KERNEL = frozenset({"dilation", "size"})


@dataclass(frozen=True)
class SiteModule:
    """A module of a site and the attributes that it takes there."""

    path: str
    attributes: frozenset[str]


Sites = dict[str, tuple[SiteModule, ...]]
"""Site name -> its modules."""


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: its name, its sites and what they take by default.

    stem_stride: the output stride with every site at stride 1; 0 where it is to be measured. upsampling: sites whose
    default stride list has 1/2. fixed: (site, attribute) -> why it stays at its default. options: (site, attribute) ->
    its values, where they are not those of every layer. v1_top1: the published ImageNet accuracy in percent of
    torchvision's IMAGENET1K_V1 weights (torchvision's documentation); None where there are none.
    """

    name: str
    sites: Sites
    stem_stride: int
    v1_top1: float | None
    upsampling: frozenset[str] = frozenset("CD")
    fixed: dict[tuple[str, str], str] = field(default_factory=dict)
    options: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)


class AutoSites(dict[str, tuple[SiteModule, ...]]):
    """Sites that were found rather than named (`itd.auto_sites`), as `itd.patch` takes them: site name -> its modules.

    entry: the same as a registered network's, with its options. why: what was not found, a line each. registered: the
    name whose sites they are, where the network is a registered one.
    """

    def __init__(self, entry: ModelEntry, why: Sequence[str] = (), registered: str | None = None) -> None:
        super().__init__(entry.sites)
        self.entry, self.why, self.registered = entry, tuple(why), registered


def _resnet_basic(name: str, top1: float | None, stem_stride: int = 4) -> ModelEntry:
    sites: Sites = {"A": (SiteModule("layer1.0.conv1", ALL),)}
    for i, site in enumerate("BCD", start=2):
        sites[site] = (SiteModule(f"layer{i}.0.conv1", ALL), SiteModule(f"layer{i}.0.downsample.0", STRIDE))
    reason = "its block has no projection on the shortcut to take the same stride"
    return ModelEntry(name, sites, stem_stride, top1, fixed={("A", "stride"): reason})


def _resnet(name: str, top1: float) -> ModelEntry:
    sites: Sites = {
        site: (SiteModule(f"layer{i}.0.conv2", ALL), SiteModule(f"layer{i}.0.downsample.0", STRIDE))
        for i, site in enumerate(SITES, start=1)
    }
    return ModelEntry(name, sites, 4, top1)


def _convnext(name: str, top1: float) -> ModelEntry:
    sites: Sites = {"A": (SiteModule("features.1.0.block.0", KERNEL),)}
    for i, site in zip((2, 4, 6), "BCD", strict=True):
        sites[site] = (SiteModule(f"features.{i}.1", STRIDE), SiteModule(f"features.{i + 1}.0.block.0", KERNEL))
    return ModelEntry(name, sites, 4, top1)


def _one_each(name: str, top1: float, *paths: str) -> ModelEntry:
    """Four convolutions that lower the resolution, without a shortcut beside them; the stem lowers it too."""
    return ModelEntry(name, {s: (SiteModule(p, ALL),) for s, p in zip(SITES, paths, strict=True)}, 2, top1)


def _mobilenet_v2() -> ModelEntry:
    return _one_each("mobilenet_v2", 71.878, *(f"features.{i}.conv.1.0" for i in (2, 4, 7, 14)))


def _mobilenet_v3(name: str, top1: float) -> ModelEntry:
    if name == "mobilenet_v3_large":
        return _one_each(name, top1, *(f"features.{i}.block.1.0" for i in (2, 4, 7, 13)))
    return _one_each(name, top1, "features.1.block.0.0", *(f"features.{i}.block.1.0" for i in (2, 4, 9)))


def _efficientnet(name: str, top1: float) -> ModelEntry:
    return _one_each(name, top1, *(f"features.{i}.0.block.1.0" for i in (2, 3, 4, 6)))


def _efficientnet_v2(name: str, top1: float) -> ModelEntry:
    fused = (f"features.{i}.0.block.0.0" for i in (2, 3))
    return _one_each(name, top1, *fused, *(f"features.{i}.0.block.1.0" for i in (4, 6)))


def _regnet(name: str, top1: float | None) -> ModelEntry:
    sites: Sites = {}
    for i, site in enumerate(SITES, start=1):
        block = f"trunk_output.block{i}.block{i}-0"
        sites[site] = (SiteModule(f"{block}.f.b.0", ALL), SiteModule(f"{block}.proj.0", STRIDE))
    return ModelEntry(name, sites, 2, top1)


def _vgg(name: str, top1: float, pools: tuple[int, int, int, int]) -> ModelEntry:
    """pools: where the first four are; the convolution after each is the first of the next stage."""
    sites: Sites = {
        site: (SiteModule(f"features.{i}", STRIDE), SiteModule(f"features.{i + 1}", KERNEL))
        for site, i in zip(SITES, pools, strict=True)
    }
    return ModelEntry(name, sites, 2, top1)


def _densenet(name: str, top1: float) -> ModelEntry:
    pools = ("features.pool0", *(f"features.transition{i}.pool" for i in (1, 2, 3)))
    sites: Sites = {
        site: (SiteModule(pool, STRIDE), SiteModule(f"features.denseblock{i}.denselayer1.conv2", KERNEL))
        for i, (site, pool) in enumerate(zip(SITES, pools, strict=True), start=1)
    }
    return ModelEntry(name, sites, 2, top1)


def _shufflenet(name: str) -> ModelEntry:
    sites: Sites = {"A": (SiteModule("conv1.0", ALL),)}
    for i, site in enumerate("BCD", start=2):
        block = f"stage{i}.0"
        sites[site] = (SiteModule(f"{block}.depthwise", ALL), SiteModule(f"{block}.project_depthwise", STRIDE))
    return ModelEntry(name, sites, 2, None)


ENTRIES: tuple[ModelEntry, ...] = (
    _resnet_basic("resnet18", 69.758),
    _resnet_basic("resnet34", 73.314),
    _resnet("resnet50", 76.130),
    _resnet("resnet101", 77.374),
    _resnet("resnet152", 78.312),
    _resnet("resnext50_32x4d", 77.618),
    _resnet("resnext101_32x8d", 79.312),
    _resnet("wide_resnet50_2", 78.468),
    _resnet("wide_resnet101_2", 78.848),
    _mobilenet_v2(),
    _mobilenet_v3("mobilenet_v3_large", 74.042),
    _mobilenet_v3("mobilenet_v3_small", 67.668),
    _densenet("densenet121", 74.434),
    _densenet("densenet161", 77.138),
    _densenet("densenet169", 75.600),
    _densenet("densenet201", 76.896),
    _efficientnet("efficientnet_b0", 77.692),
    _efficientnet("efficientnet_b1", 78.642),
    _efficientnet("efficientnet_b2", 80.608),
    _efficientnet("efficientnet_b3", 82.008),
    _efficientnet("efficientnet_b4", 83.384),
    _efficientnet("efficientnet_b5", 83.444),
    _efficientnet("efficientnet_b6", 84.008),
    _efficientnet("efficientnet_b7", 84.122),
    _efficientnet_v2("efficientnet_v2_s", 84.228),
    _efficientnet_v2("efficientnet_v2_m", 85.112),
    _efficientnet_v2("efficientnet_v2_l", 85.808),
    _regnet("regnet_x_400mf", 72.834),
    _regnet("regnet_x_800mf", 75.212),
    _regnet("regnet_x_1_6gf", 77.040),
    _regnet("regnet_x_3_2gf", 78.364),
    _regnet("regnet_x_8gf", 79.344),
    _regnet("regnet_x_16gf", 80.058),
    _regnet("regnet_x_32gf", 80.622),
    _regnet("regnet_y_400mf", 74.046),
    _regnet("regnet_y_800mf", 76.420),
    _regnet("regnet_y_1_6gf", 77.950),
    _regnet("regnet_y_3_2gf", 78.948),
    _regnet("regnet_y_8gf", 80.032),
    _regnet("regnet_y_16gf", 80.424),
    _regnet("regnet_y_32gf", 80.878),
    _regnet("regnet_y_128gf", None),
    _convnext("convnext_tiny", 82.520),
    _convnext("convnext_small", 83.616),
    _convnext("convnext_base", 84.062),
    _convnext("convnext_large", 84.414),
    _vgg("vgg11_bn", 70.370, (3, 7, 14, 21)),
    _vgg("vgg13_bn", 71.586, (6, 13, 20, 27)),
    _vgg("vgg16_bn", 73.360, (6, 13, 23, 33)),
    _vgg("vgg19_bn", 74.218, (6, 13, 26, 39)),
    *(_resnet_basic(learned_name("cifar-resnet18", op), None, stem_stride=1) for op in OPS),
    *(_shufflenet(entry.name) for entry in LEARNED.values() if entry.model in SHUFFLENETS),
)
"""Every registered network; the numbers are torchvision's published accuracy of IMAGENET1K_V1 weights."""
