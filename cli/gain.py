"""`itd gain`: what the oracle gains beyond guessing, result beside result."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import bootstrap_options, emit, measured, note, output_options, results_argument


@click.command(epilog="Example: itd gain plain-stride.parquet condconv-stride.parquet --plot gain.png")
@results_argument
@bootstrap_options
@output_options(plot=True)
def gain(
    results: tuple[str, ...], count: int, seed: int, as_json: bool, csv_path: str | None, plot: str | None
) -> None:
    """What the oracle gains over the static network and over matched top-k, and how that differs from the first RESULT.

    Does a network that already adapts to each image leave less to the oracle? Give plain networks and dynamic ones,
    trained alike and swept on the same images. A gain over matched top-k of zero or less: guessing as often does as
    well, and the oracle found nothing.

    \b
    JSON: a list of {result, configs, n, static, best, matched_topk,
      over_static, over_matched, against_first: {value, low, high, n} or null}
    """
    from itd.analysis._gain import gain as measure
    from itd.analysis.figures import gain_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.scores import require_images
    from itd.analysis.tables import gain_table
    from itd.store import open_result

    def with_images(result: Any) -> Any:
        require_images(result)
        return result

    with_images(open_result(results[0]))  # what the others are held against
    gains = measure(measured(results, with_images), resamples=count, seed=seed)
    for row in gains:
        if row.apart:
            note(f"nothing against first: {row.apart}")
    emit(
        as_json,
        csv_path,
        [row.as_dict() for row in gains],
        lambda: gain_table(gains),
        lambda: rows_of(gains),
        plot,
        lambda: gain_figure(gains),
    )
