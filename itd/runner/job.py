"""A sweep as objects: a patched network, a space, images. Nothing is parsed, and nothing knows where they came from.

Everything that can be refused is refused when the job is made, before an image is swept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from itd.data.loader import Shape
from itd.engine.costs import PrefixCosts
from itd.engine.precision import NARROW, Precision
from itd.engine.program import Program, compile_program
from itd.errors import DataError, ItdError, ModelError, SpaceError, TraceError
from itd.patcher import DynamicModel, check_space, patch, unpatched
from itd.runner.job_images import JobImages, dataset_images
from itd.runner.network import follow, network_sha256
from itd.runner.sites import sites_texts
from itd.space import Space
from itd.text import shorten
from itd.weights.content import content_sha256

CENTRE_TAP = 2
"""The identity's `engine` of a result with size 1 of aligned corners, which was the top left tap where it is 1."""
WIDE_HEAD = 3
"""That of one in bf16 or fp16 whose logits are made in float32; where it is less, they were rounded to 16 bits."""


class SweepJob:
    """Everything that a sweep computes, as objects.

    Args:
        model: what `itd.patch` returned.
        space: the configurations, of `itd.model_space`.
        images: a map-style data set whose items are `(image, label)`: any `torch.utils.data.Dataset`. An image is a
            float tensor (C, H, W), taken as it stands, or PIL, a uint8 tensor (1 or 3, H, W) or a uint8 array (H, W, 1
            or 3), handed as the PIL image that it depicts to `preprocess`. A label is an int, or a tensor or array of
            one, from 0 to K - 1, K the number of logits.
        name: of the network in results.
        preprocess: from a PIL image to a float tensor: torchvision's or timm's transform as it is. Results keep its
            fields where it is their usual one of evaluation (`itd.data.transforms.fields_of`).
        fingerprint: stands for images and preprocessing in a result's identity; None hashes the number of images, all
            labels, and the pixels of 64 images as the network gets them.
        labels: one for each image; None takes the data set's `targets` or `labels`, else reads every item once.
        class_names: in label order; None takes the data set's `classes`.
        limit: so many images, of as many classes as can be; a larger limit extends a result.

    Raises:
        ItdError: for a wrong type; ModelError for a network that cannot be run; DataError, naming the sample, for
            images or labels that cannot be; SpaceError for a space that is not the network's.

    Example:
        >>> import itd
        >>> from torchvision.datasets import FakeData
        >>> from torchvision.models import resnet18
        >>> from torchvision.transforms.functional import to_tensor
        >>> net = itd.patch(resnet18(num_classes=10), {"A": "layer4.0.conv2"})
        >>> space = itd.model_space(net, ["dilation"], input_shape=(3, 64, 64))
        >>> job = SweepJob(net, space, FakeData(8, (3, 64, 64)), name="mine", preprocess=to_tensor)
        >>> len(job), job.input_shape
        (8, (3, 64, 64))
    """

    network_sha256: str | None
    weights_pending: str | None = None
    sites_why: tuple[str, ...] = ()

    def __init__(
        self,
        model: DynamicModel,
        space: Space,
        images: Any,
        *,
        name: str,
        preprocess: Callable[[Any], Any] | None = None,
        fingerprint: str | None = None,
        labels: Any = None,
        class_names: Any = None,
        limit: int | None = None,
    ) -> None:
        _check_types(model, space, name, preprocess, fingerprint, limit)
        taken = dataset_images(
            images, preprocess, fingerprint=fingerprint, labels=labels, class_names=class_names, limit=limit
        )
        self._set(model, space, taken, name, content_sha256(model.state_dict()), "given", None)
        self.network_sha256 = network_sha256(self.model, self.trace)
        if class_names is not None and len(taken.class_names) != self.num_classes:
            raise DataError(
                f"class_names has {len(taken.class_names)} names, and the network has {self.num_classes} logits; give "
                "one for each, in label order"
            )

    @classmethod
    def assembled(
        cls,
        model: DynamicModel,
        space: Space,
        images: JobImages,
        *,
        name: str,
        weights_sha256: str,
        weights_label: str,
        out: str,
        own_code: bool = False,
        weights_pending: str | None = None,
        sites_why: tuple[str, ...] = (),
    ) -> SweepJob:
        """A job of parts that are resolved already: what `SweepRequest.job` makes.

        out: where its result goes. own_code: the network's code may be another the next time under the same name.
        weights_pending: as of `Weights`; such a job can be planned and not run. sites_why: of `auto`, what it did not
        find.
        """
        job = cls.__new__(cls)
        job._set(model, space, images, name, weights_sha256, weights_label, out)
        if own_code:
            job.network_sha256 = network_sha256(model, job.trace)
        job.weights_pending, job.sites_why = weights_pending, sites_why
        return job

    def _set(
        self,
        model: DynamicModel,
        space: Space,
        images: JobImages,
        name: str,
        weights_sha256: str,
        weights_label: str,
        out: str | None,
    ) -> None:
        self.model, self.images, self.name = model, images, name
        self.weights_sha256, self.weights_label = weights_sha256, weights_label
        self.default_out = out or f"results/{name}-{'+'.join(space.attributes)}.parquet"
        followed = follow(model, space, images.shape)
        self.trace, self.why_plain = followed.trace, followed.why_plain
        self.space, self.costs = followed.space, followed.costs
        self.num_classes = _count_classes(self.costs)
        self._check_labels()
        self._programs: dict[tuple[str, str], Program] = {}
        self.network_sha256 = None
        self._versions = _versions(model)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: the network as it was before it was patched, as the class of a patched one is made for it, and
        what `follow` finds is found again."""
        model = self.model
        made = (unpatched(model), dict(model.sites), model.conventions, model.entry)
        own = (self.weights_sha256, self.weights_label, self.default_out, self.network_sha256, self.weights_pending)
        return _made_again, (made, self.space, self.images, self.name, own, self.sites_why)

    def __copy__(self) -> SweepJob:
        new = SweepJob.__new__(SweepJob)
        new.__dict__.update(self.__dict__)
        return new

    def __len__(self) -> int:
        """How many images are selected."""
        return len(self.images.samples)

    def __repr__(self) -> str:
        attributes = "+".join(self.space.attributes)
        return f"SweepJob({self.name!r}, {attributes}, {len(self.space)} configurations, {len(self)} images)"

    def in_order(self, order: str) -> SweepJob:
        """The same job with its images in another order, of `itd.data.images.ORDERS`."""
        if order == self.images.order:
            return self
        job = copy.copy(self)
        job.images = replace(self.images, order=order)
        return job

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of an image as the network gets it."""
        return self.images.shape

    @property
    def choices(self) -> int:
        """How many classes the predictions are among."""
        return self.num_classes if self.images.class_subset is None else len(self.images.class_subset)

    @property
    def few_classes(self) -> bool:
        """Whether the network may predict classes of which there is no image in the whole set."""
        return self.images.class_subset is None and self.images.data_classes < self.num_classes

    @property
    def macs(self) -> tuple[int, ...]:
        """(C,) multiply-accumulates of each configuration's plain forward of one image."""
        return tuple(m for m in self.costs.per_config if m is not None)

    def program(self, device: torch.device | str = "cpu", precision: Precision | None = None) -> Program:
        """The network compiled for this job's space, once for each device and number format.

        Raises TraceError for a network that cannot be traced, whose sweep is plain forwards.
        """
        self.check_unchanged()
        if self.trace is None or self.why_plain is not None:
            raise TraceError(f"{self.name} runs by plain forwards alone: {self.why_plain}")
        precision = precision or Precision()
        key = (str(torch.device(device)), precision.name)
        if key not in self._programs:
            self._programs[key] = compile_program(self.trace, self.space, device=device, precision=precision)
        return self._programs[key]

    def check_unchanged(self) -> None:
        """ModelError where the network's weights changed since the job was made."""
        if _versions(self.model) != self._versions:
            raise ModelError(
                f"the weights of {self.name} changed since its job was made, and a result would be named after the old "
                "ones; make the job again"
            )

    def identity(self, precision: str = "fp32") -> dict[str, Any]:
        """What makes two results the same, as JSON values."""
        own: dict[str, Any] = {} if self.network_sha256 is None else {"network_sha256": self.network_sha256}
        if self.model.conventions.align_corners and any(s.size == 1 for config in self.space.configs for s in config):
            own["engine"] = CENTRE_TAP
        if Precision(precision, "cuda").dtype in NARROW:
            own["engine"] = WIDE_HEAD
        return {
            "model": self.name,
            **own,
            "weights_sha256": self.weights_sha256,
            "sites": sites_texts(self.model),
            "space": self.space_identity,
            "choices": self.model.conventions.identity(),
            **self.images.identity,
            "precision": precision,
        }

    @cached_property
    def space_identity(self) -> dict[str, Any]:
        """The space as a result's identity has it."""
        return self.space.identity()

    def _check_labels(self) -> None:
        wrong = np.flatnonzero(self.images.labels >= self.num_classes)
        if len(wrong):
            raise DataError(
                f"sample {wrong[0]} has the label {self.images.labels[wrong[0]]}, and the network has "
                f"{self.num_classes} logits; allowed are 0 to {self.num_classes - 1}"
            )


