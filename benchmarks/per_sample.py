"""A convolution with a kernel for each sample: the form that `itd` takes on a CPU against one grouped convolution.

And CondConv on maps of few places: the experts' outputs mixed, against a kernel made for each sample.

    python benchmarks/per_sample.py --precision bf16

Both are measured in turns, forward and forward with backward; a line is the ratio of the medians, above 1 where `itd`'s
form is faster, and whether that is the product of matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from itd.layers import CondConv2d, per_sample_conv2d

SHAPES = (
    (64, 32, 3), (128, 16, 3), (256, 16, 3), (256, 14, 3), (256, 8, 3), (512, 7, 3), (512, 4, 3), (128, 4, 3),
    (112, 28, 1), (224, 14, 1), (496, 7, 1), (88, 7, 1),
)  # fmt: skip
"""(channels, side of the map, side of the kernel): CIFAR's and ImageNet's ResNet, ShuffleNetV2."""
MIXED = ((512, 4, 3), (512, 2, 3), (512, 1, 3), (256, 4, 3), (256, 2, 3), (128, 4, 3), (512, 4, 1), (128, 4, 1))


def grouped(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """One grouped convolution."""
    samples, _, height, width = x.shape
    out = F.conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), None, 1, padding, 1, samples)
    return out.view(samples, -1, height, width)


def seconds(work: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, backward: bool) -> float:
    """Of one forward, or forward and backward."""
    x, weight = x.detach().requires_grad_(backward), weight.detach().requires_grad_(backward)
    started = time.perf_counter()
    out = work(x, weight)
    if backward:
        out.backward(torch.ones_like(out))
    return time.perf_counter() - started


def ratios(
    forms: dict[str, Callable[[Tensor, Tensor], Tensor]], x: Tensor, weight: Tensor, rounds: int
) -> tuple[float, float]:
    """Median time of the second form over that of the first, forward and with backward, measured in turns."""
    found = []
    for backward in (False, True):
        spent: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(rounds + 1):
            for name, work in forms.items():
                taken = seconds(work, x, weight, backward)
                if number:
                    spent[name].append(taken)
        first, second = (statistics.median(values) for values in spent.values())
        found.append(second / first)
    return found[0], found[1]


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether `itd`'s form is the product of matrices."""
    with mock.patch.object(torch, "bmm", wraps=torch.bmm) as bmm:
        per_sample_conv2d(x[:1], weight[:1], padding=weight.shape[-1] // 2)
    return bool(bmm.called)


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    print(f"{given.precision}, batch {given.batch_size}, median of {given.rounds}, {torch.get_num_threads()} threads")
    print("channels  side  kernel  form     forward  with backward")
    for channels, side, kernel in SHAPES:
        x = torch.randn(given.batch_size, channels, side, side).to(dtype)
        weight = (torch.randn(given.batch_size, channels, channels, kernel, kernel) * 0.05).to(dtype)
        forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "itd": lambda x, w: per_sample_conv2d(x, w, padding=w.shape[-1] // 2),
            "grouped": lambda x, w: grouped(x, w, w.shape[-1] // 2),
        }
        forward, both = ratios(forms, x, weight, given.rounds)
        form = "product" if multiplies(x, weight) else "grouped"
        print(f"{channels:>8}  {side:>4}  {kernel:>6}  {form}  {forward:>7.2f}  {both:>13.2f}", flush=True)
    print("CondConv, 4 experts: outputs mixed against kernels made")
    for channels, side, kernel in MIXED:
        layer = CondConv2d(channels, channels, kernel, padding=kernel // 2, bias=False).to(dtype)
        x = torch.randn(given.batch_size, channels, side, side).to(dtype)
        forms = {"mixed": lambda x, _: layer(x), "made": lambda x, _: layer.convolve(x, *layer.sample_kernels(x))}  # noqa: B023
        forward, both = ratios(forms, x, x, given.rounds)
        print(f"{channels:>8}  {side:>4}  {kernel:>6}  mixed    {forward:>7.2f}  {both:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
