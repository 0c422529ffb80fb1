"""A space listed configuration by configuration in a file, as `itd combine` writes it: no product, no range rule."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itd.checked import BadJson, Check, fields, listing, one_of, read_json
from itd.errors import ItdWarning, SpaceError
from itd.files import unwritable, write_atomic
from itd.space.build import MAX_CONFIGS
from itd.space.setting import ATTRIBUTES, SITES, Config, Setting, SiteSpec, Space, format_value, parse_value
from itd.text import shorten

FORMAT = "itd-space-1"
_HASH = "sha256"
"""Of all other fields of the file."""


@dataclass(frozen=True)
class SpaceList:
    """What a space file holds. configs: for each configuration, site -> its setting; a site or an attribute that is not
    named keeps its default. origin: how the list was made, for people to read."""

    attributes: tuple[str, ...]
    configs: tuple[Mapping[str, Setting], ...]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As the file has it."""
        configs = [{site: setting.values() for site, setting in config.items()} for config in self.configs]
        return {"format": FORMAT, "attributes": list(self.attributes), **self.origin, "configs": configs}


def write_space(path: str | Path, listed: SpaceList) -> None:
    """Writes a space file; SpaceError where the path cannot be written."""
    content = listed.as_dict()
    head = {name: value for name, value in content.items() if name != "configs"} | {_HASH: _sha256(content)}
    lines = ",\n  ".join(json.dumps(config) for config in content["configs"])
    text = f'{json.dumps(head, indent=1)[:-2]},\n "configs": [\n  {lines}\n ]\n}}'
    try:
        write_atomic(path, text + "\n")
    except OSError as error:
        raise SpaceError(unwritable(f"the space {path}", error)) from error


def _sha256(content: Mapping[str, Any]) -> str:
    """Of the other fields of a file, however they are laid out."""
    other = {name: value for name, value in content.items() if name != _HASH}
    return hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()


def _site_settings() -> Check:
    """Site -> attribute -> value, each a value that the attribute can have."""

    def value(attribute: str) -> Check:
        def check(given: Any, name: str) -> None:
            try:
                parse_value(attribute, shorten(given if isinstance(given, str) else repr(given), 40))
            except SpaceError as error:
                raise BadJson(f"{name}: {error}") from error

        return check

    values = fields({}, {attribute: value(attribute) for attribute in ATTRIBUTES}, others=False)
    return fields({}, dict.fromkeys(SITES, values), others=False)


SITE_SETTINGS = _site_settings()
"""What a configuration is in JSON."""
_FIELDS = fields({
    "attributes": listing(one_of(ATTRIBUTES), 1, distinct=True),
    "configs": listing(SITE_SETTINGS, 1, MAX_CONFIGS),
})  # fmt: skip


def read_space(path: str | Path) -> SpaceList:
    """Reads a space file; SpaceError for anything else, saying what is wrong with it."""
    try:
        content = read_json(path, fields({"format": one_of([FORMAT])}))
    except OSError as error:
        raise SpaceError(
            f"cannot read `space_file={path}`: {error.strerror or error}; give a file that `itd combine` wrote"
        ) from error
    except BadJson as error:
        raise SpaceError(
            f"`space_file={path}` is not a space: {error}; give a file that `itd combine` wrote"
        ) from error
    if _HASH not in content:
        warnings.warn(
            f"`space_file={path}` has no {_HASH}: nothing says that it is as it was written", ItdWarning, stacklevel=2
        )
    elif content[_HASH] != _sha256(content):
        raise SpaceError(
            f"`space_file={path}` is not what its {_HASH} says: write it again with `itd combine`, or take that field "
            "out of a space that you changed yourself"
        )
    try:
        _FIELDS(content, "")
    except BadJson as error:
        raise SpaceError(f"`space_file={path}` is damaged: {error}; write it again with `itd combine`") from error
    attributes = tuple(a for a in ATTRIBUTES if a in content["attributes"])
    for number, entry in enumerate(content["configs"]):
        strange = {name for values in entry.values() for name in values if name not in attributes}
        if strange:
            raise SpaceError(
                f"`space_file={path}`: configuration {number} names {min(strange)}, which is none of its attributes; "
                "write it again with `itd combine`"
            )
    configs = tuple(
        {site: Setting(**{a: parse_value(a, str(v)) for a, v in values.items()}) for site, values in entry.items()}  # type: ignore[arg-type]
        for entry in content["configs"]
    )
    origin = {name: value for name, value in content.items() if name not in ("format", "attributes", "configs", _HASH)}
    return SpaceList(attributes, configs, origin)


def listed_space(listed: SpaceList, sites: Sequence[SiteSpec]) -> Space:
    """The listed configurations of a network with these sites: sorted A to D, values ascending, each once.

    Raises SpaceError for a site that the network does not have, a value that a site cannot take, more than 32,767
    configurations, or none.

    >>> site = SiteSpec("A", Setting(stride=2), {"stride": (1, 2)})
    >>> space = listed_space(SpaceList(("stride",), ({"A": Setting(stride=4)}, {})), [site])
    >>> [str(config[0]) for config in space.configs], space.default
    (['stride=2', 'stride=4'], 0)
    """
    names = [site.name for site in sites]
    for number, config in enumerate(listed.configs):
        strange = [site for site in config if site not in names]
        if strange:
            raise SpaceError(
                f"configuration {number} of `space_file` names site {strange[0]}; the network's sites are "
                f"{', '.join(names)}"
            )
    filled = {tuple(_filled(listed, config, site) for site in sites) for config in listed.configs}
    configs = tuple(sorted(filled, key=_order))
    if not 1 <= len(configs) <= MAX_CONFIGS:
        raise SpaceError(f"`space_file` lists {len(configs):,} configurations; allowed are 1 to {MAX_CONFIGS:,}")
    default = tuple(site.default.only(listed.attributes) for site in sites)
    moved = [i for i in range(len(sites)) if any(config[i] != default[i] for config in configs)]
    swept = [i for i in range(len(sites)) if i in moved or not moved]
    return Space(
        attributes=listed.attributes,
        sites=tuple(sites),
        swept=tuple(names[i] for i in swept),
        options={names[i]: {a: _values(configs, i, a) for a in listed.attributes} for i in swept},
        configs=configs,
        default=configs.index(default) if default in configs else None,
        removed={},
        listed=True,
    )


def _filled(listed: SpaceList, config: Mapping[str, Setting], site: SiteSpec) -> Setting:
    own, setting = site.default.only(listed.attributes), config.get(site.name, Setting())
    for attribute, value in setting.values().items():
        if attribute in site.fixed and value != getattr(own, attribute):
            raise SpaceError(
                f"site {site.name} cannot take {attribute} {format_value(value)}: {site.fixed[attribute]}; "
                f"leave it out of `space_file`"
            )
    return own | setting


def _values(configs: Sequence[Config], site: int, attribute: str) -> tuple[float, ...]:
    values = {getattr(config[site], attribute) for config in configs}
    return tuple(sorted(v for v in values if v is not None))


def _order(config: Config) -> tuple[float, ...]:
    return tuple(value for setting in config for value in setting.values().values())
