"""What a sweep was asked to do, checked and resolved before anything is computed: model, space, images, identity."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from itd.data.images import ImageSet, select
from itd.data.preprocess import Preprocess
from itd.engine.costs import Costs, Walk, fixed_op, resolve, walk
from itd.engine.graph import build_graph
from itd.engine.precision import Precision
from itd.engine.prefixes import build_trie
from itd.engine.stages import cut
from itd.errors import ItdError, SpaceError
from itd.patcher import (
    MODELS,
    Conventions,
    DynamicModel,
    Sites,
    build_model,
    layer_attributes,
    model_space,
    parse_sites,
    patch,
)
from itd.patcher.model import check_space, site_specs
from itd.space import (
    ATTRIBUTES,
    SITES,
    Space,
    SpaceList,
    listed_space,
    parse_attributes,
    parse_value,
    read_space,
)
from itd.weights.load import Weights, apply_weights

_PROBE_PX = 512
WINDOW_RULE = "a window exceeds its input"
_ROW_BYTES = 16
"""pred, quality, nll, rank and confidence of one row, before compression."""


@dataclass(frozen=True)
class SweepRequest:
    """What `itd sweep` takes. Texts are as typed; None is the default.

    model: torchvision's name. attributes: `stride` or `stride,size`. sites: `ABCD`, a part of it, or `A=path,B=path`.
    options: each `1,2,3`, `A=1,2` or `stride:A=1,2`. stride_range: allowed total output stride. space_file: lists the
    configurations, in place of attributes and options. resize_px, crop_px: in place of the weights' own. scale,
    context_px: vary the images (see `Preprocess`), and become part of the result's name. limit, every: which images.
    batch_size: images in the tree at once (8, 64 on a GPU). workers: processes that decode. shard: (i, n), the i-th of
    n parts of the work. images_per_unit: of a new result.
    """

    model: str
    attributes: str | None = None
    sites: str | None = None
    options: tuple[str, ...] = ()
    conventions: Conventions = field(default_factory=Conventions)
    stride_range: tuple[int, int] = (4, 288)
    space_file: str | None = None
    data: str | None = None
    classes_file: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    resize_px: int | None = None
    crop_px: int | None = None
    scale: float | None = None
    context_px: int | None = None
    limit: int | None = None
    every: int = 1
    batch_size: int | None = None
    device: str | None = None
    precision: str = "fp32"
    workers: int = 0
    out: str | None = None
    allow_missing: bool = False
    shard: tuple[int, int] | None = None
    images_per_unit: int | None = None

    def space_list(self) -> SpaceList | None:
        """What the space file lists, None without one; SpaceError where options that make a space come with it."""
        if self.space_file is None:
            return None
        if self.attributes or self.options:
            raise SpaceError("--space lists the configurations itself; leave out --attr and --options")
        return read_space(self.space_file)

    def swept_attributes(self) -> tuple[str, ...]:
        """The attributes, in the order stride, dilation, size; SpaceError where neither they nor a space are given."""
        listed = self.space_list()
        if listed is not None:
            return listed.attributes
        if not self.attributes:
            raise SpaceError("nothing says what varies; give --attr stride, dilation or size, or --space FILE")
        return parse_attributes(self.attributes)

    def out_path(self) -> str:
        """Where the result goes: `out` or the default, with the variation at the end of its name.

        >>> SweepRequest("resnet50", "size,stride", scale=0.25).out_path()
        'results/resnet50-stride+size-scale0.25.parquet'
        """
        combined = "combined-" if self.space_file else ""
        base = self.out or f"results/{self.model}-{combined}{'+'.join(self.swept_attributes())}.parquet"
        tag = "" if self.scale is None else f"-scale{self.scale:g}"
        tag += "" if self.context_px is None else f"-context{self.context_px}"
        stem = base.removesuffix(".parquet")
        return f"{stem}{tag}{base[len(stem) :]}"

    def checked_device(self) -> torch.device:
        """The device; ItdError where it is not there."""
        name = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ItdError(f"no such device: {name!r}; allowed are cpu, cuda, cuda:0 and so on") from error
        if device.type not in ("cpu", "cuda"):
            raise ItdError(f"device {name} is not supported; allowed are cpu and cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ItdError(
                f"--device {name}: torch sees no GPU here; give --device cpu, or install a GPU build of torch"
            )
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ItdError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
        return device


@dataclass(frozen=True)
class Prepared:
    """A sweep ready to run. samples: (N,) int32 of the selected images. macs: (C,) of each plain forward of one image;
    tree_macs: of one image's tree. identity: what makes two results the same."""

    request: SweepRequest
    model: DynamicModel
    space: Space
    images: ImageSet
    samples: np.ndarray
    preprocess: Preprocess
    precision: Precision
    device: torch.device
    identity: Mapping[str, Any]
    weights_label: str
    num_classes: int
    macs: tuple[int, ...]
    tree_macs: int
    out: str

    def plan(self) -> SweepPlan:
        """What `--plan` prints."""
        n = len(self.samples)
        return SweepPlan(
            model=self.request.model,
            attributes=self.space.attributes,
            configs=len(self.space),
            default=self.space.default,
            removed=dict(self.space.removed),
            images=n,
            plain_macs=sum(self.macs) * n,
            tree_macs=self.tree_macs * n,
            score_bytes=len(self.space) * n * _ROW_BYTES,
            out=self.out,
        )


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do. removed: reason -> configurations left out. plain_macs, tree_macs: multiply-accumulates of
    all images, each configuration on its own and as the tree runs them. score_bytes: before compression."""

    model: str
    attributes: tuple[str, ...]
    configs: int
    default: int | None
    removed: Mapping[str, int]
    images: int
    plain_macs: int
    tree_macs: int
    score_bytes: int
    out: str


def patched_model(request: SweepRequest, num_classes: int) -> tuple[DynamicModel, tuple[str, ...], Sites | None]:
    """The network with random weights, patched; the swept sites; the user's own sites, if any."""
    network = build_model(request.model, num_classes)
    own, swept = parse_sites(request.model, request.sites)
    return patch(network, own or request.model, request.conventions), swept, own


