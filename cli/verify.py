"""`itd verify`: whether all files of results are whole, and mending what can be mended."""

from __future__ import annotations

from typing import Any

import click

from itd.errors import ItdError
from itd_cli.options import echo, note, print_json, results_argument


@click.command(epilog="Example: itd verify results/*.parquet")
@results_argument
@click.option(
    "--repair",
    is_flag=True,
    help="Make a lost record or manifest anew, add missing hashes, and put damaged parts aside to be computed again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def verify(results: tuple[str, ...], repair: bool, as_json: bool) -> None:
    """Read every file of results with every check: 0 where all that is there is whole, 1 where something is damaged.

    Images that are not there yet are no damage. A file without a hash, as older versions left it and as a file by
    itself is, is named as unprotected.

    \b
    JSON: [{path, ok, parts, rows, images, damaged: [{file, reason}], missing: [[first, last]], unprotected: [file]}]
    """
    from itd.store import Damage, VerifyReport
    from itd.store import repair as mend
    from itd.store import verify as check

    reports = []
    for path in results:
        try:
            for line in mend(path) if repair else ():
                note(line)
            reports.append(check(path))
        except ItdError as error:  # the others are still to be said
            reports.append(VerifyReport(path, 0, 0, 0, (Damage(".", str(error)),), ()))
    if as_json:
        print_json([report.as_dict() for report in reports])
    else:
        for report in reports:
            echo(described(report))
    click.get_current_context().exit(0 if all(report.ok for report in reports) else 1)


def described(report: Any) -> str:
    """A report as text: a line of the whole, then one for each thing to know."""
    rows, images = f"{report.rows:,} rows", f"{report.images:,} images"
    lines = [f"{report.path}: {'whole' if report.ok else 'damaged'}, {report.parts} parts, {rows} of {images}"]
    lines += [f"  damaged: {one.file}: {one.reason}" for one in report.damaged]
    if report.missing:
        absent = sum(last - first + 1 for first, last in report.missing)
        lines.append(f"  not there yet: {absent:,} images")
    lines += [
        f"  unprotected: {name} has no hash of its own, so that a change of it would not show"
        for name in report.unprotected
    ]
    return "\n".join(lines)
