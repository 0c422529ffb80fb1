"""`itd oracle`: static, worst, median and best accuracy of results."""

from __future__ import annotations

import click

from itd_cli.options import measured, output_options, print_json, results_argument, write_csv


@click.command(epilog="Example: itd oracle results/*.parquet --csv table1.csv")
@results_argument
@output_options()
def oracle(results: tuple[str, ...], as_json: bool, csv_path: str | None) -> None:
    """Static, worst, median and best accuracy of each RESULT, as the paper's Table 1.

    A RESULT is a folder written by `itd sweep`, or one Parquet file with the same columns. Worst, median and best pick,
    for each image, the configuration of lowest, middle and highest quality; static is the network as it was trained. A
    sweep that is not finished is read as far as it is, and a note says how far.
    """
    from itd.analysis import oracle as measure
    from itd.analysis.tables import oracle_table

    rows = measured(results, measure)
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        click.echo(oracle_table(rows))
    if csv_path:
        write_csv(csv_path, list(rows[0].as_dict()), [row.as_dict() for row in rows])
