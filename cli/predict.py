"""`itd predict`: classify images, with a network as it is or really dynamic."""

from __future__ import annotations

import json
from typing import Any

import click

from itd_cli.options import echo, model_options, preprocess_options, workers_option
from itd_cli.progress import Progress, progress_option


@click.command(epilog="Example: itd predict --model resnet50 --selector selector.safetensors photo.jpg photos/")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@model_options(ending="; default the selector's own")
@click.option("--weights", metavar="NAME|FILE|none", help="As of itd sweep.")
@click.option("--selector", metavar="FILE", help="Of `itd select --save`: each image takes its own configuration.")
@click.option("--classes", "classes_file", metavar="FILE", help="One class name per line, in label order.")
@preprocess_options
@click.option("--num-classes", type=click.IntRange(min=1), metavar="K", help="Default the weights' own, else 1000.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Likeliest classes.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Images at once; default 8, 64 on a GPU.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1; default a GPU where there is one.")
@workers_option
@progress_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def predict(images: tuple[str, ...], as_json: bool, progress: Progress, **given: Any) -> None:
    """Classify images: files, folders of them, or `digits`, the embedded ones.

    With --selector the network is really dynamic: each image runs the configuration chosen for it, images that choose
    alike in one batch. Each line: the image, its class and probability, and with a selector what it chose and what that
    cost, the selector's own multiply-accumulates included.

    \b
    JSON, one object a line: {image, top: [{class, name, probability}],
      config: {A: {stride: 2}, ...} or null, macs: or null}
    """
    from itd import PredictRequest
    from itd import predict as run

    for one in run(PredictRequest(images, **given), on_prepare=progress.prepare):
        echo(json.dumps(one.as_dict()) if as_json else _line(one))


def _line(one: Any) -> str:
    """One image on one line.

    >>> from itd.selectors.predict import Prediction
    >>> _line(Prediction("a.jpg", ((3, None, 0.5),), {"A": {"stride": 2}}, 3e9))
    'a.jpg  3 50.0%  A stride=2  3 GMAC'
    """
    from itd.space import format_value

    classes = ", ".join(f"{c if name is None else name} {100 * p:.1f}%" for c, name, p in one.top)
    parts = [one.image, classes]
    if one.config is not None:
        said = (
            f"{site} " + ",".join(f"{a}={format_value(v)}" for a, v in values.items())
            for site, values in one.config.items()
            if values
        )
        parts.append(" ".join(said))
    if one.macs is not None:
        parts.append(f"{one.macs / 1e9:.3g} GMAC")
    return "  ".join(parts)
