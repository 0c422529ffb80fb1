"""Number formats of a sweep: fp32, tf32, bf16, fp16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from itd.errors import SpaceError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NARROW = frozenset(_DTYPES.values())
"""Types of maps and weights beside which the last linear layer, biases, scales and shifts stay in float32."""


@dataclass(frozen=True)
class Precision:
    """What weights and activations are held in. The last linear layer and the scores are always in float32.

    Raises SpaceError for a name that is not one, and for tf32 on a CPU.
    """

    name: str = "fp32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise SpaceError(f"no such precision: {self.name!r}; allowed are {', '.join(PRECISIONS)}")
        if self.name == "tf32" and not self.device.startswith("cuda"):
            raise SpaceError(f"precision tf32 is a GPU's format, and `device={self.device}`; give fp32 or bf16")

    @property
    def dtype(self) -> torch.dtype:
        """The tensors' type."""
        return _DTYPES.get(self.name, torch.float32)

    @contextlib.contextmanager
    def flags(self) -> Iterator[None]:
        """torch's switches for this format inside the block, restored on the way out. fp32 means IEEE float32."""
        tf32 = self.name == "tf32"
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        try:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