def request_space(request: SweepRequest, model: DynamicModel, swept: Sequence[str], own: Sites | None) -> Space:
    """The space a request asks for, before images are looked at."""
    attributes = request.swept_attributes()
    entry = None if own else MODELS[request.model]
    listed = request.space_list()
    if listed is not None:
        return check_space(model, listed_space(listed, site_specs(model, entry)))
    fixed = {(spec.name, a) for spec in site_specs(model, entry) for a in spec.fixed}
    return model_space(
        model,
        attributes,
        entry=entry,
        stem_stride=stem_stride(model) if entry is None and "stride" in attributes else None,
        swept=swept,
        options=parse_options(request.options, attributes, swept, fixed),
        stride_range=request.stride_range,
    )


def parse_options(
    texts: Sequence[str],
    attributes: Sequence[str],
    swept: Sequence[str],
    fixed: Collection[tuple[str, str]] = (),
) -> dict[tuple[str, str], tuple[float, ...]]:
    """What `--options` says: (site, attribute) -> values.

    fixed: (site, attribute) that cannot vary; a list for every site passes them over.

    >>> parse_options(["1,2", "C=1/2"], ["stride"], ["B", "C"])
    {('B', 'stride'): (1, 2), ('C', 'stride'): (0.5,)}
    """
    everywhere: dict[tuple[str, str], tuple[float, ...]] = {}
    alone: dict[tuple[str, str], tuple[float, ...]] = {}
    for text in texts:
        attribute, site, listed = _split_option(text, attributes, swept)
        values = tuple(parse_value(attribute, part) for part in listed.split(","))
        found = alone if site else everywhere
        keys = [(name, attribute) for name in ([site] if site else swept) if site or (name, attribute) not in fixed]
        if any(key in found for key in keys):
            where = f"site {site}" if site else "every site"
            raise SpaceError(f"--options gives {attribute} for {where} twice; give one list with all its values")
        found.update(dict.fromkeys(keys, values))
    return everywhere | alone


def _split_option(text: str, attributes: Sequence[str], swept: Sequence[str]) -> tuple[str, str, str]:
    """(attribute, site or "", values) of `1,2`, `A=1,2`, `stride:1,2` or `stride:A=1,2`."""
    head, colon, rest = text.rpartition(":")
    site, equals, values = rest.rpartition("=")
    attribute, site = head.strip(), site.strip()
    if not colon and len(attributes) > 1:
        raise SpaceError(
            f"--options {text} does not say of which attribute; with --attr {','.join(attributes)} "
            f"write {attributes[0]}:{text}"
        )
    if colon and attribute not in ATTRIBUTES:
        raise SpaceError(f"--options {text}: no such attribute: {attribute!r}; allowed are {', '.join(ATTRIBUTES)}")
    if equals and site not in SITES:
        raise SpaceError(
            f"--options {text}: no such site: {site!r}; allowed are {', '.join(swept)}, each with an option of its "
            "own: --options A=1,2 --options C=2"
        )
    return attribute or attributes[0], site, values


