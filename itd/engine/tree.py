"""The prefix tree, run: every configuration of a space on a batch of images, shared work done once.

Rows are (prefix, image) pairs. Rows at the same stage whose tensors have the same shapes wait together, whatever
prefix they came by, and run as one batch. The deepest batch that is full runs first, so little waits at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itd.device import Halves, free_bytes, free_memory, memory_shortage
from itd.device import is_out_of_memory as is_out_of_memory
from itd.engine.costs import Shapes, arguments, fixed_op, resolve, site_op
from itd.engine.executor import Sink
from itd.engine.op import CHANNELS_LAST, ShapeError, WindowError
from itd.engine.pieces import Pieces, whole
from itd.engine.prefixes import BranchSetting
from itd.engine.program import Program
from itd.engine.rows import shape_key
from itd.engine.sizes import within
from itd.engine.stages import Branch, Stage
from itd.errors import SpaceError


@dataclass
class Segment:
    """Rows that wait at a stage.

    values: value number -> (rows * n, ...) tensor, also in pieces, n of each row beside one another, n = 1 as a rule;
    or what is the same for every row.
    """

    values: dict[int, Any]
    prefixes: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.prefixes)

    def part(self, first: int, last: int) -> Segment:
        """Rows first to last - 1."""
        values = dict(self.values)
        for i, value in values.items():
            if isinstance(value, (Tensor, Pieces)):
                each = value.shape[0] // len(self)
                first_row, last_row = each * first, each * last
                values[i] = value[first_row:last_row] if isinstance(value, Tensor) else value.rows(first_row, last_row)
        return Segment(values, self.prefixes[first:last], self.images[first:last])


@dataclass
class Queue:
    """Segments of one stage and one set of shapes. added: as of `Stage`, which are not copied where rows are joined."""

    added: frozenset[int] = frozenset()
    segments: deque[Segment] = field(default_factory=deque)
    rows: int = 0

    def push(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.rows += len(segment)

    def pop(self, count: int) -> Segment:
        """The first `count` rows as one segment; where memory runs out as they are joined, they wait on."""
        taken: list[Segment] = []
        while count > 0 and self.segments:
            first = self.segments.popleft()
            if len(first) > count:
                self.segments.appendleft(first.part(count, len(first)))
                first = first.part(0, count)
            taken.append(first)
            count -= len(first)
        try:
            segment = _joined(taken, self.added)
        except BaseException:
            self.segments.extendleft(reversed(taken))
            raise
        self.rows -= len(segment)
        return segment


def _joined(segments: list[Segment], added: frozenset[int]) -> Segment:
    """Segments as one; values that are only added to something stay in pieces."""
    values = dict(segments[0].values)
    for i, value in values.items():
        if isinstance(value, (Tensor, Pieces)):
            pieces = Pieces.of([s.values[i] for s in segments])
            values[i] = pieces.tensors[0] if len(pieces) == 1 else pieces if i in added else pieces.joined()
    return Segment(values, np.concatenate([s.prefixes for s in segments]), np.concatenate([s.images for s in segments]))


def default_budget_bytes(device: torch.device) -> int:
    """How much memory one chunk may take: a sixteenth of a GPU's free memory, on a CPU what its last cache holds."""
    if device.type == "cuda":
        return max(1, free_bytes(device) // 16)
    return 48 << 20


def default_batch_size(device: torch.device) -> int:
    """How many images a sweep puts into the tree at once where nobody says."""
    return 64 if device.type == "cuda" else 8


def rounded(rows: int, images: int) -> int:
    """Rows of a chunk, rounded down so that few counts occur, for each of which a GPU's libraries prepare anew.

    images: in the tree at once, which most prefixes have rows of; a multiple, or where fewer fit a power of two.

    >>> rounded(200, 64), rounded(50, 64)
    (192, 32)
    """
    return rows - rows % images if rows >= images else 1 << (rows.bit_length() - 1)


class TreeExecutor:
    """Runs a space on batches of images.

    program: the compiled network. budget_bytes: for one chunk; None is the device's default. ValueError for a program
    that can only be counted.
    """

    def __init__(self, program: Program, *, budget_bytes: int | None = None) -> None:
        if not program.runs:
            raise ValueError("a program that was compiled with optimise=False has no weights, and cannot be run")
        self.program = program
        self.device, self.precision, self.space = program.device, program.precision, program.space
        self.stages, self.prefixes = program.stages, program.prefixes
        self.budget_bytes = budget_bytes or default_budget_bytes(self.device)
        self._limits: dict[tuple[int, Shapes], int] = {}
        self._images = 0
        self._wanted: list[np.ndarray] | None = None

    def run(self, pixels: Tensor, sink: Sink, configs: Iterable[int] | None = None) -> None:
        """Every configuration, or some, on every image. pixels: (N, C, H, W) float32, on any device."""
        self._wanted = None if configs is None else self._prefixes_of(checked_configs(configs, len(self.space)))
        images = np.arange(len(pixels))

        def run_some(rows: slice) -> None:
            some = pixels[rows].to(self.device, self.precision.dtype, memory_format=CHANNELS_LAST, non_blocking=True)
            self._images = len(some)
            queues: list[dict[Shapes, Queue]] = [{} for _ in self.stages]
            self._push(queues, 0, Segment({0: some}, np.zeros(len(some), np.int64), images[rows]))
            for number, shapes, segment in self._schedule(queues):
                self._run_chunk(queues, number, shapes, segment, sink)

        with torch.inference_mode(), self.precision.flags():
            Halves(self.device).run(len(pixels), run_some, limit=within(pixels[:1].numel()))

    def _prefixes_of(self, configs: list[int]) -> list[np.ndarray]:
        """For each fork (longer prefixes,) bool: those that some configurations go on with."""
        wanted = []
        for fork, path in zip(self.prefixes.forks, self.prefixes.paths(), strict=True):
            taken = np.zeros(int(fork.children.max()) + 1, bool)
            taken[path[configs]] = True
            wanted.append(taken)
        return wanted

    # -- scheduling ---------------------------------------------------------------------------------------------------

    def _push(self, queues: list[dict[Shapes, Queue]], number: int, segment: Segment) -> None:
        entering = (segment.values[i] for i in self.stages[number].entering)
        shapes: Shapes = tuple(shape_key(v, len(segment)) for v in entering)
        queues[number].setdefault(shapes, Queue(self.stages[number].added)).push(segment)

    def _schedule(self, queues: list[dict[Shapes, Queue]]) -> Iterator[tuple[int, Shapes, Segment]]:
        """The deepest full chunk; where none is full, the shallowest rows, which may fill one."""
        while True:
            picked = self._full(queues) or self._shallowest(queues)
            if picked is None:
                return
            number, shapes = picked
            queue = queues[number][shapes]
            try:
                segment = queue.pop(self._limit(number, shapes))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                segment = None
            if segment is None:  # a single row is not joined to anything
                self._keep_below(number, shapes, min(queue.rows, self._limit(number, shapes)))
                continue
            if not queue.rows:
                del queues[number][shapes]
            yield number, shapes, segment

    def _full(self, queues: list[dict[Shapes, Queue]]) -> tuple[int, Shapes] | None:
        for number in reversed(range(len(queues))):
            for shapes, queue in queues[number].items():
                if queue.rows >= self._limit(number, shapes):
                    return number, shapes
        return None

    def _shallowest(self, queues: list[dict[Shapes, Queue]]) -> tuple[int, Shapes] | None:
        for number, waiting in enumerate(queues):
            if waiting:
                return number, max(waiting, key=lambda shapes: waiting[shapes].rows)
        return None

    def _limit(self, number: int, shapes: Shapes) -> int:
        key = (number, shapes)
        if key not in self._limits:
            fork = self.prefixes.forks[number] if number < len(self.prefixes.forks) else None
            try:
                row_bytes, row_elements = self.program.costs.of_row(number, shapes, fork)
            except (WindowError, ShapeError) as error:
                raise SpaceError(
                    f"a configuration of this space cannot run at this image size ({error}); leave it out, as a sweep "
                    "does, or give larger images"
                ) from error
            self._limits[key] = min(within(row_elements), max(1, self.budget_bytes // max(1, row_bytes)))
        return self._limits[key] if self.device.type == "cpu" else rounded(self._limits[key], self._images)

    def _keep_below(self, number: int, shapes: Shapes, rows: int) -> int:
        """Half of the rows that did not fit; later chunks of the same kind are no larger."""
        free_memory(self.device)
        half = max(1, rows // 2)
        self._limits[number, shapes] = min(self._limits.get((number, shapes), half), half)
        return half

    # -- one chunk ----------------------------------------------------------------------------------------------------

    def _run_chunk(
        self,
        queues: list[dict[Shapes, Queue]],
        number: int,
        shapes: Shapes,
        segment: Segment,
        sink: Sink,
        again: bool = False,
    ) -> None:
        """Run a chunk; out of memory, run its halves, and keep later ones as small. again: a row's second try."""
        try:
            pushes = self._run_rows(number, segment, sink)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if again:
                raise memory_shortage(error, self.device, f"a single image at {shapes}") from error
        else:
            for below, child in pushes:
                self._push(queues, below, child)
            return
        half = self._keep_below(number, shapes, len(segment))
        if len(segment) == 1:
            return self._run_chunk(queues, number, shapes, segment, sink, again=True)
        self._run_chunk(queues, number, shapes, segment.part(0, half), sink)
        self._run_chunk(queues, number, shapes, segment.part(half, len(segment)), sink)

    def _run_rows(self, number: int, segment: Segment, sink: Sink) -> list[tuple[int, Segment]]:
        values = run_nodes(self.stages[number], segment.values, len(segment))
        if number == len(self.prefixes.forks):
            sink(self.prefixes.configs[segment.prefixes], segment.images, values[self.program.graph.output])
            return []
        fork, stage = self.prefixes.forks[number], self.stages[number + 1]
        assert stage.branch is not None
        values = {i: whole(v) if i in stage.branch.reads else v for i, v in values.items()}
        pushes = []
        for column, setting in enumerate(fork.settings):
            children = self._children(number, column, segment, values)
            rows = np.flatnonzero(children >= 0)
            if not len(rows):
                continue
            part, images = values, segment.images
            if len(rows) < len(children):
                values = {i: whole(v) for i, v in values.items()}
                index = torch.from_numpy(rows).to(self.device, non_blocking=True)
                part = {i: _rows_of(v, index, len(segment)) for i, v in values.items()}
                children, images = children[rows], images[rows]
            pushes.append((number + 1, Segment(self._branch(stage, setting, part), children, images)))
        return pushes

    def _children(self, number: int, column: int, segment: Segment, values: dict[int, Any]) -> np.ndarray:
        """(rows,) the longer prefix that each row goes on with by a setting, -1 where it does not take it."""
        children = self.prefixes.forks[number].children[segment.prefixes, column]
        if self._wanted is None:
            return children
        return np.where((children >= 0) & self._wanted[number][children], children, -1)

    def _branch(self, stage: Stage, setting: BranchSetting, values: dict[int, Any]) -> dict[int, Any]:
        assert stage.branch is not None
        return take_branch(stage.branch, setting, values, stage.entering, self.program.attributes)


def _rows_of(value: Any, index: Tensor, rows: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape[0] != rows:
        return value.unflatten(0, (rows, -1)).index_select(0, index).flatten(0, 1)
    return maps_of(value, index) if value.ndim == 4 else value.index_select(0, index)


def maps_of(maps: Tensor, index: Tensor) -> Tensor:
    """Some rows of maps (rows, C, H, W), channels-last: whole rows are copied as they lie in memory.

    The same as `maps.index_select(0, index)`, which makes them channel after channel, value by value.
    """
    return maps.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)


def take_branch(
    branch: Branch,
    setting: BranchSetting,
    values: dict[int, Any],
    entering: tuple[int, ...],
    attributes: dict[str, frozenset[str]],
) -> dict[int, Any]:
    """What enters a stage by a setting, from what left the stage before. The tensors given are not changed."""
    values = dict(values)
    if isinstance(setting, int):
        for i in branch.values & values.keys() if setting > 1 else ():
            values[i] = values[i][:, :, ::setting, ::setting].contiguous(memory_format=CHANNELS_LAST)
    else:
        for node in branch.nodes:
            values[node.id] = site_op(node, setting, attributes)(*resolve(node.args, values))
    return {i: values[i] for i in entering}


def run_nodes(stage: Stage, entering: dict[int, Any], rows: int) -> dict[int, Any]:
    """A stage's operators in order; values that nothing reads any more are let go. rows: as of `Segment`."""
    values = dict(entering)
    for node, frees in zip(stage.nodes, stage.frees, strict=True):
        args, kwargs = arguments(node, values, rows)
        if node.id in stage.spent:
            kwargs = {**kwargs, "spent": True}
        values[node.id] = fixed_op(node)(*args, **kwargs)
        for i in frees:
            del values[i]
    return {i: values[i] for i in stage.leaving}


def checked_configs(configs: Iterable[int], count: int) -> list[int]:
    """The numbers of some configurations, each once; SpaceError for one that there is not."""
    numbers = sorted({int(number) for number in configs})
    if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
        raise SpaceError(f"no such configuration among {count}: {numbers[0]} to {numbers[-1]}")
    return numbers
