"""docs/many-machines.md: every command in it can be given, and what runs on one machine is run as it stands there."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import itd
from itd.store import AtWork, open_result, verify
from itd_cli.main import COMMANDS, cli
from itd_cli.status import described
from support.commands import run

EXAMPLE = "--model resnet50 --attr stride --data /imagenet/val"
"""The sweep that the document's commands are of, and a small one in its place."""
SMALL = (
    "--model resnet18 --attr dilation --sites CD --options 1,2 --data digits --weights none --crop 32 --limit 40 "
    "--device cpu --progress none"
)
IMAGES = 40
WAIT_S = 120


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "many-machines.md").read_text("utf-8")


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """Programs that a shell finds first: `itd` as it is here, and stand-ins for those of a cluster."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "itd": f'exec {shlex.quote(sys.executable)} -m itd_cli.main "$@"',
        "srun": 'exec "$@"',
        "scontrol": f'echo "$@" >> {shlex.quote(str(tmp_path / "scontrol.log"))}',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def section(document: str, title: str) -> str:
    """A section's text."""
    return document.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str = "") -> list[str]:
    """The blocks of code in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def commands(text: str) -> list[list[str]]:
    """The words of each command of `itd`, whatever starts it; of variables the values that a script of Slurm has."""
    values = {"OPTIONS": EXAMPLE, "OUT": "r.parquet", "SHARD": "2/8"}
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda match: values.get(match[1], ""), line)
        started = re.match(r"^(?:srun |torchrun [^\n]*?-m itd_cli\.main |itd )(?:itd )?", line)
        if started:
            found.append(shlex.split(line[started.end() :], comments=True))
    return found


def environment(shell: Path, **variables: str) -> dict[str, str]:
    path = f"{shell}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def test_every_command_of_the_document_can_be_given(document: str) -> None:
    found = [words for block in [*blocks(document), *blocks(document, "bash")] for words in commands(block)]
    assert {"sweep", "status", "merge", "verify", "compact", "rof"} == {words[0] for words in found} and len(found) > 10
    for name, *words in found:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, words)  # raises for an option that is not there, or a value that cannot be


def test_every_option_and_command_that_the_text_names_is_there(document: str) -> None:
    options = {
        option
        for name in COMMANDS
        for parameter in cli.get_command(click.Context(cli), name).params  # type: ignore[union-attr]
        for option in parameter.opts
    }
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", text)
    theirs = {"--array", "--gres", "--signal", "--head"}  # of Slurm and Ray
    named = {word.partition("=")[0] for span in spans for word in span.split() if word.startswith("--")}
    assert named - theirs <= options and len(named) > 8
    assert {span.split()[1] for span in spans if re.match(r"itd [a-z]", span)} <= set(COMMANDS)


def test_the_python_of_the_document_has_names_and_keywords_that_are_there(document: str) -> None:
    (code,) = blocks(document, "python")
    calls = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func)[:4] == "itd."
    ]
    assert {ast.unparse(call.func) for call in calls} == {"itd.sweep", "itd.SweepRequest"}
    for call in calls:
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        verb = getattr(itd, call.func.attr)  # type: ignore[attr-defined]
        inspect.signature(verb).bind(*call.args, **keywords)
    assert 'if __name__ == "__main__":' in code


def test_a_status_looks_as_the_document_shows_it(document: str) -> None:
    shown = blocks(section(document, "Watching"))[1].rstrip("\n")
    since = "2026-11-30T03:12:42+00:00"
    writers = [
        AtWork("node1", 32308, since, None, (8, 15), False),
        AtWork("node2", 32310, since, None, (40, 47), False),
    ]
    one = SimpleNamespace(
        path="results/resnet18-dilation.parquet", images=200, done=32, failed=0, nulls=0, rows_per_s=545.0,
        seconds_left=25.0, writers=writers, complete=False,
    )  # fmt: skip
    assert described(one) == shown


def test_two_tasks_of_the_slurm_script_compute_one_result(document: str, shell: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "sweep.sbatch", tmp_path / "r.parquet"
    (text,) = blocks(section(document, "A Slurm job array"), "bash")
    assert EXAMPLE in text and text.startswith("#!/bin/bash\n#SBATCH ")
    script.write_text(text)
    tasks = [
        subprocess.Popen(
            ["bash", str(script)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            env=environment(
                shell, OPTIONS=SMALL, OUT=str(out), SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_TASK_COUNT="2",
                SLURM_CPUS_PER_TASK="1", SLURM_JOB_ID=f"7{number}",
            ),
        )
        for number in (1, 2)
    ]  # fmt: skip
    said = [task.communicate(timeout=WAIT_S)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert all(f"{IMAGES} of {IMAGES} images are in {out}" in text for text in said)
    assert verify(out).complete and open_result(out).images_done == IMAGES
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.parametrize(("code", "asked"), [(138, "requeue 71\n"), (3, ""), (1, "")])
def test_the_slurm_script_asks_for_another_turn_where_the_time_was_over(
    document: str, shell: Path, tmp_path: Path, code: int, asked: str
) -> None:
    (text,) = blocks(section(document, "A Slurm job array"), "bash")
    (shell / "srun").write_text(f'#!/bin/bash\necho "$@"\nexit {code}\n')
    ended = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True,
        env=environment(
            shell, SLURM_ARRAY_TASK_ID="5", SLURM_ARRAY_TASK_COUNT="2", SHARDS="8", SLURM_JOB_ID="71"
        ),
    )  # fmt: skip
    log = tmp_path / "scontrol.log"
    assert ended.returncode == code and (log.read_text() if log.exists() else "") == asked
    assert (
        ended.stdout.startswith(f"itd sweep {EXAMPLE} --out results/") and "--shard 5/8 --help-others" in ended.stdout
    )


def test_the_commands_of_the_merge_make_one_result(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe,) = blocks(section(document, "No shared file system"))
    assert recipe.count(EXAMPLE) == 2 and "\nrsync -a second:B.parquet .\n" in recipe
    first, second = tmp_path / "first", tmp_path / "second"
    said = []
    for folder in (first, second):
        folder.mkdir()
    for words in commands(recipe.replace(EXAMPLE, SMALL)):
        monkeypatch.chdir(second if "B.parquet" in words and words[0] == "sweep" else first)
        if words[0] == "merge":
            shutil.move(second / "B.parquet", first)  # what rsync is for
        answer = run(*words)
        assert answer.exit_code == 0, answer.stderr
        said.append(answer.stdout)
    rows = f"{IMAGES} images, {4 * IMAGES} rows"
    assert said[:3] == ["", "", f"{rows} -> C.parquet\n"]
    assert said[3] == f"C.parquet: whole, 5 parts, {4 * IMAGES} rows of {IMAGES} images\n"
    assert said[4].startswith(f"C.parquet: 5 parts -> 1, {rows}, ")
    assert verify(first / "C.parquet").complete
    assert [part.name for part in (first / "C.parquet").glob("part-*")] == [f"part-00000000-{IMAGES - 1:08d}.parquet"]
