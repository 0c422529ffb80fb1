"""What commands share: options, output, and what they say of work that goes on later."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from itd.errors import EmptyResultError, ResultError
from itd.text import visible
from itd_cli.signals import keeping

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@contextlib.contextmanager
def resumable(bar: Any, kept: str) -> Iterator[None]:
    """Work that the same command goes on with: a signal says what is kept, and the bar is closed at any end."""
    with keeping(f"{kept} is kept"):
        try:
            yield
        finally:
            bar.close()


def output_options(*, plot: bool = False) -> Callable[[F], F]:
    """`--json`, `--csv FILE` and, where the command draws, `--plot FILE`."""

    def add(command: F) -> F:
        if plot:
            command = click.option(
                "--plot", metavar="FILE", callback=check_plot, help="Draw a figure: .png, .svg or .pdf."
            )(command)
        command = click.option("--csv", "csv_path", metavar="FILE", help="Write the figures as CSV.")(command)
        return click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")(command)

    return add


def bootstrap_options(command: F) -> F:
    """`--resamples N` and `--seed S`: of the 95% intervals, and of the halves that choosing and measuring keep to."""
    command = click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the resamples."
    )(command)
    return click.option(
        "--resamples",
        "count",
        type=click.IntRange(20, 100_000),
        default=1000,
        show_default=True,
        metavar="N",
        help="Bootstrap resamples of the 95% intervals.",
    )(command)


def held_out_options(command: F) -> F:
    """`--folds N` and `--repeats N`: of the held-out curve."""
    command = click.option(
        "--repeats",
        type=click.IntRange(1, 1000),
        default=20,
        show_default=True,
        metavar="N",
        help="Divisions into folds that the held-out curve is the mean of.",
    )(command)
    return click.option(
        "--folds",
        type=click.IntRange(min=0),
        default=10,
        show_default=True,
        metavar="N",
        help="Folds of the held-out curve; 0 leaves it out.",
    )(command)


def model_options(*, ending: str = "", **how: Any) -> Callable[[F], F]:
    """`--model NAME` and what makes a name together with it: `--model-arg key=value`, `--op OP`, `--multiplier M`.

    The command is given the one name that they make. ending: of the help. how: as of `click.option`.
    """

    def add(command: F) -> F:
        @functools.wraps(command)
        def composed(*args: Any, op: str, multiplier: int | None, model_arg: tuple[str, ...], **options: Any) -> Any:
            if op != "conv" or multiplier is not None:
                from itd.layers.models import learned_name

                options["model"] = learned_name(options["model"] or "", op, multiplier)
            if model_arg:
                from itd.patcher.names import name_with_arguments

                options["model"] = name_with_arguments(options["model"] or "", model_arg)
            return command(*args, **options)

        for option in reversed(_model_options(ending, how)):
            composed = option(composed)
        return composed  # type: ignore[return-value]

    return add


def _model_options(ending: str, how: dict[str, Any]) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--model", metavar="NAME", show_default=how.get("default") is not None,
            help="torchvision's name, such as resnet50; one of `itd models --learned`; timm/NAME; or code that gives "
            f"a network, FILE.py:NAME or package.module:NAME{ending}.", **how,
        ),
        click.option(
            "--model-arg", multiple=True, metavar="KEY=VALUE",
            help="An argument of FILE.py:NAME or package.module:NAME: a Python literal, else text; again for another.",
        ),
        click.option(
            "--op", default="conv", show_default=True, metavar="OP",
            help="conv, involution, condconv, weightnet or se, for the models of `itd models --learned`.",
        ),
        click.option(
            "--multiplier", type=click.IntRange(min=1), metavar="M", help="Of --op weightnet: its lambda; default 1."
        ),
    ]  # fmt: skip


def preprocess_options(command: F) -> F:
    """`--resize`, `--crop`, `--crop-fraction`, `--mean`, `--std` and `--interpolation`; default the weights' own."""
    count = click.IntRange(min=1)
    for option in (
        click.option(
            "--interpolation", type=click.Choice(INTERPOLATIONS), help="Of the resize; default the weights' own."
        ),
        click.option("--std", callback=_three, metavar="R,G,B", help="Of values in 0 to 1; default the weights' own."),
        click.option("--mean", callback=_three, metavar="R,G,B", help="Of values in 0 to 1; default the weights' own."),
        click.option(
            "--crop-fraction", type=float, metavar="F", help="The crop's share of the resized side, not --resize."
        ),
        click.option("--crop", "crop_px", type=count, metavar="PX", help="Centre crop; default the weights' own."),
        click.option("--resize", "resize_px", type=count, metavar="PX", help="Shorter side; default the weights' own."),
    ):
        command = option(command)
    return command


class_subset_option = click.option(
    "--class-subset", default="all", show_default=True, metavar="S",
    help="What predictions are among: all, present (the classes that the whole set has), or a FILE of classes.",
)  # fmt: skip
"""`--class-subset S`: for sets of fewer classes than the network's, such as ImageNet-A and -R."""


workers_option = click.option(
    "--workers", type=click.IntRange(0, 1024), default=0, metavar="N", help="Processes that decode."
)
"""`--workers N`: a number that no machine has would be started, one by one, until it has no memory left."""


