"""Classifies images: with a network as it is, or with a selector, which makes it really dynamic.

Images are run a batch at a time; within a batch those that take the same path run together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itd.checked import BadFile, read_lines
from itd.data.digits import DIGITS
from itd.data.folder import EXTENSIONS, FolderReader, image_files, note_skipped
from itd.data.images import ImageSet
from itd.data.loader import batches
from itd.data.preprocess import CHANGEABLE, Preprocess, PreprocessChanges
from itd.device import Halves, resolve_device
from itd.engine.routed import Frontier, RoutedExecutor, pooled, pooling_macs, routed_program
from itd.engine.tracing import trace
from itd.engine.tree import default_batch_size
from itd.errors import DataError, ItdError, ModelError
from itd.patcher import Conventions, logits_of
from itd.patcher.names import canonical_name
from itd.patcher.registry import layout_of
from itd.runner.request import SweepRequest
from itd.runner.scores import among
from itd.runner.sites import sites_text
from itd.selectors.evaluate import thumbnail
from itd.selectors.selector import Selector, load_selector
from itd.selectors.source import SiteSettings, kept_tensor, listed, plain_macs, sizes
from itd.text import one_line
from itd.weights.load import Weights
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.resolve import resolve
from itd.weights.state import warn_assumed


@dataclass(frozen=True)
class PredictRequest(PreprocessChanges):
    """What is classified, and with what; None is the default.

    images: files, folders with files, or "digits". model: as of `SweepRequest`; the selector's where it is None.
    weights: as of `SweepRequest`. selector: a file of `itd select --save`. classes_file: one name per line, in label
    order. top: how many classes of each image. Others, by keyword: as of `PreprocessChanges`; not with a selector,
    which has its own.
    """

    images: tuple[str, ...]
    model: str | None = None
    weights: str | None = None
    selector: str | None = None
    classes_file: str | None = None
    num_classes: int | None = None
    top: int = 1
    device: str | None = None
    batch_size: int | None = None
    workers: int = 0


@dataclass(frozen=True)
class Prediction:
    """One image. top: (class, its name or None, probability), the likeliest first. config: site -> attribute -> value
    that it chose (of a cascade the last it ran; None without a selector or where all were averaged). macs: everything
    that was run for it, with what choosing cost; None for a network without registered sites."""

    image: str
    top: tuple[tuple[int, str | None, float], ...]
    config: SiteSettings | None = None
    macs: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        top = [{"class": c, "name": name, "probability": p} for c, name, p in self.top]
        return {"image": self.image, "top": top, "config": self.config, "macs": self.macs}


def predict(request: PredictRequest, *, on_prepare: OnPrepare = draw_bar, quiet: bool = False) -> Iterator[Prediction]:
    """Classifies images, in the order given. on_prepare, quiet: as of `itd.sweep`.

    Raises ItdError before the first for weights that the selector was not made for, no images, and names that do not
    fit; at an image that cannot be decoded, naming it.

    >>> next(predict(PredictRequest(("digits",), "resnet18", "none"))).top[0][0] in range(10)
    True
    """
    if not isinstance(request, PredictRequest):
        raise ItdError(f"predict takes a PredictRequest, given {type(request).__name__}")
    images = _images(request.images)
    selector = None if request.selector is None else load_selector(request.selector)
    name = _model_name(request, selector)
    data = DIGITS if request.images == (DIGITS,) else ""
    sweep = SweepRequest(
        name,
        sites=None if selector is None else sites_text(name, selector.sites),
        conventions=Conventions() if selector is None else Conventions(**selector.choices),
        weights=request.weights,
        num_classes=request.num_classes,
        device=request.device,
    )
    weights = resolve(
        name,
        request.weights,
        data=data,
        num_classes=request.num_classes,
        device=request.device,
        on_prepare=None if quiet else on_prepare,
        size_px=request.size_px if selector is None else sizes(selector.preprocess),
    )
    if selector is None:
        weights = replace(weights, preprocess=request.preprocess_from(weights.preprocess))
    elif len(request.kept) < len(CHANGEABLE):
        raise DataError("a selector has its own preprocessing; leave out `resize_px`, `crop_px`, `mean` and the like")
    names = _class_names(request, weights)
    network: _Static | _Selected = _Static(sweep, weights) if selector is None else _Selected(sweep, weights, selector)
    if selector is None:
        warn_assumed(request, weights)
    size = request.batch_size or default_batch_size(network.device)
    top = min(request.top, weights.num_classes)
    return _predictions(request, images, network, names, size, top)


def _predictions(
    request: PredictRequest,
    images: ImageSet,
    network: _Static | _Selected,
    names: Sequence[str] | None,
    batch_size: int,
    top: int,
) -> Iterator[Prediction]:
    order = np.arange(len(images), dtype=np.int32)
    for batch in batches(images, order, network.preprocess, batch_size=batch_size, workers=request.workers):
        probabilities, configs, macs = network.run(batch.pixels)
        values, classes = probabilities.topk(top)
        for row, sample in enumerate(batch.samples):
            listed = zip(classes[row].tolist(), values[row].tolist(), strict=True)
            yield Prediction(
                images.names[sample],
                tuple((c, None if names is None else names[c], p) for c, p in listed),
                configs[row],
                macs[row],
            )


class _Static:
    """The network as it is."""

    def __init__(self, sweep: SweepRequest, weights: Weights) -> None:
        self.device, self.preprocess = resolve_device(sweep.device), weights.preprocess
        self.model: nn.Module = weights.network()
        self.layout, self.halves = layout_of(weights.model_name), Halves(self.device)
        self.model.to(self.device).to(memory_format=self.layout)

    def run(self, pixels: Tensor) -> tuple[Tensor, list[None], list[None]]:
        """(N, K) probabilities; which configurations, and what they cost: not told."""

        def probabilities(rows: slice) -> Tensor:
            some = pixels[rows].to(self.device, memory_format=self.layout)
            return logits_of(self.model(some)).float().softmax(1).cpu()

        nothing: list[None] = [None] * len(pixels)
        with torch.inference_mode():
            return torch.cat(self.halves.run(len(pixels), probabilities)), nothing, nothing


class _Selected:
    """The network with a selector: every image at a configuration of its own."""

    def __init__(self, sweep: SweepRequest, weights: Weights, selector: Selector) -> None:
        if weights.sha256 != selector.weights_sha256:
            raise ModelError(
                f"weights {weights.label} are not those that the selector was made for; give `weights` those, or make "
                "a selector for these with `itd select`"
            )
        self.selector, self.device = selector, resolve_device(sweep.device)
        self.preprocess = Preprocess.from_identity(dict(selector.preprocess))
        self.kept = kept_tensor(selector.class_subset, weights.num_classes)
        model = sweep.patched(weights)
        space, self.numbers = listed(model, selector.attributes, selector.configs)
        traced = trace(model)
        self.macs = plain_macs(traced, space, self.preprocess.side_px)[self.numbers]
        self.network = RoutedExecutor(routed_program(traced, space, swept=selector.swept, device=self.device))
        self._run: Callable[[Tensor], tuple[Tensor, np.ndarray, np.ndarray]] = {
            "cascade": self._cascade,
            "averaging": self._averaging,
        }.get(selector.method, self._learned)

    def run(self, pixels: Tensor) -> tuple[Tensor, list[SiteSettings | None], list[float]]:
        """(N, K) probabilities, the configuration of each image, and what was spent on it. pixels: (N, 3, H, W)."""
        probabilities, places, macs = self._run(pixels)
        return probabilities, [None if p < 0 else self.selector.configs[p] for p in places], macs.tolist()

    def _at(self, pixels: Tensor, place: int) -> Tensor:
        return among(self.network.logits(pixels, np.full(len(pixels), self.numbers[place])), self.kept).softmax(1)

    def _cascade(self, pixels: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
        assert self.selector.threshold is not None
        found: Tensor | None = None
        places, spent = np.zeros(len(pixels), np.int64), np.zeros(len(pixels))
        left = np.arange(len(pixels))
        for place in range(len(self.numbers)):
            probabilities = self._at(pixels[left], place)
            found = probabilities.clone() if found is None else found
            found[left] = probabilities
            places[left] = place
            spent[left] += self.macs[place]
            left = left[(probabilities.max(1).values < self.selector.threshold).numpy()]
            if not len(left):
                break
        assert found is not None
        return found, places, spent

    def _averaging(self, pixels: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
        mean = torch.stack([self._at(pixels, place) for place in range(len(self.numbers))]).mean(0)
        return mean, np.full(len(pixels), -1), np.full(len(pixels), self.macs.sum())

    def _learned(self, pixels: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
        learned = self.selector.learned
        assert learned is not None
        places = np.zeros(len(pixels), np.int64)
        own = float(learned.macs())
        small = thumbnail(pixels) if self.selector.source == "thumbnail" else None
        own += 0 if small is None else 3 * pixels.shape[-1] * pixels.shape[-2]
        pooling = 0

        def choose(frontier: Frontier, images: np.ndarray) -> np.ndarray:
            nonlocal pooling
            if small is None:
                pooling = pooling_macs(frontier)
            places[images] = learned.choose(pooled(frontier) if small is None else small[images])
            return self.numbers[places[images]]

        probabilities = among(self.network.logits(pixels, choose), self.kept).softmax(1)
        return probabilities, places, self.macs[places] + own + pooling


def _model_name(request: PredictRequest, selector: Selector | None) -> str:
    if selector is None:
        if request.model is None:
            raise ItdError("nothing says which network; give `model`, or a `selector`, which names its own")
        return request.model
    if request.model is not None and canonical_name(request.model) != selector.model:
        raise ModelError(f"the selector is for {selector.model}, not for {request.model}; leave `model` out")
    return selector.model


def _images(given: Sequence[str]) -> ImageSet:
    """The images in the order given, those of a folder sorted."""
    if tuple(given) == (DIGITS,):
        from itd.data.digits import digits_images

        return digits_images("eval")
    found: list[tuple[str, int]] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            found += _inside(path)
        elif path.is_file():
            found.append((one, os.path.getsize(one)))
        else:
            what = "is no file" if path.exists() else "is not there"
            raise DataError(f"the image {one} {what}; give image files, folders of them, or digits")
    names = [name for name, _ in found]
    sizes_bytes = np.array([size for _, size in found], np.int64)
    return ImageSet(names, np.zeros(len(names), np.int16), ("",), sizes_bytes, "", FolderReader(""))


def _inside(folder: Path) -> list[tuple[str, int]]:
    """(path, size in bytes) of each image below a folder; DataError where there is none."""
    skipped: list[str] = []
    files = image_files(folder, "", skipped)
    note_skipped(folder, skipped)
    if not files:
        raise DataError(f"no images in {folder}; files ending in {', '.join(EXTENSIONS)} are read")
    return [(str(folder / name), size) for name, size in files]


def _class_names(request: PredictRequest, weights: Weights) -> Sequence[str] | None:
    """K names, or None where nobody knows them."""
    count = weights.num_classes
    if request.classes_file:
        try:
            names = read_lines(request.classes_file)
        except (OSError, BadFile) as error:
            raise DataError(
                f"cannot read `classes_file={request.classes_file}`: {one_line(error)}; expected one name per line"
            ) from error
        if len(names) != count:
            raise DataError(
                f"`classes_file={request.classes_file}` names {len(names)} classes, the network has {count}"
            )
        return names
    if count != 1000:
        return None
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
