"""The rooms: who may import whom, as docs/design.md says it; no circles; nothing hidden; what loads torch."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import itd

ROOT = Path(__file__).resolve().parents[1]
EVERYONE = {"errors", "files", "process", "checked", "text", "device", "space", "itd"}


def modules() -> dict[str, Path]:
    """Every module of `itd`, by its dotted name."""
    found = {}
    for path in (ROOT / "itd").rglob("*.py"):
        parts = [*path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], *, types: bool = False) -> Iterator[str]:
    """Modules of `itd` that a file imports, also inside functions; those under TYPE_CHECKING only with `types`."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in ("itd", "itd_cli", "cli"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def allowed() -> dict[str, set[str]]:
    """room -> the rooms that it may import, read from the table in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", text[text.index("## Who may import whom") :], re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}


def test_the_table_of_the_design_is_the_rule() -> None:
    rooms = {room(name) for name in modules()} - EVERYONE
    table = allowed()
    assert set(table) == rooms | {"space"}
    assert table["store"] == set() and table["data"] == set() and table["analysis"] == {"store", "data"}
    assert table["engine"] == {"patcher", "layers"} and table["patcher"] == {"layers"}
    assert table["runner"] == {"engine", "data", "weights", "store", "patcher"}
    assert "training" not in table["selectors"] and "selectors" not in table["training"]


def test_each_room_imports_only_what_it_may_and_nobody_the_command_line() -> None:
    known, table = modules(), allowed()
    for name, path in known.items():
        if name == "itd":
            continue
        for imported in imports(path, known):
            assert not imported.startswith(("itd_cli", "cli")), f"{name} imports the command line"
            target = room(imported)
            if target == room(name) or target in EVERYONE or (room(name) in EVERYONE and target in EVERYONE):
                continue
            assert target in table.get(room(name), set()), f"{name} imports {imported}"


def test_a_gallery_may_read_images_but_no_answer_does_at_import() -> None:
    known = modules()
    for name, path in known.items():
        if room(name) == "analysis":
            tree = ast.parse(path.read_text("utf-8"))
            top = [n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module]
            assert not [m for m in top if m.startswith("itd.data")], name


def test_there_are_no_circles_between_modules_nor_between_rooms() -> None:
    known = modules()
    arrows = {
        name: {i for i in imports(path, known, types=True) if i in known and i != name} for name, path in known.items()
    }
    arrows["itd"] = set()  # its names are loaded when they are first used
    assert circles({name: targets - {"itd"} for name, targets in arrows.items() if not_package(name)}) == []
    rooms: dict[str, set[str]] = {}
    for name, targets in arrows.items():
        rooms.setdefault(room(name), set()).update(room(t) for t in targets if room(t) != room(name))
    assert circles({name: targets - {"itd"} for name, targets in rooms.items() if name != "itd"}) == []


def not_package(name: str) -> bool:
    return (ROOT / Path(*name.split("."))).with_suffix(".py").exists()


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Each circle once, found by taking away, again and again, whatever points at nothing that is left."""
    left = {name: {t for t in targets if t in arrows} for name, targets in arrows.items()}
    while True:
        ends = [name for name, targets in left.items() if not targets & left.keys()]
        if not ends:
            return [sorted(left)] if left else []
        for name in ends:
            del left[name]


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "d"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_module_is_hidden_by_a_function_of_its_name() -> None:
    for package in ["itd", *(m.name for m in pkgutil.walk_packages(itd.__path__, "itd.") if m.ispkg)]:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            name = f"{package}.{module.name}"
            loaded = importlib.import_module(name)
            assert getattr(importlib.import_module(package), module.name) is loaded, name
    assert not {m.name for m in pkgutil.iter_modules(itd.__path__)} & {"sweep", "report", "models", "train", "predict"}


@pytest.mark.parametrize(
    "package", ["itd", "itd.space", "itd.store", "itd.analysis", "itd.analysis.report", "itd.files"]
)
def test_what_only_reads_results_loads_no_torch(package: str) -> None:
    code = f"import sys, {package}; print(sorted(m for m in ('torch', 'torchvision', 'pandas') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_dir_shows_it() -> None:
    assert dir(itd) == sorted(itd.__all__)
    for name in itd.__all__:
        value = getattr(itd, name)
        assert value is not None
        if callable(value):
            assert value.__name__ == name and value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        _ = itd.swep
    tree = ast.parse((ROOT / "itd" / "__init__.py").read_text("utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    typed = {alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert typed == set(itd.__all__) - {"__version__", "errors"}, "what an editor knows is what there is"


def test_every_command_has_its_verb() -> None:
    from itd_cli.main import COMMANDS

    for command in COMMANDS:
        assert command.replace("-", "_") in itd.__all__, command
