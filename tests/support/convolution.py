"""A convolution at a stride and a dilation by DESIGN's definition, in loops of numpy: what torch's is held against."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn


def zeros_around(conv, axis: int, dilation: int) -> tuple[int, int]:
    """(before, after): in all 2 p0 + d (k0-1) - d0 (k0-1) zeros, 2 p0 = d0 (k0-1) for "same", the odd one after."""
    k0, d0 = conv.kernel_size[axis], conv.dilation[axis]
    own = d0 * (k0 - 1) if conv.padding == "same" else 2 * conv.padding[axis]
    total = own + dilation * (k0 - 1) - d0 * (k0 - 1)
    return total // 2, total - total // 2


def by_loops(x: Tensor, conv: nn.Conv2d, stride: int | None = None, dilation: int | None = None) -> np.ndarray:
    """x: (N, I, H, W) through a convolution, its stride and dilation replaced where given: (N, O, H', W') float64."""
    strides = conv.stride if stride is None else (stride, stride)
    dilations = conv.dilation if dilation is None else (dilation, dilation)
    (above, below), (left, right) = (zeros_around(conv, axis, dilations[axis]) for axis in (0, 1))
    samples, channels, height, width = x.shape
    padded = np.zeros((samples, channels, above + height + below, left + width + right))
    padded[:, :, above : above + height, left : left + width] = x.double().numpy()
    weight = conv.weight.detach().double().numpy()
    out_channels, per_group, rows, columns = weight.shape
    tall = (padded.shape[2] - dilations[0] * (rows - 1) - 1) // strides[0] + 1
    wide = (padded.shape[3] - dilations[1] * (columns - 1) - 1) // strides[1] + 1
    out = np.zeros((samples, out_channels, tall, wide))
    for o in range(out_channels):
        first = o // (out_channels // conv.groups) * per_group
        for y in range(tall):
            for z in range(wide):
                for i in range(rows):
                    for j in range(columns):
                        read = padded[:, :, y * strides[0] + i * dilations[0], z * strides[1] + j * dilations[1]]
                        out[:, o, y, z] += read[:, first : first + per_group] @ weight[o, :, i, j]
    return out if conv.bias is None else out + conv.bias.detach().double().numpy()[:, None, None]
