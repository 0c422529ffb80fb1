"""`itd sites`: what the layers of a network can take, and the sites that `--sites auto` would take."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import click

from itd_cli.options import echo, model_options


@click.command(epilog="Example: itd sites --model timm/convnext_tiny --attr stride")
@model_options(required=True)
@click.option("--attr", metavar="A", help="Only the layers that take it: stride, dilation or size.")
@click.option(
    "--input", "input_px", type=click.IntRange(min=1), metavar="PX", help="Side of an image; default its own."
)
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def sites(model: str, attr: str | None, input_px: int | None, as_json: bool) -> None:
    """List the convolutions and pools of a network, and the sites that --sites auto takes.

    Nothing is trained or fetched. Name other sites with --sites A=path[+path],B=path.

    \b
    JSON: {model, input_px, layers: [{path, kind, takes: [...], input: [C, H, W], output: [C, H, W]}],
      auto: {stride: {A: [path, ...]}, dilation: ..., size: ...}, why: [...]}
    """
    from itd import sites as describe

    with contextlib.redirect_stdout(sys.stderr):  # for what a network prints
        found = describe(model, attr, input_px)
    echo(json.dumps(found) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['model']} on an image of {found['input_px']} px"]
    wide = max([len(layer["path"]) for layer in found["layers"]], default=4)
    lines.append(f"{'layer':<{wide}}  {'kind':<10} {'takes':<21} {'input':>15} -> output")
    for layer in found["layers"]:
        shapes = ["x".join(map(str, layer[end])) for end in ("input", "output")]
        lines.append(
            f"{layer['path']:<{wide}}  {layer['kind']:<10} {','.join(layer['takes']) or '-':<21} {shapes[0]:>15} -> "
            f"{shapes[1]}"
        )
    lines.append("--sites auto:")
    for attribute, by_site in found["auto"].items():
        shown = "; ".join(f"{site} {'+'.join(paths)}" for site, paths in by_site.items())
        lines.append(f"  {attribute:<8} {shown or 'none'}")
    return "\n".join([*lines, *(f"  why: {reason}" for reason in found["why"])])
