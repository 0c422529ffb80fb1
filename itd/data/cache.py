"""Where what is made or fetched once is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


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
