"""`itd gain`: what the oracle gains beyond guessing, result beside result."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import bootstrap_options, emit, held_out_options, measured, note, output_options, results_argument


@click.command(epilog="Example: itd gain plain-stride.parquet condconv-stride.parquet --plot gain.png")
@results_argument
@held_out_options
@bootstrap_options
@output_options(plot=True)
def gain(
    results: tuple[str, ...],
    folds: int,
    repeats: int,
    count: int,
    seed: int,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
) -> None:
    """What the oracle gains over the static network, beside what as many guesses gain, and against the first RESULT.

    Does a network that already adapts to each image leave less to the oracle? Give plain networks and dynamic ones,
    trained alike and swept on the same images.

    Best less matched top-k is a control on the oracle's figure: at zero or less, as many guesses of the static network
    explain all of it. It is no bound on what choosing can gain: a real selector can still gain, and in large spaces
    matched top-k guesses half of the classes. Held out: the first K configurations of a greedy list on images that it
    was not chosen on, beside as many guesses; --plot draws both against the mean number of guesses.

    p: McNemar's exact two-sided p that two rules are right equally often.

    \b
    JSON: a list of {result, configs, n, static, best, matched_topk,
      over_static, over_matched: {value, low, high, n, p},
      against_first: {value, low, high, n} or null,
      held_out: [{k, accuracy, low, high, matched_topk, guesses,
        over_static, over_matched: {value, low, high, n} or null}]}
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
    gains = measure(measured(results, with_images), folds=folds, repeats=repeats, resamples=count, seed=seed)
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
