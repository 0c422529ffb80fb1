"""`itd efficiency`: how cheap a dynamic network can be at the same predictions."""

from __future__ import annotations

import click

from itd_cli.options import bootstrap_options, emit, measured, output_options


@click.command(
    epilog="Example: itd sweep --model resnet50 --attr stride,size --options stride:1,2,3,4 --options size:1,3 "
    "--stride-range 1,1024, then itd efficiency results/resnet50-stride+size.parquet --plot fig6.png"
)
@click.argument("result", metavar="RESULT")
@bootstrap_options
@output_options(plot=True)
def efficiency(result: str, count: int, seed: int, as_json: bool, csv_path: str | None, plot: str | None) -> None:
    """The cheapest configurations of RESULT that predict the same, image by image (the paper's section 4.6, Fig. 6).

    For each image the cheapest configuration with the prediction of the static default, and the cheapest with the
    oracle's: both are bounds, as they know that prediction. Held out: the cheapest one configuration for all images
    that is as accurate as the default, chosen on nine of ten folds and measured on the tenth. Costs are
    multiply-accumulates of one image.

    \b
    JSON: {result, n, static, best, cheapest_as_static, cheapest_as_best:
      {accuracy, macs, factor: {value, low, high, n}}, matched_topk,
      cheapest_fixed: {accuracy, macs, factor, choices: [config]} or null,
      points: [{config, settings, macs, accuracy, pareto}], macs_unknown: [name]}
    """
    from itd.analysis import efficiency as measure
    from itd.analysis.figures import efficiency_figure
    from itd.analysis.tables import efficiency_table

    (answer,) = measured((result,), lambda one: measure(one, resamples=count, seed=seed))
    emit(
        as_json,
        csv_path,
        answer.as_dict(),
        lambda: efficiency_table(answer),
        answer.rows,
        plot,
        lambda: efficiency_figure(answer),
    )
