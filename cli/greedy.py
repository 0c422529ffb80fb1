"""`itd greedy`: how few configurations reach most of the best case."""

from __future__ import annotations

from collections.abc import Callable

import click

from itd_cli.options import bootstrap_options, emit, held_out_options, measured, output_options, results_argument
from itd_cli.real_labels import real_labels_option, relabelled

READABLE = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200, 300, 500)


def _parse_steps(ctx: click.Context, param: click.Parameter, text: str | None) -> Callable[[int, int], bool]:
    """The rows to show: `all`, K for the first K, or K,K,... for these."""
    if text is None:
        return lambda k, last: k in READABLE or k == last or (k > 500 and k % 1000 == 0)
    if text.strip() == "all":
        return lambda k, last: True
    try:
        wanted = [int(part) for part in text.split(",")]
    except ValueError:
        wanted = []
    if not wanted or min(wanted) < 1:
        raise click.BadParameter(
            f"{text!r} is not a number of rows; allowed are all, K for the first K, or a list such as 1,2,5", ctx
        )
    if len(wanted) == 1:
        return lambda k, last: k <= wanted[0]
    return lambda k, last: k in wanted


def _parse_reach(ctx: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
    """Accuracies as fractions."""
    try:
        accuracies = tuple(float(part) for part in text.split(","))
    except ValueError:
        accuracies = ()
    if not accuracies or not all(0 < percent <= 100 for percent in accuracies):
        raise click.BadParameter(f"{text!r} is not an accuracy in percent; allowed is for example 85 or 80,85,90", ctx)
    return tuple(percent / 100 for percent in accuracies)


@click.command(epilog="Example: itd greedy results/resnet50-*.parquet --plot greedy.png")
@results_argument
@output_options(plot=True)
@held_out_options
@real_labels_option
@bootstrap_options
@click.option(
    "--reach",
    default="85",
    show_default=True,
    callback=_parse_reach,
    metavar="PERCENT[,..]",
    help="Say how many configurations reach these accuracies.",
)
@click.option("--partial", is_flag=True, help="Also read a result whose sweep is not finished.")
@click.option(
    "--steps",
    "shown",
    metavar="K",
    callback=_parse_steps,
    help="Rows of the text table: the first K, or K,K,... or all.  [default: 1, 2, 3, 4, 5, 6, 8, 10, 15, ...]",
)
def greedy(
    results: tuple[str, ...],
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
    partial: bool,
    shown: Callable[[int, int], bool],
    reach: tuple[float, ...],
    folds: int,
    repeats: int,
    real_labels: str | None,
    count: int,
    seed: int,
) -> None:
    """Best-case accuracy of one to all configurations of each RESULT, added greedily (the paper's section 4.2).

    Each step adds the configuration that is right on most of the images that no earlier one is right on. Ties go to the
    higher mean quality, then the default configuration, then the lower number.

    Held out, which comes first: lists chosen on nine of ten folds and measured on the tenth, which is what the printed
    list achieves on images that it was not chosen on; its intervals repeat the choice in each resample and are of the
    first ten steps. In-sample: the printed list on the images that it was chosen on, too high by some points.

    At most: on these images no k configurations whatever do better. Top-k: the static network with as many guesses for
    each image as the first k configurations make distinct predictions.

    \b
    JSON: [{result, n, static, reach: {percent: k or null},
      held_out: [{k, accuracy, low, high, matched_topk, guesses}],
      steps: [{k, config, settings, accuracy, upper_bound, matched_topk}]}]
    """
    from itd.analysis import greedy as accumulate
    from itd.analysis.figures import greedy_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import greedy_table

    curves = measured(
        results,
        lambda result: accumulate(
            relabelled(result, real_labels), partial=partial, folds=folds, repeats=repeats, resamples=count, seed=seed
        ),
    )
    emit(
        as_json,
        csv_path,
        [curve.as_dict(reach) for curve in curves],
        lambda: "\n\n".join(greedy_table(curve, shown, reach) for curve in curves),
        lambda: rows_of(curves),
        plot,
        lambda: greedy_figure(curves),
    )
