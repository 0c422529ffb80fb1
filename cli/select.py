"""`itd select`: what a real selector achieves, cross-validated."""

from __future__ import annotations

import click

from itd_cli.options import bootstrap_options, emit, measured, output_options


@click.command(epilog="Example: itd select results/resnet50-stride.parquet --k 5 --plot cascade.png")
@click.argument("result", metavar="RESULT")
@click.option("--k", type=click.IntRange(min=1), default=5, show_default=True, metavar="K",
              help="Choose among the first K configurations of the greedy list.")  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="F")
@click.option("--partial", is_flag=True, help="Also read a result whose sweep is not finished.")
@bootstrap_options
@output_options(plot=True)
def select(
    result: str,
    k: int,
    folds: int,
    partial: bool,
    count: int,
    seed: int,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
) -> None:
    """What a cascade achieves: run the cheapest configuration, stop if it is sure enough, else run the next.

    Needs no label when it chooses. Cross-validated by image: the greedy list and the threshold are chosen on the other
    folds. Gap closed: how much of the way from static to the oracle over the same K.

    \b
    JSON: {result, n, k, static_macs, static, oracle, single_best: {value, low, high, n},
      chosen: {accuracy, macs, factor}, gap_closed, thresholds, lists,
      curve: [{threshold, accuracy, macs}]}
    """
    from itd.analysis import Resamples
    from itd.analysis.cascade import cascade
    from itd.analysis.figures import cascade_figure
    from itd.analysis.tables import cascade_table

    (found,) = measured(
        (result,),
        lambda one: cascade(one, k=k, folds=folds, partial=partial, resamples=Resamples(one.n, count, seed)),
    )
    emit(
        as_json,
        csv_path,
        found.as_dict(),
        lambda: cascade_table(found),
        lambda: cascade_figure(found).rows,
        plot,
        lambda: cascade_figure(found),
    )