def stem_stride(model: DynamicModel) -> float:
    """The output stride with every site at stride 1: what the range rule needs for a network that is not registered.

    It is read off the shapes of one forward of a large image: the smallest map that a convolution or a pooling window
    leaves, before anything is pooled to a single position.
    """
    graph = build_graph(model, torch.float32, "cpu", optimise=False)
    values: dict[int, Any] = {0: torch.empty((1, 3, _PROBE_PX, _PROBE_PX), device="meta")}
    smallest = _PROBE_PX
    for node in graph.nodes:
        op = fixed_op(node)
        try:
            out = op.meta(*resolve(node.args, values), **resolve(node.kwargs, values))
        except ValueError:  # a classifier of a fixed size: what comes before it is all that is wanted
            break
        values[node.id] = out
        if op.windowed and out.shape[2] > 1:
            smallest = min(smallest, out.shape[2])
    sites = math.prod(spec.default.stride or 1 for spec in site_specs(model))
    return max(1.0, round(_PROBE_PX / smallest) / sites)


def prepare(request: SweepRequest, images: ImageSet, weights: Weights) -> Prepared:
    """Everything that can be refused is refused here, before the first image is decoded."""
    device = request.checked_device()
    precision = Precision(request.precision, str(device))
    model, swept, own = patched_model(request, weights.num_classes)
    apply_weights(model, weights)
    model.eval()
    space = request_space(request, model, swept, own)
    preprocess = asked_preprocess(request, weights.preprocess)
    plain, tree = walks(model, space, preprocess.side_px)
    impossible = plain.impossible()
    if impossible:
        space = space.without(impossible, f"{WINDOW_RULE} at {preprocess.side_px} px")
        plain, tree = walks(model, space, preprocess.side_px)
    return Prepared(
        request=request,
        model=model,
        space=space,
        images=images,
        samples=select(len(images), request.every, request.limit),
        preprocess=preprocess,
        precision=precision,
        device=device,
        identity=_identity(request, model, space, images, weights, preprocess),
        weights_label=weights.label,
        num_classes=weights.num_classes,
        macs=tuple(m for m in plain.per_config if m is not None),
        tree_macs=tree.macs,
        out=request.out_path(),
    )


def walks(model: DynamicModel, space: Space, side_px: int) -> tuple[Walk, Walk]:
    """The costs of a space for one image: with nothing optimised, and as the tree runs it."""
    return costs_of(model, space, side_px, optimise=False), costs_of(model, space, side_px, optimise=True)


def costs_of(model: DynamicModel, space: Space, side_px: int, *, optimise: bool) -> Walk:
    """The costs of a space for one image: as the tree runs it, or with nothing optimised."""
    graph = build_graph(model, torch.float32, "cpu", optimise=optimise)
    stages = cut(model, graph, space, subsample=optimise)
    costs = Costs(stages, layer_attributes(model.sites), torch.float32)
    return walk(space, build_trie(space, stages), costs, side_px)


def asked_preprocess(request: SweepRequest, own: Preprocess) -> Preprocess:
    """The weights' own preprocessing with what the user asked for; DataError for a crop larger than the image."""
    return replace(
        own,
        resize_px=own.resize_px if request.resize_px is None else request.resize_px,
        crop_px=own.crop_px if request.crop_px is None else request.crop_px,
        scale=request.scale,
        context_px=request.context_px,
    )


def _identity(
    request: SweepRequest,
    model: DynamicModel,
    space: Space,
    images: ImageSet,
    weights: Weights,
    preprocess: Preprocess,
) -> dict[str, Any]:
    return {
        "model": request.model,
        "weights_sha256": weights.sha256,
        "sites": {name: [m.path for m in modules] for name, modules in model.sites.items()},
        "space": space.identity(),
        "choices": request.conventions.identity(),
        "data": images.fingerprint(),
        "every": request.every,
        "preprocess": preprocess.identity(),
        "variation": preprocess.variation,
        "precision": request.precision,
    }
