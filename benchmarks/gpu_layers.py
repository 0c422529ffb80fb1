"""Parts of `gpu.py` that run single layers: the longest convolutions in several ways, special ones, large ones.

Every layer is bf16 and channels-last. A row says the seconds of each way, None where a way does not apply, the least
that the arithmetic and the traffic allow on an H200 (`bound_s`), and how often a batch of images runs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from counts import BYTES_PER_S, FLOPS, GB, Convolution, kernels, program_on_shapes
from gpu_sweeps import PAIRS, Row, Run, attempt
from torch import Tensor

from itd.device import MOST_ELEMENTS
from itd.engine.kernels import finish
from itd.engine.ops import ConvOp
from itd.engine.site_ops import FactoredSizeOp, HalfStrideOp
from itd.patcher import Conventions, Geometry, resize_kernel
from itd.text import first_line

CHANNELS_LAST = torch.channels_last
HEAVIEST, REPEATS = 40, 5

Work = Callable[[], Any]


def maps(run: Run, *shape: int) -> Tensor:
    """Seeded noise (N, C, H, W), or a weight (O, I, kh, kw)."""
    generator = torch.Generator(run.device).manual_seed(0)
    made = torch.randn(shape, generator=generator, device=run.device, dtype=torch.float32)
    return made.to(torch.bfloat16).contiguous(memory_format=CHANNELS_LAST)


def seconds(run: Run, ways: dict[str, Work]) -> Row:
    """Of each way the best of some; what a way that fails says is under its name with `_error`."""
    made: Row = {}
    for name, work in ways.items():
        try:
            with torch.inference_mode():
                made[f"{name}_s"] = run.timer.best(work, 1 if run.small else REPEATS)
        except Exception as error:  # whatever a GPU's libraries say
            made |= {f"{name}_s": None, f"{name}_error": first_line(error)}
    return made


# -- the convolutions that take longest -------------------------------------------------------------------------------


def heaviest(run: Run) -> list[tuple[Convolution, int, float]]:
    """(convolution, how often, its bound in seconds) over one batch of each sweep, by what all of its calls take."""
    calls: Counter[Convolution] = Counter()
    bounds: dict[Convolution, float] = {}
    pairs, px, images = ((("mobilenet_v2", "dilation"),), 32, 2) if run.small else (PAIRS, 224, None)
    memory = GB // 8 if run.device.type == "cpu" else torch.cuda.get_device_properties(run.device).total_memory
    for name, attribute in pairs:
        seen, _ = kernels(program_on_shapes(name, attribute, px), memory, images, px)
        calls += seen.convolutions
        bounds |= seen.each_s
    order = sorted(calls, key=lambda c: -calls[c] * bounds[c])
    return [(c, calls[c], bounds[c]) for c in order[: 3 if run.small else HEAVIEST]]


def convolutions(run: Run) -> Iterator[Row]:
    """The heaviest (shape, rows) with a ReLU: as now, without bias and ReLU, with one kernel for the two.

    Also in cuDNN's fused call, and as a matrix product.
    """
    for conv, calls, bound_s in heaviest(run):
        labels = {"x": conv.x, "weight": conv.weight, "stride": conv.stride, "padding": conv.padding,
                  "dilation": conv.dilation, "groups": conv.groups, "transposed": conv.transposed, "calls": calls,
                  "bound_s": bound_s}  # fmt: skip
        yield attempt(labels, lambda conv=conv: seconds(run, ways_of(run, conv)))


def ways_of(run: Run, conv: Convolution) -> dict[str, Work]:
    """Name -> a way of a convolution, a bias and a ReLU."""
    x, weight = maps(run, *conv.x), maps(run, *conv.weight)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.transposed:
        own = (conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
        return {"without_bias": lambda: F.conv_transpose2d(x, weight, None, *own)}
    bias = torch.zeros(weight.shape[0], device=run.device)
    op = ConvOp(weight, bias, *geometry, "relu")
    ways: dict[str, Work] = {
        "as_now": lambda: op(x),
        "without_bias": lambda: F.conv2d(x, weight, None, *geometry),
        "one_kernel": lambda: finish(F.conv2d(x, weight, None, *geometry), bias, None, "relu"),
        "tuned": lambda: tuned(lambda: F.conv2d(x, weight, None, *geometry)),
        "cudnn_fused": lambda: torch.cudnn_convolution_relu(x, weight, bias.bfloat16(), *geometry),
    }
    if weight.shape[2:] == (1, 1) and set(conv.stride) == {1} and conv.groups == 1:
        rows, columns, half = x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t(), bias.bfloat16()
        ways["product"] = lambda: torch.mm(rows, columns)
        ways["product_fused"] = lambda: torch._addmm_activation(half, rows, columns)
    return ways


def tuned(work: Work) -> Any:
    """With cuDNN's own search, which the first call of a shape makes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        return work()
    finally:
        torch.backends.cudnn.benchmark = before


# -- special ones -----------------------------------------------------------------------------------------------------


