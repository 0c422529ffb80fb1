"""3x3 convolutions at stride 1 with a third of the multiplications, in fp32 on a CPU (Winograd's minimal filtering).

Four outputs of three taps need six multiplications and not twelve: inputs and taps are taken for polynomials and
multiplied at the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", arXiv:1509.09308). Three outputs need five: all points but -2. Tiles of four and of three outputs fill a
side, so that 7 x 7 outputs take 11 x 11 products of each pair of channels in place of 7 x 7 x 9. All values at one
point of the height and one of the width meet the same matrix of channels.

Rounding is some five times that of the plain convolution: within 2e-5 of the largest output where that is within 3e-6.
It is of the tile, not of each output: beside a value that is far larger than the rest, small outputs lose digits.
Values beyond 1e36 overflow.

Not here: what follows a convolution, and which convolutions there are (`ops`).
"""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itd.engine.onednn import can_fuse
from itd.engine.op import CHANNELS_LAST

TAPS = 3
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
"""Beside infinity, which comes last. A tile of three outputs goes without the last of these."""
FEWEST_CHANNELS = 160
"""In and out, the harmonic mean. Below, the transforms take what the products save (2 cores of an AMD EPYC, torch
2.14.1, as the next two)."""
FEWEST_ROWS = 64
"""Of a product of matrices, or the matrices are read for too little work."""
BLOCK_BYTES = 20 << 20
"""Of the values at all points that are in memory at once: with more than a cache holds nothing is gained."""
MOST = 1e-4
"""The largest difference from the plain convolution of noise, in units of the largest output, that can be rounding."""


def is_worth_it(
    weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
) -> bool:
    """Whether a convolution gains where its maps are many and large enough. ITD_WINOGRAD=0 says no for all."""
    if weight.dtype != torch.float32 or not can_fuse(weight) or os.environ.get("ITD_WINOGRAD") == "0":
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if (tuple(weight.shape[2:]), stride, dilation, groups) != ((TAPS, TAPS), (1, 1), (1, 1), 1):
        return False
    out, channels = weight.shape[:2]
    return max(padding) < TAPS and 2 * out * channels >= FEWEST_CHANNELS * (out + channels)


