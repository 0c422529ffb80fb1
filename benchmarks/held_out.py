"""How often an interval of the held-out greedy curve contains what it is an interval of.

Draws images from a stored result, cross-fits the curve on them, and measures the list that is chosen on all drawn
images on the others. Beside it: how much too high the in-sample figure is.

    python benchmarks/held_out.py results/cifar-resnet18-stride-cifar10.parquet --draws 200 --images 130
"""

from __future__ import annotations

import argparse

import numpy as np

import itd
from itd.analysis._held_out import Scores, held_out
from itd.analysis.bootstrap_greedy import greedy_lists
from itd.analysis.predictions import default_rank
from itd.analysis.sampling import Resamples


def coverage(
    path: str,
    *,
    draws: int = 200,
    images: int = 130,
    ks: tuple[int, ...] = (3, 5, 10),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[int, dict[str, float]]:
    """k -> {covered, error, in_sample}: the share of draws whose interval holds the accuracy on the images not drawn of
    the list chosen on those drawn, the mean of estimate less that, and the mean of the in-sample figure less that."""
    result = itd.open_result(path)
    quality, pred, rank = result.matrix("quality"), result.matrix("pred"), default_rank(result)
    correct = quality >= 1
    rng = np.random.default_rng(seed)
    found = {k: np.zeros((draws, 3)) for k in ks}
    for draw in range(draws):
        drawn = rng.permutation(result.n)[:images]
        others = np.setdiff1d(np.arange(result.n), drawn)
        scores = Scores(
            correct[:, drawn],
            quality[:, drawn],
            pred[:, drawn],
            None if rank is None else rank[drawn],
            result.default_index,
        )
        curve = held_out(scores, 10, 20, Resamples(images, resamples, draw))
        assert curve is not None
        ones = np.ones((1, images), np.uint8)
        lists, covered = greedy_lists(scores.correct, scores.quality, ones, max(ks), scores.default)
        for k in ks:
            step = curve.steps[k - 1]
            truth = correct[lists[0, :k]][:, others].any(0).mean()
            found[k][draw] = step.low <= truth <= step.high, step.accuracy - truth, covered[0, k - 1] / images - truth
    return {
        k: dict(zip(("covered", "error", "in_sample"), values.mean(0).tolist(), strict=True))
        for k, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=130)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    for path in given.results:
        for k, one in coverage(path, draws=given.draws, images=given.images, resamples=given.resamples).items():
            print(
                f"{path}: {given.draws} draws of {given.images}, k = {k}: covered {100 * one['covered']:.1f}%, mean "
                f"error {100 * one['error']:+.2f} points, in-sample {100 * one['in_sample']:+.2f} points"
            )


if __name__ == "__main__":
    main()
