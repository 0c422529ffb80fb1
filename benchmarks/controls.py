"""What random-option fine-tuning is worth beside what needs no options: controls on the digits, over seeds.

Three treatments of the network that was trained on the digits at one scale, each of as many steps: random-option
fine-tuning (rof); training on at the default configuration (default); and that with the input drawn at many scales
(scale). Each is swept on digits of many scales. One line of JSON for each treatment and seed goes to `--out`; those
that are there already are not run again. Then a table: means over seeds with 95% intervals of Student's t.

    python benchmarks/controls.py --attr stride --seeds 5 --out results/controls/rof-stride.jsonl
    python benchmarks/controls.py --out results/controls/rof-stride.jsonl --seeds 0       # the table alone
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import itd
from itd.training.data import Augment, TrainingSet, augmentation, training_images
from itd.training.rof import RofRequest, rof_identity, rof_objective, space_and_weights
from itd.training.run_files import RunFiles, publish
from itd.training.schedule import Schedule
from itd.training.trainer import run_training

TREATMENTS = ("rof", "default", "scale")
FIGURES = ("static", "median", "best", "matched_topk", "best_fixed", "first_5", "as_many_guesses")
SCALES = (12 / 32, 60 / 32)
"""The smallest and largest size of the digits that are swept, as a share of those that were trained on."""


@dataclass(frozen=True)
class Scaled:
    """An augmentation of the image drawn at another scale, log-uniform between SCALES, on the same canvas."""

    augment: Augment

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        factor = float(np.exp(np.random.default_rng(seed).uniform(*np.log(SCALES))))
        side = image.size[0]
        drawn = image.resize((max(1, round(side * factor)),) * 2, Image.Resampling.BILINEAR)
        canvas, start = Image.new("RGB", (side, side)), (side - drawn.size[0]) // 2
        canvas.paste(drawn, (start, start))
        return self.augment(canvas, seed)


def trained(attribute: str, treatment: str, seed: int, epochs: int, out: Path) -> str:
    """The weights of a treatment."""
    schedule = Schedule(epochs=epochs, lr=0.01, seed=seed)
    request = RofRequest(model="resnet18", attributes=attribute, data="digits", schedule=schedule, out=str(out))
    if treatment != "rof":
        request = replace(request, options=own_options(request))
    device = torch.device("cpu")
    space, weights, _ = space_and_weights(request, "digits", device, None)
    model, images = request.sweep().patched(weights), training_images("digits", weights_classes=10)
    augment: Any = augmentation("digits", weights.preprocess)
    training = TrainingSet(images, Scaled(augment) if treatment == "scale" else augment, seed)
    files, identity = RunFiles(out), rof_identity(request, space, images, weights)
    run_training(model, training, schedule, rof_objective(model, space, request), files, identity, device=device)
    publish(model, weights, files, identity, schedule, "rof")
    return str(out)


def own_options(request: RofRequest) -> tuple[str, ...]:
    """The default alone: each site's own value."""
    job = itd.SweepRequest(request.model, request.attributes, data="digits", weights="none", limit=1).job(
        on_prepare=None
    )
    own = job.space.configs[job.space.default]
    return tuple(
        f"{site.name}={getattr(setting, request.attributes):g}"
        for site, setting in zip(job.space.sites, own, strict=True)
    )


def measured(attribute: str, weights: str, images: int, out: Path) -> dict[str, float]:
    """What a sweep of a network on digits of many scales says."""
    request = itd.SweepRequest("resnet18", attribute, data="digits", weights=weights, limit=images)
    result = itd.open_result(itd.sweep(request, out=str(out)).out)
    found, (gained,) = itd.oracle(result, resamples=50), itd.gain([result], resamples=0)
    fifth = gained.held_out.steps[4]
    return {
        "n": result.n, "static": found.static, "median": found.median, "best": found.best,
        "matched_topk": found.baselines.matched_topk.value, "best_fixed": gained.held_out.steps[0].accuracy,
        "first_5": fifth.accuracy, "as_many_guesses": fifth.matched_topk,
    }  # fmt: skip


def finished(
    out: Path, field: str, names: Sequence[str], seeds: int, run: Callable[[str, int, Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, those that are missing run first, each written as soon as it is there.

    field: the row's key with one of `names`; `seed` is the other. run: (name, seed, an empty folder) -> a row.
    """
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row[field], row["seed"]) for row in rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            if (name, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows.append(run(name, seed, Path(folder)))
            with out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            click.echo(json.dumps(rows[-1]))
    return rows


def interval(values: Sequence[float]) -> str:
    """`mean ± half` of Student's 95% interval over seeds; of one seed the value, which is no interval.

    >>> interval([80.0, 82.0, 84.0])
    '82.0 ± 5.0'
    """
    from scipy import stats

    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1f} ± {half:.1f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds as Markdown."""
    lines = [f"| treatment | seeds | n | {' | '.join(FIGURES)} |", f"|{'---|' * (3 + len(FIGURES))}"]
    for treatment in TREATMENTS:
        of = [row for row in rows if row["treatment"] == treatment]
        if not of:
            continue
        cells = [interval([100 * row[name] for row in of]) for name in FIGURES]
        lines.append(f"| {treatment} | {len(of)} | {of[0]['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--attr", default="stride")
@click.option("--seeds", default=5)
@click.option("--epochs", default=15)
@click.option("--images", default=120)
@click.option("--out", default="results/controls/rof-stride.jsonl")
def main(attr: str, seeds: int, epochs: int, images: int, out: str) -> None:
    def run(treatment: str, seed: int, folder: Path) -> dict[str, Any]:
        weights = trained(attr, treatment, seed, epochs, folder / "w.safetensors")
        figures = measured(attr, weights, images, folder / "r.parquet")
        return {"attribute": attr, "treatment": treatment, "seed": seed, "epochs": epochs, **figures}

    click.echo(table(finished(Path(out), "treatment", TREATMENTS, seeds, run)))


if __name__ == "__main__":
    main()
