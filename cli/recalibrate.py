"""`itd recalibrate`: batch normalisation re-estimated for each configuration, with no training at all."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import (
    SOURCE,
    class_subset_option,
    labels_option,
    model_options,
    overwrite_option,
    preprocess_options,
    resumable,
    sweep_workers_option,
)
from itd_cli.progress import Progress, progress_option
from itd_cli.sweep import end_sweeps, note_report, show_sweep


@click.command(
    epilog="Example: itd recalibrate --model resnet50 --attr stride --data /imagenet/train --val /imagenet/val, then "
    "itd compare results/resnet50-stride.parquet results/resnet50-stride-recalibrated.parquet"
)
@model_options(default="resnet50")
@click.option("--attr", "attributes", default="stride", show_default=True, metavar="A[,A]")
@click.option("--sites", metavar="S", help="ABCD, a part of it, auto, or A=path[+path],B=path.")
@click.option("--options", multiple=True, metavar="O", help="As of itd sweep.")
@click.option("--weights", metavar="NAME|FILE|none", help="As of itd sweep.")
@click.option(
    "--data", "train", metavar=SOURCE, help="Training images, whose labels are not read: what the statistics are of."
)
@click.option("--images", type=click.IntRange(min=2), default=256, show_default=True, metavar="M", help="Of --data.")
@click.option("--val", metavar=SOURCE, help="Images to sweep; default $ITD_DATA, else the digits.")
@labels_option(of="--val")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="N images of --val, of as many classes as there are."
)
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="K", help="Each K-th image of --val.")
@preprocess_options
@class_subset_option
@click.option("--num-classes", type=click.IntRange(min=1), metavar="K", help="Default the weights' own, else 1000.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the drawn images.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@sweep_workers_option
@click.option("--out", metavar="PATH", help="Default results/<model>-<attr>-recalibrated.parquet.")
@overwrite_option
@progress_option
def recalibrate(train: str | None, images: int, seed: int, val: str | None, progress: Progress, **given: Any) -> None:
    """Re-estimate batch normalisation for each configuration on training images, then sweep --val with it.

    No weight is trained and no label is read. Compare the result with a plain sweep of the same images: what changes
    is how much of the volatility was only normalisation statistics.
    """
    from itd import RecalibrateRequest, SweepRequest
    from itd import recalibrate as run

    request = RecalibrateRequest(SweepRequest(data=val, **given), train, images, seed)
    with resumable(progress, "what is in the result"):
        report = run(request, on_start=lambda begun: show_sweep(begun, progress), on_prepare=progress.prepare)
    note_report(report)
    end_sweeps([report])
