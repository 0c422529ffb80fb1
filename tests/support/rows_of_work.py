"""Whether a result of the job of `support.work` has the rows that one process alone gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itd import sweep
from itd.store import open_result, verify
from support.work import make_job

SCORES = ("pred", "quality", "nll", "rank", "confidence")


def require_same(out: str | Path, alone: Path) -> None:
    """AssertionError where a result is not whole, or not equal to that of one process.

    alone: where that is, or is made.
    """
    if not alone.exists():
        sweep(make_job(), out=str(alone), device="cpu", batch_size=2, images_per_unit=2, quiet=True)
    assert verify(out).complete
    one, other = open_result(alone), open_result(out)
    for name in SCORES:
        assert np.array_equal(one.matrix(name), other.matrix(name)), name
