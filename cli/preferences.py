"""`itd preferences`: which configurations and options images prefer."""

from __future__ import annotations

import click

from itd_cli.options import emit, measured, output_options, results_argument


@click.command(epilog="Example: itd preferences results/resnet50-dilation-scale*.parquet --plot fig5.png")
@results_argument
@output_options(plot=True)
def preferences(results: tuple[str, ...], as_json: bool, csv_path: str | None, plot: str | None) -> None:
    """The share of images that prefer each configuration, and each option at each site (the paper's section 4.5).

    An image prefers its configuration of highest quality; ties go to the smaller nll, then the default, then the order.
    An image that no configuration gets right prefers the least wrong one: the second figure is among those that some
    configuration gets right.
    --plot draws the configurations as lines over the sites (Fig. 1); where results are of varied images (`itd sweep
    --scale`, `--context`), the options against scale or context (Figs. 5 and 7).

    \b
    JSON: [{result, n, solved, model, attributes, variation, default,
      configs: [{config, settings, share: {value, low, high, n}, share_of_solved}],
      options: [{site, attribute, value, share: {value, low, high, n}, share_of_solved}]}]
    """
    from itd.analysis import preferences as measure
    from itd.analysis.figures import preferences_figure, series_of, variation_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import preferences_table

    answers = measured(results, measure)
    emit(
        as_json,
        csv_path,
        [one.as_dict() for one in answers],
        lambda: "\n\n".join(map(preferences_table, answers)),
        lambda: rows_of(answers),
        plot,
        lambda: variation_figure(answers) if series_of(answers) else preferences_figure(answers),
    )
