"""`itd images`: which images are rescued, lost or never right, and a page with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from itd_cli.options import SOURCE, echo, emit, labels_option, note, noted, output_options
from itd_cli.progress import Progress, progress_option
from itd_cli.real_labels import real_labels_option, relabelled

if TYPE_CHECKING:
    from itd.analysis import Images


def _check_out(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """The page's path; one that cannot be written is refused before anything is computed."""
    if path is not None:
        from itd.analysis.report import check_page_path

        check_page_path(path)
    return path


@click.command(
    epilog="Example: itd images results/resnet50-stride.parquet --rescued --data /imagenet/val -o rescued.html"
)
@click.argument("result", metavar="RESULT")
@click.option(
    "--rescued", "groups", flag_value="rescued", multiple=True, help="The default is wrong, another is right."
)
@click.option("--lost", "groups", flag_value="lost", multiple=True, help="The default is right, most others are wrong.")
@click.option("--never", "groups", flag_value="never", multiple=True, help="No configuration is right.")
@click.option("--config", type=click.IntRange(min=0), metavar="K",
              help="What configuration K gets right and the default wrong, and the other way.")  # fmt: skip
@click.option("--sort", type=click.Choice(("few", "many")),
              help="By how many get an image right: few first, a lucky guess, or many, a robust gain.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images of each group.")
@click.option("--data", metavar=SOURCE, help="The result's images: their names, and what they look like.")
@labels_option()
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@click.option("--num-classes", type=click.IntRange(min=1), metavar="K", help="Where the result does not say how many.")
@click.option("-o", "--out", metavar="FILE", callback=_check_out, help="A page of the images: .html.")
@real_labels_option
@progress_option
@output_options()
def images(
    result: str,
    groups: tuple[str, ...],
    out: str | None,
    limit: int | None,
    real_labels: str | None,
    progress: Progress,
    as_json: bool,
    csv_path: str | None,
    **given: Any,
) -> None:
    """Which images the configurations rescue, lose, and never get right; without one of these, how many of each.

    An image is rescued where the default configuration is wrong and at least one other right; lost where the default is
    right and more than half of the others wrong, those first of which the most fail; never right where none is. Under
    each stand its label, what the default predicts, how many configurations are right, and the first of them by quality
    with their settings. Where few are right, it is a lucky guess as likely as not.

    -o writes a page that needs no network, with --data with a thumbnail of each image inside, of about 7 kB: 5,000
    images make 33 MB. The text has the first 20 of each group, everything else all of them, or --limit.

    \b
    JSON: {result, n, configs, default, config,
      groups: [{group, meaning, total, share: {value, low, high, n}, sort,
        images: [{sample, name, label, class_name, static, static_name, right, failing,
          configs: [{config, settings}]}]}]}
    """
    from itd.analysis import images as ask
    from itd.analysis.images_text import images_text
    from itd.store import open_result

    if len(set(groups)) + (given["config"] is not None) > 1:
        raise click.UsageError("--rescued, --lost, --never and --config K are different questions; give one of them")
    opened = relabelled(open_result(result), real_labels)
    answer = ask(opened, groups[0] if groups else None, limit=limit, **given)
    noted(opened)
    if out is not None:
        _write(answer, out, progress)
    emit(as_json, csv_path, answer.as_dict(), lambda: images_text(answer, limit), answer.rows)
    if out is not None:
        echo(f"page: {out}", err=as_json)


def _write(answer: Images, out: str, progress: Progress) -> None:
    from itd.analysis.report import images_page, write_page

    many = sum(len(group.images) for group in answer.groups)
    progress.start(many, "images")
    page = images_page(answer, lambda: progress.update(1))
    write_page(page, out)
    if answer.originals is not None and len(page) > 50_000_000:
        note(f"{out} is {len(page) / 1e6:,.0f} MB for {many:,} images; give a `limit` for a smaller page")
