"""What nobody expected ends in one line, a traceback in a file, and 70; names reach no terminal raw."""

from __future__ import annotations

import contextlib
import errno
import importlib
import re
import string
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

import itd
from itd.errors import ItdError
from itd.text import visible
from itd_cli.main import COMMANDS
from support import synthetic
from support.commands import one_line, run
from support.forked import COMMAND


@pytest.fixture
def failing(monkeypatch, tmp_path: Path):
    """An error -> how a command ends in which it happens."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(error: Exception):
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("itd.store.open_result", raising)
        return run("oracle", "r.parquet")

    return fail


def test_a_bug_is_one_line_with_its_traceback_in_a_file_and_ends_in_70(failing, tmp_path: Path) -> None:
    answer = failing(ZeroDivisionError("first\nsecond \x1b[31m"))
    assert answer.exit_code == 70 and answer.stdout == ""
    found = re.fullmatch(
        r"itd: internal error: ZeroDivisionError: first; this is a bug of itd: report it, its traceback is in (\S+)\n",
        answer.stderr,
    )
    assert found is not None, answer.stderr
    text = Path(found[1]).read_text(encoding="utf-8")
    assert Path(found[1]).parent == tmp_path
    assert "Traceback" in text and "in raising" in text and text.rstrip().endswith("second \x1b[31m")


def test_a_bug_whose_traceback_cannot_be_written_prints_it(failing, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    answer = failing(RecursionError("deep"))
    assert answer.exit_code == 70 and "Traceback" in answer.stderr and "its traceback stands above" in answer.stderr


def test_the_disk_and_the_memory_are_no_bugs(failing) -> None:
    one_line(failing(PermissionError(errno.EACCES, "Permission denied", "/data/x")), "cannot use /data/x: Permission")
    one_line(failing(OSError(errno.ELOOP, "Too many levels of symbolic links", "/data/x")), "cannot use /data/x: Too")
    one_line(failing(OSError(errno.ENOSPC, "No space left on device")), "cannot write the output", "free some space")
    one_line(failing(MemoryError()), "there is not enough memory")
    assert failing(OSError("a library's own")).exit_code == 70


def test_what_a_terminal_would_act_on_is_escaped_and_all_else_stays() -> None:
    plain = string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", "") + "é日本語🎉\u200d\n\t"
    assert visible(plain) == plain
    for raw, shown in {
        "\x1b[2J": r"\x1b[2J", "\r": r"\x0d", "\x9b1m": r"\x9b1m", "\x07": r"\x07", "\u202e": r"\u202e",
        "\x00": r"\x00", "\udce9": r"\udce9", "\x7f": r"\x7f", "\u2028": r"\u2028",
    }.items():  # fmt: skip
        assert visible(raw) == shown


def test_a_command_does_not_look_for_cycles_in_all_that_it_has_loaded_as_it_ends() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 9)); "
    done = subprocess.run([sys.executable, "-c", code + COMMAND, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["True"]


def test_names_of_files_reach_no_terminal_raw(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "a\x1b]0;title\x07"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    name = tmp_path / "r\x1b[31m\u202e.parquet"
    for answer in (
        run("sweep", "--model", "resnet18", "--attr", "stride", "--data", tmp_path / "data", "--plan=quick"),
        run("oracle", name),
        run("predict", "--model", "resnet18", "--weights", "none", tmp_path / "\x1b[2J.jpg"),
    ):
        assert answer.exit_code != 0 and "\\x1b" in answer.output
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", answer.output)


def test_every_command_says_everything_through_the_one_place() -> None:
    for module in ("main", *(target.partition(":")[0].rpartition(".")[2] for target, _ in COMMANDS.values())):
        source = Path(importlib.import_module(f"itd_cli.{module}").__file__ or "").read_text("utf-8")
        assert "click.echo(" not in source and not re.search(r"(?<!\w)print\(", source), module


def test_no_number_of_any_option_is_a_bug() -> None:
    """Of each option that takes a number, one that nothing can hold: it is read, or refused."""
    for target, _ in COMMANDS.values():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        for parameter in command.params:
            if isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType)):
                for text in ("9" * 20, "9" * 5000, "-1", "nan", "1e999", "²"):
                    with contextlib.suppress(click.ClickException, ItdError):
                        command.make_context(command.name, [parameter.opts[0], text])


def test_no_command_starts_more_processes_than_a_machine_has() -> None:
    taking = 0
    for target, _ in COMMANDS.values():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        for parameter in command.params:
            if parameter.name == "workers":
                taking += 1
                with pytest.raises(click.BadParameter, match="not in the range 0<=x<=1024"):
                    parameter.type_cast_value(click.Context(command), "1025")
    assert taking == 8


def test_numbers_that_no_memory_holds_are_refused_by_name(tmp_path: Path) -> None:
    path = synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(6, 10))
    for option in ("--resamples", "--repeats", "--seed"):
        answer = run("greedy", path, option, "9" * 20)
        assert answer.exit_code == 2 and "is not in the range" in answer.stderr and answer.stderr.count("\n") == 1
    for name, most in (("resamples", 100_000), ("repeats", 1000), ("seed", 2**32 - 1)):
        with pytest.raises(ItdError, match=rf"{name} is {'9' * 20}; give .* {most}"):
            itd.greedy(itd.open_result(path), **{name: int("9" * 20)})
