"""Where what is made or fetched once is kept between runs, and what is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itd.errors import ItdError
from itd.text import one_line

OWN = ("digits-*.safetensors", "digits-*.safetensors.*", "cifar-10-*", "cifar-100-*")
"""Names of what this package puts into its cache; nothing else there is its own, or is ever removed."""


def cache_folder(given: str | Path | None = None) -> Path:
    """`given`, or $ITD_CACHE, or the user's cache folder; it need not exist.

    >>> str(cache_folder("/tmp/x"))
    '/tmp/x'
    """
    if given is not None:
        return Path(given)
    if "ITD_CACHE" in os.environ:
        return Path(os.environ["ITD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "itd"


@dataclass(frozen=True)
class CacheEntry:
    """Something in the cache. path: a file, or a folder with all that is in it. bytes: what it takes on disk."""

    path: str
    bytes: int


@dataclass(frozen=True)
class CacheReport:
    """What is in the cache. folder: it, there or not. entries: by name. cleared: whether they were just removed."""

    folder: str
    entries: tuple[CacheEntry, ...]
    cleared: bool = False

    @property
    def bytes(self) -> int:
        """What all of it takes on disk."""
        return sum(entry.bytes for entry in self.entries)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "folder": self.folder,
            "bytes": self.bytes,
            "entries": [entry.__dict__ for entry in self.entries],
            "cleared": self.cleared,
        }


def cache(*, clear: bool = False) -> CacheReport:
    """What this package keeps between runs: networks trained on the digits, and CIFAR as it was fetched.

    Weights that torchvision, timm and `datasets` fetch are in caches of their own, which are left alone.

    Args:
        clear: removes it; it is made or fetched again where it is needed.

    Returns:
        What is there, or was.

    Raises:
        ItdError: for a folder that cannot be read, or something in it that cannot be removed.

    Example:
        >>> cache().cleared
        False
    """
    folder = cache_folder()
    try:
        entries = tuple(CacheEntry(str(path), _size(path)) for path in _own(folder))
        for entry in entries if clear else ():
            path = Path(entry.path)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise ItdError(f"the cache {folder} cannot be {'cleared' if clear else 'read'}: {one_line(error)}") from error
    return CacheReport(str(folder), entries, clear)


def _own(folder: Path) -> Iterator[Path]:
    """What this package put into a folder, by name."""
    yield from sorted({path for pattern in OWN for path in folder.glob(pattern)})


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(inside.lstat().st_size for inside in path.rglob("*") if not inside.is_dir())
    return path.lstat().st_size
