"""`itd compare-layers`: learned dynamic convolutions against the plain one, measured here."""

from __future__ import annotations

import click

from itd_cli.options import SOURCE, check_plot, echo, emit, output_options, workers_option
from itd_cli.progress import Progress, progress_option

MODELS = "cifar-resnet18,cifar-resnet18+involution,cifar-resnet18+condconv,cifar-resnet18+weightnet,cifar-resnet18+se"


@click.command(
    name="compare-layers", epilog="Example: itd compare-layers --data cifar10 --folder trained --plot layers.png"
)
@click.option("--models", default=MODELS, metavar="NAME[,NAME]", help="Default: CIFAR ResNet-18 with each operator.")
@click.option("--data", metavar=SOURCE, help="Images to test weights on; default $ITD_DATA, else digits.")
@click.option("--folder", default="trained", show_default=True, metavar="DIR", help="Weights of `itd train`, by name.")
@click.option(
    "--side", "side_px", type=click.IntRange(min=8), metavar="PX", help="Of what is timed; default the data's."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
@click.option("--repeats", type=click.IntRange(3, 10_000), default=10, show_default=True, metavar="N")
@click.option("--epoch-images", type=click.IntRange(min=1), default=40_000, show_default=True, metavar="N")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="N images of --data, of as many classes as there are."
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@workers_option
@click.option("--curves", metavar="FILE", callback=check_plot, help="Draw the learning curves of --folder.")
@progress_option
@output_options(plot=True)
def compare_layers(
    models: str,
    data: str | None,
    folder: str,
    side_px: int | None,
    batch_size: int,
    repeats: int,
    epoch_images: int,
    limit: int | None,
    device: str | None,
    workers: int,
    curves: str | None,
    progress: Progress,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
) -> None:
    """Parameters, multiply-accumulates, measured times and, where `itd train` left weights, accuracy.

    Times are medians over rounds in which the networks take turns. s/epoch is a measured training step times the steps
    of an epoch: no images are read for it.

    \b
    JSON: a list of {model, params, megabytes, macs,
      forward_ms, epoch_s: {median, low, high}, top1: or null, n}
    """
    from itd import CompareLayersRequest
    from itd import compare_layers as run
    from itd.training.compare_layers import comparison_figure, comparison_table, default_side_px, learning_curves

    request = CompareLayersRequest(
        tuple(part.strip() for part in models.split(",") if part.strip()), data, folder,
        side_px or default_side_px(data), batch_size, repeats, epoch_images, limit, device, workers,
    )  # fmt: skip
    drawn = learning_curves(request) if curves else None  # says so at once where there are none
    rows = run(request, progress=progress.say)
    emit(
        as_json,
        csv_path,
        [row.as_dict() for row in rows],
        lambda: comparison_table(rows, request),
        lambda: comparison_figure(rows, request).rows,
        plot,
        lambda: comparison_figure(rows, request),
    )
    if drawn and curves:
        drawn.save(curves)
        echo(f"figure: {curves}", err=as_json)
