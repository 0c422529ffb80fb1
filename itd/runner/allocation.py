"""How the C library of this process keeps memory that was freed. Of tensors and devices nothing is known here."""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""glibc's numbers of what `mallopt` sets (mallopt(3))."""


def keep_freed_memory() -> None:
    """Lets the C library use large memory again that was freed, in place of giving it back to the system at once.

    By itself glibc maps whatever is larger than 32 MB anew, and the system clears each page of it: a tenth of the time
    of DenseNet-121's strides on 2 CPU cores. It is set for the whole process, for tensors of up to 256 MB; what lies
    between tensors that are still in use is then not given back. Nothing is done where the environment says how to
    allocate (MALLOC_..., GLIBC_TUNABLES), where the library is another one, or an older one that takes no such size.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(_MMAP_THRESHOLD, 256 << 20):  # the second alone would make it map far smaller tensors anew
        mallopt(_TRIM_THRESHOLD, 512 << 20)
