"""Selectors measured: cross-validated by sample, the greedy list chosen within each fold, beside the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.analysis.cascade import cascade_of, fitted
from itd.analysis.sampling import Resamples
from itd.analysis.selection import CrossValidation, Outcome, Selection
from itd.data.loader import batches
from itd.device import Halves
from itd.engine.program import compile_program
from itd.engine.routed import RoutedExecutor, pooled, pooling_macs, routed_program
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor, default_batch_size
from itd.errors import ItdError
from itd.runner.scores import among
from itd.selectors.learners import LEARNERS, fit
from itd.selectors.selector import Selector, check_method
from itd.selectors.source import SweepSource, open_source
from itd.store import Result
from itd.weights.prepare import OnPrepare, draw_bar

THUMBNAIL_PX = 16


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a learner sees of N images. values: (N, F). macs: of making them for one image."""

    values: np.ndarray
    macs: int


@dataclass(frozen=True)
class SelectRequest:
    """A study of selectors as it is typed, beside the result.

    k: choose among the first as many of the greedy list. folds: of the cross-validation. data, weights: the images and
    the network, for the selectors that look at them; with neither, only the cascade. classes_file, labels_file: as the
    sweep took them. seed: of the folds, the resamples
    and the learners. before: a result of the network before it was fine-tuned, from which the gap is closed too.
    """

    k: int = 5
    folds: int = 5
    partial: bool = False
    resamples: int = 1000
    seed: int = 0
    data: str | None = None
    classes_file: str | None = None
    labels_file: str | None = None
    weights: str | None = None
    device: str | None = None
    workers: int = 0
    before: Result | None = None

    @property
    def looks(self) -> bool:
        """Whether the network is run."""
        return self.data is not None or self.weights is not None


class SelectorStudy:
    """One result on the way to its selectors: measured first, then, if wanted, one of them made for use.

    Raises ItdError for anything that cannot be, before a network is run.
    """

    def __init__(self, result: Result, request: SelectRequest, *, on_prepare: OnPrepare | None = draw_bar) -> None:
        self.result, self.request = result, request
        drawn = Resamples(max(1, result.n), request.resamples, request.seed)
        self.course = CrossValidation(result, request.k, request.folds, drawn, request.partial, request.before)
        self.source: SweepSource | None = None
        self.inputs: dict[str, Inputs] = {}
        if request.looks:
            self.source = open_source(
                result, request.data, request.weights, classes_file=request.classes_file,
                labels_file=request.labels_file, device=request.device, on_prepare=on_prepare,
            )  # fmt: skip

    def measure(self, progress: Callable[[int], Any] | None = None) -> Selection:
        """What each selector achieves. progress: told how many images were just run."""
        found = cascade_of(self.course)
        if self.source is None:
            return found
        course = self.course
        self.inputs, right = gather(
            self.source, [fold.rows for fold in course.folds], workers=self.request.workers, progress=progress
        )
        averaged = np.zeros(self.result.n, bool)
        cost = np.zeros(self.result.n)
        for number, fold in enumerate(course.folds):
            averaged[fold.held] = right[number, fold.held]
            cost[fold.held] = course.macs[fold.rows].sum()
        selectors = found.selectors | {"averaging": course.outcome(averaged, cost)}
        for source, given in self.inputs.items():
            selectors |= learnt(course, source, given, seed=self.request.seed)
        return replace(found, selectors=selectors)

    def make(self, method: str) -> Selector:
        """A selector for other images, made from all samples. method: a name of `METHODS`."""
        check_method(method)
        if self.source is None:
            raise ItdError("a selector that can be used needs the network: give `data` and `weights`")
        course, every = self.course, np.arange(self.result.n)
        rows, threshold, learned = course.rows(every), None, None
        source, _, kind = method.partition("-")
        if method == "cascade":
            rows, threshold = fitted(course)
        elif kind:
            if not self.inputs:
                self.measure()
            learned = fit(kind, self.inputs[source].values, course.correct[rows], self.request.seed)
        identity = self.source.identity
        return Selector(
            method=method,
            model=identity["model"],
            weights_sha256=identity["weights_sha256"],
            sites=identity["sites"],
            swept=self.source.swept,
            attributes=self.result.attributes,
            choices=identity["choices"],
            configs=tuple(self.result.setting(int(row)) for row in rows),
            preprocess=identity["preprocess"],
            threshold=threshold,
            learned=learned,
            made_from={"result": self.result.path, "n": self.result.n, "variation": identity["variation"]},
            class_subset=identity.get("class_subset"),
        )


