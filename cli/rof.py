"""`itd rof`: random-option fine-tuning, with the sweeps before and after."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from itd_cli.options import (
    SOURCE,
    echo,
    labels_option,
    model_options,
    note,
    preprocess_options,
    print_json,
    resumable,
    workers_option,
)
from itd_cli.progress import Progress, progress_option


def _milestones(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of epochs; allowed is for example 10 or 8,12") from None
    return found


milestones_option = click.option(
    "--milestones",
    callback=_milestones,
    metavar="E[,E]",
    help="Epochs after which the rate is divided by ten; default two thirds of them.",
)


def epoch_images_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--epoch-images N`, and its old name `--limit`, which is that of evaluation images everywhere else."""

    @functools.wraps(command)
    def renamed(*args: Any, old_limit: int | None, **given: Any) -> Any:
        if old_limit is not None:
            note("--limit is now --epoch-images, of which an epoch takes as many")
            given["epoch_images"] = given["epoch_images"] or old_limit
        return command(*args, **given)

    count = click.IntRange(min=1)
    renamed = click.option("--limit", "old_limit", type=count, hidden=True)(renamed)
    return click.option("--epoch-images", type=count, metavar="N", help="Images of each epoch; default all.")(renamed)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    count = click.IntRange(min=1)
    options: list[Callable[..., Any]] = (
        [
            model_options(default="resnet50"),
            click.option("--attr", "attributes", default="stride", show_default=True, metavar="A[,A]"),
            click.option("--sites", metavar="S", help="ABCD, a part of it, auto, or A=path[+path],B=path."),
            click.option("--options", multiple=True, metavar="O", help="As of itd sweep."),
            click.option("--data", metavar=SOURCE, help="Training images; default $ITD_DATA, else the digits."),
            labels_option(),
            click.option("--val", metavar=SOURCE, help="Sweep these before and after, and print both."),
            labels_option("--val-labels", "--val"),
            click.option("--val-limit", type=count, metavar="N", help="N images of --val, of all classes."),
            click.option("--classes", "classes_file", metavar="FILE", help="One class name per line."),
            click.option("--num-classes", type=count, metavar="K", help="Default the weights' own, else 1000."),
            click.option("--weights", metavar="NAME|FILE|none", help="What to begin with."),
            preprocess_options,
            click.option("--epochs", type=count, default=15, show_default=True, metavar="N"),
            click.option("--lr", type=float, default=0.001, show_default=True, metavar="R"),
            milestones_option,
            click.option("--batch-size", type=count, default=64, show_default=True, metavar="N"),
            epoch_images_option,
            click.option("--bn", default="train", show_default=True, metavar="M",
                         help="train, or frozen: normalise with the statistics of the weights."),
            click.option("--per-sample", type=count, default=1, show_default=True, metavar="K",
                         help="Configurations in each batch, one for each part of it."),
            click.option("--distill", is_flag=True, help="The default's outputs teach the drawn configuration."),
            click.option("--precision", default="fp32", show_default=True, metavar="P", help="fp32, bf16 or fp16."),
            click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
            click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one."),
            workers_option,
            click.option("--out", metavar="FILE", help="Default rof/<model>-<attr>.safetensors."),
            progress_option,
            click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output."),
        ]
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    epilog="Example: itd rof --model resnet50 --attr stride --epochs 15 --data /imagenet/train --val /imagenet/val"
)
@_options
def rof(
    val: str | None,
    val_labels_file: str | None,
    val_limit: int | None,
    epochs: int,
    lr: float,
    milestones: tuple[int, ...] | None,
    batch_size: int,
    bn: str,
    precision: str,
    seed: int,
    as_json: bool,
    progress: Progress,
    **given: Any,
) -> None:
    """Fine-tune a network so that it bears any configuration: each batch trains one drawn at random (section 3.4).

    Writes a plain torchvision state dict that `itd sweep --weights` takes, beside it how it was made (.json) and the
    loss of each step (.csv). A checkpoint each epoch: the same command goes on after a kill. Several GPUs: torchrun.

    With --val (for the digits always): worst, median, best and volatility before and after, as the paper's Table 2.

    \b
    JSON: {out, sha256, epochs, steps, configs, before, already,
      compare: as `itd compare --json`, or null}
    """
    from itd import RofRequest, Schedule
    from itd import rof as run

    schedule = Schedule(
        epochs=epochs, lr=lr, milestones=milestones, batch_size=batch_size, precision=precision, bn=bn, seed=seed
    )
    request = RofRequest(schedule=schedule, **given)
    with resumable(progress, "the last whole epoch"):
        report = run(request, on_start=lambda steps: show_steps(steps, progress), on_prepare=progress.prepare)
    if int(os.environ.get("RANK", "0")):
        return
    there = "are there already" if report.already else f"after {report.epochs} epochs, {report.steps} steps"
    note(f"weights {there}: {report.out}")
    found = _compared(request, report, {"data": val, "labels_file": val_labels_file, "limit": val_limit}, progress)
    if as_json:
        print_json({**report.__dict__, "compare": None if found is None else found.as_dict()})
    elif found is not None:
        from itd.analysis.tables import compare_table

        echo(compare_table(found))
    else:
        echo(f"weights: {report.out}")


def _compared(request: Any, report: Any, val: dict[str, Any], progress: Progress) -> Any:
    """The sweeps of the validation images before and after, held against each other."""
    from itd.data.digits import DIGITS
    from itd.data.open import data_source

    data = val["data"] or (DIGITS if data_source(request.data) == DIGITS else None)
    if data is None:
        return None
    from itd.analysis import compare
    from itd.store import open_result
    from itd_cli.sweep import run_sweep

    stem = report.out.removesuffix(".safetensors")
    results = []
    for name, weights in (("before", report.before), ("after", report.out)):
        out = f"{stem}-{name}.parquet"
        swept = request.sweep(**val | {"data": data}, weights=weights, out=out, workers=request.workers)
        run_sweep(swept, progress)
        results.append(open_result(out))
    return compare(*results)


def show_steps(steps: int, progress: Progress) -> Callable[[int, float], Any]:
    """Shows the steps of a training and the loss of the latest."""
    progress.start(steps, "steps")
    return lambda done, loss: progress.reach(done, f"loss {loss:.3f}")
