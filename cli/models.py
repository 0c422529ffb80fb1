"""`itd models`: the registered models, their sites and how large their spaces are."""

from __future__ import annotations

from typing import Any

import click

from itd_cli.options import echo, note, print_json


@click.command(epilog="Example: itd models --json")
@click.option("--learned", is_flag=True, help="Networks with learned dynamic convolutions, their counts and sources.")
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def models(learned: bool, as_json: bool) -> None:
    """List the registered models: what sites A to D are, and how many configurations each attribute has.

    \b
    JSON: a list of {model, sites, configs, v1_top1}; with --learned of
      {name, model, op, multiplier, side_px, num_classes, params, macs,
      published: what the papers print, source}
    """
    from itd import models as summaries

    rows = summaries(learned=learned)
    if not learned:
        _note_packages(rows)
    if as_json:
        print_json(rows)
    elif learned:
        _print_learned(rows)
    else:
        _print_registered(rows)


def _print_registered(rows: list[dict[str, Any]]) -> None:
    echo(f"{'model':<31} {'stride':>6} {'dilation':>8} {'size':>5}  {'V1 top-1':>8}  sites A, B, C, D")
    for row in rows:
        counts = {name: "-" if count is None else count for name, count in row["configs"].items()}
        sites = ", ".join("+".join(paths) for paths in row["sites"].values())
        echo(
            f"{row['model']:<31} {counts['stride']:>6} {counts['dilation']:>8} {counts['size']:>5}  "
            f"{'-' if row['v1_top1'] is None else format(row['v1_top1'], '.2f'):>8}  {sites}"
        )
    echo(
        "Any other torchvision classifier, timm/NAME, FILE.py:NAME or package.module:NAME: --sites auto, or "
        "A=path[+path],B=path (see: itd sites)"
    )


def _note_packages(rows: list[dict[str, Any]]) -> None:
    """Notes of what installed packages cannot register, or not build."""
    from itd.patcher.packages import broken_packages

    for line in broken_packages():
        note(line)
    for row in rows:
        if None in row["configs"].values():
            note(f"{row['model']} cannot be built; `itd sweep --model {row['model']} --plan` says why")


def _print_learned(rows: list[dict[str, Any]]) -> None:
    echo(f"{'model':<32} {'px':>4} {'params':>11} {'MMAC':>8}  printed in the paper")
    for row in rows:
        printed = ", ".join(f"{name} {text}" for name, text in row["published"].items())
        echo(
            f"{row['name']:<32} {row['side_px']:>4} {row['params']:>11,} {row['macs'] / 1e6:>8.3f}  {printed}".rstrip()
        )
    echo("itd train --model NAME --op OP [--multiplier M]; top1 in percent, CIFAR-10")
