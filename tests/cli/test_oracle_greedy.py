"""`itd`, `itd oracle` and `itd greedy` as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import click
import numpy as np
import pytest

from itd_cli.main import COMMANDS, cli
from support import synthetic
from support.commands import run


def one_line(answer, code: int, *words: str) -> None:
    line = answer.stderr.strip("\n")  # click first ends the terminal's line after ^C
    assert answer.exit_code == code and "\n" not in line, line
    assert line.startswith("itd: ") and all(word in line for word in words), line


@pytest.fixture
def folder(tmp_path):
    return synthetic.make_result(tmp_path / "resnet50-dilation.parquet", synthetic.make_scores(16, 12), default=3)


@pytest.fixture
def unfinished(tmp_path):
    writer = synthetic.open_writer(tmp_path / "unfinished.parquet", 8)
    missing = np.array([True, False, False, False])
    writer.write(writer.todo()[0], missing=missing, **synthetic.make_scores(6, 4))
    return tmp_path / "unfinished.parquet"


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["oracle", "--help"], ["greedy", "--help"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys\nfrom itd_cli.main import cli\n"
        f"try: cli({args!r})\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'pyarrow', 'matplotlib', 'itd.space') if m in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_names_every_command():
    text = run("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)
    for name in ("oracle", "greedy"):
        assert f"Example: itd {name}" in run(name, "--help").stdout


def test_oracle_prints_the_table_and_keeps_notes_off_it(folder, unfinished):
    answer = run("oracle", folder, unfinished)
    assert answer.exit_code == 0
    table, _, said = answer.stdout.partition("\n\n")
    header, *rows = table.splitlines()
    assert header.split() == ["result", "n", "configs", "static", "best", "top-k", "median", "worst"]
    assert [row.split()[:3] for row in rows[::2]] == [[folder.stem, "12", "16"], [unfinished.stem, "3", "6"]]
    assert said.count(": the oracle is ") == 2
    assert f"{unfinished} is not finished: 4 of 8 images are there" in answer.stderr
    assert "null rows: 1" in answer.stderr and "not finished" not in answer.stdout


def test_oracle_json_is_a_list_and_nothing_else(folder, unfinished):
    answer = run("oracle", folder, unfinished, "--json")
    first, second = json.loads(answer.stdout)
    quality = synthetic.make_scores(16, 12)["quality"]
    right = quality >= 1
    ascending = np.sort(quality, axis=0)
    assert first.pop("intervals")["best"][0] <= right.any(0).mean()
    assert first.pop("baselines")["matched_topk"]["n"] == 12
    assert first == {
        "result": str(folder),
        "n": 12,
        "configs": 16,
        "static": right[3].mean(),
        "worst": right.all(0).mean(),
        "median": (ascending[7] >= 1).mean(),
        "best": right.any(0).mean(),
        "nulls": 0,
        "requested": 12,
    }
    assert (second["n"], second["nulls"], second["requested"]) == (3, 1, 8)


def test_without_a_default_static_is_null(tmp_path):
    path = synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 4), default=None)
    assert json.loads(run("oracle", path, "--json").stdout)[0]["static"] is None


def test_greedy_json_has_every_step(folder, tmp_path):
    answer = run("greedy", folder, "--json", "--plot", tmp_path / "g.png")
    (curve,) = json.loads(answer.stdout)
    assert (
        list(curve) == ["result", "n", "static", "reach", "held_out", "steps"]
        and curve["result"] == str(folder)
        and curve["n"] == 12
    )
    assert [step["k"] for step in curve["steps"]] == list(range(1, 17))
    assert sorted(step["config"] for step in curve["steps"]) == list(range(16))
    assert [step["k"] for step in curve["held_out"]] == list(range(1, 17))
    assert list(curve["held_out"][0]) == ["k", "accuracy", "low", "high", "matched_topk", "guesses"]
    keys = ["k", "config", "settings", "accuracy", "upper_bound", "matched_topk"]
    assert list(curve["steps"][0]) == keys
    assert all(type(v["dilation"]) is int for step in curve["steps"] for v in step["settings"].values())
    assert curve["steps"][-1]["accuracy"] == json.loads(run("oracle", folder, "--json").stdout)[0]["best"]
    assert (tmp_path / "g.png").exists()


@pytest.mark.parametrize(
    ("option", "shown"),
    [([], [1, 2, 3, 4, 5, 6, 8, 10, 15, 16]), (["--steps", "3"], [1, 2, 3]), (["--steps", "2,5"], [2, 5])],
)
def test_greedy_table_shows_the_asked_steps(folder, option, shown):
    first, held, in_sample = run("greedy", folder, *option).stdout.split("\n\n")
    title, reached = first.splitlines()
    assert reached.startswith("85%: ") and "held out, " in reached and reached.endswith("in-sample")
    assert "n = 12, 16 configurations" in title
    for table, words in ((held, "held out, lists chosen on the other of 10 folds"), (in_sample, "in-sample")):
        name, _, *rows = table.splitlines()
        assert name.startswith(words) and [int(row.split()[0]) for row in rows] == shown
    alone = run("greedy", folder, "--folds", "0", *option).stdout
    assert "held out" not in alone and "in-sample" in alone


def test_csv_and_figure_hold_the_same_figures(folder, tmp_path):
    answer = run("greedy", folder, "--csv", tmp_path / "g.csv", "--plot", tmp_path / "g.svg")
    assert answer.exit_code == 0 and f"figure: {tmp_path / 'g.svg'}" in answer.stdout
    with open(tmp_path / "g.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (curve,) = json.loads(run("greedy", folder, "--json").stdout)
    both = [*curve["held_out"], *curve["steps"]]
    assert [float(row["accuracy"]) for row in rows] == [step["accuracy"] for step in both]
    assert [row["curve"] for row in rows] == ["held-out"] * 16 + ["in-sample"] * 16
    assert [float(row["guesses"]) for row in rows[:16]] == [step["guesses"] for step in curve["held_out"]]
    assert [int(row["dilation_D"]) for row in rows] == 2 * [s["settings"]["D"]["dilation"] for s in curve["steps"]]
    run("oracle", folder, "--csv", tmp_path / "o.csv")
    with open(tmp_path / "o.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["best"]) == curve["steps"][-1]["accuracy"]


def test_an_unfinished_result_is_refused_by_greedy_unless_asked_for(unfinished):
    one_line(run("greedy", unfinished), 1, "4 of 8 images", "--partial")
    assert run("greedy", unfinished, "--partial").exit_code == 0


def test_an_unwritable_path_is_one_line_after_the_table(folder, tmp_path):
    for option, file in (("--csv", "x.csv"), ("--plot", "x.png")):
        answer = run("greedy", folder, option, tmp_path / "absent" / file)
        one_line(answer, 1, str(tmp_path / "absent" / file), "No such file")
        assert "configurations" in answer.stdout
    one_line(run("greedy", folder, "--plot", tmp_path / "x.docx"), 1, "must end in")


def test_mistakes_are_one_line_with_what_is_allowed(folder, tmp_path):
    (tmp_path / "text.parquet").write_text("text")
    one_line(run("oracle", tmp_path / "absent.parquet"), 1, "no such result", "itd sweep")
    one_line(run("oracle", tmp_path / "text.parquet", "--json"), 1, "text.parquet", "Parquet")
    one_line(
        run("orcale", folder),
        2,
        "no such command: 'orcale'",
        "sweep, oracle, baselines, greedy",
        "did you mean `itd oracle`",
    )
    one_line(run("oracle", "--jsn", folder), 2, "--jsn", "itd oracle --help")
    one_line(run("oracle"), 2, "RESULT", "itd oracle --help")
    one_line(run("greedy", folder, "--steps", "none"), 2, "--steps", "all")


def test_an_interruption_says_how_to_go_on(monkeypatch):
    @click.command()
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(type(cli), "get_command", lambda *_: stopped)
    answer = run("oracle")
    said, command = answer.stderr.splitlines()
    assert answer.exit_code == 130 and command.endswith(" oracle")
    assert said == "itd: interrupted; nothing already written is lost: the same command goes on from there"


def test_a_closed_pipe_is_quiet(folder):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from itd_cli.main import main; main()", "greedy", str(folder)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode != 0 and done.stderr == ""
