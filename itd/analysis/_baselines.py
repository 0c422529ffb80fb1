"""What keeps an oracle honest: how much of its accuracy guessing explains, and what can be had without the label.

The ITD paper has none of these. An oracle that picks with the label in hand among hundreds of predictions is right
whenever any of them is; each rule here is given as much, or does with less.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.bootstrap_greedy import GreedyLists, candidates, list_votes
from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import default_rank, distinct_of, predictions
from itd.analysis.sampling import Estimate, Resamples, as_resamples, estimate, halves, proportion
from itd.analysis.scores import correctness, require_number, require_result
from itd.analysis.threads import side_by_side
from itd.errors import ResultError
from itd.text import shorten

if TYPE_CHECKING:
    from itd.store import Result

VOTE_KS = (3, 5, 10)
_CELLS = 4_000_000
"""Weights of samples that lists are made for at once."""
_LISTS_AT_ONCE = 32
"""Lists that one thread lets vote."""


@dataclass(frozen=True)
class Baselines(Answer):
    """Accuracies to hold beside an oracle's, with 95% intervals: Wilson's for a share of the samples, the
    bootstrap's for chance and for what is chosen. None where it cannot be told.

    matched_topk: the default network allowed as many guesses for a sample as the configurations made distinct
    predictions there. chance: the oracle's, if these samples' labels were dealt among them at random. chance_uniform:
    the same if each of K classes were as likely, `mean(|U|) / K`. single_best: the best fixed configuration, chosen on
    one half of the samples and measured on the other, both ways. most_confident: for each sample the configuration with
    the largest softmax value. vote_all: the class that the most configurations predict. vote_greedy: k -> the same of
    the first k configurations of a greedy list, made on one half and measured on the other, both ways.
    single_best_configs: the configurations chosen on the two halves.
    """

    matched_topk: Estimate | None
    chance: Estimate
    chance_uniform: float | None
    single_best: Estimate | None
    most_confident: Estimate
    vote_all: Estimate
    vote_greedy: Mapping[int, Estimate] = field(default_factory=dict)
    single_best_configs: tuple[int, ...] = ()

    def named(self) -> dict[str, Estimate | None]:
        """Each figure that has an interval, by name; `vote_greedy` as `vote_first_<k>`."""
        names = ("matched_topk", "chance", "single_best", "most_confident", "vote_all")
        votes = {f"vote_first_{k}": value for k, value in self.vote_greedy.items()}
        return {name: getattr(self, name) for name in names} | votes

    def rows(self) -> list[Row]:
        """One row for each baseline."""
        return [{"baseline": name} | flat("accuracy", value) for name, value in self.named().items()]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: name -> {value, low, high, n}, and the two that are not estimates."""
        named = {name: None if e is None else e.as_dict() for name, e in self.named().items()}
        return {
            **named,
            "chance_uniform": self.chance_uniform,
            "single_best_configs": list(self.single_best_configs),
        }


def baselines(
    result: Result,
    *,
    vote_ks: Sequence[int] = VOTE_KS,
    resamples: Resamples | int | None = None,
    seed: int = 0,
    num_classes: int | None = None,
) -> Baselines:
    """The baselines of a result. Choosing on one half of the samples is repeated within each resample.

    Args:
        result: of `open_result`.
        vote_ks: lengths of the greedy lists that vote; those above the number of configurations are left out.
        resamples: how many bootstrap resamples the intervals are of, or drawn `Resamples`; default 1,000.
        seed: of the resamples, and of the halves.
        num_classes: K of `chance_uniform`; default what the result says.

    Returns:
        Each baseline with its 95% interval, None where the result cannot give it.

    Raises:
        ResultError: what is given is no result; EmptyResultError for one without images.

    Example:
        >>> baselines(open_result("results/resnet50-stride.parquet")).matched_topk.value  # doctest: +SKIP
        0.938
    """
    require_result(result, "baselines")
    require_votes(vote_ks, num_classes)
    quality = result.matrix("quality")
    correct = correctness(result, quality)
    pred, labels = result.matrix("pred"), result.labels
    drawn = as_resamples(resamples, result.n, seed)
    default = result.default_index
    said = predictions(pred, labels, first=default)
    unique = distinct_of(result, said.unique)
    rank = default_rank(result)
    classes = num_classes or result.num_classes
    ks = sorted({1, *(k for k in vote_ks if 1 <= k <= result.configs)})
    chosen, configs = cross_measured(correct, quality, pred, ks, drawn, default)
    return Baselines(
        matched_topk=None if rank is None else proportion(rank < unique),
        chance=drawn.mean(said.chance),
        chance_uniform=None if classes is None else float(unique.mean() / classes),
        single_best=chosen.get(1),
        most_confident=proportion(_most_confident(result, correct)),
        vote_all=proportion(said.vote == labels),
        vote_greedy={k: chosen[k] for k in sorted(set(vote_ks)) if k in chosen},
        single_best_configs=tuple(int(result.config_numbers[c]) for c in configs),
    )


def require_votes(vote_ks: Any, num_classes: Any) -> None:
    """ResultError for lengths of lists or a number of classes that are no whole numbers."""
    if not isinstance(vote_ks, Sequence) or isinstance(vote_ks, str):
        raise ResultError(f"vote_ks is {shorten(repr(vote_ks))}; give a list of whole numbers, such as [3, 5, 10]")
    for k in vote_ks:
        require_number(k, "vote_ks", least=0)
    if num_classes is not None:
        require_number(num_classes, "num_classes", least=1)


