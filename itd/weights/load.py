"""A network's weights: from torchvision, a file or none; known by their content; loaded into a model strictly."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ModelError
from itd.patcher.names import is_factory, is_timm
from itd.patcher.registry import check_model_name
from itd.weights.content import content_sha256
from itd.weights.factory import factory_weights
from itd.weights.files import read_file
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.state import (
    NONE,
    NOT_FETCHED,
    Weights,
    apply_weights,
    check_classes,
    count_classes,
    download_timeout,
    is_weights_file,
    normalised,
    random_weights,
    skeleton_of,
)
from itd.weights.timm import timm_weights

__all__ = [
    "DEFAULT_ENUM",
    "NONE",
    "Weights",
    "apply_weights",
    "load_weights",
    "plan_weights",
    "skeleton_of",
]

DEFAULT_ENUM = "IMAGENET1K_V1"


def load_weights(
    model_name: str,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    skeleton: nn.Module | None = None,
    on_prepare: OnPrepare | None = draw_bar,
    size_px: tuple[int | None, int | None] = (None, None),
) -> Weights:
    """The weights of a name.

    Args:
        model_name: the registry's, torchvision's, timm/NAME, or FILE.py:NAME or package.module:NAME.
        weights: a name of torchvision's enum for this model (None: IMAGENET1K_V1), "none" for seeded random weights, or
            a state dict in a .pth, .pt or .safetensors file. None is timm's own of timm/NAME, and those that it was
            built with of FILE.py:NAME and package.module:NAME, where "none" is the same.
        num_classes: what the user says; where the weights say otherwise, an error.
        skeleton: what `skeleton_of` built already.
        on_prepare: shows a download; None shows nothing.
        size_px: (resize_px, crop_px) that the user gives in place of the weights' own.

    Raises:
        ModelError: for a name or file that is not there, cannot be read, or cannot be fetched without network.

    Example:
        >>> load_weights("resnet18", "none", num_classes=10).num_classes
        10
    """
    if is_factory(model_name):
        return factory_weights(model_name, weights, num_classes=num_classes, built=skeleton, crop_px=size_px[1])
    if is_timm(model_name):
        return timm_weights(
            model_name, weights, num_classes=num_classes, skeleton=skeleton, on_prepare=on_prepare, size_px=size_px
        )
    text = DEFAULT_ENUM if weights is None else str(weights)
    if text == NONE:
        return random_weights(model_name, num_classes)
    if is_weights_file(text):
        state, own = read_file(Path(text))
        preprocess, label, assumed = own or Preprocess(), Path(text).name, own is None
    else:
        assumed = False
        state, preprocess, label = _from_torchvision(model_name, text, on_prepare)
    state = normalised(state)
    found = count_classes(skeleton or skeleton_of(model_name), state)
    check_classes(label, found, num_classes)
    count = found or num_classes or 1000
    return Weights(model_name, state, content_sha256(state), label, count, preprocess, assumed=assumed)


def plan_weights(
    model_name: str,
    weights: str | Path | None,
    *,
    num_classes: int | None,
    digits: bool,
    skeleton: nn.Module | None = None,
    size_px: tuple[int | None, int | None] = (None, None),
) -> Weights:
    """The weights of a name where they are there, else random ones with their class count and preprocessing.

    Nothing is trained or fetched; a file is read, also one that was fetched before, and a factory's network built.
    `pending` says that the weights are random in place of others. digits: the data are the embedded digits, and the
    weights not those trained on them. Others as of `load_weights`.
    """
    text = DEFAULT_ENUM if weights is None else str(weights)
    if digits and text == NONE and not is_factory(model_name):
        return random_weights(model_name, 10, DIGITS_PREPROCESS)
    if is_timm(model_name):
        return timm_weights(
            model_name, weights, num_classes=num_classes, skeleton=skeleton, size_px=size_px, only_plan=True
        )
    if is_factory(model_name) or text == NONE or is_weights_file(text):
        return load_weights(model_name, weights, num_classes=num_classes, skeleton=skeleton, size_px=size_px)
    member = _enum_member(model_name, text)
    if _cached_file(member).exists():
        return load_weights(model_name, weights, num_classes=num_classes, skeleton=skeleton, on_prepare=None)
    random = random_weights(model_name, num_classes, _preset(member))
    return replace(random, label=member.name, pending=NOT_FETCHED)


def _from_torchvision(
    model_name: str, text: str, on_prepare: OnPrepare | None
) -> tuple[dict[str, Tensor], Preprocess, str]:
    """(state dict, preprocessing, the enum's name) of torchvision's weights, from its cache or by download."""
    member = _enum_member(model_name, text)
    there = _cached_file(member).exists()
    bar = not there and on_prepare is not None and on_prepare(f"fetching {member.url}", None) is None
    said = sys.stderr if bar else io.StringIO()  # torch says on standard output what it fetches
    try:
        if there:
            _require_hash(_cached_file(member))  # torch does so only of what it fetches now
        with contextlib.redirect_stdout(said), download_timeout():
            state = member.get_state_dict(progress=bar, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _refuse_download(model_name, member, error)
    return state, _preset(member), member.name


def _cached_file(member: Any) -> Path:
    """Where torch keeps what it fetched."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(member.url).name)


def _require_hash(path: Path) -> None:
    """RuntimeError for a file that does not begin the SHA-256 that its name ends in, where it ends in one."""
    named = torch.hub.HASH_REGEX.search(path.name)
    if named is not None and len(named[1]) >= 8:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        if not digest.hexdigest().startswith(named[1]):
            raise RuntimeError("its content is not what the hash in its name says")


def _enum_member(model_name: str, text: str) -> Any:
    """The member of torchvision's enum for this model; ModelError naming the others."""
    from torchvision.models import get_model_weights

    check_model_name(model_name)
    try:
        enum = get_model_weights(model_name)
    except ValueError:
        raise ModelError(
            f"{model_name} has no published weights; pass a state dict as a .safetensors or .pth FILE (`itd train` "
            "makes one), or none for random weights"
        ) from None
    name = text.rsplit(".", 1)[-1].upper()
    if name not in enum.__members__:
        known = ", ".join(member.name for member in enum) or "none"
        raise ModelError(
            f"no such weights: {text!r}; torchvision has for {model_name}: {known}; or pass a state dict as a "
            ".safetensors or .pth FILE, or none for random weights"
        )
    return enum[name]


def _refuse_download(model_name: str, member: Any, error: Exception) -> NoReturn:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(member.url)
    reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
    if cached.exists():
        raise ModelError(
            f"the cached weights {cached} cannot be read ({reason}); delete that file to fetch it again, or pass "
            "`weights=FILE`"
        ) from error
    raise ModelError(
        f"weights {member.name} of {model_name} are not in {cached.parent} and cannot be fetched from {member.url} "
        f"({reason}); fetch {cached.name} where there is network and pass it with `weights={cached.name}`, or pass any "
        "other state dict (.pth, .safetensors) or none for random weights"
    ) from error


def _preset(member: Any) -> Preprocess:
    """torchvision's own preprocessing of an enum member."""
    preset = member.transforms()
    return Preprocess(
        resize_px=int(preset.resize_size[0]),
        crop_px=int(preset.crop_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
