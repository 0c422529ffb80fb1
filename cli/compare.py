"""`itd compare`: two results of the same images, before and after."""

from __future__ import annotations

import click

from itd_cli.options import bootstrap_options, emit, noted, output_options


@click.command(epilog="Example: itd compare results/before.parquet results/after.parquet")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@bootstrap_options
@output_options(plot=True)
def compare(
    before: str, after: str, count: int, seed: int, as_json: bool, csv_path: str | None, plot: str | None
) -> None:
    """Worst, median, best and volatility of two results and the change, in the layout of the paper's Table 2.

    Both are measured on the images that they share, and the intervals of the change are paired. Volatility is best
    less worst; agree is the share of images for which all configurations predict one class.

    \b
    JSON: {n, total: [of before, of after], before, after: {result, configs, static, worst, median, best, volatility,
      matched_topk, agree: {value, low, high, n}}, change: {the same, after - before}}
    """
    from itd.analysis import compare as measure
    from itd.analysis.figures import compare_figure
    from itd.analysis.tables import compare_table
    from itd.store import open_result

    first, second = open_result(before), open_result(after)
    for result in (first, second):
        noted(result)
    comparison = measure(first, second, resamples=count, seed=seed)
    emit(
        as_json,
        csv_path,
        comparison.as_dict(),
        lambda: compare_table(comparison),
        comparison.rows,
        plot,
        lambda: compare_figure(comparison),
    )
