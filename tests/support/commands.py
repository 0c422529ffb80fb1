"""What tests of commands share: a command run in this process, and an error that is one line."""

from __future__ import annotations

from click.testing import CliRunner, Result

from itd_cli.main import cli


def run(*args: object) -> Result:
    """What a command prints, and how it ends."""
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def one_line(answer: Result, *words: str) -> None:
    """The command failed with one line that holds these words."""
    line = answer.stderr.strip("\n")
    assert answer.exit_code != 0 and "\n" not in line, line
    assert line.startswith("itd: error: ") and all(word in line for word in words), line
