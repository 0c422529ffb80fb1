"""`itd evaluate`: top-1 and top-5 of a network on labelled images."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import (
    SOURCE,
    class_subset_option,
    echo,
    labels_option,
    model_options,
    preprocess_options,
    print_json,
    workers_option,
)
from itd_cli.progress import Progress, progress_option

_COUNT = click.IntRange(min=1)


@click.command(epilog="Example: itd evaluate --model cifar-resnet18 --op se --weights FILE --data cifar10")
@model_options(default="cifar-resnet18")
@click.option("--weights", metavar="NAME|FILE|none", help="Of `itd train`, torchvision's enum, .pth or .safetensors.")
@click.option("--data", metavar=SOURCE, help="Labelled images, as of itd sweep; default $ITD_DATA, else the digits.")
@labels_option()
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@preprocess_options
@class_subset_option
@click.option("--num-classes", type=_COUNT, metavar="K", help="Default the weights' own, else 1000.")
@click.option("--limit", type=_COUNT, metavar="N", help="N images, of as many classes as there are.")
@click.option("--batch-size", type=_COUNT, default=64, show_default=True, metavar="N")
@click.option("--precision", default="fp32", show_default=True, metavar="P", help="fp32, tf32, bf16 or fp16.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@workers_option
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def evaluate(as_json: bool, progress: Progress, **fields: Any) -> None:
    """Top-1 and top-5 accuracy of a network, in evaluation mode, on labelled images.

    \b
    JSON: {model, weights, n, top1, top5, top1_interval: [low, high]}, top5 null for fewer than six classes
    """
    from itd import EvaluateRequest
    from itd import evaluate as run

    def start(images: int) -> Any:
        progress.start(images, "images")
        return progress.update

    evaluation = run(EvaluateRequest(**fields), on_start=start, on_prepare=progress.prepare)
    if as_json:
        print_json(evaluation.as_dict())
        return
    top5 = "" if evaluation.top5 is None else f", top-5 {100 * evaluation.top5:.2f}%"
    low, high = evaluation.top1_interval
    echo(
        f"{evaluation.model}, {evaluation.weights}: top-1 {100 * evaluation.top1:.2f}% ({100 * low:.2f} to "
        f"{100 * high:.2f}){top5} (n = {evaluation.n:,})"
    )
