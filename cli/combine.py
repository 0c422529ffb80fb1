"""`itd combine`: the most useful configurations of several attributes, crossed into one space."""

from __future__ import annotations

import click

from itd_cli.options import emit, noted, output_options, results_argument


@click.command(
    epilog="Example: itd combine results/resnet50-stride.parquet results/resnet50-size.parquet -o space.json, then "
    "itd sweep --model resnet50 --space space.json"
)
@results_argument
@click.option("--budget", type=click.IntRange(min=1), default=625, show_default=True, metavar="N",
              help="At most this many configurations in all.")  # fmt: skip
@click.option("-o", "--out", default="space.json", show_default=True, metavar="FILE", help="The space, for itd sweep.")
@click.option("--partial", is_flag=True, help="Also read a result whose sweep is not finished.")
@output_options()
def combine(
    results: tuple[str, ...], budget: int, out: str, partial: bool, as_json: bool, csv_path: str | None
) -> None:
    """Cross the first m greedy configurations of each RESULT, m**n <= budget (the paper's section 4.4 and eq. 2).

    Give one result for each attribute, of one network on the same images; `itd sweep --space FILE` then runs them.
    Sweep them on other images than these: the lists were chosen here. Held out: what lists of m achieve on images that
    they were not chosen on.

    \b
    JSON: {results, attributes, n, budget, per_attribute, chosen: [[config]], configs, in_sample: [accuracy],
      held_out: [{k, accuracy, low, high, matched_topk, guesses}], space}
    """
    from itd.analysis import combine as cross
    from itd.analysis.tables import combination_text
    from itd.space import write_space
    from itd.store import open_result

    opened = [open_result(path) for path in results]
    for result in opened:
        noted(result)
    combination = cross(opened, budget=budget, partial=partial)
    write_space(out, combination.space)
    emit(
        as_json,
        csv_path,
        {**combination.as_dict(), "space": out},
        lambda: f"{combination_text(combination)} -> {out}",
        combination.rows,
    )
