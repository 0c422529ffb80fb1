"""Command lines that are fuzzed: every command, with values that nobody meant, options of others, files of any kind.

No network is run and nothing is fetched: a case ends where the first image would go through one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import click
import torch
from click.testing import CliRunner
from hypothesis import strategies as st
from PIL import Image

import itd_cli.status
from itd.errors import ItdError
from itd.space import Setting
from itd.space.listed import SpaceList, write_space
from itd_cli.main import COMMANDS, RENAMED, cli
from support import synthetic
from support.fuzzed_files import some_selector
from support.fuzzing import ODD_TEXT, Subject

_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BAR = re.compile(r"\r[^\r\n]*%\|[^\r\n]*")
"""A progress bar, which is drawn over itself."""
_FEW = ["--resamples", "20"]
_NET = ["--model", "resnet18", "--weights", "none", "--device", "cpu"]
_IMAGES = ["--data", "data", "--num-classes", "2"]
USUAL = {
    "sweep": [*_NET, *_IMAGES, "--attr", "stride", "--out", "out.parquet"],
    "oracle": ["r.parquet", *_FEW], "baselines": ["r.parquet", *_FEW], "greedy": ["r.parquet", *_FEW],
    "unique": ["r.parquet", *_FEW], "preferences": ["r.parquet"], "efficiency": ["r.parquet", *_FEW],
    "combine": ["r.parquet", "s.parquet", "-o", "made.json"], "union": ["r.parquet", "s.parquet", "-o", "u.parquet"],
    "merge": ["r.parquet", "s.parquet", "-o", "m.parquet"], "compact": ["r.parquet"],
    "compare": ["r.parquet", "s.parquet", *_FEW], "gain": ["r.parquet", "s.parquet", *_FEW], "images": ["r.parquet"],
    "report": ["r.parquet", "-o", "report.html", *_FEW], "select": ["r.parquet", "--k", "2", *_FEW],
    "predict": [*_NET, "data/a/0.png"], "rof": [*_NET, *_IMAGES, "--attr", "dilation", "--out", "rof.safetensors"],
    "recalibrate": [*_NET, *_IMAGES, "--val", "data", "--attr", "dilation", "--out", "recalibrated.parquet"],
    "train": [*_IMAGES, "--device", "cpu", "--out", "trained.safetensors"],
    "evaluate": [*_NET, *_IMAGES], "compare-layers": ["--data", "data", "--models", "cifar-resnet18"],
    "sites": ["--model", "resnet18"], "cache": [], "models": [], "verify": ["r.parquet"],
    "status": ["r.parquet"],
}  # fmt: skip
"""A command line of each command that works."""
NUMBERS = (
    "-1", "0", "1", "2", "3", "1.5", "-0", "1e3", "nan", "inf", "-inf", "1e999", "x", "²", "", " 1", "9" * 20,
    "-" + "9" * 20,
)  # fmt: skip
FILES = (
    "r.parquet", "s.parquet", "data", "data/a", "data/a/0.png", "classes.txt", "labels.csv", "w.pth", "s.safetensors",
    "space.json", "net.py", "junk", "junk.png", "empty", "missing", "pipe", "missing/inside", "junk/inside", "s.tar",
    "r.parquet/_itd", "new.csv", "new.html", "new.png", "new.json", "new.safetensors", "digits", "hf:", "cifar10",
)  # fmt: skip
WORDS = (
    "stride", "dilation", "size", "stride,dilation", "stride,stride", "1,2", "A=1,2", "stride:A=1,2", "A=0", "E=1",
    "A", "ABCD", "DA", "auto", "A=conv1", "A=layer1.0.conv1+layer1.0.conv2", "resnet18", "cifar-resnet18",
    "net.py:make", "net.py:", "net.py:none", ":", "timm/", "none", "IMAGENET1K_V1", "cpu", "cuda", "cuda:99", "meta",
    "fp32", "bf16", "se", "involution", "weightnet", "depth=18", "0.5,0.5,0.5", "0,0,0", "1/2", "0/0", "3/2", "all",
    "present", "4,288", "288,4", "averaging", "cascade", "features-head", "onecycle", "multistep", "10%", "101%",
    "frozen",
)  # fmt: skip
_SLOW = {"--workers": ("-1", "0", "x", "", "9999"), "--epochs": ("-1", "0", "1", "x")}
"""Of options whose large values are asked for in earnest."""
_WRITTEN = ("--csv", "--plot", "--out", "-o", "--save", "--curves")
"""Options that name what is written: a pipe waits for its reader there, as it should."""
_CASES = {"models": 2, "report": 4, "sweep": 20, "recalibrate": 10, "compare-layers": 8, "rof": 10}
"""Of commands that take seconds, or that have much to refuse."""


def subjects(folder: Path) -> tuple[Subject, ...]:
    """Each command by itself, then names that are none."""
    os.chdir(folder)
    _prepare(folder)
    warnings.simplefilter("error")
    own = tuple(Subject(name, _lines(name), _check, _CASES.get(name, 15)) for name in COMMANDS)
    names = st.sampled_from([*(name for name in COMMANDS if name not in _CASES), *RENAMED, "--help", "--version"])
    return (*own, Subject("names of commands", st.lists(st.one_of(ODD_TEXT, names), max_size=3).map(_safe), _check, 40))


def _prepare(folder: Path) -> None:
    """Files of every kind; and what would run a network, or fetch something, ends the command instead."""
    for name in ("r", "s"):
        path = synthetic.make_result(
            folder / f"{name}.parquet", synthetic.make_scores(6, 10, seed=len(name)), default=2
        )
        assert path.is_dir()
    for label in "ab":
        (folder / "data" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 40), (90 * number, 20, 60)).save(folder / "data" / label / f"{number}.png")
    write_space(folder / "space.json", SpaceList(("stride",), ({"A": Setting(stride=2)}, {})))
    some_selector("logistic").save(folder / "s.safetensors")
    torch.save({"w": torch.ones(3)}, folder / "w.pth")
    os.mkfifo(folder / "pipe")
    for name, text in {
        "classes.txt": "a\nb\n", "labels.csv": "path,label\na/0.png,0\n", "junk.png": "x",
        "junk": "\x7fELF\x00\xff" * 9, "empty": "", "s.tar": "x" * 2000,
        "net.py": "import torch\n\ndef make(depth=1):\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))\n",
    }.items():  # fmt: skip
        (folder / name).write_bytes(text.encode("latin-1"))

    def stop(*_: Any, **__: Any) -> NoReturn:
        raise ItdError("a network would be run here")

    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no network here")

    def never(_: float) -> NoReturn:
        raise ItdError("it would be looked at again for ever here")

    torch.nn.Module.__call__ = stop  # type: ignore[method-assign]
    itd_cli.status.time = SimpleNamespace(sleep=never)  # type: ignore[assignment]
    socket.socket.connect = socket.getaddrinfo = unreachable  # type: ignore[assignment, method-assign]


@st.composite
def _lines(draw: st.DrawFn, name: str) -> list[str]:
    """A command line that works, with a few options that may not, in place of some that would."""
    usual = list(USUAL[name])
    if usual and draw(st.integers(0, 3)) == 0:
        usual = usual[: draw(st.integers(0, len(usual)))]
    if name == "sweep" and draw(st.booleans()):
        usual.append(f"--plan={draw(st.sampled_from(['quick', 'full', 'slow']))}")
    own, others = _options(name), [option for other in COMMANDS for option in _options(other)]
    added: list[str] = []
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from(others if draw(st.integers(0, 9)) == 0 or not own else own))
        added += draw(_given(option))
    if draw(st.integers(0, 3)) == 0:
        added.append(draw(st.one_of(st.sampled_from(FILES), ODD_TEXT)))
    return [name, *_safe([*usual, *added] if draw(st.booleans()) else [*added, *usual])]


def _options(name: str) -> list[click.Option]:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def _given(option: click.Option) -> st.SearchStrategy[list[str]]:
    """An option, and a value where it takes one, or one more or one less than that."""
    name = option.opts[0]
    if option.is_flag or option.count:
        return st.sampled_from([[name], [name, name], [f"{name}=1"]])
    files = [file for file in FILES if file != "pipe" or name not in _WRITTEN]
    kinds: list[st.SearchStrategy[str]] = [
        st.sampled_from(files),
        ODD_TEXT,
        st.sampled_from(NUMBERS),
        st.sampled_from(WORDS),
    ]
    if isinstance(option.type, click.Choice):
        kinds = [st.sampled_from([str(choice) for choice in option.type.choices]), ODD_TEXT]
    elif isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
        kinds = [st.sampled_from(NUMBERS)] * 5 + [ODD_TEXT]
    if name in _SLOW:
        kinds = [st.sampled_from(_SLOW[name])]
    return st.one_of(*kinds).flatmap(lambda value: st.sampled_from([[name, value]] * 6 + [[f"{name}={value}"], [name]]))


def _safe(line: list[str]) -> list[str]:
    """No path leads out of the folder of the tests."""
    return [re.sub(r"(^|=)(?=/|~)|\.\.+", r"\1x", word).replace("\0", "") for word in line]


def _check(_: Path, line: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        answer = CliRunner().invoke(cli, line, prog_name="itd")
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    said = answer.stderr
    assert answer.exit_code in (0, 1, 2, 3), (answer.exit_code, said[-3000:], _traceback(said))
    assert "Traceback" not in answer.output and "not enough memory" not in said, said[-3000:]
    assert not _RAW.search(_BAR.sub("", answer.output)), ascii(answer.output[-3000:])
    if answer.exit_code and line[:1] != ["verify"]:  # which says on standard output what is damaged
        assert said.strip("\n").rpartition("\n")[2].startswith(("itd: ", "Usage", "  ")), said[-3000:]


def _traceback(said: str) -> str:
    """What a bug left in a file."""
    found = re.search(r"its traceback is in (\S+)", said)
    return Path(found[1]).read_text("utf-8", "replace")[-3000:] if found else ""
