"""`itd oracle`: static, worst, median and best accuracy of results, beside the baselines."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import bootstrap_options, emit, measured, output_options, results_argument
from itd_cli.real_labels import real_labels_option, relabelled

MOST_CLASSES = 10
"""Classes of each kind that the text names."""


@click.command(epilog="Example: itd oracle results/*.parquet --csv table1.csv")
@results_argument
@click.option("--by-sites", is_flag=True, help="Every subset of the sites A to D, from the same rows.")
@click.option("--by-class", is_flag=True, help="Each class; the text has those that gain and lose most.")
@click.option("--wide", is_flag=True, help="Every column, also of what does without the label.")
@real_labels_option
@bootstrap_options
@output_options(plot=True)
def oracle(
    results: tuple[str, ...],
    by_sites: bool,
    by_class: bool,
    wide: bool,
    real_labels: str | None,
    count: int,
    seed: int,
    as_json: bool,
    csv_path: str | None,
    plot: str | None,
) -> None:
    """Static, worst, median and best accuracy of each RESULT, as the paper's Table 1, beside what keeps it honest.

    A RESULT is a folder written by `itd sweep`, or one Parquet file with the same columns. Worst, median and best pick,
    for each image, the configuration of lowest, middle and highest quality; static is the network as it was trained. A
    sweep that is not finished is read as far as it is, and a note says how far.

    Beside them: top-k, the static network with as many guesses for each image as the configurations made distinct
    predictions. With --wide also single, the best fixed configuration, chosen on one half and measured on the other;
    confident, the most confident configuration; vote, the majority of all; chance, the best if labels were dealt at
    random. `itd baselines` tells more of them.

    Last, one sentence for each result, whose held-out figures are those of `itd greedy`.

    With --real-labels every class that is in an image counts as right, and images without one are left out; what
    guesses of the network would give is then not known, as a result keeps the rank of one label.

    With --by-class: static, best and top-k of each class, those first to which the oracle adds most and those in which
    it is furthest behind as many guesses.

    With --by-sites: worst, median and best where only some sites are dynamic (the paper's Fig. 4).

    \b
    JSON: [{result, n, configs, static, worst, median, best, nulls, requested,
      intervals: {rule: [low, high]}, baselines: {name: {value, low, high, n}}}]
    JSON of --by-sites: [{result, n, static: {value, low, high, n}, subsets:
      [{sites, configs, worst, median, best, matched_topk}]}]
    JSON of --by-class: [{result, n, classes:
      [{label, name, n, gain, beyond, static: {value, low, high, n}, best, matched_topk}]}]
    """
    if by_class and (by_sites or plot):
        raise click.UsageError("--by-class goes without --by-sites and --plot; give one of them")
    if real_labels and (by_class or by_sites):
        raise click.UsageError("--real-labels goes without --by-class and --by-sites, which need ranks")
    if by_class:
        _by_class(results, as_json, csv_path)
        return
    if by_sites:
        _by_sites(results, as_json, csv_path, plot)
        return
    from itd.analysis import oracle as measure
    from itd.analysis._summary import summary
    from itd.analysis.figures import baselines_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.sampling import as_resamples
    from itd.analysis.tables import oracle_table, sentences

    said: list[Any] = []

    def ask(result: Any) -> Any:
        result = relabelled(result, real_labels).kept()
        drawn = as_resamples(count, result.n, seed)
        answer = measure(result, resamples=drawn)
        if not as_json:
            said.append(summary(result, resamples=drawn))
        return answer

    rows = measured(results, ask)
    emit(
        as_json,
        csv_path,
        [row.as_dict() for row in rows],
        lambda: f"{oracle_table(rows, wide=wide)}\n\n{sentences(said)}",
        lambda: rows_of(rows),
        plot,
        lambda: baselines_figure(rows),
    )


def _by_class(results: tuple[str, ...], as_json: bool, csv_path: str | None) -> None:
    from itd.analysis import by_class
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import classes_table

    answers = measured(results, by_class)
    emit(
        as_json,
        csv_path,
        [one.as_dict() for one in answers],
        lambda: "\n\n".join(classes_table(one, MOST_CLASSES) for one in answers),
        lambda: rows_of(answers),
    )


def _by_sites(results: tuple[str, ...], as_json: bool, csv_path: str | None, plot: str | None) -> None:
    from itd.analysis import by_sites
    from itd.analysis.figures import sites_figure
    from itd.analysis.frames import rows_of
    from itd.analysis.tables import subsets_table

    answers = measured(results, by_sites)
    emit(
        as_json,
        csv_path,
        [one.as_dict() for one in answers],
        lambda: "\n\n".join(map(subsets_table, answers)),
        lambda: rows_of(answers),
        plot,
        lambda: sites_figure(answers),
    )
