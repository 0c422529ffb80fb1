"""`itd report`: every answer on one page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from itd_cli.options import (
    SOURCE,
    bootstrap_options,
    echo,
    labels_option,
    note,
    noted,
    output_options,
    print_json,
    results_argument,
    write_csv,
)
from itd_cli.progress import Progress, progress_option

if TYPE_CHECKING:
    from itd.analysis import Images
    from itd.analysis.report import Report
    from itd.analysis.report.gallery import Thumbnails


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
@click.option("--data", metavar=SOURCE, help="The results' images: a page of them beside the report, for each result.")
@labels_option()
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@click.option("--num-classes", type=click.IntRange(min=1), metavar="K", help="Where a result does not say how many.")
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
    **given: Any,
) -> None:
    """All of the analysis on one HTML page that needs no network: tables that sort, figures with values and CSV.

    It begins with a sentence for each result. Intervals of what is held out take at most 100 resamples, so that it
    does not take long. --csv writes the table at a glance.

    With --data it links, for each result, a page of the images that are rescued, lost and never right beside it:
    report-images.html, report-images-2.html, ..., of at most 500 images of each group; `itd images` writes one of all.

    \b
    JSON: {report, bytes, results: [{result, n}], sections: [title], skipped: [why], images: [file]}
    """
    from itd.analysis.frames import columns_of, rows_of
    from itd.analysis.report import report as ask
    from itd.analysis.report import write_page
    from itd.store import open_result

    opened = [open_result(path) for path in results]
    for result in opened:
        noted(result)
    images, refused = _images(opened, given)
    progress.start(len(opened), "results")
    answers = ask(opened, partial=partial, resamples=count, seed=seed, progress=_begins(progress))
    progress.update()
    answers.skipped.extend(refused)
    pages = _galleries(images, out, answers, progress)
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
        print_json({"report": out, "bytes": len(page.encode())} | _contents(answers) | {"images": pages})
    else:
        echo(f"report: {out}")
        for path in pages:
            echo(f"images: {path}")


MOST_IMAGES = 500
"""Of each group, on a page that a report links."""


def _images(results: Sequence[Any], given: dict[str, Any]) -> tuple[list[Images], list[str]]:
    """The images of each result, and why some have none; ItdError where none has."""
    from itd.analysis import images
    from itd.errors import ItdError

    if given["data"] is None:
        if any(given.values()):
            raise click.UsageError("--labels, --classes and --num-classes say how --data is read; give --data too")
        return [], []
    found, refused, first = [], [], None
    for result in results:
        try:
            found.append(images(result, limit=MOST_IMAGES, **given))
        except ItdError as error:
            first = first or error
            refused.append(f"the images of {result.path}: {error}")
    if first is not None and not found:
        raise first
    return found, refused


def _galleries(found: Sequence[Images], out: str, answers: Report, progress: Progress) -> list[str]:
    """Writes the pages of the images beside the report, which then links them."""
    from itd.analysis.report import gallery_link, images_page, write_page

    if found:
        progress.start(sum(len(group.images) for one in found for group in one.groups), "images")
    links = [gallery_link(one, out, number) for number, one in enumerate(found, start=1)]
    pages = [os.path.join(os.path.dirname(out), link.file) for link in links]
    made: Thumbnails = {}
    for one, page in zip(found, pages, strict=True):
        write_page(images_page(one, progress.update, made), page)
    answers.link_images(links)
    return pages
