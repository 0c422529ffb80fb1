"""What a plan expects against what the sweep took: the estimate of `itd sweep --plan` and the sweep itself, in one run.

    python benchmarks/estimate.py --model resnet18 --attr dilation --limit 40

Prints a line to read, then, as the last line of stdout, JSON. The result goes to a temporary folder. On a shared
machine, which may be slower while the one runs than while the other does, the ratio is no better than that.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

import itd
from itd.errors import ItdError
from itd.runner.estimate import BUDGET_S


@click.command()
@click.option("--model", required=True)
@click.option("--attr", "attributes", required=True)
@click.option("--sites", default=None)
@click.option("--options", multiple=True)
@click.option("--data", default="digits", show_default=True)
@click.option("--weights", default="none", show_default=True)
@click.option("--crop", "crop_px", default=None, type=int)
@click.option("--limit", default=40, show_default=True)
@click.option("--batch-size", default=None, type=int)
@click.option("--device", default=None)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--executor", default="auto", show_default=True)
@click.option("--budget", "budget_s", default=BUDGET_S, show_default=True, help="Seconds of the estimate.")
def main(budget_s: float, **asked: Any) -> None:
    """Estimate how long a sweep takes, run it, and print the ratio."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            request = itd.SweepRequest(out=str(Path(folder, "r.parquet")), **asked)
            plan = itd.plan(request, estimate=True, budget_s=budget_s)
            report = itd.sweep(request, quiet=True)
    except ItdError as error:
        raise SystemExit(f"estimate.py: error: {error}") from error
    assert plan.estimate is not None
    ratio = plan.estimate.seconds / report.seconds
    click.echo(
        f"{plan.model} {'+'.join(plan.attributes)}, {plan.configs} configurations of {plan.images} images by the "
        f"{plan.executor} executor: expected {plan.estimate.seconds:.1f} s from {plan.estimate.images} images of noise "
        f"at {plan.estimate.configs} configurations in {plan.estimate.measured_s:.1f} s, took {report.seconds:.1f} s"
    )
    fields = {"device": asked["device"] or "default", "torch": torch.__version__, "sweep_s": report.seconds}
    click.echo(json.dumps({**plan.as_dict(), **fields, "ratio": ratio}))


if __name__ == "__main__":
    main()
