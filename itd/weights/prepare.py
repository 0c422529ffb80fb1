"""How it is shown that weights have to be made or fetched before anything else can begin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

OnPrepare = Callable[[str, int | None], Callable[[int], Any] | None]
"""(what begins, its number of steps or None where nobody knows it) -> what is called with how many steps were just
done; None leaves the showing of a download to torch. Where an `OnPrepare` is None, nothing is shown."""


def draw_bar(what: str, steps: int | None) -> Callable[[int], Any] | None:
    """The library's own way: a bar on standard error; of a download torch's, on a terminal alone."""
    if steps is None:
        return None if sys.stderr.isatty() else _nothing
    from tqdm import tqdm

    bar = tqdm(total=steps, desc=what, unit="step")

    def done(count: int) -> None:
        bar.update(count)
        if bar.n >= steps:
            bar.close()

    return done


def _nothing(count: int) -> None:
    """Shows nothing."""
