"""What may vary: attributes, sites, settings, configurations and the allowed space. Pure Python, no torch."""

from itd.space.build import build_space
from itd.space.choices import OPEN_CHOICES, Choices
from itd.space.listed import SpaceList, listed_space, read_space, write_space
from itd.space.setting import (
    ATTRIBUTES,
    SITES,
    Config,
    Setting,
    SiteSpec,
    Space,
    format_config,
    format_value,
    parse_attributes,
    parse_value,
)

__all__ = [
    "ATTRIBUTES",
    "OPEN_CHOICES",
    "SITES",
    "Choices",
    "Config",
    "Setting",
    "SiteSpec",
    "Space",
    "SpaceList",
    "build_space",
    "format_config",
    "format_value",
    "listed_space",
    "parse_attributes",
    "parse_value",
    "read_space",
    "write_space",
]
