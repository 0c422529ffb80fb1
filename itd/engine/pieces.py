"""Values that siblings share, not copied: rows of several tensors, taken one after the other, as if they were one.

Where a branch leaves a value in place, all its settings go on with the same tensor. Rows that are run together then
hold it several times. An addition can read it where it is; everything else has it joined first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Pieces:
    """Tensors (rows, ...) that stand for one with all their rows. The same tensor may come several times in a row.

    Its length is the number of tensors.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)

    @classmethod
    def of(cls, values: Sequence[Any]) -> Pieces:
        """The rows of tensors, and of pieces, in order."""
        return cls([tensor for value in values for tensor in (value.tensors if isinstance(value, Pieces) else [value])])

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def shape(self) -> torch.Size:
        """As of the tensor that it stands for."""
        return torch.Size((sum(len(tensor) for tensor in self.tensors), *self.tensors[0].shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """As of the tensor that it stands for."""
        return self.tensors[0].dtype

    def rows(self, first: int, last: int) -> Pieces | Tensor:
        """Rows first to last - 1; nothing is copied."""
        kept = []
        for tensor in self.tensors:
            part = tensor[max(first, 0) : max(last, 0)]
            if len(part):
                kept.append(part)
            first, last = first - len(tensor), last - len(tensor)
        return kept[0] if len(kept) == 1 else Pieces(kept)

    def joined(self) -> Tensor:
        """One tensor."""
        return torch.cat(self.tensors)

    def repeats(self) -> Iterator[tuple[slice, Tensor, int]]:
        """(rows, tensor, how many times it comes there one after the other), in order."""
        first = 0
        for tensor, times in self._runs():
            last = first + times * len(tensor)
            yield slice(first, last), tensor, times
            first = last

    def add_to(self, out: Tensor) -> Tensor:
        """Adds the rows to those of `out`, in place: each tensor is read where it is, once for all that share it."""
        for rows, tensor, times in self.repeats():
            out[rows].unflatten(0, (times, len(tensor))).add_(tensor)
        return out

    def _runs(self) -> Iterator[tuple[Tensor, int]]:
        times = 0
        for tensor, after in zip(self.tensors, (*self.tensors[1:], None), strict=True):
            times += 1
            if after is None or not _same(tensor, after):
                yield tensor, times
                times = 0


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same rows in memory."""
    return one is other or (one.shape == other.shape and _place(one) == _place(other))


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.untyped_storage()._cdata, tensor.storage_offset()  # also known of tensors that hold no numbers


def whole(value: Any) -> Any:
    """A value as one tensor, where it is in pieces."""
    return value.joined() if isinstance(value, Pieces) else value
