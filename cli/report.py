"""`itd report`: every answer on one page."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from itd_cli.options import bootstrap_options, note, noted, output_options, print_json, results_argument, write_csv
from itd_cli.progress import Progress, progress_option

if TYPE_CHECKING:
    from itd.analysis.report import Report


def _check_out(ctx: click.Context, param: click.Parameter, path: str) -> str:
    """The page's path; one that cannot be written is refused before anything is computed."""
    from itd.analysis.report import check_page_path

    check_page_path(path)
    return path


def _begins(progress: Progress) -> Callable[[str], None]:
    """To be called as each unit begins: the one before it is done then."""
    before = itertools.count()
    return lambda what: progress.update(1 if next(before) else 0, what)


def _contents(answers: Report) -> dict[str, Any]:
    """What is on the page, for JSON."""
    results = [{"result": path, "n": n} for path, n in answers.results]
    return {"results": results, "sections": [s.title for s in answers.sections], "skipped": answers.skipped}


@click.command(epilog="Example: itd report results/*.parquet -o report.html")
@results_argument
@click.option(
    "-o", "--out", default="report.html", show_default=True, metavar="FILE", callback=_check_out, help="The page."
)
@click.option("--partial", is_flag=True, help="Greedy curves also of results whose sweep is not finished.")
@bootstrap_options
@progress_option
@output_options()
def report(
    results: tuple[str, ...],
    out: str,
    partial: bool,
    count: int,
    seed: int,
    progress: Progress,
    as_json: bool,
    csv_path: str | None,
) -> None:
    """All of the analysis on one HTML page that needs no network: tables that sort, figures with values and CSV.

    It begins with a sentence for each result. Intervals of what is held out take at most 100 resamples, so that it
    does not take long. --csv writes the table at a glance.

    \b
    JSON: {report, bytes, results: [{result, n}], sections: [title], skipped: [why]}
    """
    from itd.analysis.frames import columns_of, rows_of
    from itd.analysis.report import report as ask
    from itd.analysis.report import write_page
    from itd.store import open_result

    opened = [open_result(path) for path in results]
    for result in opened:
        noted(result)
    progress.start(len(opened), "results")
    answers = ask(opened, partial=partial, resamples=count, seed=seed, progress=_begins(progress))
    progress.update()
    progress.start(answers.figures, "figures")
    page = answers.to_html(_begins(progress))
    progress.update()
    write_page(page, out)
    for why in answers.skipped:
        note(f"left out: {why}")
    rows = rows_of(answers.glance)
    if csv_path:
        write_csv(csv_path, columns_of(rows), rows)
    if as_json:
        print_json({"report": out, "bytes": len(page.encode())} | _contents(answers))
    else:
        click.echo(f"report: {out}")