def select(result: Result, request: SelectRequest | None = None, **fields: Any) -> Selection:
    """What choosing without the label achieves on a result, cross-validated by sample.

    Args:
        result: of `itd.open_result`.
        request: how; None is the default, or one made of `fields`, which are those of `SelectRequest`.

    Raises:
        ItdError: for anything that cannot be, before a network is run.

    Example:
        >>> import itd
        >>> itd.select(itd.open_result("results/resnet50-stride.parquet"), k=3)  # doctest: +SKIP
    """
    if not isinstance(result, Result):
        raise ItdError(f"select takes a result of itd.open_result, given {type(result).__name__}; open it first")
    if request is not None and not isinstance(request, SelectRequest):
        raise ItdError(f"select takes a SelectRequest, given {type(request).__name__}")
    unknown = [name for name in fields if name not in SelectRequest.__dataclass_fields__]
    if unknown:
        raise ItdError(f"select has no {unknown[0]}; its fields are {', '.join(SelectRequest.__dataclass_fields__)}")
    return SelectorStudy(result.kept(), replace(request or SelectRequest(), **fields), on_prepare=None).measure()


def learnt(course: CrossValidation, source: str, inputs: Inputs, *, seed: int = 0) -> dict[str, Outcome]:
    """What the learners achieve from one kind of input: name -> outcome.

    In each fold they are fitted on the other folds' samples alone, to choose among the list made on those.
    """
    found = {}
    for kind in LEARNERS:
        places, macs = [], 0
        for fold in course.folds:
            right = course.correct[fold.rows][:, fold.others]
            learned = fit(kind, inputs.values[fold.others], right, seed)
            places.append(learned.choose(inputs.values[fold.held]))
            macs = learned.macs()
        found[f"{source}-{kind}"] = course.chosen(places, float(inputs.macs + macs))
    return found


def gather(
    source: SweepSource,
    lists: Sequence[np.ndarray],
    *,
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> tuple[dict[str, Inputs], np.ndarray]:
    """Runs the network on every image: what learners see of it, and whether the mean of probabilities is right.

    lists: rows of the result. Returns inputs by source, and (lists, N) bool: whether the class of the highest mean
    softmax value over the list's configurations is the label.
    """
    result, model, device = source.result, source.model, source.device
    union = sorted({int(row) for rows in lists for row in rows})
    space, numbers = source.space(union)
    place = {row: int(number) for row, number in zip(union, numbers, strict=True)}
    members = np.array([[place[int(row)] for row in rows] for rows in lists])
    traced = trace(model)
    tree = TreeExecutor(compile_program(traced, space, device=device))
    routed = RoutedExecutor(routed_program(traced, space, swept=source.swept, device=device))
    right = np.zeros((len(lists), result.n), bool)
    features, thumbnails, done, pooling = [], [], 0, 0
    size, halves = default_batch_size(device), Halves(device)
    for batch in batches(source.images, result.samples, source.preprocess, batch_size=size, workers=workers):

        def at_the_frontier(rows: slice, pixels: Tensor = batch.pixels) -> tuple[np.ndarray, int]:
            frontier = routed.frontier(pixels[rows])
            return pooled(frontier), pooling_macs(frontier)

        pieces = halves.run(len(batch), at_the_frontier)
        features += [values for values, _ in pieces]
        pooling = pieces[0][1]
        thumbnails.append(thumbnail(batch.pixels))
        probabilities = _probabilities(tree, batch.pixels, len(space), source.kept)
        here = slice(done, done + len(batch))
        for number, rows in enumerate(members):
            right[number, here] = probabilities[rows].mean(0).argmax(1).numpy() == result.labels[here]
        done += len(batch)
        if progress is not None:
            progress(len(batch))
    inputs = {
        "features": Inputs(np.concatenate(features), pooling),
        "thumbnail": Inputs(np.concatenate(thumbnails), 3 * source.preprocess.side_px**2),
    }
    return inputs, right


def thumbnail(pixels: Tensor) -> np.ndarray:
    """(N, 768) float32: each image averaged down to 16 x 16 pixels. pixels: (N, 3, H, W), preprocessed."""
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), THUMBNAIL_PX)
    return small.flatten(1).cpu().numpy()


def _probabilities(tree: TreeExecutor, pixels: Tensor, configs: int, kept: Tensor | None) -> Tensor:
    """(C, N, K) float32 softmax values on the CPU. kept: (K,) bool, as of `itd.runner.scores.score`."""
    found: list[tuple[np.ndarray, np.ndarray, Tensor]] = []
    tree.run(pixels, lambda c, i, logits: found.append((c, i, among(logits.float(), kept).softmax(1).cpu())))
    out = torch.empty(configs, pixels.shape[0], found[0][2].shape[1])
    for numbers, images, values in found:
        out[torch.from_numpy(numbers), torch.from_numpy(images)] = values
    return out