def special(run: Run) -> Iterator[Row]:
    """Depthwise at each dilation and stride, and at stride 1/2 in two ways; grouped; resized kernels in two ways."""
    rows = 2 if run.small else 2048
    for channels, side in ((96, 56), (384, 14)) if not run.small else ((8, 6),):
        x, weight = maps(run, rows, channels, side, side), maps(run, channels, 1, 3, 3)
        bias = torch.zeros(channels, device=run.device)
        for stride, dilation in ((1, 1), (1, 2), (1, 5), (2, 1), (3, 1), (1, 7)):
            op = ConvOp(weight, bias, (stride,) * 2, (dilation,) * 2, (dilation,) * 2, channels, "relu6")
            yield layer(run, "depthwise", x, op, {"as_now": lambda op=op, x=x: op(x)}, stride=stride, dilation=dilation)
        yield half_stride(run, x, weight, bias)
    for channels, side in ((128, 56), (1024, 14)) if not run.small else ((32, 4),):
        x, weight = maps(run, rows // 2, channels, side, side), maps(run, channels, channels // 32, 3, 3)
        op = ConvOp(weight, torch.zeros(channels, device=run.device), (1, 1), (1, 1), (1, 1), 32, "relu")
        yield layer(run, "grouped", x, op, {"as_now": lambda op=op, x=x: op(x)})
    for channels, side in ((64, 56), (512, 7)) if not run.small else ((4, 5),):
        x, weight = maps(run, rows // 2, channels, side, side), maps(run, channels, channels, 3, 3)
        for size in (5, 9):
            yield resized(run, x, weight, size)


def layer(run: Run, what: str, x: Tensor, op: Any, ways: dict[str, Work], **labels: Any) -> Row:
    """A row of a layer, with its bound."""
    shape = {"what": what, "x": tuple(x.shape), **labels}
    with torch.inference_mode():
        out = op.meta(torch.empty_like(x, device="meta"))
        macs = op.macs(out, torch.empty_like(x, device="meta"))
    moved = 2 * (x.numel() + out.numel())
    bound_s = max(2 * macs / FLOPS, moved / BYTES_PER_S)
    return attempt({**shape, "macs": macs, "bound_s": bound_s}, lambda: seconds(run, ways))


def half_stride(run: Run, x: Tensor, weight: Tensor, bias: Tensor) -> Row:
    """Depthwise at stride 1/2: transposed, and as its definition, zeros put in and an ordinary convolution."""
    channels = x.shape[1]
    op = HalfStrideOp(weight, bias, Geometry.square(3, 0.5, 1, 1, channels), False, "relu6")
    plain = ConvOp(weight, bias, (1, 1), (1, 1), (1, 1), channels, "relu6")

    def zeros() -> Tensor:
        n, c, h, w = x.shape
        wide = torch.zeros((n, c, 2 * h, 2 * w), dtype=x.dtype, device=x.device).to(memory_format=CHANNELS_LAST)
        wide[:, :, ::2, ::2] = x
        return plain(wide)

    return layer(run, "depthwise", x, op, {"as_now": lambda: op(x), "zeros": zeros}, stride=0.5, dilation=1)


def resized(run: Run, x: Tensor, weight: Tensor, size: int) -> Row:
    """A kernel resized from 3 x 3: in its own degrees of freedom, and as the large kernel that it is."""
    bias, conventions = torch.zeros(len(weight), device=run.device), Conventions()
    at = Geometry.square(size, 1, size // 2, 1, 1)
    op = FactoredSizeOp(weight, bias, at, conventions, "relu")
    large = ConvOp(resize_kernel(weight, size, conventions), bias, (1, 1), at.padding, (1, 1), 1, "relu")
    return layer(run, "resized", x, op, {"as_now": lambda: op(x), "large": lambda: large(x)}, size=size)


# -- large ones -------------------------------------------------------------------------------------------------------


def large(run: Run) -> Iterator[Row]:
    """What convolutions make of more than 2^31 elements: whether the last rows are those of a small batch."""
    rows = 4 if run.small else MOST_ELEMENTS // (1280 * 49) + 4096
    channels, wide = (8, 16) if run.small else (320, 1280)
    for what, weight_shape, groups in (
        ("1x1", (wide, channels, 1, 1), 1),
        ("depthwise", (channels, 1, 3, 3), channels),
    ):
        side = 7 if groups == 1 or run.small else 14
        labels = {"what": what, "rows": rows, "elements": rows * weight_shape[0] * side**2}

        def work(weight_shape: Any = weight_shape, groups: int = groups, side: int = side) -> Row:
            x, weight = maps(run, rows, channels, side, side), maps(run, *weight_shape)
            padding = weight_shape[2] // 2
            with torch.inference_mode():
                made = F.conv2d(x, weight, None, 1, padding, 1, groups)
                wanted = F.conv2d(x[-2:].clone(memory_format=CHANNELS_LAST), weight, None, 1, padding, 1, groups)
                difference = float((made[-2:] - wanted).abs().max() / wanted.abs().max())
            return {"difference": difference, "right": difference < 0.05}

        yield attempt(labels, work)
