"""The one place that turns a device's name into a device, and that knows what it says where its memory is full."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from itd.errors import ItdError, MemoryShortageError
from itd.text import first_line

T = TypeVar("T")

MOST_ELEMENTS = 2**31 - 1
"""Elements of the largest value that a GPU's convolutions take: their indices have 32 bits."""

_FULL = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",
    "could not create a memory",
    "could not execute a primitive",
)
"""What CUDA, torch's allocator of the CPU, cuBLAS, cuDNN and oneDNN say; an engine is an algorithm that there is room
for."""
_PRIMITIVE = "could not create a primitive"
"""oneDNN's of memory, where nothing follows; a primitive descriptor that it lacks has other reasons."""


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


def resolve_devices(devices: Any) -> tuple[torch.device, ...]:
    """The devices of a list, or of a text: "cuda:0,cuda:1"; "all", every GPU; "cpu*2", the same one twice.

    Raises ItdError for one that is not there, and for none.

    >>> resolve_devices("cpu*2")
    (device(type='cpu'), device(type='cpu'))
    """
    texts = devices.split(",") if isinstance(devices, str) else devices
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ItdError(f"devices is {devices!r}; give for example 'cuda:0,cuda:1', 'all' or 'cpu*2'")
    found: list[torch.device] = []
    for text in texts:
        name, times, count = str(text).strip().partition("*")
        if times and not (count.isdecimal() and 1 <= int(count) <= 1024):
            raise ItdError(f"no such devices: {str(text)!r}; behind * stands how many, as in 'cpu*2'")
        if name == "all":
            there = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if not there:
                raise ItdError("devices 'all': torch sees no GPU here; give for example 'cpu*2'")
            names = [f"cuda:{index}" for index in range(there)]
        elif not name:
            raise ItdError(
                f"no such devices: {str(devices)!r}; allowed are for example 'cuda:0,cuda:1', 'all', 'cpu*2'"
            )
        else:
            names = [name]
        found += [resolve_device(one) for one in names] * int(count or 1)
    return tuple(found)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside the block a GPU is the thread's current one: what pins memory or opens a context does so there.

    Without it both go to the first GPU, whichever one computes. On the way out the one from before is current again,
    without a context where it had none.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU has instructions for products in bf16, so that they are no slower than in fp32."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(one()) for one in asked if one is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU, whoever says it.

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    """
    if isinstance(error, (MemoryError, MemoryShortageError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, RuntimeError) and (text == _PRIMITIVE or any(phrase in text for phrase in _FULL))


def raise_if_memory(error: BaseException, device: torch.device | str = "cpu", what: str = "a single image") -> None:
    """MemoryShortageError for an error that says that memory ran out, which is nothing wrong with a network."""
    if is_out_of_memory(error):
        raise memory_shortage(error, device, what) from error


def memory_shortage(
    error: BaseException, device: torch.device | str, what: str = "a single image"
) -> MemoryShortageError:
    """What is raised where the least that can be run at once is too much. what: that."""
    return MemoryShortageError(
        f"out of memory on {device} with {what} ({first_line(error, 80)}); give a smaller `crop_px` or another "
        "`device`, or end what else takes its memory"
    )


E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """An error without its traceback, which holds what filled the memory: for one that is kept while others go on."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__]
    return error


class Halves:
    """Runs rows in as many pieces as the memory needs: all at once, and in halves of what did not fit.

    device: where they are run. most: rows of the largest piece from now on, None for as many as there are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.most: int | None = None

    def run(self, count: int, work: Callable[[slice], T], limit: int | None = None) -> list[T]:
        """What `work` gives for each piece of `count` rows, in order. A piece that does not fit is given again, halved.

        limit: rows of a piece whatever the memory. Raises MemoryShortageError where a single row does not fit, tried
        twice.

        >>> Halves(torch.device("cpu")).run(3, lambda rows: (rows.start, rows.stop))
        [(0, 3)]
        """
        done: list[T] = []
        first, tried = 0, False
        while first < count:
            size = min(count - first, self.most or count, limit or count)
            try:
                done.append(work(slice(first, first + size)))
                first, tried = first + size, False
                continue
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                if tried:
                    raise memory_shortage(error, self.device) from error
            tried = size == 1
            self.most = max(1, size // 2)
            free_memory(self.device)  # after the error, which holds what filled the memory
        return done


def moved(pixels: torch.Tensor, device: torch.device, dtype: torch.dtype, **how: Any) -> torch.Tensor:
    """Images on a device where they fit, else as they are: then each piece is moved as it is run. how: as of `to`."""
    try:
        return pixels.to(device, dtype, **how)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory(device)
    return pixels


def free_memory(device: torch.device) -> None:
    """Gives back what torch keeps for later, so that others' and larger pieces of memory fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses now; what torch keeps for later and does not use is free too."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
