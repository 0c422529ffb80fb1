"""`itd greedy`: how few configurations reach most of the best case."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from itd_cli.options import measured, output_options, print_json, results_argument, write_csv

if TYPE_CHECKING:
    from itd.analysis import GreedyCurve

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


@click.command(epilog="Example: itd greedy results/resnet50-*.parquet --plot greedy.png")
@results_argument
@output_options(plot=True)
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
) -> None:
    """Best-case accuracy of one to all configurations of each RESULT, added greedily (the paper's section 4.2).

    Each step adds the configuration that is right on most of the images that no earlier one is right on. Ties go to the
    higher mean quality, then the default configuration, then the lower number.
    """
    from itd.analysis import greedy as accumulate
    from itd.analysis.tables import greedy_table

    curves = measured(results, lambda result: accumulate(result, partial=partial))
    if as_json:
        print_json([curve.as_dict() for curve in curves])
    else:
        click.echo("\n\n".join(greedy_table(curve, shown) for curve in curves))
    if csv_path:
        _write_csv(csv_path, curves)
    if plot:
        _write_figure(plot, curves, quiet=as_json)


def _write_csv(path: str, curves: list[GreedyCurve]) -> None:
    rows: list[dict[str, Any]] = []
    columns = dict.fromkeys(["result", "n", "k", "config"])
    for curve in curves:
        for step in curve.steps:
            row = {"result": curve.result, "n": curve.n, "k": step.k, "config": step.config, "accuracy": step.accuracy}
            row |= {f"{a}_{site}": value for site, setting in step.settings.items() for a, value in setting.items()}
            rows.append(row)
            columns |= dict.fromkeys(name for name in row if name not in ("accuracy",))
    write_csv(path, [*columns, "accuracy"], rows)


def _write_figure(path: str, curves: list[GreedyCurve], *, quiet: bool) -> None:
    from itd.analysis.figures import greedy_figure

    greedy_figure(curves).save(path)
    click.echo(f"figure: {path}", err=quiet)
