"""`itd union`: several results of the same images as one space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from itd_cli.options import emit, noted, output_options, results_argument
from itd_cli.progress import Progress, progress_option

if TYPE_CHECKING:
    from itd.analysis import Union


@click.command(
    epilog="Example: itd union results/cifar-resnet18*-stride-cifar10.parquet -o results/five.parquet, then "
    "itd oracle results/five.parquet"
)
@results_argument
@click.option("-o", "--out", required=True, metavar="FOLDER", help="The union.")
@click.option("--defaults", is_flag=True, help="Only each result's default configuration: networks that stay static.")
@progress_option
@output_options()
def union(
    results: tuple[str, ...], out: str, defaults: bool, progress: Progress, as_json: bool, csv_path: str | None
) -> None:
    """Write several RESULTs of the same images as one, which every command that answers reads.

    The results may differ in network, weights, attributes, scale, precision; the samples and their labels may not.
    Configurations are numbered anew in the order given; the default, and with it the matched top-k, is the first
    RESULT's. Settings that a result does not have are null. _itd/configs.parquet says of each configuration which
    `source` it comes from and its number there, `source_config`. No network is run, and `itd sweep` does not extend it.

    \b
    JSON: {result, n, configs, attributes, sites, default, already,
      sources: [{path, model, first, last, default}]}
    """
    from itd.analysis import union as unite
    from itd.store import open_result

    opened = [open_result(path) for path in results]
    for result in opened:
        noted(result)

    def tell(count: int) -> None:
        if not begun:
            progress.start(opened[0].images_requested, "images")
            begun.append(count)
        progress.update(count)

    begun: list[int] = []
    written = unite(opened, out, defaults=defaults, progress=tell)
    emit(as_json, csv_path, written.as_dict(), lambda: _text(written), written.rows)


def _text(written: Union) -> str:
    from itd.analysis.tables import align

    cells = [["configurations", "default", "source"]]
    for one in written.sources:
        default = "-" if one.default is None else f"{one.default}"
        cells.append([f"{one.first}-{one.last}" if one.configs > 1 else f"{one.first}", default, one.path])
    head = f"{written.configs} configurations of {', '.join(written.attributes)}, n = {written.n} -> {written.result}"
    return f"{head}\n{align(cells, left=(2,))}"
