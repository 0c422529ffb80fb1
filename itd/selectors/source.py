"""The network and the images that a result is of, put together again; refused where they are not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd import checked
from itd.analysis.originals import open_originals
from itd.checked import BadJson, either, listing, mapping, maybe, number, one_of, text, truth
from itd.data.images import ImageSet
from itd.data.open import data_source, is_digits
from itd.data.preprocess import Preprocess
from itd.data.subset import kept_mask
from itd.device import resolve_device
from itd.engine.program import plain_costs
from itd.engine.tracing import Trace
from itd.errors import DataError, ResultError, SpaceError, TraceError
from itd.patcher import Conventions, DynamicModel
from itd.patcher.model import check_space, site_specs
from itd.patcher.names import is_factory
from itd.runner.network import network_sha256, traced_for
from itd.runner.request import SweepRequest
from itd.runner.sites import sites_text
from itd.space import SITES, Setting, Space, SpaceList, listed_space
from itd.store import Result
from itd.text import one_line
from itd.weights.files import PREPROCESS_FIELDS
from itd.weights.load import Weights
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.resolve import resolve

SiteSettings = Mapping[str, Mapping[str, float]]
"""`{"A": {"stride": 2}, ...}`: one configuration."""
_RUNNABLE = checked.fields(
    {
        "model": text,
        "weights_sha256": text,
        "sites": mapping(one_of(SITES), listing(text, 1)),
        "choices": checked.fields({}, dict.fromkeys(Conventions().identity(), either(text, truth)), others=False),
        "preprocess": PREPROCESS_FIELDS,
    },
    {
        "variation": maybe(
            checked.fields({}, {"scale": number(1 / 16, 16), "context_px": number(1, 6144)}, others=False)
        )
    },
)
"""What an identity says of a network that can be run again."""


@dataclass(frozen=True, eq=False)
class SweepSource:
    """What a result was swept from: the patched network in evaluation mode, with its weights, and the images."""

    result: Result
    model: DynamicModel
    weights: Weights
    images: ImageSet
    preprocess: Preprocess
    device: torch.device

    @property
    def identity(self) -> Mapping[str, Any]:
        """The result's."""
        return self.result.manifest["identity"] if self.result.manifest else {}

    @property
    def kept(self) -> Tensor | None:
        """(K,) bool, the classes that the result's predictions are among; None for all."""
        return kept_tensor(self.identity.get("class_subset"), self.weights.num_classes)

    @property
    def swept(self) -> tuple[str, ...]:
        """The sites that the result varies."""
        return tuple(self.result.manifest["swept"]) if self.result.manifest else ()

    def space(self, rows: Sequence[int]) -> tuple[Space, np.ndarray]:
        """A space of some of the result's configurations, and the number in it of each. rows: as of `matrix`."""
        return listed(self.model, self.result.attributes, [self.result.setting(row) for row in rows])


def open_source(
    result: Result,
    data: str | None,
    weights: str | None = None,
    *,
    classes_file: str | None = None,
    labels_file: str | None = None,
    device: str | None = None,
    on_prepare: OnPrepare | None = draw_bar,
) -> SweepSource:
    """The network and images of a result.

    data: as of `open_images`. classes_file, labels_file: as the sweep took them. weights: as `--weights` takes them.
    on_prepare: shows that weights are trained or fetched; None shows nothing.
    Raises ResultError where the result does not say what it is of, or where weights or images are not those.
    """
    if result.origins:
        raise ResultError(f"{result.path} is a union, which has no one network to run; give one of what it was made of")
    if result.manifest is None:
        raise ResultError(
            f"{result.path} does not say which network it is of; give the folder that `itd sweep` wrote, not a file"
        )
    identity = result.manifest["identity"]
    if "recalibration" in identity:
        raise ResultError(
            f"{result.path} was swept with statistics re-estimated for each configuration, which a selector cannot "
            "take along; give a result of `itd sweep`"
        )
    _check_identity(result.path, identity)
    data = data_source(data)
    request = SweepRequest(
        model=identity["model"],
        attributes=",".join(result.attributes),
        sites=sites_text(identity["model"], identity["sites"]),
        conventions=Conventions(**identity["choices"]),
        data=data,
        weights=weights,
        num_classes=result.num_classes if not is_digits(data) else None,
        device=device,
    )
    loaded = resolve(
        request.model,
        weights,
        data=data,
        num_classes=request.num_classes,
        device=device,
        on_prepare=on_prepare,
        size_px=sizes(identity["preprocess"]),
    )
    if loaded.sha256 != identity["weights_sha256"]:
        raise ResultError(
            f"weights {loaded.label} are not those that {result.path} was swept with; give `weights` what its "
            "`itd sweep` was given"
        )
    images = open_originals(
        result, data, weights_classes=loaded.num_classes, classes_file=classes_file, labels_file=labels_file
    )
    preprocess = replace(Preprocess.from_identity(identity["preprocess"]), **(identity.get("variation") or {}))
    model = request.patched(loaded)
    if is_factory(request.model) and _code_of(model, result, preprocess) != identity.get("network_sha256"):
        raise ResultError(
            f"{request.model} is not the network that {result.path} was swept with: its code, or what it calls, "
            "changed; give the code as it was, or sweep again"
        )
    return SweepSource(result, model, loaded, images, preprocess, resolve_device(device))


def _check_identity(path: str, identity: Mapping[str, Any]) -> None:
    """ResultError where an identity does not say what a network needs to be run again."""
    try:
        _RUNNABLE(identity, "identity")
        Preprocess.from_identity(identity["preprocess"])
        Conventions(**identity["choices"])
    except (BadJson, DataError, SpaceError) as error:
        raise ResultError(
            f"{path} does not say how to run its network again ({one_line(error)}); restore its manifest from a copy, "
            "or sweep again"
        ) from error


def kept_tensor(subset: Sequence[int] | None, num_classes: int) -> Tensor | None:
    """(K,) bool of a subset as an identity has it; None for all classes."""
    mask = kept_mask(None if subset is None else tuple(subset), num_classes)
    return None if mask is None else torch.from_numpy(mask)


def _code_of(model: DynamicModel, result: Result, preprocess: Preprocess) -> str:
    """What the network computes, as the sweep of a result wrote it down."""
    try:
        traced = traced_for(model, result.attributes, preprocess.shape)
    except TraceError:
        traced = None
    return network_sha256(model, traced)


def sizes(preprocess: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    """(resize_px, crop_px) of a preprocessing as an identity has it: what stands in place of the weights' own."""
    return (None, None) if preprocess is None else (preprocess["resize_px"], preprocess["crop_px"])


def listed(model: DynamicModel, attributes: Sequence[str], configs: Sequence[SiteSettings]) -> tuple[Space, np.ndarray]:
    """A space of these configurations of a patched network, and the number in it of each of them."""
    specs = site_specs(model, model.entry)
    settings = tuple({s: Setting(**values) for s, values in c.items() if values} for c in configs)  # type: ignore[arg-type]
    space = check_space(model, listed_space(SpaceList(tuple(attributes), settings), specs))
    alone = [listed_space(SpaceList(tuple(attributes), (config,)), specs).configs[0] for config in settings]
    return space, np.array([space.configs.index(config) for config in alone])


def plain_macs(network: DynamicModel | Trace, space: Space, side_px: int) -> np.ndarray:
    """(C,) of each configuration's plain forward of one image, as a result has them."""
    return np.array(plain_costs(network, space, (3, side_px, side_px)).per_config, np.float64)