def _most_confident(result: Result, correct: np.ndarray) -> np.ndarray:
    """`most_confident` of a result, block by block, so that confidences take no memory. correct: (C, N) bool."""
    finest = np.full(result.n, -np.inf, np.float32)
    at = np.zeros(result.n, np.int64)
    default, alone = result.default_index, threading.Lock()

    def look(configs: slice, samples: slice, confidence: np.ndarray) -> None:
        rows = confidence.argmax(0)
        most = confidence[rows, np.arange(confidence.shape[1])]
        rows += configs.start
        if default is not None and configs.start <= default < configs.stop:
            rows[confidence[default - configs.start] == most] = -1  # before all others
        with alone:
            more = (most > finest[samples]) | ((most == finest[samples]) & (rows < at[samples]))
            finest[samples] = np.where(more, most, finest[samples])
            at[samples] = np.where(more, rows, at[samples])

    result.each_block("confidence", look)
    if default is not None:
        at[at < 0] = default
    return correct[at, np.arange(result.n)]


def most_confident(confidence: np.ndarray, correct: np.ndarray, default: int | None) -> np.ndarray:
    """(N,) bool: whether each sample's most confident configuration is right; ties go to the default, then by order.

    confidence: (C, N). correct: (C, N) bool.
    """
    samples = np.arange(confidence.shape[1])
    at = confidence.argmax(0)
    if default is not None:
        at = np.where(confidence[default] == confidence[at, samples], default, at)
    return correct[at, samples]


def cross_measured(
    correct: np.ndarray,
    quality: np.ndarray,
    pred: np.ndarray,
    ks: Sequence[int],
    resamples: Resamples,
    default: int | None,
) -> tuple[dict[int, Estimate], tuple[int, ...]]:
    """Accuracy of the vote of the first k configurations of a greedy list, chosen and measured on different halves.

    Each half is measured with the list made on the other; within each resample the lists are made again.

    Args:
        correct: (C, N) bool.
        quality: (C, N).
        pred: (C, N) classes.
        ks: lengths of the list; 1 is the single best configuration.
        resamples: of the N samples.
        default: the row that wins ties, or None.

    Returns:
        k -> accuracy over all N samples, and the first row of each half's list; both empty for a single sample.
    """
    n = correct.shape[1]
    first, second = halves(n, resamples.seed)
    if not len(first):
        return {}, ()
    right = dict.fromkeys(ks, 0)
    resampled = {k: np.zeros(resamples.count) for k in ks}
    configs = []
    for chosen_on, measured_on in ((first, second), (second, first)):
        rows = candidates(correct, chosen_on) if max(ks) == 1 else None
        chooser = GreedyLists(correct, quality, default, chosen_on, rows)
        lists = _lists(chooser, _Weightings(resamples, chosen_on), max(ks))
        configs.append(int(lists[0, 0]))
        counted = _Weightings(resamples, measured_on)
        for k, sums in _counted_votes(pred, correct, lists, ks, counted).items():
            right[k] += int(sums[0])
            resampled[k] += sums[1:]
    return {k: estimate(right[k] / n, resampled[k] / n, n) for k in ks}, tuple(configs)


class _Weightings:
    """Weights of some samples: of each once, then of each resample; as many at a time as are asked for."""

    def __init__(self, resamples: Resamples, samples: np.ndarray) -> None:
        """samples: (n,) which of the resamples' N."""
        self._resampled, self.samples = resamples.weights, samples

    def __len__(self) -> int:
        return 1 + len(self._resampled)

    def of(self, which: np.ndarray) -> np.ndarray:
        """(b, n) the weights of some weightings. which: (b,) 0 is the one that has each sample once."""
        weights = np.ones((len(which), len(self.samples)), self._resampled.dtype)
        if (drawn := which > 0).any():
            weights[drawn] = np.take(self._resampled[which[drawn] - 1], self.samples, axis=1)
        return weights


def _counted_votes(
    pred: np.ndarray,
    correct: np.ndarray,
    lists: np.ndarray,
    ks: Sequence[int],
    weights: _Weightings,
) -> dict[int, np.ndarray]:
    """k -> (B,) how much weight the vote of the first k of each list is right on; equal lists vote once.

    pred, correct: (C, N). lists: (B, K) rows. weights: B, of n of the N samples.
    """
    different, which = np.unique(lists, axis=0, return_inverse=True)
    which = which.reshape(-1)
    rows, places = np.unique(different, return_inverse=True)
    said, right = (np.take(scores[rows], weights.samples, axis=1) for scores in (pred, correct))
    places = places.reshape(different.shape)
    sums = {k: np.zeros(len(lists)) for k in ks}

    def count(first: int) -> None:
        for part, by_k in list_votes(said, right, places[first : first + _LISTS_AT_ONCE], ks):
            for place in range(part.start, part.stop):
                members = np.flatnonzero(which == first + place)
                for some in (members[i : i + _LISTS_AT_ONCE] for i in range(0, len(members), _LISTS_AT_ONCE)):
                    counted = weights.of(some).astype(np.float32)  # whose sums are whole numbers, and exact
                    for k, is_right in by_k.items():
                        sums[k][some] = counted @ is_right[place - part.start].astype(np.float32)

    side_by_side(count, range(0, len(places), _LISTS_AT_ONCE))
    return sums


def _lists(chooser: GreedyLists, weights: _Weightings, k: int) -> np.ndarray:
    """(B, k) lists of B weightings, some at a time."""
    size = max(1, _CELLS // max(1, len(weights.samples)))
    parts = (np.arange(len(weights))[first : first + size] for first in range(0, len(weights), size))
    return np.concatenate(side_by_side(lambda part: chooser.of(weights.of(part), k)[0], parts))
