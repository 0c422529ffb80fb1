"""What a network reads off shapes: how many rows there are, which differs from chunk to chunk, and sizes, which do not.

A tree runs rows of several images and prefixes together and cuts them where it likes, so the number of rows that a
network reads is kept as a symbol and put in where an operator is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from itd.engine.pieces import Pieces

META_ROWS = 1009
"""Rows of a meta tensor: a prime, so that a number that it divides counts rows."""


@dataclass(frozen=True)
class Rows:
    """The number of rows, times a whole number: what `x.shape[0]` is.

    >>> 4 * Rows()
    Rows(times=4)
    """

    times: int = 1

    def __mul__(self, other: Any) -> Rows:
        return Rows(self.times * other) if type(other) is int else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, Rows) and self.times % other.times == 0:
            return self.times // other.times
        return Rows(self.times // other) if type(other) is int and self.times % other == 0 else NotImplemented


@dataclass(frozen=True)
class Scalar:
    """A value that is the same for every row, where shapes are compared: rows that differ in it do not wait together.

    value: as it is. key: what tells it from others.
    """

    key: Any
    value: Any = field(compare=False)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A nest of arguments with every leaf changed: tuples, lists, dictionaries and slices are gone into.

    >>> mapped([1, slice(2, None), {"a": (3,)}], lambda v: None if v is None else v + 1)
    [2, slice(3, None, None), {'a': (4,)}]
    """
    if isinstance(value, torch.Size):
        return tuple(mapped(v, change) for v in value)
    if isinstance(value, (tuple, list)):
        items = [mapped(v, change) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def leaves(value: Any) -> list[Any]:
    """What is in a nest of arguments."""
    found: list[Any] = []
    mapped(value, found.append)
    return found


def symbolic(value: Any) -> Any:
    """Arguments with every number that counts rows of a meta tensor as a symbol."""
    return mapped(value, lambda v: Rows(v // META_ROWS) if counts_rows(v) else v)


def counts_rows(value: Any) -> bool:
    """Whether a number was made of the rows of a meta tensor."""
    return type(value) is int and value != 0 and value % META_ROWS == 0


def counted(value: Any, rows: int) -> Any:
    """Arguments with the number of rows put in."""
    return mapped(value, lambda v: rows * v.times if isinstance(v, Rows) else v)


def scalar_key(value: Any) -> Scalar | None:
    """What stands for a value that is no tensor where shapes are compared; None where it counts rows by itself."""
    found = leaves(value)
    if any(isinstance(v, Tensor) or counts_rows(v) for v in found):
        return None
    key = _hashable(value)
    try:
        hash(key)
    except TypeError:
        return None
    return Scalar(key, value)


def shape_key(value: Any, rows: int) -> tuple[int, ...] | Scalar:
    """What a value of a stage is known by: the shape of one row's part of it, or the size that it is."""
    if isinstance(value, (Tensor, Pieces)):
        return (value.shape[0] // rows, *value.shape[1:])
    return Scalar(_hashable(value), value)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, (list, tuple)) else value
