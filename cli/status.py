"""`itd status`: how far results are and who works on them, once or again and again."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from itd_cli.options import echo, note, print_json, results_argument
from itd_cli.progress import per_second, span

LOOK_S = 2.0
"""Between two looks of `--watch`."""


@click.command(epilog="Example: itd status results/*.parquet --watch")
@results_argument
@click.option("--watch", is_flag=True, help="Look again every 2 s until all are complete, and say what has changed.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print only JSON on standard output; with --watch at each change."
)
def status(results: tuple[str, ...], watch: bool, as_json: bool) -> None:
    """How far results are, how fast it goes on, and which processes of which machines work on them.

    It looks at the folders alone, from any machine that sees them, and changes nothing. The rate is that of the parts
    of the last ten minutes of work, over all processes; missing images are not there yet, failed units were set aside.
    A process of which nothing was heard for a minute is stale: it is stopped, or its machine is gone.

    \b
    JSON: [{path, images, done, missing, failed, nulls, rows_per_s, seconds_left,
            writers: [{host, pid, started, unit: [first, last], stale}], complete}]
    rows_per_s and seconds_left are null where nobody works on it or too little is done; images and missing are null
    while a sweep is about to create the result.
    """
    from itd.store import status as look

    said: list[Any] | None = None if not watch else []
    for path in results:
        if watch and not os.path.exists(path):
            note(f"{path} does not exist yet; it is looked for every {LOOK_S:.0f} s")
    while True:
        found = [look(path) for path in results if not watch or os.path.exists(path)]
        if found != said:
            said = found
            if as_json:
                print_json([one.as_dict() for one in found])
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                echo("\n".join(map(described, found)))
        if not watch or (len(found) == len(results) and all(one.complete for one in found)):
            return
        time.sleep(LOOK_S)


def described(one: Any) -> str:
    """A status as text: a line of the whole, then one for each thing to know and each process at work."""
    if one.images is None:
        parts = ["being created"]
    else:
        share = 100 * one.done // one.images if one.images else 100
        parts = [f"{one.done:,}/{one.images:,} images ({share}%)"]
    if one.complete:
        parts.append("complete")
    elif one.rows_per_s is not None:
        parts += [per_second(one.rows_per_s, "rows"), f"{span(one.seconds_left)} left"]
    at_work = sum(not writer.stale for writer in one.writers)
    if at_work or not one.complete:
        parts.append(f"{at_work:,} at work" if at_work else "nobody at work")
    lines = [f"{one.path}  {', '.join(parts)}"]
    if one.failed:
        lines.append(f"  units that were set aside: {one.failed:,}; the same `itd sweep` tries them again")
    if one.nulls:
        lines.append(f"  images with null rows: {one.nulls:,}")
    return "\n".join([*lines, *map(_of_writer, one.writers)])


def _of_writer(writer: Any) -> str:
    doing = "on no unit now" if writer.unit is None else f"images {writer.unit[0]:,} to {writer.unit[1]:,}"
    if writer.stale:
        doing = f"silent for a minute or more, had {doing}" if writer.unit else "silent for a minute or more"
    name = " ".join(f"process {writer.pid} on {writer.host}".split())
    return f"  {name}, since {' '.join(writer.started.split())}: {doing}"
