"""A signal ends a command like Ctrl-C: what is kept is said, the command that goes on is printed, and it does go on."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from itd.files import TEMPORARY
from itd.store import open_result
from itd_cli.main import BUG, cli
from itd_cli.signals import command_line, quoted
from support import synthetic
from support.commands import run
from support.forked import COMMAND, Forked, forked

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

NUMBERS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
SAID = r"itd: (interrupted|stopped by SIG\w+); (.*): the same command goes on from there"
DIGITS = ["--model", "resnet18", "--weights", "none", "--data", "digits"]
TRAIN = ["--model", "resnet18", "--data", "digits", "--epochs", "2", "--epoch-images", "12", "--batch-size", "4"]


def handlers() -> list[object]:
    return [signal.getsignal(getattr(signal, name)) for name in NUMBERS]


def said(stderr: str) -> tuple[str, str]:
    """What is kept, and the command that goes on: the last two lines."""
    line, command = stderr.splitlines()[-2:]
    found = re.fullmatch(SAID, line)
    assert found is not None and "Traceback" not in stderr, stderr
    return found[2], command


@pytest.mark.parametrize("name", NUMBERS)
def test_a_signal_ends_a_command_in_two_lines_and_its_own_exit_status(name: str, monkeypatch) -> None:
    @click.command()
    @click.argument("words", nargs=-1)
    def stopped(words: tuple[str, ...]) -> None:
        signal.raise_signal(getattr(signal, name))
        raise AssertionError("the work goes on")

    monkeypatch.setattr(type(cli), "get_command", lambda *_: stopped)
    before = handlers()
    answer = run("oracle", "my result.parquet", "a$b")
    assert answer.exit_code == NUMBERS[name] and handlers() == before
    kept, command = said(answer.stderr)
    assert kept == "nothing already written is lost" and answer.stderr.count("\n") == 2
    assert shlex.split(command)[-3:] == ["oracle", "my result.parquet", "a$b"]


def test_an_error_that_comes_of_a_signal_is_the_signals(monkeypatch) -> None:
    """What is closed on the way out may fail, as a terminal that hung up does."""

    @click.command()
    def stopped() -> None:
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(cli), "get_command", lambda *_: stopped)
    answer = run("oracle")
    assert answer.exit_code == 129 and said(answer.stderr)


WHERE = {
    "sweep-before-its-first-unit": (
        ["sweep", *DIGITS, "--attr", "dilation", "--sites", "D", "--limit", "4"],
        "itd.engine.check", "check_tree", 1, "SIGTERM", "what is in the result is kept",
    ),
    "sweep-while-it-decodes": (
        ["sweep", *DIGITS, "--attr", "dilation", "--sites", "D", "--limit", "4"],
        "itd.data.digits", "DigitsReader.__call__", 2, "SIGUSR1", "what is in the result is kept",
    ),
    "recalibrate": (
        ["recalibrate", *DIGITS[:3], "w.pth", *DIGITS[4:], "--attr", "dilation", "--sites", "D", "--images", "2"],
        "itd.training.recalibrate", "RecalibratedExecutor._estimate", 2, "SIGHUP", "what is in the result is kept",
    ),
    "train": (
        ["train", *TRAIN], "itd.training.trainer", "_step", 4, "SIGTERM", "the last whole epoch is kept",
    ),
    "rof": (
        ["rof", *TRAIN, "--weights", "none", "--sites", "D"],
        "itd.training.trainer", "_step", 2, "SIGUSR1", "the last whole epoch is kept",
    ),
    "evaluate": (
        ["evaluate", *DIGITS, "--limit", "8"],
        "itd.training.evaluate", "score", 1, "SIGHUP", "nothing already written is lost",
    ),
    "predict": (
        ["predict", "--model", "resnet18", "--weights", "none", "digits"],
        "itd.selectors.predict", "_Static.run", 1, "SIGTERM", "nothing already written is lost",
    ),
    "report": (
        ["report", "r.parquet"],
        "itd.analysis.figures.drawing", "Drawing.svg", 2, "SIGUSR1", "nothing already written is lost",
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
def test_each_command_drops_its_work_and_leaves_no_part_of_a_file(
    where: str, tmp_path, monkeypatch, random_network
) -> None:
    args, module, attribute, count, name, kept = WHERE[where]
    monkeypatch.chdir(tmp_path)
    synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(8, 12), default=3)
    torch.save(random_network("resnet18").state_dict(), "w.pth")
    owner = importlib.import_module(module)
    *outer, last = attribute.split(".")
    for one in outer:
        owner = getattr(owner, one)
    real, calls = getattr(owner, last), []

    def stopping(*given, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), getattr(signal, name))
        return real(*given, **options)

    monkeypatch.setattr(owner, last, stopping)
    if where == "sweep-before-its-first-unit":
        monkeypatch.setattr("itd.runner.executors.check_tree", stopping)
    answer = run(*args, *(["--progress", "none"]))
    assert answer.exit_code == NUMBERS[name], answer.output
    told, command = said(answer.stderr)
    assert told == kept and shlex.split(command)[-len(args) - 2 : -2] == args
    assert not [p for p in tmp_path.rglob("*") if TEMPORARY.match(p.name)]


def test_training_goes_on_by_the_printed_command_to_the_same_weights(tmp_path, monkeypatch) -> None:
    from itd.training import trainer

    monkeypatch.chdir(tmp_path)
    args = ["train", *TRAIN, "--progress", "none", "--out"]
    assert run(*args, "whole.safetensors").exit_code == 0
    real, calls = trainer._step, []

    def stopping(*given):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(trainer, "_step", stopping)
    answer = run(*args, "my weights.safetensors")
    assert answer.exit_code == 143 and (tmp_path / "my weights.checkpoint").exists()
    words = shlex.split(said(answer.stderr)[1])
    assert run(*words[words.index("train") :]).exit_code == 0 and len(calls) == 8
    whole, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "my weights"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert (tmp_path / "whole.csv").read_text() == (tmp_path / "my weights.csv").read_text()


def start(*args: str, **how) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *args], stdout=pipe, stderr=pipe, text=True, start_new_session=True, **how)


APART = "from itd.data import processes; processes.cuda_is_in_use = lambda: True; from itd_cli import main; main.main()"
"""The command as it is where CUDA is in use: its processes come of a server."""


@pytest.mark.parametrize(
    ("program", "name"),
    [(None, "SIGTERM"), (APART, "SIGTERM"), (APART, "SIGINT")],
    ids=["forked", "apart", "apart-interrupted"],
)
def test_a_sweep_whose_whole_group_is_sent_a_signal_leaves_no_process_and_goes_on(
    program: str | None, name: str, tmp_path
) -> None:
    """As schedulers and terminals do it: to the processes that decode too, of which none may print, nor live on.

    Once with the interpreters that a user starts, for both commands.
    """
    out = tmp_path / "my result.parquet"
    args = ["sweep", *DIGITS, "--attr", "dilation", "--sites", "CD", "--limit", "24", "--workers", "2"]
    args += ["--progress", "log", "--out", str(out)]
    whole = program is None
    with start("-m", "itd_cli.main", *args) if whole else Forked(program, *args, start_new_session=True) as child:
        seen = []
        while not seen or "images (" not in seen[-1]:
            seen.append(child.stderr.readline())
            assert seen[-1], "".join(seen)
        os.killpg(child.pid, getattr(signal, name))
        rest = child.stderr.read()
    assert child.returncode == NUMBERS[name], rest
    kept, command = said(rest)
    assert kept == "what is in the result is kept" and len(rest.splitlines()) <= 4
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.killpg(child.pid, 0)
            time.sleep(0.1)  # orphans that were killed are somebody else's to collect
    assert open_result(out).images_done < 24
    words, module = shlex.split(command), [sys.executable, "-m", "itd_cli.main"]
    started_by = module if whole or shutil.which("itd") is None else ["itd"]
    args = words[len(started_by) :]
    assert words[: len(started_by)] == started_by
    done = subprocess.run(command, shell=True, capture_output=True, text=True) if whole else forked(COMMAND, *args)
    assert done.returncode == 0, done.stderr
    result = open_result(out)
    assert not result.partial and len(np.unique(result.samples)) == len(result.samples) == 24


CHILD = """
import signal, sys, threading, time, click
from itd_cli import main, signals
signal.alarm(30)  # whatever a test does
signals.CHILDREN_S, signals.GRACE_S = 0.05, float(sys.argv[1])

