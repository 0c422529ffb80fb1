"""What an installation holds: every package of the tree, `cli` only under the name itd_cli."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import itd

ROOT = Path(__file__).resolve().parents[1]


def listed_packages() -> set[str]:
    """The packages that pyproject.toml names; read as text, because Python 3.10 has no tomllib."""
    found = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return set(re.findall(r'"(.+?)"', found[1]))


def test_every_package_of_the_tree_is_listed() -> None:
    in_tree = {
        ".".join(folder.relative_to(ROOT).parts)
        for top in ("itd", "cli")
        for folder in (ROOT / top, *(ROOT / top).rglob("*"))
        if folder.is_dir() and any(folder.glob("*.py"))
    }
    assert listed_packages() == {re.sub(r"^cli\b", "itd_cli", name) for name in in_tree}


def test_installation_has_the_script_and_no_package_named_cli() -> None:
    distribution = importlib.metadata.distribution("itd-oracle")
    assert distribution.version == itd.__version__
    scripts = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert scripts == {"itd": "itd_cli.main:main"}
    top_level = distribution.read_text("top_level.txt")
    assert top_level is not None
    assert set(top_level.split()) == {"itd", "itd_cli"}
