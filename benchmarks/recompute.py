"""Compute the first unit of stored results again and compare every row with what is stored.

    python benchmarks/recompute.py results/resnet50-*-val1300.parquet --data DIR/images/val1300 --weights DIR/weights

`--weights` is a folder of <model>.safetensors; a result of others is passed over by name. One line for each
result, JSON last: rows, how many are clear (the two top logits more than 1e-3 apart), how many are ranked clearly (no
other logit within 1e-3 of the label's), how many clear rows differ in prediction or clearly ranked ones in rank, and
the largest difference of quality of a clear row. Exit status 1 where a row differs so, or a quality by more than 1e-4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from itd.data.loader import Pixels
from itd.engine.program import compile_program
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor
from itd.errors import ItdError
from itd.runner.scores import score
from itd.selectors.source import open_source
from itd.store import Result, open_result

BATCH = 8
TIE = 1e-3
"""Logits nearer than this may change places by rounding."""


def first_unit(result: Result, most: int | None) -> np.ndarray:
    """The samples of the first unit that the result was written in."""
    assert result.manifest is not None
    return result.samples[: min(result.manifest["images_per_unit"], most or result.n)]


def recompute(path: str, data: str, weights: Path, most: int | None) -> dict[str, Any]:
    """The comparison of one result's first unit. most: at most as many images."""
    result = open_result(path)
    assert result.manifest is not None
    source = open_source(result, data, str(weights / f"{result.manifest['identity']['model']}.safetensors"))
    space, numbers = source.space(range(result.configs))
    place = {int(number): row for row, number in enumerate(numbers)}
    samples = first_unit(result, most)
    executor = TreeExecutor(compile_program(trace(source.model), space))
    pixels = Pixels(source.images, source.preprocess, source.preprocess.shape)
    stored = {name: result.matrix(name)[:, : len(samples)] for name in ("pred", "rank", "quality")}
    report = {"result": Path(path).name, "images": len(samples), "rows": 0, "clear": 0, "ranked": 0, "differ": 0,
              "quality": 0.0}  # fmt: skip

    def compare(first: int, configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        rows = np.array([place[int(config)] for config in configs])
        labels = torch.from_numpy(result.labels[images + first].astype(np.int64))
        scores, logits = score(logits, labels), logits.float()
        top = logits.topk(2).values
        clear = ((top[:, 0] - top[:, 1]) > TIE).numpy()
        ranked = (((logits - logits.gather(1, labels[:, None])).abs() <= TIE).sum(1) == 1).numpy()
        differ = np.zeros(len(rows), bool)
        for name, sure in (("pred", clear), ("rank", ranked)):
            differ |= sure & (getattr(scores, name).numpy() != stored[name][rows, images + first])
        apart = np.abs(scores.quality.numpy() - stored["quality"][rows, images + first])
        report["rows"] += len(rows)
        report["clear"] += int(clear.sum())
        report["ranked"] += int(ranked.sum())
        report["differ"] += int(differ.sum())
        report["quality"] = max(report["quality"], float(apart[clear].max(initial=0.0)))

    for first in range(0, len(samples), BATCH):
        batch = torch.stack([pixels[int(sample)] for sample in samples[first : first + BATCH]])
        executor.run(batch, lambda configs, images, logits, at=first: compare(at, configs, images, logits))
    return report


@click.command()
@click.argument("results", nargs=-1, required=True)
@click.option("--data", required=True, help="The images that the results are of.")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="A folder of <model>.safetensors.")
@click.option("--images", "most", type=int, help="At most as many images of each first unit.")
def main(results: tuple[str, ...], data: str, weights: Path, most: int | None) -> None:
    """Compare the first unit of each result with one computed now."""
    reports = []
    for path in results:
        try:
            reports.append(recompute(path, data, weights, most))
        except ItdError as error:
            click.echo(f"passed over: {error}")
            continue
        told = (
            "{result}: {images} images, {rows:,} rows, {clear:,} clear, {ranked:,} ranked clearly, "
            "{differ} differ, quality within {quality:.1e}"
        )
        click.echo(told.format(**reports[-1]))
    click.echo(json.dumps(reports))
    if any(r["differ"] or r["quality"] > 1e-4 for r in reports):
        raise SystemExit("stored rows and rows computed now differ")


if __name__ == "__main__":
    main()
