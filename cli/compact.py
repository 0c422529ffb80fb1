"""`itd compact`: the parts of finished results as one file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from itd_cli.options import echo, print_json, results_argument
from itd_cli.progress import Progress, progress_option

if TYPE_CHECKING:
    from itd.store import Compacted


@click.command(epilog="Example: itd compact results/resnet50-stride.parquet")
@results_argument
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def compact(results: tuple[str, ...], progress: Progress, as_json: bool) -> None:
    """Make the parts of each finished RESULT one file, with the same rows.

    All parts are read with every check, and the file is compared with them row by row before it takes their place. If
    the command is ended on the way, the RESULT is whole and the same command goes on. Refused is a RESULT on which a
    process works, that is not finished, or that is damaged. A larger --limit of the same `itd sweep` still extends it.

    \b
    JSON: [{path, parts, images, rows, bytes_before, bytes, compacted}]
    """
    from itd.store import compact as put_in_one

    done = []
    for path in results:
        one = put_in_one(path, progress=_tell(progress, path))
        progress.close()
        done.append(one)
        if not as_json:
            echo(_text(one))
    if as_json:
        print_json([one.as_dict() for one in done])


def _tell(progress: Progress, path: str) -> Callable[[int, int], None]:
    """Shows how far one result is, from the first values that are written."""

    def tell(count: int, total: int) -> None:
        if not begun:
            progress.start(total, "values", what=path)
            begun.append(count)
        progress.update(count)

    begun: list[int] = []
    return tell


def _text(one: Compacted) -> str:
    rows = f"{one.images:,} images, {one.rows:,} rows"
    if not one.compacted:
        return f"{one.path}: nothing to do, {rows} are in {'one part' if one.parts else 'no part'} already"
    size = f"{one.bytes_before / 1e6:,.1f} MB -> {one.bytes / 1e6:,.1f} MB"
    return f"{one.path}: {one.parts:,} parts -> 1, {rows}, {size}"
