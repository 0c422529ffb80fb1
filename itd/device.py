"""The one place that turns a device's name into a device."""

from __future__ import annotations

from typing import Any

import torch

from itd.errors import ItdError


def resolve_device(device: Any = None) -> torch.device:
    """The device of a name; None is a GPU where there is one, else the CPU.

    device: "cpu", "cuda", "cuda:1" or a `torch.device`. Raises ItdError for one that is not there.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ItdError(f"no such device: {name!r}; allowed are cpu, cuda, cuda:0 and so on") from error
    if found.type not in ("cpu", "cuda"):
        raise ItdError(f"device {name} is not supported; allowed are cpu and cuda")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ItdError(f"device {name}: torch sees no GPU here; give cpu, or install a GPU build of torch")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ItdError(f"device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return found
