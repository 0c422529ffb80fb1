"""What may vary: attributes, sites, settings, configurations and the allowed space. Pure Python, no torch."""

from itd.space.build import build_space
from itd.space.conventions import OPEN_CONVENTIONS, Conventions
from itd.space.listed import SpaceList, listed_space, read_space, write_space
from itd.space.options import parse_options
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

Choices, OPEN_CHOICES = Conventions, OPEN_CONVENTIONS  # their names before version 0.2

__all__ = [
    "ATTRIBUTES",
    "OPEN_CHOICES",
    "OPEN_CONVENTIONS",
    "SITES",
    "Choices",
    "Config",
    "Conventions",
    "Setting",
    "SiteSpec",
    "Space",
    "SpaceList",
    "build_space",
    "format_config",
    "format_value",
    "listed_space",
    "parse_attributes",
    "parse_options",
    "parse_value",
    "read_space",
    "write_space",
]
