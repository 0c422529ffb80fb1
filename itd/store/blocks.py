"""One score of some parts, in blocks: a small part whole, a large one a row group at a time.

So a result that lies in one file takes no more memory to read than one of many parts. What is done with a block it does
not know.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from itd.errors import ResultError
from itd.store.index import ROWS_AT_ONCE, Index
from itd.store.part import Part, is_replaced
from itd.store.reading import read_columns, read_group, read_rows, rows_of_groups

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Block:
    """Rows of a part: of some configurations, all its samples.

    samples: where the part's are among those of all parts. group: the row group of these rows; None for the whole part.
    """

    index: Index
    configs: slice
    samples: slice
    group: int | None = None

    def row(self, config: int) -> _Block:
        """The block less all configurations but one, where those can be left undecoded: of rows that are ordered, and
        of which a record says whether they are what was written."""
        if self.group is not None or self.index.order is not None or self.index.part.record is None:
            return self
        return replace(self, configs=slice(config, config + 1))

    def read(self, column: str, threads: bool) -> np.ndarray:
        """(c, n) of one score."""
        index, each = self.index, len(self.index.samples)
        if self.group is not None:
            return index.arrange(read_group(index.part, column, self.group))
        if self.configs.stop - self.configs.start < len(index.numbers):
            return index.arrange(read_rows(index.part, column, self.configs.start * each, self.configs.stop * each))
        return index.arrange(read_columns(index.part, [column], threads=threads).column(0))


def each_block(
    path: str,
    indices: Sequence[Index],
    column: str,
    work: Callable[[slice, slice, np.ndarray], Any],
    config: int | None = None,
) -> None:
    """`work` on one score of each block, on a few threads and in any order: which configurations, which samples, and
    their (c, n). None of it is kept.

    path: of the result, for its errors. config: the place of the only one that is wanted; blocks without it are left
    out.
    """
    starts = np.cumsum([0, *(index.kept for index in indices)]).tolist()

    def split(place: int) -> list[_Block]:
        index, samples = indices[place], slice(starts[place], starts[place + 1])
        with _as_it_was_opened(path, index.part):
            return _blocks(index, samples, column)

    def read(block: _Block) -> None:
        with _as_it_was_opened(path, block.index.part):
            scores = block.read(column, threads=len(indices) == 1)
        work(block.configs, block.samples, scores)

    blocks = list(itertools.chain.from_iterable(for_each(split, range(len(indices)))))
    if config is not None:
        blocks = [one.row(config) for one in blocks if one.configs.start <= config < one.configs.stop]
    for_each(read, blocks)


def _blocks(index: Index, samples: slice, column: str) -> list[_Block]:
    """The blocks of a part; of a large one, whose row groups are whole configurations, each is a group. The checksum of
    its column is checked here, as it is of all groups together."""
    whole = _Block(index, slice(0, len(index.numbers)), samples)
    if index.order is not None or len(index.numbers) * len(index.samples) <= ROWS_AT_ONCE or not index.part.record:
        return [whole]
    rows = rows_of_groups(index.part, column)
    if any(count % len(index.samples) for count in rows):
        return [whole]
    stops = [stop // len(index.samples) for stop in itertools.accumulate(rows)]
    return [
        _Block(index, slice(start, stop), samples, group)
        for group, (start, stop) in enumerate(itertools.pairwise([0, *stops]))
        if stop > start
    ]


@contextmanager
def _as_it_was_opened(path: str, part: Part) -> Iterator[None]:
    """Says of a part that cannot be read that another run has made it again, where one has."""
    try:
        yield
    except ResultError as error:
        if not is_replaced(part):
            raise
        raise ResultError(
            f"{part.path} was made again by another run since {path} was opened; open it again"
        ) from error


def for_each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` on each item, on a few threads; the first error ends it."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
