"""State dicts on disk, .pth, .pt and .safetensors: read whole or refused with one line. Nothing pickled is run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itd.checked import BadJson, anything, listing, maybe, number, parse_json, text, whole
from itd.checked import fields as fields_of
from itd.data.preprocess import MAX_SIDE_PX, Preprocess
from itd.errors import DataError, ModelError
from itd.text import one_line
from itd.weights.archives import BadArchive, check_archive
from itd.weights.content import content_sha256

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
PREPROCESS_KEY = "itd.preprocess"
"""In a .safetensors header: the preprocessing that the weights expect, as JSON."""
PREPROCESS_FIELDS = fields_of(
    {"mean": listing(number(-1e6, 1e6), 3, 3), "std": listing(number(1e-6, 1e6), 3, 3)},
    {"resize_px": maybe(whole(1, MAX_SIDE_PX)), "crop_px": whole(1, MAX_SIDE_PX), "interpolation": text},
    others=False,
)
"""What `Preprocess.identity` writes."""

_SPARE_BYTES = 2**28
_MOST_NAME = 1000


def read_file(path: Path) -> tuple[dict[str, Tensor], Preprocess | None]:
    """(state dict as stored, the preprocessing that the file names, if it does).

    Raises ModelError for a file that is absent, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise ModelError(
            f"weights file {path} is {what}; pass a state dict as .safetensors or .pth, a name of torchvision's "
            "weights (such as IMAGENET1K_V1), or none"
        )
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return _read_pth(path), None


def read_header(path: Path) -> dict[str, str]:
    """The metadata in a .safetensors header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Preprocess | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error
    if not state:
        raise ModelError(f"weights file {path} holds no tensors; pass a state dict")
    state = require_tensors(path, state)
    _require_recorded(path, header, state)
    if PREPROCESS_KEY not in header:
        return state, None
    try:
        values = parse_json(header[PREPROCESS_KEY], PREPROCESS_FIELDS, name="preprocess", most_bytes=2**16)
        return state, Preprocess.from_identity(values)
    except (BadJson, DataError) as error:
        raise ModelError(
            f"weights file {path} names a preprocessing that cannot be read ({one_line(error)}); write the file again"
        ) from error


def _require_recorded(path: Path, header: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """ModelError where a file that a training wrote does not hold the tensors whose hash its header records."""
    for key in (key for key in header if key.startswith("itd.") and key != PREPROCESS_KEY):
        try:
            record = parse_json(header[key], anything)
        except BadJson as error:
            raise _damaged(path, error) from error
        recorded = record.get("sha256") if isinstance(record, dict) else None
        if recorded is not None and recorded != content_sha256(state):
            raise _damaged(path, ValueError("its tensors are not those that its header records"))


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        check_archive(path)
        with warnings.catch_warnings():  # of sparse and old-fashioned tensors, which are refused anyway, or read
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "Unsupported global" in str(error):
            raise ModelError(
                f"weights file {path} holds more than tensors (a whole model, or other pickled objects), which is not "
                "read for safety; save model.state_dict() instead"
            ) from error
        raise _damaged(path, error) from error
    except BadArchive as error:
        raise ModelError(
            f"weights file {path} is not read for safety: {one_line(error)}; save model.state_dict() anew"
        ) from error
    except Exception as error:  # damaged archives and pickles raise unrelated types
        raise _damaged(path, error) from error
    return _unwrap(path, loaded)


def _unwrap(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The state dict, also where a training script has put it under "state_dict" or "model"."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(f"weights file {path} holds {type(loaded).__name__}, not a state dict of named tensors")
    return require_tensors(path, loaded)


def require_tensors(path: Path, loaded: Mapping[Any, Any]) -> dict[str, Tensor]:
    """A state dict whose tensors have values that a network can take; ModelError naming the first that has not.

    Whether a tensor has the shape and the kind of the network's own is told by `apply_weights`.
    """
    most = 16 * path.stat().st_size + _SPARE_BYTES
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"weights file {path} is not a state dict: {one_line(ascii(name), 80)} is {type(value).__name__}, not "
                "a tensor; save model.state_dict(), bare or under the key 'state_dict' or 'model'"
            )
        if len(name) > _MOST_NAME or not name.isprintable():
            raise ModelError(
                f"weights file {path} has a tensor of the name {one_line(ascii(name), 60)}, which no module has; save "
                "model.state_dict()"
            )
        why = _unusable(value)
        if why is None:
            most -= value.numel() * (4 if value.is_floating_point() else value.element_size())
            why = None if most >= 0 else f"has the shape {tuple(value.shape)}, for more values than the file can hold"
        if why is not None:
            raise ModelError(
                f"weights file {path}: {one_line(name, 80)} {why}; save plain tensors: dense, on the CPU, as numbers"
            )
    return dict(loaded)


def _unusable(tensor: Tensor) -> str | None:
    """Why the values of a tensor cannot be read or are no weights; None where they are."""
    if tensor.is_meta:
        return "has a shape and no values (it is on the device meta)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is sparse or nested ({tensor.layout})"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype})"
    if tensor.is_complex():
        return f"is complex ({tensor.dtype})"
    return None


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"weights file {path} ({path.stat().st_size} bytes) is truncated or no {path.suffix or 'weights'} file "
        f"({one_line(error, 120)}); fetch it again"
    )
