"""The `itd` command: a table of commands, each loaded only when it is called, and errors as one line."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import gc
import importlib
import os
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click

from itd.errors import ItdError, ItdWarning, SetAsideWarning
from itd.text import first_line
from itd_cli.options import as_typed, echo, note
from itd_cli.signals import Signals

COMMANDS = {
    "sweep": ("itd_cli.sweep:sweep", "Run every configuration of a network on every image."),
    "oracle": ("itd_cli.oracle:oracle", "Static, worst, median and best accuracy of results."),
    "baselines": ("itd_cli.baselines:baselines", "What keeps an oracle honest: matched top-k, chance, votes."),
    "greedy": ("itd_cli.greedy:greedy", "Accuracy of the best few configurations, added greedily."),
    "unique": ("itd_cli.unique:unique", "How many distinct predictions the configurations make."),
    "preferences": ("itd_cli.preferences:preferences", "Which configurations and options images prefer."),
    "efficiency": ("itd_cli.efficiency:efficiency", "The cheapest configurations with the same predictions."),
    "combine": ("itd_cli.combine:combine", "Cross the best configurations of several attributes into a space."),
    "union": ("itd_cli.union:union", "Several results of the same images as one space."),
    "merge": ("itd_cli.merge:merge", "Parts of one result from several folders as one."),
    "compact": ("itd_cli.compact:compact", "The parts of finished results as one file each."),
    "compare": ("itd_cli.compare:compare", "Two results of the same images, before and after."),
    "gain": ("itd_cli.gain:gain", "What the oracle gains beyond guessing, result beside result."),
    "status": ("itd_cli.status:status", "How far results are, and who works on them."),
    "verify": ("itd_cli.verify:verify", "Whether all files of results are whole, and mending them."),
    "images": ("itd_cli.images:images", "Which images are rescued, lost or never right, with a gallery."),
    "report": ("itd_cli.report:report", "Every answer on one self-contained HTML page."),
    "select": ("itd_cli.select:select", "What choosing without the label achieves, cross-validated."),
    "predict": ("itd_cli.predict:predict", "Classify images, really dynamic with a selector."),
    "rof": ("itd_cli.rof:rof", "Fine-tune a network so that it bears any configuration."),
    "recalibrate": ("itd_cli.recalibrate:recalibrate", "Batch normalisation re-estimated for each configuration."),
    "train": ("itd_cli.train:train", "Train a network, with or without a learned dynamic convolution."),
    "evaluate": ("itd_cli.evaluate:evaluate", "Top-1 and top-5 accuracy of a network on labelled images."),
    "compare-layers": (
        "itd_cli.compare_layers:compare_layers",
        "Learned dynamic convolutions against the plain one, measured here.",
    ),
    "sites": ("itd_cli.sites:sites", "What a network's layers can take, and the sites that would be found."),
    "cache": ("itd_cli.cache:cache", "What is kept between runs, and removing it."),
    "models": ("itd_cli.models:models", "List the models, their sites and spaces."),
}
"""name -> (module:attribute, help). The help stands here so that `itd --help` loads no command."""

RENAMED = {"test": "evaluate", "dynamics": "compare-layers"}
"""Former name -> the command that it is now: still there, and not listed."""

BUG = 70
"""The exit status of what nobody expected: sysexits' EX_SOFTWARE."""
_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EROFS)
"""What writing to standard output ends in, where its end is full, broken or closed."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and prints every error as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings_as_notes():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:  # click itself would begin with an empty line
                raise click.Abort() from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        name = args[0]
        if name in RENAMED:
            note(f"`itd {name}` is now `itd {RENAMED[name]}`")
            name, args = RENAMED[name], [RENAMED[name], *args[1:]]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"; did you mean `itd {near[0]}`?" if near else ""
            ctx.fail(f"no such command: {name!r}; the commands are {', '.join(COMMANDS)}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        with Signals(sys.argv[1:] if args is None else args) as signals:
            try:
                code = self._run(signals, args, prog_name or "itd", complete_var, extra)
            except BaseException as error:
                if isinstance(error, SystemExit) or not signals.stopped(error):
                    raise
                signals.say()
                code = signals.code
        sys.exit(code)

    def _run(
        self, signals: Signals, args: Sequence[str] | None, name: str, complete_var: str | None, extra: dict[str, Any]
    ) -> int:
        """The exit status of a command that was not stopped; what else ends it is said, and raises SystemExit."""
        try:
            code = super().main(args, name, complete_var, standalone_mode=False, obj=signals, **extra)
            sys.stdout.flush()
        except BaseException as error:
            if isinstance(error, SystemExit) or signals.stopped(error):
                raise
            _fail(error)
        return code if isinstance(code, int) else 0


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside the block the library's warnings are notes, each as often as it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ItdWarning)
        otherwise = warnings.showwarning

        def show(message: Any, *rest: Any, **named: Any) -> None:
            if isinstance(message, SetAsideWarning):
                return  # the command says it itself, below its progress
            if isinstance(message, ItdWarning):
                note(str(message))
            else:
                otherwise(message, *rest, **named)

        warnings.showwarning = show
        yield


def _usage(error: click.ClickException) -> str:
    """A mistake in the command line as one line, with what to do next."""
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text[:1].lower() + text[1:]
    context = getattr(error, "ctx", None)
    if context is None or "; " in text:
        return text
    return f"{text}; `{context.command_path} --help` shows what is allowed"


def _fail(error: BaseException) -> NoReturn:
    """Ends a command by an error."""
    if isinstance(error, ItdError):
        _end(str(error), 1)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        sys.exit(2)
    if isinstance(error, click.ClickException):
        _end(_usage(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the last flush complain
        sys.exit(1)
    if isinstance(error, Exception):
        _unexpected(error)
    raise error


def _end(message: str, code: int) -> NoReturn:
    echo(f"itd: error: {' '.join(as_typed(message).split())}", err=True)
    sys.exit(code)


def _unexpected(error: Exception) -> NoReturn:
    """What no command expects: of the disk and the memory it is the machine's doing, all else is a bug."""
    if isinstance(error, OSError) and error.errno in _OUTPUT and error.filename is None:
        _end(f"cannot write the output: {error.strerror}; free some space, or send it elsewhere", 1)
    if isinstance(error, OSError) and error.filename is not None:
        mend = "see that it is there, that you may use it, and that the disk is not full"
        _end(f"cannot use {error.filename}: {error.strerror}; {mend}", 1)
    if _is_memory(error):
        _end("there is not enough memory; give less at once, or run it on a larger machine", 1)
    from itd import __version__

    told = "".join(traceback.format_exception(error))
    text = f"itd {__version__}, Python {sys.version}\n{shlex.join(sys.argv)}\n\n{told}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="itd-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
        where = f"its traceback is in {file.name}"
    except OSError:
        echo(told, err=True)
        where = "its traceback stands above"
    what = f"{type(error).__name__}: {first_line(error)}"
    echo(f"itd: internal error: {' '.join(what.split())}; this is a bug of itd: report it, {where}", err=True)
    sys.exit(BUG)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out. torch's own errors are of no use where it was never loaded."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from itd.device import is_out_of_memory

    return is_out_of_memory(error)


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from itd import __version__

        echo(f"itd {__version__}")
        ctx.exit()


@click.group(
    name="itd",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: itd sweep --model resnet50 --attr stride, then itd oracle results/*.parquet",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Oracle evaluation of inference-time-dynamic CNNs: change stride, dilation or kernel size of a pretrained network.

    `itd sweep` runs every configuration on every image and keeps the scores as Parquet; the other commands read them.
    """


def main() -> None:
    """What the `itd` script runs."""
    # Or Python looks for cycles in all of torch as it ends: 1 s of the 4 s of `itd sites` (Python 3.11, torch 2.14).
    atexit.register(gc.freeze)
    _open_closed()
    cli(prog_name="itd")


def _open_closed() -> None:
    """Opens standard streams that are closed, on nothing: a file that is opened next would get their number, and in it
    what a library says on standard error."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as the process lives


if __name__ == "__main__":
    main()
