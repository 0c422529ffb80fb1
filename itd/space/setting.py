"""The words of the engine as values: setting, site, configuration, space. Building a space is in `build`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from itd.errors import SpaceError

ATTRIBUTES = ("stride", "dilation", "size")
SITES = ("A", "B", "C", "D")

OPTIONS: Mapping[str, tuple[float, ...]] = {
    "stride": (0.5, 1, 2, 3, 4),
    "dilation": (1, 2, 3, 4, 5),
    "size": (1, 3, 5, 7, 9),
}
"""The paper's options (ITD paper, section 3.1)."""

_ALLOWED = {
    "stride": "1/2 or a whole number from 1 to 16",
    "dilation": "a whole number from 1 to 16",
    "size": "an odd number from 1 to 31",
}


@dataclass(frozen=True)
class Setting:
    """One site's values. `None` leaves the module's own value untouched.

    >>> str(Setting(stride=2, size=5))
    'stride=2, size=5'
    """

    stride: float | None = None
    dilation: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        given = self.values()
        return ", ".join(f"{name}={format_value(value)}" for name, value in given.items()) or "default"

    def values(self) -> dict[str, float]:
        """The attributes that are set, in the order stride, dilation, size."""
        pairs = ((name, getattr(self, name)) for name in ATTRIBUTES)
        return {name: value for name, value in pairs if value is not None}

    def only(self, attributes: Iterable[str]) -> Setting:
        """The same setting with every other attribute left to the module."""
        return Setting(**{a: v for a, v in self.values().items() if a in set(attributes)})  # type: ignore[arg-type]

    def __or__(self, other: Setting) -> Setting:
        """`other`'s values over this setting's."""
        return replace(self, **other.values())  # type: ignore[arg-type]


Config = tuple[Setting, ...]
"""One setting for each site of a space, in the order of its sites."""


@dataclass(frozen=True)
class SiteSpec:
    """What a site is by default and what it can take.

    name: A, B, C or D. default: the pretrained values of every attribute the site has.
    options: the default option list for each attribute the site can vary.
    fixed: attribute -> why it cannot vary at this site.
    """

    name: str
    default: Setting
    options: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """The ordered list of allowed configurations, with the default one named.

    attributes: the swept ones. sites: every site of the model, swept or not (a fixed one holds its default).
    swept: names of the sites that vary. options: site -> attribute -> values, as asked for.
    configs: one `Config` each, in the order of `sites`, holding the swept attributes.
    default: the number of the default configuration, or None where it is not in the space.
    removed: reason -> how many configurations of the full product it took out. listed: given as a list, so that no
    product and no range rule made it.
    """

    attributes: tuple[str, ...]
    sites: tuple[SiteSpec, ...]
    swept: tuple[str, ...]
    options: Mapping[str, Mapping[str, tuple[float, ...]]]
    configs: tuple[Config, ...]
    default: int | None
    removed: Mapping[str, int]
    stride_range: tuple[int, int] = (4, 288)
    listed: bool = False

    def __len__(self) -> int:
        return len(self.configs)

    def columns(self) -> dict[str, list[float | None]]:
        """`stride_A` .. for the swept attributes and all four sites: one value for each configuration.

        A site the model does not have, and an attribute its site has no value of, is None throughout.
        """
        out: dict[str, list[float | None]] = {}
        index = {site.name: i for i, site in enumerate(self.sites)}
        for attribute in self.attributes:
            for name in SITES:
                i = index.get(name)
                out[f"{attribute}_{name}"] = [
                    None if i is None else getattr(config[i], attribute) for config in self.configs
                ]
        return out

    def without(self, numbers: Iterable[int], reason: str) -> Space:
        """The space less some configurations, renumbered; `reason` is counted in `removed`."""
        drop = set(numbers)
        if not drop:
            return self
        kept = tuple(c for i, c in enumerate(self.configs) if i not in drop)
        if not kept:
            raise SpaceError(
                f"no configuration is left: all {len(drop)} were removed ({reason}); give other `options`, or larger "
                "images with `resize_px` and `crop_px`"
            )
        default = None
        if self.default is not None and self.default not in drop:
            default = self.default - sum(1 for i in drop if i < self.default)
        removed = {**self.removed, reason: self.removed.get(reason, 0) + len(drop)}
        return replace(self, configs=kept, default=default, removed=removed)

    def identity(self) -> dict[str, Any]:
        """What makes two spaces the same, as JSON values."""
        ruled = "stride" in self.attributes and not self.listed
        found: dict[str, Any] = {
            "attributes": list(self.attributes),
            "options": {s: {a: list(v) for a, v in o.items()} for s, o in self.options.items()},
            "stride_range": list(self.stride_range) if ruled else None,
            "configurations": len(self.configs),
        }
        if self.listed:
            rows = ((name, *(None if v is None else float(v) for v in c)) for name, c in self.columns().items())
            found["listed"] = hashlib.sha256(repr(list(rows)).encode()).hexdigest()
        return found


def format_value(value: float) -> str:
    """A value as users write it.

    >>> format_value(0.5), format_value(2.0)
    ('1/2', '2')
    """
    return "1/2" if value == 0.5 else f"{value:g}"


def format_config(sites: Iterable[SiteSpec], config: Config) -> str:
    """`A(stride=1) B(stride=2) ...` for messages."""
    return " ".join(f"{site.name}({setting})" for site, setting in zip(sites, config, strict=True))


def parse_attributes(text: str) -> tuple[str, ...]:
    """The attributes named by `stride` or `stride,size`, in the order stride, dilation, size."""
    given = [part.strip() for part in text.split(",")]
    for name in given:
        if name not in ATTRIBUTES:
            raise SpaceError(
                f"no such attribute: {name!r}; allowed are {', '.join(ATTRIBUTES)}, alone or as in stride,size"
            )
    return tuple(a for a in ATTRIBUTES if a in given)


def parse_value(attribute: str, text: str) -> float:
    """One option value.

    >>> parse_value("stride", "1/2"), parse_value("size", "5")
    (0.5, 5)
    """
    text = text.strip()
    try:
        number = 0.5 if text == "1/2" else float(text)
    except ValueError:
        number = float("nan")
    whole = number == int(number) if number == number and abs(number) < 1e9 else False
    limits = {"stride": 16, "dilation": 16, "size": 31}[attribute]
    if attribute == "stride" and number == 0.5:
        return 0.5
    if not whole or not 1 <= number <= limits or (attribute == "size" and number % 2 == 0):
        raise SpaceError(f"no such {attribute} option: {text!r}; allowed is {_ALLOWED[attribute]}")
    return int(number)
