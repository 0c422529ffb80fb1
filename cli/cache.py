"""`itd cache`: what is kept between runs."""

from __future__ import annotations

import click

from itd_cli.options import echo, print_json


@click.command(epilog="Example: itd cache --clear")
@click.option("--clear", is_flag=True, help="Remove it; it is made or fetched again where it is needed.")
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def cache(clear: bool, as_json: bool) -> None:
    """What is kept between runs: networks trained on the embedded digits, and CIFAR as it was fetched.

    In $ITD_CACHE, else $XDG_CACHE_HOME/itd, else ~/.cache/itd. Weights that torchvision, timm and the library datasets
    fetch are in caches of their own ($TORCH_HOME, $HF_HOME) and are left alone.

    \b
    JSON: {folder, bytes, entries: [{path, bytes}], cleared}
    """
    from itd import cache as look

    found = look(clear=clear)
    if as_json:
        print_json(found.as_dict())
        return
    for entry in found.entries:
        echo(f"{entry.bytes / 1e6:10,.1f} MB  {entry.path}")
    done = "removed from" if found.cleared else "in"
    echo(f"{found.bytes / 1e6:10,.1f} MB  {done} {found.folder}")
