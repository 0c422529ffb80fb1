"""`itd unique`: how many distinct predictions the configurations make."""

from __future__ import annotations

import click

from itd_cli.options import bootstrap_options, emit, measured, output_options, results_argument


@click.command(epilog="Example: itd unique results/*.parquet --plot unique.png")
@results_argument
@bootstrap_options
@output_options(plot=True)
def unique(
    results: tuple[str, ...], count: int, seed: int, as_json: bool, csv_path: str | None, plot: str | None
) -> None:
    """How many distinct classes the configurations predict for an image (the paper's section 4.2 and Fig. 2).

    All agree: the share of images for which every configuration predicts the same class. The CSV and the figure hold
    the histogram.

    \b
    JSON: [{result, n, configs, agree: {value, low, high, n}, mean: {...}, median, most,
      histogram: {distinct predictions: images}}]
    """
    from itd.analysis import unique as measure
    from itd.analysis.figures import unique_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import unique_table

    rows = measured(results, lambda result: measure(result, resamples=count, seed=seed))
    emit(
        as_json,
        csv_path,
        [row.as_dict() for row in rows],
        lambda: unique_table(rows),
        lambda: rows_of(rows),
        plot,
        lambda: unique_figure(rows),
    )
