"""The weights of a factory's network: as it was built, or a file's. Nothing is fetched or trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from itd.data.preprocess import Preprocess
from itd.device import raise_if_memory
from itd.errors import ModelError
from itd.patcher.factories import build_factory
from itd.patcher.model import logits_of
from itd.patcher.names import canonical_name
from itd.patcher.storage import copy_on
from itd.text import first_line
from itd.weights.content import content_sha256
from itd.weights.files import read_file
from itd.weights.state import NONE, Weights, is_weights_file, normalised

AS_BUILT = "as built"


def factory_weights(
    model_name: str,
    weights: str | Path | None,
    *,
    num_classes: int | None = None,
    built: nn.Module | None = None,
    crop_px: int | None = None,
) -> Weights:
    """The weights of FILE.py:NAME or package.module:NAME.

    weights: None or "none" for those that it was built with, or a state dict in a file. num_classes: what the user
    says. built: the network, where it is there already. crop_px: the side of the images, where it is not the weights'
    own. Raises ModelError for weights that are no file, logits that are not (1, K), and K that is not `num_classes`.
    """
    name, text = canonical_name(model_name), NONE if weights is None else str(weights)
    network = build_factory(name) if built is None else built
    state, own = None, None
    if text != NONE:
        if not is_weights_file(text):
            raise ModelError(
                f"no such weights: {text!r}; {name} takes a state dict as a .safetensors or .pth FILE, or is taken as "
                "it was built where `weights` is left out"
            )
        state, own = read_file(Path(text))
        state = normalised(state)
    preprocess, assumed = own or Preprocess(), own is None
    count = count_logits(name, network, crop_px or preprocess.crop_px)
    if num_classes not in (None, count):
        raise ModelError(
            f"{name} gives {count} logits, and there are {num_classes} classes (`num_classes`, or the images'); leave "
            "`num_classes` out, or give images, or a network, of as many"
        )
    if state is not None:
        return Weights(name, state, content_sha256(state), Path(text).name, count, preprocess, assumed=assumed)
    label = AS_BUILT if weights is None else NONE
    return Weights(name, None, content_sha256(network.state_dict()), label, count, preprocess, network, assumed=assumed)


def count_logits(name: str, network: nn.Module, side_px: int) -> int:
    """K, read off the logits of one image: on shapes, or, where the network reads values, for real.

    side_px: of the square image. Raises ModelError for a network that cannot take it, or returns anything but (1, K).
    """
    try:
        logits = _logits(copy_on(network, torch.device("meta")), side_px, "meta")
    except Exception:  # what cannot be run on shapes raises many kinds
        try:
            logits = _logits(network, side_px, "cpu")
        except Exception as error:  # the user's code may raise anything
            raise_if_memory(error)
            raise ModelError(
                f"{name} cannot take an image of 3 x {side_px} x {side_px} ({first_line(error)}); give the size that "
                "it takes (`crop_px`, `resize_px`), or weights whose file says it"
            ) from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != 1:
        what = f"logits of the shape {shape}" if shape else f"a {type(logits).__name__}"
        raise ModelError(f"{name} gives {what} for one image; they must be (1, K), K classes")
    return int(shape[1])


def _logits(network: nn.Module, side_px: int, device: str) -> torch.Tensor:
    with torch.inference_mode():
        return logits_of(network(torch.zeros(1, 3, side_px, side_px, device=device)))
