"""`itd models`: the registered models, their sites and how large their spaces are."""

from __future__ import annotations

import click

from itd_cli.options import print_json


@click.command(epilog="Example: itd models --json")
@click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
def models(as_json: bool) -> None:
    """List the registered models: what sites A to D are, and how many configurations each attribute has."""
    from itd.patcher.summary import model_summaries

    rows = model_summaries()
    if as_json:
        print_json(rows)
        return
    click.echo(f"{'model':<18} {'stride':>6} {'dilation':>8} {'size':>5}  {'V1 top-1':>8}  sites A, B, C, D")
    for row in rows:
        counts = row["configs"]
        sites = ", ".join("+".join(paths) for paths in row["sites"].values())
        click.echo(
            f"{row['model']:<18} {counts['stride']:>6} {counts['dilation']:>8} {counts['size']:>5}  "
            f"{row['v1_top1']:>8.2f}  {sites}"
        )
    click.echo("Any other torchvision classifier that torch.fx can trace: --sites A=path[+path],B=path")
