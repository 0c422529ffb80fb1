"""What one more choice is worth for each guess that it adds: a second network, a second stride, a second scale.

The order in which choices are added is made on one half of the images and measured on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import distinct
from itd.analysis.sampling import Estimate, halves, paired_counts
from itd.analysis.scores import correctness, require_default, require_number, require_result

if TYPE_CHECKING:
    from itd.store import Result

MOST = 5
HALVINGS = 20


@dataclass(frozen=True)
class Worth(Answer):
    """The default configuration and k - 1 others together, on images that did not choose the others.

    accuracy: best case of the k. guesses: distinct predictions of the k, on average. matched_topk: accuracy of the
    default configuration with as many guesses. over_matched: accuracy - matched_topk, with the paired interval of
    these images; it does not hold how much another choice would differ.
    """

    k: int
    n: int
    accuracy: float
    guesses: float
    matched_topk: float
    over_matched: Estimate

    def per_guess(self, first: Worth, figure: str = "accuracy") -> float | None:
        """What a figure gains over the default alone for each guess beyond one; None where there is no other guess."""
        more = self.guesses - first.guesses
        return (getattr(self, figure) - getattr(first, figure)) / more if more > 0 else None

    def rows(self) -> list[Row]:
        """One flat row."""
        names = ("k", "n", "accuracy", "guesses", "matched_topk")
        return [{name: getattr(self, name) for name in names} | flat("over_matched", self.over_matched)]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("k", "n", "accuracy", "guesses", "matched_topk")
        return {**{name: getattr(self, name) for name in names}, "over_matched": self.over_matched.as_dict()}


def worth_per_guess(
    result: Result,
    *,
    most: int = MOST,
    halvings: int = HALVINGS,
    seed: int = 0,
) -> list[Worth]:
    """The default configuration, then others one after another: each is right on most images that none before is right
    on, ties going to the higher mean quality, then the lower number.

    Args:
        result: of `open_result`: a sweep for further strides, a union of default configurations for further networks
            or scales.
        most: of configurations together, the default included.
        halvings: random divisions into two halves that figures are means of; each half is measured with the order made
            on the other.
        seed: of the halves.

    Returns:
        k = 1, 2, ... up to `most` or all configurations.

    Raises:
        ResultError: what is given is no result, or has no default configuration or fewer than two images.

    Example:
        >>> worth_per_guess(open_result("five-networks.parquet"))[1].guesses  # doctest: +SKIP
        1.2
    """
    require_result(result, "worth_per_guess")
    default = require_default(result, "worth_per_guess")
    require_number(most, "most", least=1)
    require_number(halvings, "halvings", least=1)
    quality, pred = result.matrix("quality"), result.matrix("pred")
    correct, rank = correctness(result, quality), result.row("rank", default)
    require_number(result.n, "the number of images", least=2)
    most = min(most, result.configs)
    sums = np.zeros((most, 3, result.n))
    for chosen_on, measured_on in _halvings(result.n, halvings, seed):
        order = added(correct[:, chosen_on], quality[:, chosen_on], default, most)
        said, right = pred[order][:, measured_on], correct[order][:, measured_on]
        for k in range(1, most + 1):
            unique = distinct(said[:k])
            sums[k - 1][:, measured_on] += right[:k].any(0), unique, rank[measured_on] < unique
    return [_worth(k, figures / halvings) for k, figures in enumerate(sums, start=1)]


def _worth(k: int, figures: np.ndarray) -> Worth:
    """figures: (3, N) of each image: right, guesses, matched, each the mean over the halvings."""
    right, guesses, matched = figures
    n, wins, losses = len(right), np.maximum(right - matched, 0).sum(), np.maximum(matched - right, 0).sum()
    over = paired_counts(float(wins), float(losses), n)
    return Worth(k, n, float(right.mean()), float(guesses.mean()), float(matched.mean()), over)


def _halvings(n: int, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(choose on, measure on), both ways of each division."""
    for number in range(count):
        first, second = halves(n, seed + number)
        yield first, second
        yield second, first


def added(correct: np.ndarray, quality: np.ndarray, default: int, most: int) -> Sequence[int]:
    """Rows in the order of `worth_per_guess`. correct: (C, N) bool. quality: (C, N)."""
    order, left = [default], ~correct[default]
    means = quality.mean(1, dtype=np.float64)
    while len(order) < most:
        gains = (correct & left).sum(1)
        gains[order] = -1
        best = np.flatnonzero(gains == gains.max())
        order.append(int(best[means[best].argmax()]))
        left = left & ~correct[order[-1]]
    return order


def worth_table(blocks: Sequence[tuple[str, Sequence[Worth]]]) -> str:
    """Markdown: accuracies in percent, gains in points. blocks: what is added, in the plural, and its figures."""
    head = ("what", "n", "best %", "guesses", "matched top-k %", "best - matched, 95% interval", "points per guess",
            "of top-k")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for what, figures in blocks:
        for one in figures:
            over = one.over_matched
            paired = f"{100 * over.value:+.1f}, {100 * over.low:+.1f} to {100 * over.high:+.1f}" if one.k > 1 else "-"
            gains = (one.per_guess(figures[0]), one.per_guess(figures[0], "matched_topk"))
            shares = (f"{100 * one.accuracy:.1f}", f"{one.guesses:.2f}", f"{100 * one.matched_topk:.1f}")
            each = ("-" if gain is None else f"{100 * gain:.1f}" for gain in gains)
            cells = (f"{what}: {one.k}", f"{one.n:,}", *shares, paired, *each)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
