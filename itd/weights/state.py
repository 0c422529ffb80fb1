"""A network's weights as an object: known by their content, loaded strictly. Not for where they come from (`load`)."""

from __future__ import annotations

import contextlib
import copy
import re
import socket
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from itd.data.preprocess import Preprocess, PreprocessChanges, assumed_text
from itd.errors import ItdWarning, ModelError
from itd.patcher.factories import build_factory
from itd.patcher.names import is_factory, is_timm
from itd.patcher.registry import build_model
from itd.patcher.storage import uncopied
from itd.patcher.timm_models import build_timm
from itd.weights.content import content_sha256, is_counter
from itd.weights.files import FILE_SUFFIXES

NONE = "none"
_SEED = 0
DOWNLOAD_TIMEOUT_S = 30.0
# torchvision's DenseNet checkpoints still have the names of modules from before dots were forbidden in them.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights and what a result records of them.

    state_dict: float32 tensors on the CPU, or None for "none", seeded random initialisation, and for what a factory
    made. sha256: of the content (`content_sha256`). label: the enum's name or the file's, "none" or "as built".
    num_classes: the classifier's outputs. preprocess: what these weights expect. assumed: nothing says that they do, as
    a file or code of a user's own brings only tensors. built: where there is no state dict,
    the network that has them. pending: why these are random values in place of those of the label, which a plan
    neither fetches nor trains; None where they are the label's own.
    """

    model_name: str
    state_dict: dict[str, Tensor] | None
    sha256: str
    label: str
    num_classes: int
    preprocess: Preprocess
    built: nn.Module | None = None
    pending: str | None = None
    assumed: bool = False

    def network(self) -> nn.Module:
        """A network with these weights, in evaluation mode, as its name builds it."""
        if self.built is not None:
            return _copied(self.built)
        model = build_model(self.model_name, self.num_classes)
        apply_weights(model, self)
        return model.eval()


def warn_assumed(asked: PreprocessChanges, weights: Weights) -> None:
    """An ItdWarning of what of the weights' preprocessing nobody said, neither they nor the user."""
    if weights.assumed and asked.kept:
        warnings.warn(assumed_text(weights.label, weights.preprocess, asked.kept), ItdWarning, stacklevel=3)


NOT_FETCHED, NOT_TRAINED = "not fetched", "not trained yet"
"""What `Weights.pending` says."""


def apply_weights(model: nn.Module, weights: Weights) -> None:
    """Load the weights strictly into a freshly built network.

    Raises ModelError naming what does not fit: for a checkpoint of another architecture.
    """
    state = weights.state_dict
    if state is None:
        assert weights.built is not None
        state = weights.built.state_dict()
    own = {name: tensor for name, tensor in model.state_dict().items() if not is_counter(name)}
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own and not is_counter(name)]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    kinds = [name for name in own if name in state and _kind(own[name]) != _kind(state[name])]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(own)} tensors are missing (first: {missing[0]})")
    if unexpected:
        faults.append(f"{len(unexpected)} are unexpected (first: {unexpected[0]})")
    if reshaped:
        given, wanted = (tuple(tensors[reshaped[0]].shape) for tensors in (state, own))
        faults.append(f"{len(reshaped)} have another shape (first: {reshaped[0]}, {given} for {wanted})")
    if kinds:
        there, here = state[kinds[0]].dtype, own[kinds[0]].dtype
        faults.append(f"{len(kinds)} are of another kind (first: {kinds[0]}, {there} for {here})")
    if faults:
        raise ModelError(
            f"weights {weights.label} are not for {weights.model_name}: {'; '.join(faults)}; pass the weights of this "
            "architecture, or another `model`"
        )
    fresh = model.state_dict()
    merged = OrderedDict((name, state.get(name, tensor)) for name, tensor in fresh.items())
    merged._metadata = fresh._metadata  # type: ignore[attr-defined]  # the layers' versions, which some models ask for
    model.load_state_dict(merged, strict=True)


def _kind(tensor: Tensor) -> str:
    """Of which kind a tensor's values are; those of one kind are cast to each other without loss of sense."""
    if tensor.dtype == torch.bool:
        return "bool"
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "whole"


def normalised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float32, DenseNet's old names as new ones, DataParallel's `module.` stripped."""
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {
        _OLD_DENSENET.sub(r"\1\2", name): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def random_weights(model_name: str, num_classes: int | None, preprocess: Preprocess | None = None) -> Weights:
    """The same random weights each time. num_classes: None is as many as timm's network has, else 1000."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        if num_classes is None and is_timm(model_name):
            network = build_timm(model_name)
            num_classes = network.num_classes
        else:
            network = build_model(model_name, num_classes or 1000)
    sha256 = content_sha256(network.state_dict())
    return Weights(model_name, None, sha256, NONE, num_classes or 1000, preprocess or Preprocess(), network)


def skeleton_of(model_name: str) -> nn.Module:
    """A network for its usual classes, without storage where its initialisation allows that: names and shapes.

    Of a factory, which may read values and weights, it is the network as it is built.
    """
    if is_factory(model_name):
        return build_factory(model_name)
    build = build_timm if is_timm(model_name) else build_model
    try:
        with torch.device("meta"):
            return build(model_name)
    except Exception:  # some initialisations read values; what is wrong with a name is said again
        return build(model_name)


def is_weights_file(text: str) -> bool:
    """Whether `weights` names a file, there or not."""
    return text.lower().endswith(FILE_SUFFIXES) or Path(text).exists()


def count_classes(skeleton: nn.Module, state: Mapping[str, Tensor], usual: int = 1000) -> int | None:
    """The outputs of the classifier, which is the last module with the `usual` outputs in the skeleton; or None."""
    names = [n for n, p in skeleton.named_parameters() if n.endswith(".weight") and p.shape[0] == usual]
    classifier = state.get(names[-1]) if names else None
    return None if classifier is None or classifier.ndim == 0 else int(classifier.shape[0])


def check_classes(label: str, found: int | None, num_classes: int | None) -> None:
    """ModelError where weights are for other classes than the user says."""
    if num_classes is not None and found is not None and found != num_classes:
        raise ModelError(
            f"weights {label} have {found} classes, but `num_classes` is {num_classes}; leave `num_classes` out, or "
            "pass weights for that many classes"
        )


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:  # a module of a user's own may hold anything
        raise uncopied(network, error) from error


@contextlib.contextmanager
def download_timeout(seconds: float = DOWNLOAD_TIMEOUT_S) -> Iterator[None]:
    """Connections opened inside give up after `seconds` of silence; torch.hub itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
