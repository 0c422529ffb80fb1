"""timm's weights and preprocessing of `timm/NAME`: fetched by timm's own means, read as `Preprocess`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from itd.data.preprocess import INTERPOLATIONS, Preprocess
from itd.errors import ModelError
from itd.patcher.names import TIMM
from itd.patcher.timm_models import timm_module, timm_name
from itd.text import first_line, listed
from itd.weights.content import content_sha256
from itd.weights.files import read_file
from itd.weights.prepare import OnPrepare, draw_bar
from itd.weights.state import (
    DOWNLOAD_TIMEOUT_S,
    NONE,
    NOT_FETCHED,
    Weights,
    check_classes,
    count_classes,
    download_timeout,
    is_weights_file,
    normalised,
    random_weights,
    skeleton_of,
)


def timm_weights(
    model_name: str,
    weights: str | Path | None,
    *,
    num_classes: int | None = None,
    skeleton: nn.Module | None = None,
    on_prepare: OnPrepare | None = draw_bar,
    size_px: tuple[int | None, int | None] = (None, None),
    only_plan: bool = False,
) -> Weights:
    """The weights of `timm/NAME`.

    weights: None for timm's pretrained ones of that name, "none" for seeded random ones, or a state dict in a file.
    size_px: (resize_px, crop_px) of the user's. only_plan: nothing is fetched; weights that are not there stay random.
    Others as of `itd.weights.load.load_weights`.

    Raises ModelError for a name without weights, weights that cannot be fetched, or preprocessing that is not the
    square at the centre.
    """
    network: Any = skeleton_of(model_name) if skeleton is None else skeleton
    usual, assumed = int(network.num_classes), False
    if weights is not None and is_weights_file(str(weights)):
        stored, own = read_file(Path(weights))
        state, label = normalised(stored), Path(weights).name
        preprocess, assumed = own or timm_preprocess(model_name, network, size_px), own is None
        found = count_classes(network, state, usual)
    elif weights is None:
        _require_pretrained(model_name)
        preprocess, label, found = timm_preprocess(model_name, network, size_px), _tagged(model_name), usual
        check_classes(label, found, num_classes)
        if only_plan and _cached(timm_module().models.get_pretrained_cfg(timm_name(model_name))) is None:
            return replace(random_weights(model_name, usual, preprocess), label=label, pending=NOT_FETCHED)
        state = normalised(_fetched(model_name, on_prepare))
    elif str(weights) == NONE:
        return random_weights(model_name, num_classes, timm_preprocess(model_name, network, size_px))
    else:
        raise ModelError(
            f"no such weights: {str(weights)!r}; timm's are part of the name: {_tags(model_name)}; or pass a state "
            "dict as a .safetensors or .pth FILE, or none for random weights"
        )
    check_classes(label, found, num_classes)
    count = found or num_classes or usual
    return Weights(model_name, state, content_sha256(state), label, count, preprocess, assumed=assumed)


def timm_preprocess(
    model_name: str, network: nn.Module, size_px: tuple[int | None, int | None] = (None, None)
) -> Preprocess:
    """What timm does to an image in evaluation (`timm.data.create_transform`), of a network's own configuration.

    Raises ModelError where that is not a square cut from the centre; unless the user gives both sizes in `size_px`.
    """
    timm_module()
    data: Any = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(network)
    _, height, width = config["input_size"]
    faults = [] if config["input_size"][0] == 3 else [f"images of {config['input_size'][0]} channels"]
    if config["interpolation"] not in INTERPOLATIONS:
        faults.append(f"{config['interpolation']} interpolation")
    if faults:
        raise ModelError(
            f"{model_name} takes {' and '.join(faults)}; allowed are 3 channels and {', '.join(INTERPOLATIONS)}: "
            "hand the network to itd.SweepJob with timm's own transform"
        )
    if None not in size_px:
        height = width = size_px[1]
    elif height != width or config["crop_mode"] != "center":
        what = f"{height} x {width} pixels" if height != width else f"the crop mode {config['crop_mode']!r}"
        raise ModelError(
            f"{model_name} is made for images of {what}, and here images are squares cut from the centre; give the "
            "sizes of those (`resize_px` and `crop_px`), or another `model`"
        )
    return Preprocess(
        resize_px=size_px[0] if None not in size_px else math.floor(height / config["crop_pct"]),
        crop_px=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )


def _require_pretrained(model_name: str) -> None:
    own = timm_name(model_name)
    if not timm_module().models.is_model_pretrained(own):
        raise ModelError(
            f"timm has no weights for {own}; pass a state dict as a .safetensors or .pth FILE (`weights=FILE`), or "
            "`weights=none` for random ones"
        )


def _fetched(model_name: str, on_prepare: OnPrepare | None) -> dict[str, Tensor]:
    """The state dict of timm's weights, from the hub's cache or by download."""
    own, timm = timm_name(model_name), timm_module()
    there = _cached(timm.models.get_pretrained_cfg(own))
    bar = there is None and on_prepare is not None and on_prepare(f"fetching timm's {own}", None) is None
    try:
        with contextlib.redirect_stdout(sys.stderr), download_timeout(), _hub_says(bar):
            if there is None:
                _require_hub(timm.models.get_pretrained_cfg(own))
            overlay = None if there is None else {"file": there}
            return timm.create_model(own, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # of the hub's client, of its connection, of torch.hub, of the disk
        raise ModelError(
            f"timm's weights of {own} cannot be fetched ({first_line(_reason(error))}); fetch them where there is "
            "network, or pass a state dict as a .safetensors or .pth FILE (`weights=FILE`), or `weights=none`"
        ) from error


def _cached(config: Any) -> str | None:
    """The file of the hub's cache, where it is there: the client would first ask the network, for a minute without."""
    if not config.hf_hub_id or config.custom_load:
        return None
    hub: Any = importlib.import_module("huggingface_hub")
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (hub.try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def _require_hub(config: Any) -> None:
    """Raises where the hub cannot be reached: its client would try again and again, for a minute."""
    if config.hf_hub_id:
        hub: Any = importlib.import_module("huggingface_hub")
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=DOWNLOAD_TIMEOUT_S)


@contextlib.contextmanager
def _hub_says(bars: bool) -> Iterator[None]:
    """Whether the hub's client draws its own bars inside; its warnings are left out, as errors say what matters."""
    hub: Any = importlib.import_module("huggingface_hub.utils")
    logger, hide = logging.getLogger("huggingface_hub"), not bars and not hub.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if hide:
        hub.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if hide:
            hub.enable_progress_bars()


def _reason(error: BaseException) -> BaseException:
    """The error that began it: the client's own says only that the file is not in its cache."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _tagged(model_name: str) -> str:
    """The name with its tag, which of a bare architecture is timm's default one."""
    own = timm_name(model_name)
    tag = timm_module().models.get_pretrained_cfg_value(own, "tag")
    return own if "." in own or not tag else f"{own}.{tag}"


def _tags(model_name: str) -> str:
    own = timm_name(model_name).partition(".")[0]
    there = timm_module().list_pretrained(f"{own}.*")
    return listed((TIMM + name for name in there), 12) if there else f"none for {own}"
