"""The learned operators over seeds: cifar-resnet18 with each, trained on the digits at one scale.

The digits are resized to 16 px, so that five trainings of each operator take an hour on one core. Each is tested on the
360 digits of other writers at that scale and at many. One line of JSON for each operator and seed goes to `--out`;
those that are there already are not run again. Then a table: means over seeds with 95% intervals of Student's t.

    python benchmarks/operators.py --seeds 5 --out results/controls/operators.jsonl
    python benchmarks/operators.py --seeds 0 --out results/controls/operators.jsonl       # the table alone
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from controls import finished, interval

import itd

OPERATORS = ("conv", "involution", "condconv", "weightnet", "se")
SIDE_PX = 16
LR = 0.02
"""The highest rate of the one-cycle schedule: at 0.05, and at 0.01 with half the steps, involution does not learn."""


def trained(operator: str, seed: int, epochs: int, precision: str, out: Path) -> dict[str, Any]:
    """What a network achieves after its training."""
    name = "cifar-resnet18" + ("" if operator == "conv" else f"+{operator}")
    schedule = itd.Schedule(epochs, LR, shape="onecycle", weight_decay=5e-4, batch_size=16, seed=seed,
                            precision=precision)  # fmt: skip
    started = time.perf_counter()
    itd.train(itd.TrainRequest(name, "digits", schedule=schedule, out=str(out), resize_px=SIDE_PX, crop_px=SIDE_PX))
    seconds = time.perf_counter() - started
    found = {
        key: itd.evaluate(itd.EvaluateRequest(name, str(out), data))
        for key, data in (("one_scale", "digits-one-scale"), ("many_scales", "digits"))
    }
    figures = {key: one.top1 for key, one in found.items()}
    return {"operator": operator, "seed": seed, "epochs": epochs, "precision": precision, "n": found["one_scale"].n,
            **figures, "train_s": round(seconds, 1)}  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds as Markdown, and what each operator has more than the plain convolution, seed by seed."""
    of = {name: {row["seed"]: row for row in rows if row["operator"] == name} for name in OPERATORS}
    columns = ("at the scale of training", "more than conv", "at many scales", "more than conv")
    lines = [f"| operator | seeds | n | {' | '.join(columns)} |", f"|{'---|' * 7}"]
    for name, seeds in of.items():
        cells = []
        for key in ("one_scale", "many_scales"):
            cells.append(interval([100 * row[key] for row in seeds.values()]))
            more = [100 * (row[key] - of["conv"][seed][key]) for seed, row in seeds.items()]
            cells.append("-" if name == "conv" else f"{interval(more)}")
        n = next(iter(seeds.values()))["n"]
        lines.append(f"| {name} | {len(seeds)} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", default=5)
@click.option("--epochs", default=12)
@click.option("--precision", default="bf16")
@click.option("--out", default="results/controls/operators.jsonl")
def main(seeds: int, epochs: int, precision: str, out: str) -> None:
    """Train and test what is missing, then print the table."""

    def run(operator: str, seed: int, folder: Path) -> dict[str, Any]:
        return trained(operator, seed, epochs, precision, folder / "w.safetensors")

    click.echo(table(finished(Path(out), "operator", OPERATORS, seeds, run)))


if __name__ == "__main__":
    main()