def _made_again(
    made: tuple[Any, ...], space: Space, images: JobImages, name: str, own: tuple[Any, ...], why: tuple[str, ...]
) -> SweepJob:
    """A job of its pickle."""
    network, sites, conventions, entry = made
    weights_sha256, weights_label, out, network_hash, pending = own
    model = patch(network, sites, conventions)
    model.entry = entry
    job = SweepJob.assembled(
        model,
        space,
        images,
        name=name,
        weights_sha256=weights_sha256,
        weights_label=weights_label,
        out=out,
        weights_pending=pending,
        sites_why=why,
    )
    job.network_sha256 = network_hash
    return job


def _check_types(model: Any, space: Any, name: Any, preprocess: Any, fingerprint: Any, limit: Any) -> None:
    if not isinstance(model, DynamicModel):
        raise ModelError(
            f"SweepJob takes what itd.patch returned, given {type(model).__name__}; patch the model with its sites "
            "first"
        )
    training = next((path for path, module in model.named_modules() if module.training), None)
    if training is not None:
        raise ModelError(
            f"{training or 'the network'} is in training mode; call model.eval() on what itd.patch returned"
        )
    if not isinstance(space, Space):
        raise SpaceError(f"space is {type(space).__name__}; give what itd.model_space returned")
    if [site.name for site in space.sites] != list(model.sites):
        raise SpaceError(
            f"the space has the sites {', '.join(s.name for s in space.sites)}, the network {', '.join(model.sites)}; "
            "give the space that itd.model_space made for this network"
        )
    check_space(model, space)
    if not isinstance(name, str) or not name.strip(". ") or "/" in name or "\0" in name:
        raise ItdError(f"name is {name!r}; give what results shall call the network, a text without a slash")
    if preprocess is not None and not callable(preprocess):
        raise DataError(
            f"preprocess is {type(preprocess).__name__}; give a callable from a PIL image to a float tensor"
        )
    if fingerprint is not None and (not isinstance(fingerprint, str) or not fingerprint):
        raise DataError(
            f"fingerprint is {shorten(repr(fingerprint))}; give a text that stands for images and preprocessing"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1):
        raise DataError(f"limit is {limit!r}; give a whole number of at least 1, or None for all images")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ModelError("the network's tensors are on the meta device and have no values; give it weights first")


def _versions(model: DynamicModel) -> list[tuple[int, int]]:
    """Which tensors a network holds, and how often each was changed in place."""
    return [(id(t), t._version) for t in (*model.parameters(), *model.buffers()) if not t.is_inference()]


def _count_classes(costs: PrefixCosts) -> int:
    """K, read off the shape of the logits."""
    if costs.output is None or len(costs.output) != 2:
        raise ModelError(
            f"the network's logits have the shape {costs.output} for one image; they must be (1, K), K classes"
        )
    return int(costs.output[1])
