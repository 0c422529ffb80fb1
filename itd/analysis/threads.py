"""Parts of an answer computed side by side. What is computed it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` on each item, on a few threads; the first error ends it.

    Products of matrices take one thread each meanwhile: several that take all would wait for each other.
    """
    from threadpoolctl import threadpool_limits  # scikit-learn's, without which it is not installed

    from itd.store.blocks import for_each

    with threadpool_limits(1, user_api="blas"):
        return for_each(work, items)
