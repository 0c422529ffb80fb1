"""Which configurations are allowed: the lexicographic product of the options, less what the rules leave out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from itd.errors import SpaceError
from itd.space.setting import ATTRIBUTES, Setting, SiteSpec, Space, format_value

MAX_CONFIGS = 32_767
"""`config` is stored as int16."""

RANGE_RULE = "total output stride out of range"


def build_space(
    attributes: Sequence[str],
    sites: Sequence[SiteSpec],
    *,
    swept: Sequence[str] | None = None,
    options: Mapping[tuple[str, str], Sequence[float]] | None = None,
    stem_stride: float = 1,
    stride_range: tuple[int, int] = (4, 288),
) -> Space:
    """The allowed configurations in order.

    attributes: what varies. sites: the model's sites, in the order A to D. swept: names of the sites that vary (all).
    options: (site, attribute) -> values that replace the site's own list exactly. stem_stride: the network's output
    stride with every site at stride 1. stride_range: allowed total output stride, both ends included; it applies where
    stride is swept.

    Raises SpaceError for a site or option that cannot be, more than 32,767 configurations, or none.

    >>> sites = [SiteSpec(n, Setting(stride=2), {"stride": (1, 2)}) for n in "AB"]
    >>> [str(a) + " | " + str(b) for a, b in build_space(["stride"], sites, stride_range=(2, 4)).configs]
    ['stride=1 | stride=2', 'stride=2 | stride=1', 'stride=2 | stride=2']
    """
    attributes = tuple(a for a in ATTRIBUTES if a in attributes)
    swept = tuple(site.name for site in sites if site.name in (swept or [site.name]))
    asked = dict(options or {})
    _check_asked(asked, attributes, sites, swept)
    lists = {
        site.name: {a: _options(site, a, asked.get((site.name, a)), site.name in swept) for a in attributes}
        for site in sites
    }
    total = math.prod(len(values) for by in lists.values() for values in by.values())
    strides = _Strides(sites, stem_stride, stride_range) if "stride" in attributes else None
    _check_count(total, lists, strides)
    product = itertools.product(*(_settings(lists[site.name], attributes) for site in sites))
    configs = [config for config in product if strides is None or strides.allow(s.stride for s in config)]
    if not configs:
        low, high = stride_range
        raise SpaceError(
            f"no configuration is left: the range rule removed all {total} (total output stride between {low} and "
            f"{high}); give other `options` or a wider `stride_range`"
        )
    default = tuple(site.default.only(attributes) for site in sites)
    return Space(
        attributes=attributes,
        sites=tuple(sites),
        swept=swept,
        options={name: lists[name] for name in swept},
        configs=tuple(configs),
        default=configs.index(default) if default in configs else None,
        removed={RANGE_RULE: total - len(configs)} if total > len(configs) else {},
        stride_range=stride_range,
    )


def _check_asked(
    asked: Mapping[tuple[str, str], Sequence[float]],
    attributes: Sequence[str],
    sites: Sequence[SiteSpec],
    swept: Sequence[str],
) -> None:
    for name, attribute in asked:
        if name not in swept:
            raise SpaceError(f"`options` names site {name}, which is not swept; the swept sites are {', '.join(swept)}")
        if attribute not in attributes:
            raise SpaceError(
                f"`options` names {attribute}, which is not swept; `attributes` gives {', '.join(attributes)}"
            )
    for attribute in attributes:
        if all(attribute in site.fixed for site in sites if site.name in swept):
            reasons = "; ".join(f"{site.name}: {site.fixed[attribute]}" for site in sites if site.name in swept)
            raise SpaceError(f"no swept site takes {attribute} ({reasons}); give another `attributes` or other `sites`")


@dataclass(frozen=True)
class _Strides:
    """The range rule: which strides of the sites leave the total output stride in range."""

    sites: Sequence[SiteSpec]
    stem_stride: float
    stride_range: tuple[int, int]

    def allow(self, strides: Iterable[float | None]) -> bool:
        own = (s if s is not None else site.default.stride or 1 for s, site in zip(strides, self.sites, strict=True))
        low, high = self.stride_range
        return low <= self.stem_stride * math.prod(own) <= high


def _check_count(total: int, lists: Mapping[str, Mapping[str, Sequence[float]]], strides: _Strides | None) -> None:
    """SpaceError for more configurations than can be numbered; the range rule is applied before counting."""
    if strides is not None:
        product = itertools.product(*(by["stride"] for by in lists.values()))
        allowed = sum(map(strides.allow, product))
        total = allowed * math.prod(len(v) for by in lists.values() for a, v in by.items() if a != "stride")
    if total > MAX_CONFIGS:
        raise SpaceError(
            f"{total:,} configurations are too many: at most {MAX_CONFIGS:,} are allowed; give fewer with `options` or "
            "`sites`"
        )


def _options(site: SiteSpec, attribute: str, asked: Sequence[float] | None, swept: bool) -> tuple[float, ...]:
    own = getattr(site.default, attribute)
    if not swept or (asked is None and attribute in site.fixed):
        return (own,)
    if asked is None:
        return site.options[attribute]
    values = tuple(sorted(set(asked)))
    if not values:
        raise SpaceError(f"`options` gives site {site.name} no {attribute} value; give at least one")
    refused = [v for v in values if v != own] if attribute in site.fixed else []
    if refused:
        shown = ", ".join(format_value(v) for v in refused)
        instead = "leave it out" if own is None else f"leave it at {format_value(own)}"
        raise SpaceError(f"site {site.name} cannot take {attribute} {shown}: {site.fixed[attribute]}; {instead}")
    return values


def _settings(lists: Mapping[str, tuple[float, ...]], attributes: Sequence[str]) -> list[Setting]:
    product = itertools.product(*(lists[a] for a in attributes))
    return [Setting(**dict(zip(attributes, values, strict=True))) for values in product]  # type: ignore[arg-type]
