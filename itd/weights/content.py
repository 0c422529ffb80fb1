"""What a state dict holds, as one hash: whichever file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def content_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict's content, whatever file held it and at whatever floating precision.

    Over name, dtype, shape and little-endian bytes of each tensor, names sorted, floating tensors cast to float32.
    BatchNorm's `num_batches_tracked` is left out: no inference reads it, and not every file has it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if is_counter(name):
            continue
        tensor = state[name].detach().cpu().contiguous()
        tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        values = tensor.numpy()
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def is_counter(name: str) -> bool:
    """Whether a tensor counts batches, which no inference reads."""
    return name.endswith("num_batches_tracked")
