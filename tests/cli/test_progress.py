"""Progress of commands: plain lines in a file, a bar on a terminal, nothing where it is asked for, and never twice."""

import io
import os
import re
import threading
from subprocess import DEVNULL

import click
import pytest
from click.testing import CliRunner

from itd.weights.digits import RECIPES, Recipe
from itd_cli import progress as module
from itd_cli.main import COMMANDS, cli
from itd_cli.progress import Progress, mode_of, progress_option
from support.forked import COMMAND, Forked, forked

SMALL = ["sweep", "--model", "support.small:ten_classes", "--attr", "dilation", "--sites", "C=stem,D=body",
         "--options", "1,2", "--data", "digits", "--weights", "none", "--crop", "32", "--device", "cpu"]  # fmt: skip
SHOWING = ("sweep", "report", "select", "predict", "rof", "recalibrate", "train", "evaluate", "compare-layers")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Stream(io.StringIO):
    def __init__(self, terminal=False):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def log(clock, mode="log"):
    stream = Stream()
    return Progress(mode, stream=stream, clock=clock), stream


def percents(text):
    return [int(found) for found in re.findall(r"\((\d+)%\)", text)]


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
    for name in ("CI", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_log_has_one_line_for_each_tenth_and_no_carriage_return():
    progress, stream = log(clock := Clock())
    progress.start(40, "images", grain="rows", grains=36)
    for _ in range(40 * 36):
        clock.now += 1 / 288
        progress.update()
    lines = stream.getvalue().splitlines()
    assert percents(stream.getvalue()) == list(range(10, 101, 10)) and "\r" not in stream.getvalue()
    assert lines[3] == "itd: 16/40 images (40%), 288 rows/s, 3 s left"
    assert lines[-1] == "itd: 40/40 images (100%), 288 rows/s, in 5 s"


def test_a_step_over_several_tenths_is_one_line():
    progress, stream = log(clock := Clock())
    progress.start(10, "steps")
    clock.now = 2
    progress.update(4)
    assert stream.getvalue() == "itd: 4/10 steps (40%), 2 steps/s, 3 s left\n"


def test_a_log_has_a_line_each_minute_however_little_was_done():
    progress, stream = log(clock := Clock())
    progress.start(10_000, "steps")
    for _ in range(10):
        clock.now += 30
        progress.update()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [f"{n}/10,000" for n in (2, 4, 6, 8, 10)]


def test_a_step_longer_than_a_minute_has_its_lines_too(monkeypatch):
    class Heard(Stream):
        said = threading.Event()

        def write(self, text):
            self.said.set()
            return super().write(text)

    monkeypatch.setattr(module, "SILENCE_S", 0.0)
    stream = Heard()
    with Progress("log", stream=stream) as progress:
        progress.start(3, "steps")
        assert stream.said.wait(30)
    assert stream.getvalue().startswith("itd: 0/3 steps (0%)\n")


def test_what_was_there_counts_as_done_but_not_in_the_rate():
    progress, stream = log(clock := Clock())
    progress.start(40, "images", done=24, grain="rows", grains=5)
    clock.now = 1
    progress.update(20)
    assert stream.getvalue().splitlines() == [
        "itd: 24/40 images (60%)",
        "itd: 28/40 images (70%), 20 rows/s, 3 s left",
    ]


def test_steps_of_an_earlier_run_are_in_no_rate_and_the_loss_stands_at_the_end():
    progress, stream = log(clock := Clock())
    progress.start(100, "steps")
    for step in range(61, 71):
        clock.now += 2
        progress.reach(step, f"loss {1 / step:.3f}")
    assert stream.getvalue().splitlines() == [
        "itd: 60/100 steps (60%)",
        "itd: 70/100 steps (70%), 0.5 steps/s, 60 s left, loss 0.014",
    ]


def test_what_is_counted_twice_ends_at_the_total():
    progress, stream = log(Clock())
    progress.start(2, "images", grain="rows", grains=3)
    progress.update(5)
    progress.update(5)
    progress.update(5)
    assert percents(stream.getvalue()) == [83, 100]


def test_nothing_is_shown_of_what_is_whole_or_empty():
    progress, stream = log(Clock())
    progress.start(4, "images", done=4)
    progress.start(0, "images")
    progress.update()
    assert stream.getvalue() == ""


def test_none_prints_nothing_whatever_is_done():
    progress, stream = log(Clock(), "none")
    progress.start(4, "images")
    progress.update(4)
    progress.say("timing")
    progress.prepare("training", 3)(3)
    assert progress.prepare("fetching", None) is not None and stream.getvalue() == ""


@pytest.mark.parametrize(
    ("mode", "terminal", "environ", "becomes"),
    [
        ("auto", True, {"TERM": "xterm"}, "bar"),
        ("auto", True, {"TERM": "xterm", "CI": "false"}, "bar"),
        ("auto", True, {"TERM": "dumb"}, "log"),
        ("auto", True, {"TERM": "xterm", "CI": "true"}, "log"),
        ("auto", False, {"TERM": "xterm"}, "log"),
        ("auto", False, {"RANK": "1"}, "none"),
        ("auto", False, {"RANK": "0"}, "log"),
        ("bar", False, {"TERM": "dumb"}, "bar"),
        ("log", True, {"TERM": "xterm"}, "log"),
        ("none", True, {"TERM": "xterm"}, "none"),
    ],
)
def test_auto_is_a_bar_on_a_terminal_and_lines_elsewhere(mode, terminal, environ, becomes):
    assert mode_of(mode, Stream(terminal), environ) == becomes


def test_a_bar_says_what_a_line_says():
    progress, stream = log(clock := Clock(), "bar")
    progress.start(4, "images", done=1, what="{x}", grain="rows", grains=50)
    clock.now = 1
    progress.update(150)
    last = stream.getvalue().rstrip().rsplit("\r", 1)[-1]
    assert last.startswith("100%|") and last.endswith("| {x}: 4/4 images, 150 rows/s, in 1 s")


def test_a_pseudo_terminal_gets_a_bar(tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    args = [*SMALL, "--limit", "3", "--out", tmp_path / "r.parquet"]
    child = Forked(COMMAND, *args, stdout=DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert child.wait() == 0 and b"\r" in text and re.search(rb"100%\|.*\| 3/3 images, [\d,.]+ rows/s, in ", text), text


def test_a_sweep_into_a_file_has_plain_lines_and_goes_on_counting(tmp_path):
    file = tmp_path / "log.txt"
    args = [*SMALL, "--out", tmp_path / "r.parquet", "--limit"]
    for limit, first in (("24", None), ("40", "itd: 24/40 images (60%)")):
        with open(file, "w") as stream:
            assert forked(COMMAND, *args, limit, stderr=stream).returncode == 0
        text = file.read_text()
        assert "\r" not in text and all(line.startswith("itd: ") for line in text.splitlines()), text
        shown = [line for line in text.splitlines() if "%)" in line]
        assert 2 <= len(shown) <= 11 and (first is None or shown[0] == first), text
        assert re.fullmatch(rf"itd: {limit}/{limit} images \(100%\), [\d,.]+ rows/s, in \d+ s", shown[-1]), text


def test_a_network_trained_on_the_digits_first_is_shown_the_same_way(tmp_path, monkeypatch):
    monkeypatch.setenv("ITD_CACHE", str(tmp_path))
    monkeypatch.setitem(RECIPES, "shufflenet_v2_x0_5", Recipe(steps=10, batch_size=8, enough=0.0))
    args = ["evaluate", "--model", "shufflenet_v2_x0_5", "--data", "digits", "--limit", "4", "--device", "cpu"]
    shown = CliRunner().invoke(cli, args).stderr
    training = "itd: training shufflenet_v2_x0_5 on the embedded digits (once): "
    assert percents(shown) == [*range(10, 101, 10), 100] and "\r" not in shown
    assert shown.count(training) == 10 and f"{training}10/10 steps (100%), " in shown
    assert CliRunner().invoke(cli, [*args, "--progress", "none"]).stderr == ""


def test_a_command_is_quiet_where_it_is_asked_to_be(tmp_path):
    args = [*SMALL, "--limit", "2", "--out", str(tmp_path / "r.parquet"), "--progress", "none"]
    answer = CliRunner().invoke(cli, args)
    assert answer.exit_code == 0 and not percents(answer.stderr) and "note" in answer.stderr
    refused = CliRunner().invoke(cli, [*SMALL, "--progress", "loud"])
    assert refused.exit_code == 2 and "loud" in refused.stderr and "none" in refused.stderr


@pytest.mark.parametrize("name", SHOWING)
def test_every_command_that_runs_a_network_takes_the_option(name):
    assert name in COMMANDS and "--progress [auto|bar|log|none]" in CliRunner().invoke(cli, [name, "--help"]).stdout


def test_evaluate_and_report_say_how_far_they_are(tmp_path):
    out = str(tmp_path / "r.parquet")
    assert CliRunner().invoke(cli, [*SMALL, "--limit", "3", "--out", out]).exit_code == 0
    answer = CliRunner().invoke(cli, ["report", out, "-o", str(tmp_path / "r.html"), "--resamples", "20"])
    assert answer.exit_code == 0 and "itd: 1/1 results (100%), " in answer.stderr, answer.stderr
    args = ["evaluate", "--model", "resnet18", "--weights", "none", "--data", "digits", "--limit", "4", "--json"]
    answer = CliRunner().invoke(cli, args)
    assert answer.exit_code == 0 and answer.stderr.startswith("itd: 4/4 images (100%), ") and "top1" in answer.stdout


def test_the_bar_is_closed_however_a_command_ends():
    made = []

    @click.command()
    @progress_option
    def ends(progress):
        made.append(progress)
        progress.start(3, "steps")
        raise ValueError

    CliRunner().invoke(ends, ["--progress", "bar"])
    assert made[0]._bar is None
