"""What a device reaches by itself: the rate of a matrix product in each number format, and the rate of a copy.

A share of these rates means more than seconds do, for both are measured in one run. Not a command: `sweep.py` and
`gpu.py` print them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from itd.engine.precision import Precision

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Much more than any cache holds."""


class Timer:
    """Seconds of a call, the GPU waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def best(self, work: Callable[[], Any], repeats: int) -> float:
        """The least of some, after one that does not count."""
        work()
        return min(self(work) for _ in range(repeats))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def matrix_flops(precision: Precision, device: torch.device, side: int | None = None, repeats: int = 5) -> float:
    """Floating-point operations a second, two for each multiply-accumulate, of a product of two square matrices."""
    side = side or MATRIX_SIDE[device.type]
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, precision.dtype) for _ in range(2))
    out = torch.empty_like(a)
    with torch.inference_mode(), precision.flags():
        return 2 * side**3 / Timer(device).best(lambda: torch.mm(a, b, out=out), repeats)


def copy_bytes_per_s(device: torch.device, size: int | None = None, repeats: int = 5) -> float:
    """Bytes a second of a copy on the device: what is read and what is written."""
    source = torch.ones(size or COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / Timer(device).best(lambda: target.copy_(source), repeats)


def device_name(device: torch.device) -> str:
    """A GPU's name, or how many threads the CPU has."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def peak_bytes(device: torch.device) -> int:
    """The most memory in use: of a GPU since the last reset, of a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
