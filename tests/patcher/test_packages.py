"""Installed packages register networks by an entry point: known like ours, loaded when needed, broken alone."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from itd.errors import ModelError
from itd.patcher import (
    MODELS,
    ModelEntry,
    SiteModule,
    build_model,
    patch,
    register_model,
    registered,
    summary,
)
from itd.patcher import registry as registry_module
from itd.patcher.packages import broken_packages
from itd.patcher.registry import check_model_name
from itd.runner.request import SweepRequest
from itd.store import open_result
from support.commands import one_line, run

GOOD = """
from torch import nn

from itd import SiteModule, register_model
from itd.patcher import ModelEntry


def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))


def unbuildable(num_classes):
    raise RuntimeError("no compiler here")


def register():
    entry = {"A": (SiteModule("0", frozenset({"dilation", "size"})),)}
    register_model(ModelEntry("tiny-of-theirs", entry, 2, None), build)
    register_model(ModelEntry("broken-of-theirs", entry, 2, None), unbuildable)
    register_model(ModelEntry("vgg11", {"A": "features.3"}, 2, None))
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package made here: its code, and its metadata with one entry point."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    before, builders, modules = dict(MODELS), dict(registry_module._BUILDERS), set(sys.modules)

    def make(name: str, code: str, points_at: str) -> None:
        folder = tmp_path / "site" / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder.parent / f"{name}.py").write_text(code)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[itd.models]\n{name} = {points_at}\n")
        importlib.invalidate_caches()
        broken_packages.cache_clear()

    yield make
    for table, kept in ((MODELS, before), (registry_module._BUILDERS, builders)):
        table.clear()
        table.update(kept)
    for name in set(sys.modules) - modules:
        if name.startswith("pack_"):
            del sys.modules[name]
    broken_packages.cache_clear()


def test_a_packages_network_is_known_by_name_with_its_sites(install: Install, tmp_path: Path) -> None:
    install("pack_good", GOOD, "pack_good:register")
    assert registered("tiny-of-theirs") is not None
    done = run("sweep", "--model", "tiny-of-theirs", "--attr", "dilation", "--options", "1,2", "--data", "digits",
               "--weights", "none", "--limit", 2)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = open_result("results/tiny-of-theirs-dilation.parquet")
    assert result.images_done == 2 and result.configs == 2
    request = SweepRequest("vgg11", "dilation", data="digits", weights="none", limit=1)
    assert request.sites_asked() == ("vgg11", ("A",))  # torchvision's network, the package's sites


def test_packages_are_loaded_once_and_only_for_a_name_that_is_not_known(install: Install) -> None:
    install("pack_good", GOOD, "pack_good:register")
    check_model_name("resnet18")
    assert registered("resnet50") is not None and "pack_good" not in sys.modules
    for _ in range(2):
        check_model_name("tiny-of-theirs")
    assert "pack_good" in sys.modules and broken_packages() == ()


@pytest.mark.parametrize(
    ("code", "points_at", "why"),
    [
        ("import not_there", "pack_bad:register", "ModuleNotFoundError: No module named 'not_there'"),
        ("", "pack_bad:register", "AttributeError"),
        ("register = 5", "pack_bad:register", "TypeError"),
        ("def register():\n raise ValueError('one\\ntwo')", "pack_bad:register", "ValueError: one)"),
        (
            "def register():\n import itd; itd.register_model(5)",
            "pack_bad:register",
            "ModelError: register_model takes",
        ),
    ],
)
def test_a_broken_package_is_one_line_that_names_it_and_breaks_no_other_name(
    install: Install, code: str, points_at: str, why: str
) -> None:
    install("pack_good", GOOD, "pack_good:register")
    install("pack_bad", code, points_at)
    check_model_name("tiny-of-theirs")
    check_model_name("resnet18")
    sweep = ("sweep", "--attr", "dilation", "--data", "digits", "--model")
    one_line(run(*sweep, "theirs"), "no such model: 'theirs'", "the installed package pack_bad cannot register", why)


def test_the_list_has_packages_networks_and_says_what_is_broken(install: Install) -> None:
    install("pack_good", GOOD, "pack_good:register")
    install("pack_bad", "import not_there", "pack_bad:register")
    answer = run("models", "--json")
    assert answer.exit_code == 0, answer.stderr
    rows = {row["model"]: row["configs"] for row in json.loads(answer.stdout)}
    assert rows["resnet50"] == {"stride": 361, "dilation": 625, "size": 625}
    assert rows["tiny-of-theirs"] == {"stride": 0, "dilation": 5, "size": 5}
    assert rows["broken-of-theirs"] == {"stride": None, "dilation": None, "size": None}
    assert "itd: note: the installed package pack_bad cannot register its networks (pack_bad:register:" in answer.stderr
    assert "broken-of-theirs cannot be built" in answer.stderr


@pytest.mark.parametrize("patched", [False, True])
def test_a_network_that_others_have_is_listed_and_left_as_it_is(install: Install, patched: bool) -> None:
    """What is registered may give one and the same network each time, and one that is patched already."""
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    sites = {"A": (SiteModule("0", frozenset({"dilation"})),)}
    network = patch(network, {"A": "0"}) if patched else network
    register_model(ModelEntry("of-others", sites, 2, None), lambda classes: network)
    kind, layer = type(network), network[0]
    rows = [summary._summary("of-others") for _ in range(2)]
    assert rows[0] == rows[1] and rows[0]["configs"]["dilation"] == 5
    assert type(network) is kind and network[0] is layer


def test_a_network_that_cannot_be_built_says_why(install: Install) -> None:
    install("pack_good", GOOD, "pack_good:register")
    with pytest.raises(ModelError, match="broken-of-theirs cannot be built: RuntimeError: no compiler here"):
        build_model("broken-of-theirs")
