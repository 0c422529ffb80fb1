"""A network's weights: from torchvision, a file or none; known by their content; loaded into a model strictly."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import pickle
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ModelError
from itd.patcher.registry import build_model, check_model_name
from itd.weights.files import FILE_SUFFIXES, read_file
from itd.weights.prepare import OnPrepare, draw_bar

DEFAULT_ENUM = "IMAGENET1K_V1"
NONE = "none"
_SEED = 0
_DOWNLOAD_TIMEOUT_S = 30.0
# torchvision's DenseNet checkpoints still have the names of modules from before dots were forbidden in them.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights and what a result records of them.

    state_dict: float32 tensors on the CPU, or None for "none": seeded random initialisation. sha256: of the content
    (`content_sha256`). label: the enum's name or the file's. num_classes: the classifier's outputs. preprocess: what
    these weights expect. random: of "none", the network that has them.
    """

    model_name: str
    state_dict: dict[str, Tensor] | None
    sha256: str
    label: str
    num_classes: int
    preprocess: Preprocess
    random: nn.Module | None = None

    def network(self) -> nn.Module:
        """A network with these weights, in evaluation mode, as the registry or torchvision builds it."""
        if self.random is not None:
            return copy.deepcopy(self.random)
        model = build_model(self.model_name, self.num_classes)
        apply_weights(model, self)
        return model.eval()


def load_weights(
    model_name: str,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    skeleton: nn.Module | None = None,
    on_prepare: OnPrepare | None = draw_bar,
) -> Weights:
    """The weights of a name.

    Args:
        model_name: the registry's or torchvision's.
        weights: a name of torchvision's enum for this model (None: IMAGENET1K_V1), "none" for seeded random weights, or
            a state dict in a .pth, .pt or .safetensors file.
        num_classes: what the user says; where the weights say otherwise, an error.
        skeleton: the model for 1000 classes, where it is built already (`skeleton_of`).
        on_prepare: shows a download; None shows nothing.

    Raises:
        ModelError: for a name or file that is not there, cannot be read, or cannot be fetched without network.

    Example:
        >>> load_weights("resnet18", "none", num_classes=10).num_classes
        10
    """
    text = DEFAULT_ENUM if weights is None else str(weights)
    if text == NONE:
        return _random(model_name, num_classes or 1000)
    if text.lower().endswith(FILE_SUFFIXES) or os.path.exists(text):
        state, preprocess = read_file(Path(text))
        label = Path(text).name
    else:
        state, preprocess, label = _from_torchvision(model_name, text, on_prepare)
    state = _normalised(state)
    found = _count_classes(skeleton or skeleton_of(model_name), state)
    if num_classes is not None and found is not None and found != num_classes:
        raise ModelError(
            f"weights {label} have {found} classes, but `num_classes` is {num_classes}; leave `num_classes` out, or "
            "pass weights for that many classes"
        )
    return Weights(model_name, state, content_sha256(state), label, found or num_classes or 1000, preprocess)


def plan_weights(
    model_name: str,
    weights: str | Path | None,
    *,
    num_classes: int | None,
    digits: bool,
    skeleton: nn.Module | None = None,
) -> Weights:
    """Random weights with the class count and the preprocessing of those of a name: enough to plan a sweep.

    Nothing is trained or fetched; a file is read. digits: the data are the embedded digits. Others as of
    `load_weights`.
    """
    text = DEFAULT_ENUM if weights is None else str(weights)
    if digits and weights in (None, NONE):
        return replace(_random(model_name, 10), preprocess=DIGITS_PREPROCESS)
    if text == NONE or text.lower().endswith(FILE_SUFFIXES) or os.path.exists(text):
        return load_weights(model_name, text, num_classes=num_classes, skeleton=skeleton)
    return replace(_random(model_name, num_classes or 1000), preprocess=_preset(_enum_member(model_name, text)))


def apply_weights(model: nn.Module, weights: Weights) -> None:
    """Load the weights strictly into a freshly built torchvision model.

    Raises ModelError naming what does not fit: for a checkpoint of another architecture.
    """
    state = weights.state_dict
    if state is None:
        assert weights.random is not None
        state = weights.random.state_dict()
    own = {name: tensor for name, tensor in model.state_dict().items() if not _is_counter(name)}
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own and not _is_counter(name)]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(own)} tensors are missing (first: {missing[0]})")
    if unexpected:
        faults.append(f"{len(unexpected)} are unexpected (first: {unexpected[0]})")
    if reshaped:
        given, wanted = (tuple(tensors[reshaped[0]].shape) for tensors in (state, own))
        faults.append(f"{len(reshaped)} have another shape (first: {reshaped[0]}, {given} for {wanted})")
    if faults:
        raise ModelError(
            f"weights {weights.label} are not for {weights.model_name}: {'; '.join(faults)}; pass the weights of this "
            "architecture, or another `model`"
        )
    fresh = model.state_dict()
    merged = OrderedDict((name, state.get(name, tensor)) for name, tensor in fresh.items())
    merged._metadata = fresh._metadata  # type: ignore[attr-defined]  # the layers' versions, which some models ask for
    model.load_state_dict(merged, strict=True)


def content_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict's content, whatever file held it and at whatever floating precision.

    Over name, dtype, shape and little-endian bytes of each tensor, names sorted, floating tensors cast to float32.
    BatchNorm's `num_batches_tracked` is left out: no inference reads it, and not every file has it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if _is_counter(name):
            continue
        tensor = state[name].detach().cpu().contiguous()
        tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        values = tensor.numpy()
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _normalised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float32, DenseNet's old names as new ones, DataParallel's `module.` stripped."""
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {
        _OLD_DENSENET.sub(r"\1\2", name): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _random(model_name: str, num_classes: int) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = build_model(model_name, num_classes)
    sha256 = content_sha256(network.state_dict())
    return Weights(model_name, None, sha256, NONE, num_classes, Preprocess(), network)


def skeleton_of(model_name: str) -> nn.Module:
    """A model for its usual classes, without storage where its initialisation allows that: names and shapes."""
    try:
        with torch.device("meta"):
            return build_model(model_name)
    except NotImplementedError:  # some initialisations read values
        return build_model(model_name)


def _count_classes(skeleton: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The outputs of the classifier, which is the last module with 1000 outputs in the skeleton; or None."""
    names = [n for n, p in skeleton.named_parameters() if n.endswith(".weight") and p.shape[0] == 1000]
    classifier = state.get(names[-1]) if names else None
    return None if classifier is None or classifier.ndim == 0 else int(classifier.shape[0])


def _from_torchvision(
    model_name: str, text: str, on_prepare: OnPrepare | None
) -> tuple[dict[str, Tensor], Preprocess, str]:
    """(state dict, preprocessing, the enum's name) of torchvision's weights, from its cache or by download."""
    member = _enum_member(model_name, text)
    there = Path(torch.hub.get_dir(), "checkpoints", Path(member.url).name).exists()
    bar = not there and on_prepare is not None and on_prepare(f"fetching {member.url}", None) is None
    said = sys.stderr if bar else io.StringIO()  # torch says on standard output what it fetches
    try:
        with contextlib.redirect_stdout(said), _timeout(_DOWNLOAD_TIMEOUT_S):
            state = member.get_state_dict(progress=bar, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _refuse_download(model_name, member, error)
    return state, _preset(member), member.name


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


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Connections opened inside give up after `seconds` of silence; torch.hub itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


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