sweep_workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    metavar="N",
    help="Processes that decode; default 0, on a GPU the cores of this machine.",
)
"""`--workers N` of a sweep, which goes on for long enough to have as many as the machine bears."""


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Throw away a result of another run at --out; one of the same run goes on."
)
"""`--overwrite`, where a result is written."""


def _three(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not three numbers; allowed is for example 0.485,0.456,0.406") from None


SOURCE = "DIR|TAR|hf:NAME|digits"
"""What `--data` takes, as help texts name it; `SOURCES` says it in full."""
SOURCES = (
    "A folder per class, or any folder with --labels; tar shards, as shards-{000..063}.tar; hf:NAME[:SPLIT] or a "
    "folder that datasets saved; cifar10, cifar100; digits, at many scales; digits-one-scale"
)


def labels_option(name: str = "--labels", of: str = "--data") -> Callable[[F], F]:
    """The CSV file with the classes of a folder's images. of: the option that the folder is given by."""
    return click.option(
        name,
        f"{name.strip('-').replace('-', '_')}_file",
        metavar="FILE.csv",
        help=f"With the header path,label: the images of the folder {of} and the index or name of the class of each.",
    )


def results_argument(command: F) -> F:
    """One or more results."""
    return click.argument("results", nargs=-1, required=True, metavar="RESULT...")(command)


INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
"""`itd.data.preprocess.INTERPOLATIONS`, whose module loads torch."""


def print_json(value: Any) -> None:
    """JSON on standard output: one object a line, so that it is easy to look at and to cut."""
    if isinstance(value, list):
        echo("[" + ",\n ".join(json.dumps(item) for item in value) + "]")
    else:
        echo(json.dumps(value))


OPTIONS = {
    "attributes": "attr",
    "classes_file": "classes",
    "context_px": "context",
    "crop_px": "crop",
    "input_px": "input",
    "labels_file": "labels",
    "resize_px": "resize",
    "shape": "schedule",
    "space_file": "space",
}
"""Parameter of the library -> its option, where that is not its own name with dashes."""


def as_typed(message: str) -> str:
    """A message of the library, which names parameters as `name` or `name=value`, with the options of commands.

    >>> as_typed("give a smaller `batch_size`, or `precision=fp32`")
    'give a smaller --batch-size, or --precision fp32'
    """

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        return f"--{OPTIONS.get(name, name).replace('_', '-')}" + (f" {value}" if value else "")

    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", option, message)


def echo(text: str, err: bool = False) -> None:
    """A text on standard output or standard error; what a terminal would act on stands as an escape.

    Everything that a command says goes through it, as names of files and what damaged ones hold may be in all of it.
    """
    click.echo(visible(text), err=err)


def note(text: str) -> None:
    """A remark, on standard error, so that standard output holds only what was asked for."""
    echo(f"itd: note: {as_typed(text)}", err=True)


def measured(paths: Sequence[str], measure: Callable[[Any], T]) -> list[T]:
    """What `measure` gives for each result; one without images is passed over with a note, unless all are.

    A note, on standard error, also says which are not finished, have null rows, or have lost their manifest.
    """
    from itd.store import open_result

    answers: list[T] = []
    for number, path in enumerate(paths, start=1):
        result = open_result(path)
        try:
            answers.append(measure(result))
        except EmptyResultError as error:
            if number == len(paths) and not answers:
                raise
            note(f"passed over: {error}")
            continue
        noted(result)
    return answers


def noted(result: Any) -> None:
    """Notes, on standard error, of a result that is not finished, has null rows, or has lost its manifest."""
    if result.partial:
        note(f"{result.path} is not finished: {result.images_done} of {result.images_requested} images are there")
    if result.nulls:
        note(f"{result.path}: images left out because they have null rows: {result.nulls}")
    if result.unprotected:
        note(
            f"{result.path} is older than the hash of its manifest, so that a change of it would not show; "
            f"`itd verify --repair {result.path}` adds it"
        )
    if result.manifest is None:
        what = "has no _itd/manifest.json" if os.path.isdir(result.path) else "is a file by itself"
        note(f"{result.path} {what}: nothing says whether it is whole and as it was written")
        if result.default_index is None:
            note(f"{result.path} does not say which configuration is the network's default, or it is not among its own")


def emit(
    as_json: bool,
    csv_path: str | None,
    value: Any,
    text: Callable[[], str],
    rows: Callable[[], Sequence[Mapping[str, Any]]],
    plot: str | None = None,
    draw: Callable[[], Any] | None = None,
) -> None:
    """What every command that answers from results puts out: JSON or text, then CSV and a figure where asked for."""
    if as_json:
        print_json(value)
    else:
        echo(text())
    if csv_path:
        table = rows()
        write_csv(csv_path, list(dict.fromkeys(name for row in table for name in row)), table)
    if plot and draw:
        draw().save(plot)
        echo(f"figure: {plot}", err=as_json)


def check_plot(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """The path of a figure; a name that says no format is refused before anything is computed."""
    if path is not None:
        from itd.analysis.figures import check_figure_path

        check_figure_path(path)
    return path


def write_csv(path: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as CSV; a value that is absent or None is empty."""
    from itd.files import unwritable, write_atomic

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomic(path, text.getvalue())
    except OSError as error:
        raise ResultError(unwritable(f"the CSV {path}", error, "give --csv another path")) from error
