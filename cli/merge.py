"""`itd merge`: parts of one result that were computed in several folders, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from itd_cli.options import emit, results_argument
from itd_cli.progress import Progress, progress_option

if TYPE_CHECKING:
    from itd.store import Merged


@click.command(epilog="Example: itd merge machine1/r.parquet machine2/r.parquet -o results/r.parquet")
@results_argument
@click.option("-o", "--out", required=True, metavar="FOLDER", help="The merged result.")
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def merge(results: tuple[str, ...], out: str, progress: Progress, as_json: bool) -> None:
    """Put RESULTs of one sweep together that were computed in several folders, as shards on several machines are.

    They must be of the same identity, configurations and order of images; where one selects more images than another,
    the longer selection is taken. An image that two of them have must be the same in every row. The RESULTs stay as
    they are. The same `itd sweep` with this folder as its --out computes what none of them has.

    \b
    JSON: {out, images, of, rows, duplicates, already}
    """
    from itd.store import merge as put_together

    def tell(count: int, total: int) -> None:
        if not begun:
            progress.start(total, "images")
            begun.append(count)
        progress.update(count)

    begun: list[int] = []
    merged = put_together(results, out, progress=tell)
    emit(as_json, None, merged.as_dict(), lambda: _text(merged), list)


def _text(merged: Merged) -> str:
    left = merged.of - merged.images
    lines = [f"{merged.images:,} images, {merged.rows:,} rows -> {merged.out}"]
    if merged.duplicates:
        lines.append(f"  {merged.duplicates:,} images were in more than one, the same in every row")
    if left:
        lines.append(f"  {left:,} of {merged.of:,} are in none; the sweep's command with this --out computes them")
    return "\n".join(lines)
