"""State dicts on disk, .pth, .pt and .safetensors: read whole or refused with one line. Nothing pickled is run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itd.data.preprocess import Preprocess
from itd.errors import DataError, ModelError

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
PREPROCESS_KEY = "itd.preprocess"
"""In a .safetensors header: the preprocessing that the weights expect, as JSON."""


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
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Preprocess | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if not state:
        raise ModelError(f"weights file {path} holds no tensors; pass a state dict")
    if PREPROCESS_KEY not in header:
        return state, None
    try:
        return state, Preprocess.from_identity(json.loads(header[PREPROCESS_KEY]))
    except (ValueError, TypeError, KeyError, DataError) as error:
        raise ModelError(
            f"weights file {path} names a preprocessing that cannot be read ({_line(error)}); write the file again"
        ) from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "Unsupported global" in str(error):
            raise ModelError(
                f"weights file {path} holds more than tensors (a whole model, or other pickled objects), which is not "
                "read for safety; save model.state_dict() instead"
            ) from error
        raise _damaged(path, error) from error
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
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"weights file {path} is not a state dict: {name!r} is {type(value).__name__}, not a tensor; save "
                "model.state_dict(), bare or under the key 'state_dict' or 'model'"
            )
    return dict(loaded)


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"weights file {path} ({path.stat().st_size} bytes) is truncated or no {path.suffix or 'weights'} file "
        f"({_line(error)}); fetch it again"
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
