"""`itd train`: a network from scratch, with or without a learned dynamic convolution."""

from __future__ import annotations

import os
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
from itd_cli.rof import epoch_images_option, milestones_option, show_steps

_COUNT = click.IntRange(min=1)


@click.command(epilog="Example: itd train --model cifar-resnet18 --op condconv --data cifar10 --epochs 30")
@model_options(default="cifar-resnet18")
@click.option("--data", metavar=SOURCE, help="Training images, as of itd sweep; default $ITD_DATA, else the digits.")
@labels_option()
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@preprocess_options
@click.option("--num-classes", type=_COUNT, metavar="K", help="Default those of --data.")
@click.option("--weights", default="none", show_default=True, metavar="FILE|none", help="What to begin with.")
@click.option("--epochs", type=_COUNT, default=30, show_default=True, metavar="N")
@click.option("--lr", type=float, default=0.1, show_default=True, metavar="R", help="The highest learning rate.")
@click.option("--schedule", "shape", default="onecycle", show_default=True, metavar="S",
              help="Of the learning rate: onecycle, cosine or step.")  # fmt: skip
@milestones_option
@click.option("--batch-size", type=_COUNT, default=64, show_default=True, metavar="N")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True, metavar="R")
@click.option("--label-smoothing", type=float, default=0.0, show_default=True, metavar="R")
@epoch_images_option
@click.option("--test", metavar=SOURCE,
              help="Held-out images: top-1 after each epoch goes to the learning curve (.epochs.csv).")  # fmt: skip
@labels_option("--test-labels", "--test")
@click.option("--test-every", type=_COUNT, default=1, show_default=True, metavar="N", help="Every Nth of --test.")
@click.option("--precision", default="fp32", show_default=True, metavar="P", help="fp32, bf16 or fp16.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@workers_option
@click.option("--out", metavar="FILE", help="Default trained/<model>.safetensors.")
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def train(
    epochs: int,
    lr: float,
    shape: str,
    milestones: tuple[int, ...] | None,
    batch_size: int,
    weight_decay: float,
    precision: str,
    seed: int,
    as_json: bool,
    progress: Progress,
    **given: Any,
) -> None:
    """Train a network from scratch: SGD with momentum under one-cycle, cosine or step learning rate.

    Writes a plain state dict that `itd sweep --weights`, `itd evaluate` and `itd predict` take, beside it how it was
    made (.json), the loss of each step (.csv) and, with --test, the learning curve (.epochs.csv). A checkpoint each
    epoch: the same command goes on after a kill. Several GPUs: torchrun.

    \b
    JSON: {out, model, epochs, steps, images, already}
    """
    from itd import Schedule, TrainRequest
    from itd import train as run

    schedule = Schedule(
        epochs=epochs, lr=lr, milestones=milestones, weight_decay=weight_decay, batch_size=batch_size,
        precision=precision, seed=seed, shape=shape,
    )  # fmt: skip
    request = TrainRequest(schedule=schedule, **given)
    with resumable(progress, "the last whole epoch"):
        report = run(request, on_start=lambda steps: show_steps(steps, progress), on_prepare=progress.prepare)
    if int(os.environ.get("RANK", "0")):
        return
    if as_json:
        print_json(report.__dict__)
        return
    note("the weights are there already" if report.already else f"after {report.epochs} epochs, {report.steps} steps")
    echo(f"weights: {report.out}")
