"""`itd baselines`: what keeps an oracle honest."""

from __future__ import annotations

import click

from itd_cli.options import bootstrap_options, emit, measured, output_options, results_argument
from itd_cli.real_labels import real_labels_option, relabelled


def parse_ks(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    """Lengths of the greedy lists that vote."""
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        ks = ()
    if not ks or not all(1 <= k <= 255 for k in ks):
        raise click.BadParameter(f"{text!r} is not a list of lengths; allowed are 1 to 255, as in 3,5,10", ctx)
    return ks


@click.command(epilog="Example: itd baselines results/resnet50-stride.parquet --plot baselines.png")
@results_argument
@click.option("--votes", "ks", default="3,5,10", show_default=True, callback=parse_ks, metavar="K[,K]",
              help="Lengths of the greedy lists that vote.")  # fmt: skip
@click.option("--num-classes", type=click.IntRange(min=1), metavar="K", help="Of chance with every class as likely.")
@real_labels_option
@bootstrap_options
@output_options(plot=True)
def baselines(
    results: tuple[str, ...],
    ks: tuple[int, ...],
    num_classes: int | None,
    real_labels: str | None,
    count: int,
    seed: int,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
) -> None:
    """Every baseline of each RESULT with its 95% interval, beside the oracle it is held against.

    \b
    matched_topk    the static network may guess as many classes for an image as the
                    configurations made distinct predictions there: a control on the
                    oracle's figure, and no bound on what choosing can gain
    chance          the oracle, if these images' labels were dealt at random
    single_best     the best fixed configuration, chosen on one half of the images,
                    measured on the other, both ways
    most_confident  the configuration with the largest softmax value, image by image
    vote_all        the class that the most configurations predict
    vote_first_k    the same of the first k of the greedy list, chosen on one half,
                    measured on the other, both ways

    Intervals of a share of the images are Wilson's; of what is chosen, and of chance, percentiles over resamples of the
    images, choosing repeated in each.

    \b
    JSON: as `itd oracle --json`, with vote_first_<k> among the baselines.
    """
    from itd.analysis import oracle
    from itd.analysis.figures import baselines_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import baselines_table

    rows = measured(
        results,
        lambda result: oracle(
            relabelled(result, real_labels), vote_ks=ks, num_classes=num_classes, resamples=count, seed=seed
        ),
    )
    emit(
        as_json,
        csv_path,
        [row.as_dict() for row in rows],
        lambda: "\n\n".join(map(baselines_table, rows)),
        lambda: rows_of(rows),
        plot,
        lambda: baselines_figure(rows),
    )
