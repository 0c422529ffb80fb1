"""The library's messages name parameters, and the commands print them as options."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.errors import ItdError
from itd_cli.main import COMMANDS, cli
from itd_cli.options import as_typed

LIBRARY = Path(itd.__file__).parent
MARKED = re.compile(r"`([a-z]\w*)(?:=[^`]*)?`")


def messages():
    """(place, text) of every string in the library that is no docstring; what is put in stands as {}."""
    for path in sorted(LIBRARY.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.JoinedStr):
                skipped.update(id(part) for part in node.values)
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                yield f"{path.relative_to(LIBRARY)}:{node.lineno}", "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(LIBRARY)}:{node.lineno}", node.value


def options_of_commands():
    loaded = [getattr(importlib.import_module(module), name) for module, name in
              (target.split(":") for target, _ in COMMANDS.values())]  # fmt: skip
    return {option for command in loaded for parameter in command.params for option in parameter.opts}


ELSE = re.compile(r"`itd [^`]*`|--[\w{}-]+:|var\\?\(--\S*")
"""Whole commands, and properties of style sheets: dashes that are no option."""


def test_no_message_of_the_library_names_an_option_but_inside_a_whole_command():
    wrong = [
        f"{place}: {text}"
        for place, text in messages()
        if re.search(r"(?<!\w)--[a-z{]", ELSE.sub("", text)) and text != "--short"
    ]
    assert not wrong, "\n".join(wrong)


def test_every_parameter_that_a_message_names_is_an_option_of_some_command():
    options = options_of_commands()
    named = {(place, name) for place, text in messages() for name in MARKED.findall(text)}
    assert len(named) > 100
    wrong = [(place, name) for place, name in named if as_typed(f"`{name}`") not in options]
    assert not wrong, wrong


def test_every_parameter_that_a_message_names_is_one_of_the_library():
    from itd.data.preprocess import Preprocess
    from itd.layers.models import learned_name
    from itd.patcher.names import name_with_arguments
    from itd.training.schedule import Schedule

    named = [learned_name, name_with_arguments]
    taking = [*(getattr(itd, name) for name in itd.__all__), Preprocess, Schedule, *named]
    known = {name for verb in taking for name in _parameters(verb)}
    known.update(itd.__all__)  # by_sites is a verb, and an option of `itd oracle`
    wrong = {name for _, text in messages() for name in MARKED.findall(text)} - known
    assert not wrong, wrong


def _parameters(verb):
    try:
        return inspect.signature(verb).parameters
    except (TypeError, ValueError):
        return ()


def test_values_stay_beside_their_option():
    assert as_typed("`out=my runs/a b` is inside `data=/d`; give another `out`") == (
        "--out my runs/a b is inside --data /d; give another --out"
    )
    assert as_typed("`itd sweep --out x` and `space_file=s.json` and x`") == (
        "`itd sweep --out x` and --space s.json and x`"
    )


@pytest.mark.parametrize("count", [0, -3])
def test_one_mistake_reads_as_a_parameter_in_python_and_as_an_option_on_the_command_line(count, capsys):
    from itd.data.images import select

    with pytest.raises(ItdError, match=rf"^`every={count}` is not allowed"):
        select(np.zeros(10), count)
    with pytest.raises(SystemExit):
        cli(["sweep", "--model", "resnet18", "--attr", "stride", "--options", "Q=1", "--data", "digits"], "itd")
    error = capsys.readouterr().err
    assert "--options Q=1: no such site" in error and "`" not in error
