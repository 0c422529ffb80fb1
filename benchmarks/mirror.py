"""Is a preference a property of the image, or of the argmax? How often an image and its mirror prefer the same option.

Sweeps the mirrors of images of a stored result, then holds the preferred configuration of each image against that of
its mirror. A mirror shows the same object at the same scale; where its preference differs, the preference was not of
the image. The control is how often two different images prefer the same, which the options' shares alone give.

    python benchmarks/mirror.py results/resnet50-dilation-val1300.parquet --data DIR/images/val1300 \\
      --weights DIR/weights/resnet50.safetensors --images 40 --out results/resnet50-dilation-val1300-mirrored.parquet
    python benchmarks/mirror.py results/resnet50-dilation-val1300.parquet \\
      --mirrored results/resnet50-dilation-val1300-mirrored.parquet
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

import itd
from itd.analysis.sampling import wilson
from itd.analysis.scores import preferred
from itd.selectors.source import open_source


class Mirrored(Dataset[tuple[Tensor, int]]):
    """The images of a stored result as the network gets them, left and right exchanged."""

    def __init__(self, result: itd.Result, source: Any, count: int) -> None:
        self.samples, self.source, self.labels = result.samples[:count], source, result.labels[:count]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.source.preprocess(self.source.images.load(int(self.samples[index])))
        return pixels.flip(-1), int(self.labels[index])


def sweep_mirrors(result: itd.Result, data: str, weights: str, count: int, out: str) -> str:
    """The path of the mirrors' result, of the same network and space."""
    source = open_source(result, data, weights)
    space = itd.model_space(source.model, list(result.attributes))
    images = Mirrored(result, source, count)
    job = itd.SweepJob(source.model, space, images, name=f"{result.identity['model']}-mirrored", labels=images.labels)
    return itd.sweep(job, out=out).out


def rows_preferred(result: itd.Result, count: int) -> np.ndarray:
    """(n,) the preferred row of each of the first images."""
    return preferred(result.matrix("quality"), result.matrix("nll"), result.default_index)[:count]


def agreement(result: itd.Result, other: itd.Result) -> list[tuple[str, int, int, float]]:
    """(what, images that agree with their mirror, n, share of pairs of different images that agree): the prediction of
    the default, the preferred configuration, and the preferred option at each site; of all images, then of those that
    some configuration gets right in both."""
    count = min(result.n, other.n)
    if result.settings != other.settings or list(result.labels[:count]) != list(other.labels[:count]):
        raise click.ClickException("the two results are not of the same space and images")
    here, there = rows_preferred(result, count), rows_preferred(other, count)
    default = result.default_index
    said = [r.matrix("pred")[default, :count] for r in (result, other)]
    solved = (result.matrix("quality")[:, :count] >= 1).any(0) & (other.matrix("quality")[:, :count] >= 1).any(0)
    answers = []
    for words, kept in (("all", np.ones(count, bool)), ("solved in both", solved)):
        n = int(kept.sum())
        pairs = [("the default's prediction", *said), ("configuration", here, there)]
        for site in result.sites:
            of = np.array([next(iter(result.setting(i)[site].values())) for i in range(result.configs)])
            pairs.append((f"option at {site}", of[here], of[there]))
        for what, one, two in pairs:
            one, two = one[kept], two[kept]
            apart = ~np.eye(n, dtype=bool)
            answers.append((f"{what}, {words}", int((one == two).sum()), n, float((one[:, None] == two)[apart].mean())))
    return answers


def table(answers: Sequence[tuple[str, int, int, float]]) -> str:
    """As Markdown."""
    lines = ["| what | n | an image and its mirror agree | two different images |", "|---|---|---|---|"]
    for what, same, n, chance in answers:
        share = wilson(same, n)
        between = f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"
        lines.append(f"| {what} | {n} | {between} | {100 * chance:.1f} |")
    return "\n".join(lines)


@click.command()
@click.argument("path")
@click.option("--data")
@click.option("--weights")
@click.option("--images", default=40)
@click.option("--out", default="mirrored.parquet")
@click.option("--mirrored", help="A result of mirrors that is there already.")
def main(path: str, data: str | None, weights: str | None, images: int, out: str, mirrored: str | None) -> None:
    result = itd.open_result(path)
    if mirrored is None:
        if data is None or weights is None:
            raise click.UsageError("give --data and --weights, or --mirrored")
        mirrored = sweep_mirrors(result, data, weights, images, out)
    click.echo(table(agreement(result, itd.open_result(mirrored))))


if __name__ == "__main__":
    main()
