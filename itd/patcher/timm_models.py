"""timm's networks by name, `timm/NAME`. timm is optional: it is imported only here and in `itd.weights.timm`."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from torch import nn

from itd.errors import ModelError
from itd.patcher.names import TIMM
from itd.text import first_line


def timm_module() -> Any:
    """timm; ModelError, saying how to install it, where it is not there."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(
            f"timm/NAME needs timm, which cannot be imported ({first_line(error)}): pip install 'itd-oracle[timm]'"
        ) from error


def timm_name(name: str) -> str:
    """timm's own name in `timm/NAME`; ModelError, with the five nearest, for one that timm lacks.

    NAME is an architecture, or an architecture and one of its pretrained tags: resnet50, resnet50.a1_in1k.
    """
    timm, own = timm_module(), name.removeprefix(TIMM)
    known = {*timm.list_models(), *timm.list_pretrained()}
    if own not in known:
        near = difflib.get_close_matches(own, sorted(known), n=5, cutoff=0.0)
        raise ModelError(f"timm {timm.__version__} has no {own!r}; the nearest are {', '.join(TIMM + n for n in near)}")
    return own


def build_timm(name: str, num_classes: int | None = None) -> Any:
    """A network of timm with random weights, in evaluation mode; ModelError for a name that timm lacks.

    num_classes: None is as many as the network's pretrained weights have.
    """
    own = timm_name(name)
    try:
        network: nn.Module = timm_module().create_model(own, pretrained=False, num_classes=num_classes)
    except Exception as error:  # timm raises many kinds
        raise ModelError(f"timm cannot make {own}: {first_line(error)}; give another `model`") from error
    if not getattr(network, "num_classes", 0):
        raise ModelError(f"{name} has no classifier, so it gives no logits; give `num_classes`, or another `model`")
    return network.eval()