def tiles(outputs: int) -> list[int] | None:
    """Sizes of the tiles that fill a number of outputs, as few as do; None where fours and threes do not.

    >>> tiles(7), tiles(14), tiles(5)
    ([4, 3], [4, 4, 3, 3], None)
    """
    count = -(-outputs // 4)
    threes = 4 * count - outputs
    return [4] * (count - threes) + [3] * threes if 0 <= threes <= count else None


@dataclass(frozen=True)
class Side:
    """How one side of a map, its height or its width, is transformed.

    into: (P, length), from the map to its tiles' values at the points, those of one point beside one another.
    back: (outputs, P), from the products to the outputs. at: for each point which of the P are its own. tiles: how
    many there are.
    """

    into: Tensor
    back: Tensor
    at: tuple[slice, ...]
    tiles: int

    @staticmethod
    def of(length: int, padding: int) -> Side | None:
        """Of a side of `length` with `padding` zeros at each end; None where no tiles fill its outputs."""
        outputs = length + 2 * padding - TAPS + 1
        sizes = tiles(outputs) if outputs > 0 else None
        if sizes is None:
            return None
        into: list[np.ndarray] = []
        back: list[np.ndarray] = []
        at = []
        for point in range(len(POINTS) + 1):
            first = len(into)
            for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
                reads, makes = _tile_at(point, size)
                if reads is not None:
                    into.append(_placed(reads, start, length + 2 * padding)[padding : padding + length])
                    back.append(_placed(makes, start, outputs))
            at.append(slice(first, len(into)))
        return Side(_matrix(into), _matrix(back).t().contiguous(), tuple(at), len(sizes))


def _tile_at(point: int, size: int) -> tuple[np.ndarray | None, np.ndarray]:
    """What a tile of `size` outputs reads of its inputs at a point, and how its outputs are made of the product there.

    None where the tile goes without the point.
    """
    own = POINTS[: size + TAPS - 2]
    if point == len(POINTS):
        return np.poly(own)[::-1], np.eye(size)[-1]
    value = POINTS[point]
    if value not in own:
        return None, np.zeros(size)
    # taps are divided by the differences from all points, also from those that this tile goes without
    unused = np.prod([value - other for other in POINTS[len(own) :]])
    return np.append(np.poly([other for other in own if other != value])[::-1], 0.0) * unused, value ** np.arange(size)


def _placed(values: np.ndarray, start: int, length: int) -> np.ndarray:
    row = np.zeros(length)
    row[start : start + len(values)] = values
    return row


def _matrix(rows: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(rows)).float()


def _taps() -> Tensor:
    """(6, 3) float64: from three taps to their values at the points."""
    rows = [value ** np.arange(TAPS) / np.prod([value - p for p in POINTS if p != value]) for value in POINTS]
    return torch.from_numpy(np.stack([*rows, np.eye(TAPS)[-1]]))


class WinogradConv:
    """A 3x3 convolution at stride 1, without an activation: x (N, I, H, W) channels-last -> (N, O, H', W').

    weight: (O, I, 3, 3), of which `is_worth_it`. bias: (O,) or None. padding: zeros above and below, left and right.
    Beside input and output it needs three times BLOCK_BYTES at most, whatever N is, and its matrices four times the
    weight. They are made, which takes three times as much for a moment, when the first maps come that it takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> None:
        self.weight, self.bias, self.padding = weight, bias, padding
        self.channels_out, self.channels_in = weight.shape[:2]
        self._matrices: list[list[Tensor]] = []
        self._sides: dict[tuple[int, int], Side | None] = {}

    def takes(self, x: Tensor) -> bool:
        """Whether maps are large and many enough. Never where noise shows more than rounding between it and the plain
        convolution, so that the answer does not depend on which maps came before."""
        tall, wide = self._side(x.shape[2], 0), self._side(x.shape[3], 1)
        if tall is None or wide is None or len(x) * tall.tiles * wide.tiles < FEWEST_ROWS:
            return False
        return self._bytes_of_image(tall, wide) <= BLOCK_BYTES and self.agrees

    @functools.cached_property
    def agrees(self) -> bool:
        """Whether it is the plain convolution but for rounding, on two maps of seeded noise that have all tiles."""
        height, width = (8 + TAPS - 1 - 2 * self.padding[0], 7 + TAPS - 1 - 2 * self.padding[1])
        noise = torch.randn(2, height, width, self.channels_in, generator=torch.Generator().manual_seed(0))
        x = noise.permute(0, 3, 1, 2)
        plain = F.conv2d(x, self.weight, self.bias, 1, self.padding)
        return bool((self(x) - plain).abs().max() <= MOST * plain.abs().max())

    def _side(self, length: int, axis: int) -> Side | None:
        key = length, self.padding[axis]
        if key not in self._sides:
            self._sides[key] = Side.of(*key)
        return self._sides[key]

    def __call__(self, x: Tensor) -> Tensor:
        tall, wide = self._side(x.shape[2], 0), self._side(x.shape[3], 1)
        assert tall is not None and wide is not None
        self._matrices = self._matrices or self._made()
        shape = len(x), self.channels_out, len(tall.back), len(wide.back)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
        blocks = -(-len(x) // max(1, BLOCK_BYTES // self._bytes_of_image(tall, wide)))
        for some, made in zip(x.tensor_split(blocks), out.tensor_split(blocks), strict=True):
            made.permute(3, 2, 0, 1).copy_(self._block(some, tall, wide))
        return out

    def _bytes_of_image(self, tall: Side, wide: Side) -> int:
        """Of its values at all points, or of their products."""
        return 4 * len(tall.into) * len(wide.into) * max(self.channels_in, self.channels_out)

    def _made(self) -> list[list[Tensor]]:
        """For each point of the height and of the width the matrix (O, I), laid out as oneDNN wants it."""
        taps, pack = _taps(), torch.ops.mkldnn._reorder_linear_weight
        at_points = torch.einsum("yi,xj,ocij->yxoc", taps, taps, self.weight.double()).float()
        return [[pack(matrix.contiguous(), FEWEST_ROWS) for matrix in row] for row in at_points]

    def _block(self, x: Tensor, tall: Side, wide: Side) -> Tensor:
        """(N, I, H, W) -> (W', H', N, O): the sides come first, so that what one product reads lies side by side."""
        n, _, h, w = x.shape
        heights, widths, widths_out = len(tall.into), len(wide.into), len(wide.back)
        maps = x.permute(3, 2, 0, 1).reshape(w, h, n * self.channels_in)
        values = torch.bmm(tall.into.expand(w, -1, -1), maps)
        products = values.new_empty(widths_out, heights, n * self.channels_out)
        for y, rows in enumerate(tall.at):
            across = torch.mm(wide.into, values[:, rows].flatten(1)).view(widths, -1, self.channels_in)
            made = torch.cat([self._product(across[columns], y, x) for x, columns in enumerate(wide.at)])
            products[:, rows] = torch.mm(wide.back, made.view(widths, -1)).view(widths_out, -1, products.shape[-1])
        return torch.bmm(tall.back.expand(widths_out, -1, -1), products).view(widths_out, -1, n, self.channels_out)

    def _product(self, values: Tensor, y: int, x: int) -> Tensor:
        """(..., I) -> (rows, O): the values at a point of the height and one of the width."""
        # each output has the product at the point 1 in it once, and so the bias
        bias = self.bias if POINTS[y : y + 1] == POINTS[x : x + 1] == (1.0,) else None
        flat = values.reshape(-1, self.channels_in)
        return torch.ops.mkldnn._linear_pointwise(flat, self._matrices[y][x], bias, "none", [], "")
