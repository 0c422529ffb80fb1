"""Which configurations are allowed: the lexicographic product of the options, less what the rules leave out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from itd.errors import SpaceError
from itd.space.setting import ATTRIBUTES, Config, Setting, SiteSpec, Space, format_value

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
    names = [site.name for site in sites]
    swept = tuple(n for n in names if n in (swept or names))
    asked = dict(options or {})
    for name, attribute in asked:
        if name not in swept:
            raise SpaceError(f"--options names site {name}, which is not swept; the swept sites are {', '.join(swept)}")
        if attribute not in attributes:
            raise SpaceError(f"--options names {attribute}, which is not swept; --attr gives {', '.join(attributes)}")
    for attribute in attributes:
        if all(attribute in site.fixed for site in sites if site.name in swept):
            reasons = "; ".join(f"{site.name}: {site.fixed[attribute]}" for site in sites if site.name in swept)
            raise SpaceError(f"no swept site takes {attribute} ({reasons}); give another --attr or other --sites")
    lists = {
        site.name: {a: _options(site, a, asked.get((site.name, a)), site.name in swept) for a in attributes}
        for site in sites
    }
    total = math.prod(len(values) for by in lists.values() for values in by.values())
    if total > 50_000_000:
        raise SpaceError(_too_many(f"{total:,}"))
    if "stride" in attributes:
        allowed = _stride_products(sites, lists, stem_stride, stride_range)
        rest = math.prod(len(v) for by in lists.values() for a, v in by.items() if a != "stride")
        if allowed * rest > MAX_CONFIGS:
            raise SpaceError(_too_many(f"{allowed * rest:,}"))
    elif total > MAX_CONFIGS:
        raise SpaceError(_too_many(f"{total:,}"))
    configs = []
    for config in itertools.product(*(_settings(lists[site.name], attributes) for site in sites)):
        if "stride" not in attributes or _in_range(_total_stride(config, sites, stem_stride), stride_range):
            configs.append(config)
    if not configs:
        low, high = stride_range
        raise SpaceError(
            f"no configuration is left: the range rule removed all {total} (total output stride between {low} and "
            f"{high}); give other --options or a wider --stride-range"
        )
    default = tuple(site.default.only(attributes) for site in sites)
    removed = {RANGE_RULE: total - len(configs)} if total > len(configs) else {}
    return Space(
        attributes=attributes,
        sites=tuple(sites),
        swept=swept,
        options={name: lists[name] for name in swept},
        configs=tuple(configs),
        default=configs.index(default) if default in configs else None,
        removed=removed,
        stride_range=stride_range,
    )


def count_product(options: Mapping[str, Mapping[str, Sequence[float]]]) -> int:
    """How many configurations the full product of the options has, before any rule."""
    return math.prod(len(values) for by in options.values() for values in by.values())


def _options(site: SiteSpec, attribute: str, asked: Sequence[float] | None, swept: bool) -> tuple[float, ...]:
    own = getattr(site.default, attribute)
    if not swept or (asked is None and attribute in site.fixed):
        return (own,)
    if asked is None:
        return site.options[attribute]
    values = tuple(sorted(set(asked)))
    if not values:
        raise SpaceError(f"--options gives site {site.name} no {attribute} value; give at least one")
    refused = [v for v in values if v != own] if attribute in site.fixed else []
    if refused:
        shown = ", ".join(format_value(v) for v in refused)
        raise SpaceError(
            f"site {site.name} cannot take {attribute} {shown}: {site.fixed[attribute]}; "
            f"leave it at {format_value(own)}"
        )
    return values


def _settings(lists: Mapping[str, tuple[float, ...]], attributes: Sequence[str]) -> list[Setting]:
    product = itertools.product(*(lists[a] for a in attributes))
    return [Setting(**dict(zip(attributes, values, strict=True))) for values in product]  # type: ignore[arg-type]


def _total_stride(config: Config, sites: Sequence[SiteSpec], stem_stride: float) -> float:
    return stem_stride * math.prod(
        (setting.stride if setting.stride is not None else site.default.stride or 1)
        for setting, site in zip(config, sites, strict=True)
    )


def _stride_products(
    sites: Sequence[SiteSpec],
    lists: Mapping[str, Mapping[str, tuple[float, ...]]],
    stem_stride: float,
    stride_range: tuple[int, int],
) -> int:
    product = itertools.product(*(lists[site.name]["stride"] for site in sites))
    return sum(_in_range(stem_stride * math.prod(strides), stride_range) for strides in product)


def _in_range(total: float, stride_range: tuple[int, int]) -> bool:
    return stride_range[0] <= total <= stride_range[1]


def _too_many(count: str) -> str:
    most = f"at most {MAX_CONFIGS:,} are allowed"
    return f"{count} configurations are too many: {most}; give fewer with --options or --sites"
