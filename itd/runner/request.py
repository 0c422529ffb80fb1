"""A sweep as it is typed, and the job made of it: from here on there are objects only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from itd.data.contents import contents_sha256
from itd.data.crops import CropCache
from itd.data.folder import corruptions
from itd.data.images import CLASS_SPREAD, ImageSet, select
from itd.data.loader import Pixels
from itd.data.open import check_source, data_source, is_digits, open_images
from itd.data.preprocess import Preprocess, PreprocessChanges
from itd.data.subset import ALL, class_subset
from itd.errors import DataError, ResultError, SpaceError
from itd.patcher import (
    Conventions,
    DynamicModel,
    Sites,
    check_space,
    model_space,
    patch,
    site_specs,
)
from itd.patcher.families import AutoSites
from itd.patcher.names import canonical_name, is_factory, model_slug
from itd.runner.job import SweepJob
from itd.runner.job_images import JobImages
from itd.runner.sites import sites_asked
from itd.space import Space, SpaceList, listed_space, parse_attributes, parse_options, read_space
from itd.weights.load import Weights, skeleton_of
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.resolve import resolve


@dataclass(frozen=True)
class SweepRequest(PreprocessChanges):
    """A sweep as it is typed. Texts are those of the command line; None is the default.

    model: torchvision's name, timm/NAME, FILE.py:NAME or package.module:NAME, which may be called with arguments as in
    `mynets.py:make(depth=18)`. attributes: `stride` or `stride,size`. sites: `ABCD`, a part of it, `A=path,B=path`, or
    `auto`. data, classes_file, labels_file: as of `open_images`. options: each `1,2,3`, `A=1,2` or `stride:A=1,2`.
    stride_range: allowed total output stride. space_file: lists the configurations, in place of attributes and options.
    resize_px, crop_px, crop_fraction, mean, std, interpolation: as of `PreprocessChanges`, by keyword. scale,
    context_px: vary the images (see `Preprocess`), and become part of the result's name. limit, every, order: which,
    and in which order (see `itd.data.images.select`); a result that is there goes on in its own order. class_subset:
    all, present or a file (see `itd.data.subset.class_subset`). batch_size: images in the tree at once (8, 64 on a
    GPU). device, devices, engine, address, workers_per_node, precision: as of `itd.sweep`. workers: processes that
    decode (0, on a GPU the cores). shard: (i, n), the i-th of n parts of the work. help_others: then the units of other
    shards. images_per_unit: of a new result. executor: auto, tree or plain. overwrite: a result of another run at `out`
    is thrown away. allow_missing, retry_missing, check_data, fail_fast: as of `itd.sweep`. hash_data: the contents of
    the files are part of what the result is of, and not their names and sizes alone. cache: a folder where decoded
    images are kept for other sweeps.
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
    labels_file: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    scale: float | None = None
    context_px: int | None = None
    limit: int | None = None
    every: int = 1
    order: str = CLASS_SPREAD
    class_subset: str = ALL
    batch_size: int | None = None
    device: str | None = None
    devices: str | None = None
    engine: str | None = None
    address: str | None = None
    workers_per_node: int | None = None
    precision: str | None = None
    workers: int | None = None
    out: str | None = None
    allow_missing: bool | int | str = False
    shard: tuple[int, int] | None = None
    help_others: bool = False
    images_per_unit: int | None = None
    executor: str = "auto"
    overwrite: bool = False
    retry_missing: bool = False
    check_data: bool = False
    fail_fast: bool = False
    hash_data: bool = False
    cache: str | None = None

    def space_list(self) -> SpaceList | None:
        """What the space file lists, None without one; SpaceError where options that make a space come with it."""
        if self.space_file is None:
            return None
        if self.attributes or self.options:
            raise SpaceError("`space_file` lists the configurations itself; leave out `attributes` and `options`")
        return read_space(self.space_file)

    def swept_attributes(self) -> tuple[str, ...]:
        """The attributes, in the order stride, dilation, size; SpaceError where neither they nor a space are given."""
        listed = self.space_list()
        if listed is not None:
            return listed.attributes
        if not self.attributes:
            raise SpaceError(
                "nothing says what varies; give `attributes` (stride, dilation, size), or `space_file=FILE`"
            )
        return parse_attributes(self.attributes)

    def out_path(self) -> str:
        """Where the result goes: `out` or the default, with the variation at the end of its name.

        >>> SweepRequest("resnet50", "size,stride", scale=0.25).out_path()
        'results/resnet50-stride+size-scale0.25.parquet'
        """
        combined = "combined-" if self.space_file else ""
        base = self.out or f"results/{model_slug(self.model)}-{combined}{'+'.join(self.swept_attributes())}.parquet"
        tag = "" if self.scale is None else f"-scale{self.scale:g}"
        tag += "" if self.context_px is None else f"-context{self.context_px}"
        stem = base.removesuffix(".parquet")
        return f"{stem}{tag}{base[len(stem) :]}"

    def job(self, *, only_plan: bool = False, on_prepare: OnPrepare | None = draw_bar) -> SweepJob:
        """The job that the texts stand for.

        What can be told without weights is told before any are made or fetched. Where the data are the embedded digits
        and no weights are named, the network is trained on them once.

        Args:
            only_plan: nothing is trained or fetched; weights that are not there stay random, and the job cannot be run.
            on_prepare: shows that weights are trained or fetched; None shows nothing.

        Raises:
            ItdError: for anything that cannot be.

        Example:
            >>> SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=4).job()
            SweepJob('resnet18', dilation, 5 configurations, 4 images)
        """
        data = data_source(self.data)
        self._check_images(data)
        skeleton = skeleton_of(self.model)
        sites, swept = self.sites_asked()
        space = self.space_of(patch(skeleton, sites, self.conventions), swept)
        weights = resolve(
            self.model,
            self.weights,
            data=data,
            num_classes=self.num_classes,
            device=self.device,
            only_plan=only_plan,
            on_prepare=on_prepare,
            skeleton=skeleton,
            size_px=self.size_px,
        )
        images = open_images(
            data,
            num_classes=self.num_classes,
            weights_classes=weights.num_classes,
            classes_file=self.classes_file,
            labels_file=self.labels_file,
        )
        assumed = self.kept if weights.assumed else ()
        return SweepJob.assembled(
            self.patched(weights),
            space,
            self.job_images(images, weights.preprocess, assumed=assumed, on_prepare=on_prepare),
            name=canonical_name(self.model),
            weights_sha256=weights.sha256,
            weights_label=weights.label,
            out=self.out_path(),
            own_code=is_factory(self.model),
            weights_pending=weights.pending,
            sites_why=sites.why if isinstance(sites, AutoSites) else (),
        )

    def job_images(
        self, images: ImageSet, own: Preprocess, *, assumed: tuple[str, ...] = (), on_prepare: OnPrepare | None = None
    ) -> JobImages:
        """The selected images, preprocessed.

        own: what the weights expect. assumed: as of `JobImages`. on_prepare: shows that contents of files are read.
        """
        preprocess = self.preprocess_from(own)
        identity = {
            "data": images.fingerprint(),
            "every": self.every,
            "preprocess": preprocess.identity(),
            "variation": preprocess.variation,
        }
        if self.hash_data:
            step = on_prepare("reading the contents of the images", len(images)) if on_prepare is not None else None
            identity["contents_sha256"] = contents_sha256(images, step)
        crops = None if self.cache is None else CropCache.open(self.cache, images, preprocess)
        pixels = Pixels(images, preprocess, preprocess.shape, crops=crops)
        subset = class_subset(self.class_subset, images)
        if subset is not None:
            identity["class_subset"] = list(subset)
        source = Path(images.source).name
        return JobImages(pixels, identity, source, images.class_names, self.limit, self.order, assumed, subset)

    def sites_asked(self) -> tuple[str | Sites, tuple[str, ...]]:
        """(what `itd.patch` takes, the sites that are swept)."""
        digits = is_digits(data_source(self.data))
        return sites_asked(self.model, self.sites, digits=digits, crop_px=self.crop_px)

    def patched(self, weights: Weights) -> DynamicModel:
        """The network with these weights, patched."""
        return patch(weights.network(), self.sites_asked()[0], self.conventions)

    def space_of(self, model: DynamicModel, swept: Sequence[str]) -> Space:
        """The space that is asked for, of the patched network, before images are looked at."""
        attributes = self.swept_attributes()
        listed = self.space_list()
        if listed is not None:
            return check_space(model, listed_space(listed, site_specs(model, model.entry)))
        fixed = {(spec.name, a) for spec in site_specs(model, model.entry) for a in spec.fixed}
        return model_space(
            model,
            attributes,
            swept=swept,
            options=parse_options(self.options, attributes, swept, fixed),
            stride_range=self.stride_range,
        )

    def preprocess_from(self, own: Preprocess) -> Preprocess:
        """The weights' own preprocessing with what is asked for and the variation; DataError where that cannot be."""
        return replace(super().preprocess_from(own), scale=self.scale, context_px=self.context_px)

    def _check_images(self, data: str) -> None:
        """What can be told of the images before there are weights."""
        select(np.zeros(1, np.int16), self.every, self.limit, self.order)
        Preprocess(scale=self.scale, context_px=self.context_px and 1)
        if is_digits(data):
            open_images(
                data, num_classes=self.num_classes, classes_file=self.classes_file, labels_file=self.labels_file
            )
            return
        if None not in self.size_px:
            self.preprocess_from(Preprocess())
        check_source(data, self.labels_file)
        out = self.out_path()
        if Path(data).is_dir() and Path(out).absolute().is_relative_to(Path(data).absolute()):
            raise ResultError(f"`out={out}` is inside `data={data}`; give as `out` a folder elsewhere")
        if self.classes_file and not Path(self.classes_file).is_file():
            raise DataError(f"no such file: `classes_file={self.classes_file}`; expected one class name per line")