@click.command()
def deaf():
    def work():
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    print("ready", flush=True)
    if mode == "deaf":
        work()
    threading.Event().wait(1)
    print("went on")

type(main.cli).get_command = lambda *_: deaf
mode, sys.argv[1:] = sys.argv[2], ["oracle"]
main.main()
"""


def test_a_command_that_does_not_end_by_itself_is_ended_in_time() -> None:
    with start("-c", CHILD, "0.3", "deaf") as child:
        child.stdout.readline()
        child.send_signal(signal.SIGUSR1)
        rest = child.stderr.read()
    assert child.returncode == 138 and said(rest)


def test_a_second_signal_ends_it_at_once() -> None:
    with start("-c", CHILD, "1000", "deaf") as child:
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        time.sleep(0.7)  # later than `SAME_S`: it is not the first one sent twice
        child.send_signal(signal.SIGTERM)
        rest = child.stderr.read()
    assert child.returncode == 143 and said(rest)


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with start("-c", CHILD, "1000", "", preexec_fn=ignoring) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGHUP)
        out = child.stdout.read()
    assert child.returncode == 0 and out == "went on\n"


def test_nothing_of_the_library_catches_signals() -> None:
    """But for one that Ray catches, which is given back to whoever had it."""
    given_back = "signal.signal(signal.SIGTERM, before)"
    for path in (Path(__file__).parents[2] / "itd").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"\bsignal\.signal\(", text.replace(given_back, "", path.name == "on_ray.py")), path


def test_the_table_of_exit_codes_is_what_commands_end_with(repository: Path) -> None:
    text = (repository / "docs" / "reliability.md").read_text("utf-8")
    table = text[text.index("## Exit codes") : text.index("## Signals")]
    assert re.findall(r"^\| (\d[^|]*?) \|", table, re.MULTILINE) == ["0", "1", "2", "3", "70", "128 + n"]
    assert re.findall(r"(\d+) (SIG\w+)", table) == [(str(code), name) for name, code in NUMBERS.items()]
    assert BUG == 70


def test_the_command_is_quoted_for_a_shell_and_names_what_it_was_started_by(monkeypatch, tmp_path) -> None:
    for word in (
        "plain",
        "two words",
        "it's",
        "a$b`c`",
        'd"e',
        "new\nline\ttab",
        "\x1b[31m",
        "é",
        os.fsdecode(b"\xff"),
    ):
        shown = quoted(word)
        assert "\n" not in shown and shown.isprintable()
        done = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True)
        assert done.stdout == os.fsencode(word)
    monkeypatch.setenv("PATH", "")
    assert shlex.split(command_line(["oracle"])) == [sys.executable, "-m", "itd_cli.main", "oracle"]
    script = tmp_path / "itd"
    script.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "oracle"])
    assert command_line(["oracle"]) == f"{script} oracle"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ITD_DATA", "/my data")
    assert command_line(["oracle"]) == "ITD_DATA='/my data' itd oracle"
    monkeypatch.delenv("ITD_DATA")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_line(["train"]) == "torchrun --nproc-per-node 4 -m itd_cli.main train"
