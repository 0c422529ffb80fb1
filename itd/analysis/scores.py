"""What every answer starts from: where configurations are right, which each sample prefers, and whether two results can
be held against each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.errors import EmptyResultError, ResultError
from itd.text import shorten

if TYPE_CHECKING:
    from itd.store import Result


def require_result(result: Any, verb: str) -> None:
    """ResultError, saying what to give, for anything that is not a result."""
    from itd.store import Result

    if isinstance(result, Result):
        return
    if isinstance(result, (str, Path)):
        raise ResultError(f"{verb} takes a result, given the path {str(result)!r}; open it with itd.open_result")
    raise ResultError(f"{verb} takes a result of itd.open_result, given {type(result).__name__}")


def require_results(results: Any, verb: str) -> None:
    """ResultError for anything that is not a list of results."""
    if isinstance(results, (str, Path)) or not isinstance(results, Sequence):
        raise ResultError(f"{verb} takes a list of results of itd.open_result, given {type(results).__name__}")
    for result in results:
        require_result(result, verb)


def require_number(value: Any, name: str, *, least: int, most: int | None = None) -> None:
    """ResultError for anything that is not a whole number from `least` to `most`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ResultError(f"{name} is {shorten(repr(value))}; give a whole number, {allowed}")


def correctness(result: Result, quality: np.ndarray | None = None) -> np.ndarray:
    """(C, N) bool: where the prediction is the label. quality: the result's, where it is loaded already."""
    require_images(result)
    return result.keep("correct", lambda: (result.matrix("quality") if quality is None else quality) >= 1)


def require_images(result: Result) -> None:
    """EmptyResultError for a result that has none; no score is read."""
    if not result.n:
        raise EmptyResultError(
            f"{result.path} has no images yet (or only null rows), so there is nothing to measure; "
            "give its `itd sweep` or `itd union` command again to go on with it"
        )


def require_whole(result: Result, partial: bool) -> None:
    """ResultError for a result whose sweep is not finished, unless it may be partial."""
    if result.partial and not partial:
        raise ResultError(
            f"{result.path} is not finished: {result.images_done} of {result.images_requested} images are there; give "
            "its `itd sweep` or `itd union` command again to finish it, or `partial` to use what is there"
        )


def require_default(result: Result, what: str) -> int:
    """The row of the default configuration; ResultError where the space does not have it."""
    if result.default_index is None:
        raise ResultError(
            f"{result.path} does not hold the network's default configuration, which {what} needs; sweep again with "
            "`options` that hold each site's own value"
        )
    return result.default_index


def preferred(quality: np.ndarray, nll: np.ndarray, default: int | None) -> np.ndarray:
    """(N,) the row each sample prefers: highest quality, then smaller nll, then the default, then the lower row.

    quality, nll: (C, N).
    """
    samples = np.arange(quality.shape[1])
    best = quality.max(0)
    left = np.where(quality == best, nll, np.inf)
    rows = left.argmin(0)
    if default is None:
        return rows
    ties = (quality[default] == best) & (nll[default] == left[rows, samples])
    return np.where(ties, default, rows)


def require_same_data(results: Sequence[Result], doing: str, *, model: bool = False) -> None:
    """ResultError where results are not of the same images and labels, naming what differs.

    model: they must also be of one network, fed alike: model, weights, sites, open choices, preprocessing, variation.
    Results without a manifest are held against the labels of the samples that they share.
    """
    network = ["model", "weights_sha256", "sites", "choices", "preprocess", "variation"]
    fields = ["data", *(network if model else [])]
    for first, other in itertools.combinations(results, 2):
        if first.manifest is not None and other.manifest is not None:
            here, there = first.identity, other.identity
            differs = [name for name in fields if here.get(name) != there.get(name)]
            if differs:
                values = (
                    f"{name} ({shorten(here.get(name), 40)} and {shorten(there.get(name), 40)})" for name in differs
                )
                raise ResultError(
                    f"cannot {doing} {first.path} and {other.path}: they differ in {'; '.join(values)}; give "
                    "results of the same " + ("network on the same images" if model else "images")
                )
        ours, theirs = common(first, other)
        wrong = np.flatnonzero(first.labels[ours] != other.labels[theirs])
        if len(wrong):
            sample = first.samples[ours[wrong[0]]]
            raise ResultError(
                f"cannot {doing} {first.path} and {other.path}: sample {sample} has label "
                f"{first.labels[ours[wrong[0]]]} in one and {other.labels[theirs[wrong[0]]]} in the other; give "
                "results of the same images and class map"
            )


def common(first: Result, other: Result) -> tuple[np.ndarray, np.ndarray]:
    """The places of the samples that two results share, in each of them."""
    _, ours, theirs = np.intersect1d(first.samples, other.samples, assume_unique=True, return_indices=True)
    return ours, theirs