def corrupted(request: SweepRequest) -> list[SweepRequest]:
    """One request for each corruption and severity of a folder CORRUPTION/1..5/CLASS, each with a result of its own,
    `<base>-<corruption>-<severity>`; the request itself for any other source."""
    found = corruptions(data_source(request.data))
    if not found:
        return [request]
    base = replace(request, scale=None, context_px=None).out_path()
    stem = base.removesuffix(".parquet")
    return [
        replace(request, data=str(folder), out=f"{stem}-{name}-{severity}{base[len(stem) :]}")
        for name, severity, folder in found
    ]


def varied(
    request: SweepRequest, *, scales: Sequence[float] = (), contexts_px: Sequence[int] = ()
) -> list[SweepRequest]:
    """One request for each variation of the images, or the request itself where none is asked for (ITD paper, 4.5).

    A folder of corruptions, as of ImageNet-C, is one of images for each corruption and severity.

    Where there are several, a job is made of each here, so that what cannot be is refused before the first one is run.

    >>> [r.out_path() for r in varied(SweepRequest("resnet18", "dilation", sites="D", data="digits"), scales=[2])]
    ['results/resnet18-dilation-scale2.parquet']
    """
    if scales and contexts_px:
        raise DataError("`scale` and `context_px` vary the images in two ways at once; give one of them")
    each = corrupted(request)
    requests = [replace(one, scale=scale) for one in each for scale in dict.fromkeys(scales)]
    requests += [replace(one, context_px=side) for one in each for side in dict.fromkeys(contexts_px)]
    requests = requests or each
    if len(requests) > 1:
        for one in requests:
            one.job(only_plan=True)
    return requests
