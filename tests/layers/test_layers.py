"""The layers whose weights follow from their input, against their definitions spelled out sample by sample."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models import resnet18

from itd.errors import ModelError
from itd.layers import (
    LAYERS,
    CondConv2d,
    Involution2d,
    SqueezeExcitation,
    WeightNet2d,
    WeightNetReduce,
    per_sample_conv2d,
)

EXACT = {"atol": 1e-12, "rtol": 0.0}

MAKERS: dict[str, Any] = {
    "se": lambda: SqueezeExcitation(4, 2),
    "condconv": lambda: CondConv2d(4, 6, 3, padding=1, groups=2, experts=3),
    "weightnet": lambda: WeightNet2d(4, 6, 3, stride=2, padding=1, multiplier=2, reduced=3, bias=True),
    "weightnet-depthwise": lambda: WeightNet2d(4, 4, 3, padding=1, groups=4, reduced=3),
    "involution": lambda: Involution2d(4, 4, 3, stride=2, groups=2, reduction=2, bias=True),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


# One convolution with a kernel for each sample


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_per_sample_convolution_is_one_convolution_for_each_sample(padding: Any, groups: int) -> None:
    x, weight, bias = images(3, 4, 7, 6), images(3, 6, 4 // groups, 3, 3), images(3, 6)
    got = per_sample_conv2d(x, weight, bias, padding=padding, dilation=2, groups=groups)
    loop = [F.conv2d(x[[n]], weight[n], bias[n], 1, padding, 2, groups) for n in range(3)]
    torch.testing.assert_close(got, torch.cat(loop), **EXACT)


def test_per_sample_convolution_takes_channels_last_images() -> None:
    x, weight = images(2, 4, 5, 6), images(2, 3, 4, 3, 3)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(per_sample_conv2d(last, weight), per_sample_conv2d(x, weight), **EXACT)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride, padding, dilation", [(1, 0, 1), (1, 1, 1), (2, (0, 2), (1, 2)), ((2, 1), 2, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_large_kernels_on_small_maps_are_matrix_products(
    monkeypatch: pytest.MonkeyPatch, groups: int, stride: Any, padding: Any, dilation: Any, kernel: Any,
    channels_last: bool,
) -> None:  # fmt: skip
    x, weight, bias = images(3, 4, 5, 4), images(3, 480, 4 // groups, *kernel), images(3, 480)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    products = []
    real = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given: products.append(1) or real(*given))
    got = per_sample_conv2d(*inputs, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert products
    loop = [F.conv2d(x[[n]], weight[n], bias[n], stride, padding, dilation, groups) for n in range(3)]
    torch.testing.assert_close(got, torch.cat(loop), **EXACT)
    pull = images(*got.shape)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, pull), torch.autograd.grad(torch.cat(loop), inputs, pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


# Squeeze-and-excitation


def test_squeeze_excitation_scales_each_channel_of_each_sample() -> None:
    layer, x = SqueezeExcitation(32).double(), images(2, 32, 5, 4)
    w1, b1, w2, b2 = (p.detach().numpy() for p in layer.parameters())
    assert w1.shape == (2, 32)
    for n in range(2):
        squeezed = w1 @ x[n].numpy().sum((1, 2)) / 20 + b1
        excited = w2 @ (squeezed * (squeezed > 0)) + b2
        for c in range(32):
            torch.testing.assert_close(layer(x)[n, c], x[n, c] / (1 + math.exp(-excited[c])), **EXACT)


def test_squeeze_excitation_keeps_one_value_for_few_channels() -> None:
    assert SqueezeExcitation(8).fc1.out_features == 1


# CondConv


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("out_channels, groups", [(6, 1), (6, 2), (4, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_condconv_mixes_experts_for_each_sample(
    stride: int, dilation: int, out_channels: int, groups: int, bias: bool
) -> None:
    layer = CondConv2d(4, out_channels, 3, stride, 2, dilation, groups, bias, experts=3).double()
    x = 3 * images(3, 4, 7, 8)
    loop = []
    for image in x:
        alpha = [1 / (1 + math.exp(-float(v))) for v in layer.router(image.mean((1, 2))).detach()]
        kernel = sum(a * w for a, w in zip(alpha, layer.weight, strict=True))
        mixed = sum(a * b for a, b in zip(alpha, layer.bias, strict=True)) if layer.bias is not None else None
        loop.append(F.conv2d(image[None], kernel, mixed, stride, 2, dilation, groups))
    torch.testing.assert_close(layer(x), torch.cat(loop), **EXACT)


@pytest.mark.parametrize("side, stride", [(2, 1), (4, 1), (8, 2), (5, 1)])
@pytest.mark.parametrize("kernel, padding", [(3, 1), (1, 0)])
def test_few_places_mix_the_experts_outputs_and_make_no_kernel(
    monkeypatch: pytest.MonkeyPatch, side: int, stride: int, kernel: int, padding: int
) -> None:
    layer = CondConv2d(4, 6, kernel, stride, padding, experts=3).double()
    x = (3 * images(2, 4, side, side)).requires_grad_()
    leaves = [x, *layer.parameters()]
    made = layer.convolve(x, *layer.sample_kernels(x))
    pull = images(*made.shape)
    expected = torch.autograd.grad(made, leaves, pull)
    called = []
    real = CondConv2d.sample_kernels
    monkeypatch.setattr(CondConv2d, "sample_kernels", lambda *given: called.append(1) or real(*given))
    got = layer(x)
    assert bool(called) == (side == 5)
    torch.testing.assert_close(got, made, **EXACT)
    for ours, theirs in zip(torch.autograd.grad(got, leaves, pull), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_each_expert_starts_as_a_convolution_does() -> None:
    plain, layer = nn.Conv2d(64, 64, 3), CondConv2d(64, 64, 3, experts=4)
    assert plain.bias is not None and layer.bias is not None
    for expert, bias in zip(layer.weight, layer.bias, strict=True):
        assert expert.std().item() == pytest.approx(plain.weight.std().item(), rel=0.05)
        assert bias.abs().max().item() == pytest.approx(plain.bias.abs().max().item(), rel=0.1)
    assert not torch.equal(layer.weight[0], layer.weight[1])


# WeightNet


def kernels_by_the_table(layer: WeightNet2d, z: Tensor) -> Tensor:
    """SPECS' table: a 1x1 convolution of G*o groups (o where depthwise) over the gates makes the kernels."""
    gates = torch.sigmoid(F.linear(z, layer.fc1.weight, layer.fc1.bias))[:, :, None, None]
    o, i = layer.out_channels, layer.in_channels // layer.groups
    groups = layer.g * o if layer.groups == 1 else o
    fc = layer.weight.reshape(-1, layer.multiplier, 1, 1)
    return F.conv2d(gates, fc, groups=groups).reshape(-1, o, i, *layer.kernel_size)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("out_channels, groups", [(6, 1), (4, 4)])
@pytest.mark.parametrize("multiplier, g", [(1, 1), (1, 2), (3, 2)])
def test_weightnet_makes_a_kernel_for_each_sample(
    stride: int, dilation: int, out_channels: int, groups: int, multiplier: int, g: int
) -> None:
    layer = WeightNet2d(4, out_channels, 3, stride, 2, dilation, groups, True, multiplier=multiplier, g=g).double()
    x = 3 * images(3, 4, 7, 8)
    assert layer.reduce is not None and layer.reduce.fc.weight.shape == (16, 4)
    z = F.linear(x.sum((2, 3)) / 56, layer.reduce.fc.weight, layer.reduce.fc.bias)
    kernels = kernels_by_the_table(layer, z)
    loop = [F.conv2d(x[[n]], kernels[n], layer.bias, stride, 2, dilation, groups) for n in range(3)]
    torch.testing.assert_close(layer(x), torch.cat(loop), **EXACT)


@pytest.mark.parametrize("out_channels, groups", [(6, 1), (4, 4)])
def test_at_lambda_1_no_kernel_is_made_for_each_sample(
    monkeypatch: pytest.MonkeyPatch, out_channels: int, groups: int
) -> None:
    layer = WeightNet2d(4, out_channels, 3, 1, 1, groups=groups, bias=True, g=2).double()
    x = 3 * images(3, 4, 7, 8)
    expected = layer.convolve(x, *layer.sample_kernels(x))
    monkeypatch.setattr(WeightNet2d, "sample_kernels", None)
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_gates_that_divide_a_window_and_not_the_channels_make_kernels() -> None:
    layer = WeightNet2d(4, 6, 3, 1, 1, g=9).double()  # a gate for every four weights of an output
    x = 3 * images(2, 4, 5, 5)
    assert layer.reduce is not None
    kernels = kernels_by_the_table(layer, layer.reduce(x))
    loop = [F.conv2d(x[[n]], kernels[n], None, 1, 1) for n in range(2)]
    torch.testing.assert_close(layer(x), torch.cat(loop), **EXACT)


def test_convolutions_of_a_block_share_one_reduce() -> None:
    reduce, x = WeightNetReduce(4).double(), images(2, 4, 5, 5)
    own = WeightNet2d(4, 6, 1).double()
    shared = WeightNet2d(4, 6, 1, own_reduce=False).double()
    own.load_state_dict({**shared.state_dict(), **{f"reduce.{k}": v for k, v in reduce.state_dict().items()}})
    torch.testing.assert_close(shared(x, reduce(x)), own(x), **EXACT)
    assert set(shared.state_dict()) == {"weight", "fc1.weight", "fc1.bias"}


def test_a_kernel_at_open_gates_of_one_half_starts_with_the_spread_of_a_convolution() -> None:
    plain = nn.Conv2d(64, 64, 3)
    for multiplier in (1, 4):
        kernel = WeightNet2d(64, 64, 3, multiplier=multiplier).weight.sum(2) / 2
        assert kernel.std().item() == pytest.approx(plain.weight.std().item(), rel=0.05)


def test_parameters_agree_with_the_unit_constants() -> None:
    dense = WeightNet2d(88, 88, 1, multiplier=4, g=2, own_reduce=False)
    depthwise = WeightNet2d(88, 88, 3, groups=88, multiplier=4, g=2, own_reduce=False)
    small = WeightNet2d(24, 24, 1, multiplier=1, g=2, own_reduce=False)
    assert (parameters(dense), parameters(depthwise), parameters(small)) == (42_944, 9_152, 1_392)


def test_the_reduced_size_is_a_sixteenth_of_the_input_but_at_least_16() -> None:
    assert [parameters(WeightNetReduce(c)) for c in (24, 256, 512)] == [25 * 16, 257 * 16, 513 * 32]
    assert [WeightNet2d(c, 4, 1).reduced for c in (24, 256, 512)] == [16, 16, 32]


# The three identities (SPECS-dynamic-layers.md, "Identities")


def test_condconv_is_weightnet_with_one_group_for_each_output() -> None:
    x = images(3, 4, 7, 7)
    cond = CondConv2d(4, 6, 3, padding=1, bias=False, experts=3).double()
    net = WeightNet2d(4, 6, 3, padding=1, multiplier=3, g=1, reduced=4, own_reduce=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.stack([cond.weight[:, c].reshape(3, -1).T for c in range(6)]))
        net.fc1.weight.copy_(cond.router.weight.repeat(6, 1))
        net.fc1.bias.copy_(cond.router.bias.repeat(6))
    torch.testing.assert_close(net(x, x.mean((2, 3))), cond(x), atol=1e-13, rtol=0)


def weightnet_of(weight: Tensor, g: int) -> WeightNet2d:
    o, i, k, _ = weight.shape
    net = WeightNet2d(i, o, k, padding=1, multiplier=1, g=g, reduced=5, own_reduce=False).double()
    with torch.no_grad():
        net.weight.copy_(weight.reshape(g * o, -1, 1))
    return net


def test_squeeze_excitation_is_weightnet_with_one_gate_for_each_output() -> None:
    x, z, weight = images(3, 4, 7, 7), images(3, 5), images(6, 4, 3, 3)
    net = weightnet_of(weight, 1)
    gates = torch.sigmoid(net.fc1(z))[:, :, None, None]
    torch.testing.assert_close(net(x, z), F.conv2d(x, weight, padding=1) * gates, atol=1e-13, rtol=0)


def test_two_gates_for_each_output_are_squeeze_excitation_when_tied_and_halve_the_input_when_not() -> None:
    x, z, weight = images(3, 4, 7, 7), images(3, 5), images(6, 4, 3, 3)
    net = weightnet_of(weight, 2)
    gates = torch.sigmoid(net.fc1(z))[:, :, None, None]
    first = F.conv2d(x[:, :2], weight[:, :2], padding=1) * gates[:, 0::2]
    second = F.conv2d(x[:, 2:], weight[:, 2:], padding=1) * gates[:, 1::2]
    torch.testing.assert_close(net(x, z), first + second, atol=1e-13, rtol=0)
    with torch.no_grad():
        net.fc1.weight[1::2], net.fc1.bias[1::2] = net.fc1.weight[0::2], net.fc1.bias[0::2]
    torch.testing.assert_close(net(x, z), F.conv2d(x, weight, padding=1) * gates[:, 0::2], atol=1e-13, rtol=0)


# Involution


def involution_by_pixel(layer: Involution2d, x: Tensor) -> Tensor:
    """Li et al. 2021, eq. 4, one output value at a time; the kernel from the mean of the stride's window."""
    (kr, kc), (sr, sc), (dr, dc), channels = layer.kernel_size, layer.stride, layer.dilation, x.shape[1]
    size = (math.ceil(x.shape[2] / sr), math.ceil(x.shape[3] / sc))
    out = x.new_zeros(len(x), channels, *size)
    for n, row, column in ((n, r, c) for n in range(len(x)) for r in range(size[0]) for c in range(size[1])):
        pixel = x[n, :, row * sr : (row + 1) * sr, column * sc : (column + 1) * sc].mean((1, 2))
        hidden = layer.reduce.weight[:, :, 0, 0] @ pixel
        norm = layer.norm
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        kernel = layer.span.weight[:, :, 0, 0] @ hidden.clamp(min=0)
        for c in range(channels):
            group = c // (channels // layer.groups)
            for u in range(kr):
                for v in range(kc):
                    at_row, at_column = row * sr + (u - kr // 2) * dr, column * sc + (v - kc // 2) * dc
                    if 0 <= at_row < x.shape[2] and 0 <= at_column < x.shape[3]:
                        out[n, c, row, column] += kernel[(group * kr + u) * kc + v] * x[n, c, at_row, at_column]
    return out


@pytest.mark.parametrize(
    "stride, dilation, kernel",
    [(1, 1, 3), (2, 1, 3), (1, 2, 3), (2, 2, 3), (3, 1, 5), (2, 1, 1), ((1, 2), (2, 1), (3, 5)), ((3, 2), 1, (1, 3))],
)
def test_involution_is_its_definition_at_every_pixel(stride: Any, dilation: Any, kernel: Any) -> None:
    layer = Involution2d(4, 4, kernel, stride, dilation=dilation, groups=2, reduction=2).double().eval()
    assert layer.norm.running_mean is not None and layer.norm.running_var is not None
    for values in (layer.norm.running_mean, layer.norm.bias.data):
        values.normal_(0, 0.3)
    for values in (layer.norm.running_var, layer.norm.weight.data):
        values.uniform_(0.5, 2)
    x = images(2, 4, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), involution_by_pixel(layer, x), **EXACT)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel, dilation", [(1, 1), (3, 1), (3, 2), (7, 1)])
def test_involution_is_as_large_as_the_convolution_it_stands_for(stride: int, kernel: int, dilation: int) -> None:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(8, 8, kernel, stride, padding, dilation)
    layer = Involution2d(8, 8, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    for size in range(1, 9):
        x = torch.randn(2, 8, size, 9 - size)
        assert layer(x).shape == conv(x).shape


# Networks


@pytest.mark.parametrize(
    "make, total",
    [
        (lambda conv: conv, 11_173_962),
        (lambda conv: Involution2d(conv.in_channels, conv.out_channels, conv.kernel_size), 5_116_682),
        (lambda conv: CondConv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False), 29_982_314),
    ],
    ids=["convolution", "involution", "condconv"],
)
def test_resnet18_for_cifar_has_the_parameters_of_the_report(make: Any, total: int) -> None:
    with torch.device("meta"):
        model = resnet18(num_classes=10)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for block in stage:
                block.conv2 = make(block.conv2)
    assert parameters(model) == total
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


# What every layer promises


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_the_input_and_every_parameter(name: str, training: bool) -> None:
    layer = MAKERS[name]().double().train(training)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, given, strict=True)), (x,))

    x = images(2, 4, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *values))
    gradients = torch.autograd.grad(call(x, *values).square().sum(), values)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient.abs().max() < 1e-12}
    assert unused <= ({"reduce.bias"} if training else set())  # in training the BN takes out what a bias before it adds


WIDE: dict[str, Any] = {
    "condconv-wide": lambda: CondConv2d(4, 512, 3, padding=1, experts=3),
    "weightnet-wide": lambda: WeightNet2d(4, 512, 3, padding=1, multiplier=2, bias=True),
    "weightnet-1x": lambda: WeightNet2d(4, 8, 3, padding=1, bias=True),
}
"""Of which the first two are products of matrices on small maps."""
HALF = MAKERS | WIDE


@pytest.mark.parametrize("dtype, within", [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_close_to_float32(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, within: float
) -> None:
    products = []
    real = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given: products.append(given[0].dtype) or real(*given))
    layer, x = HALF[name](), images(2, 4, 9, 9, dtype=torch.float32)
    exact = layer.eval()(x)
    half = layer.to(dtype)(x.to(dtype, memory_format=torch.channels_last))
    assert half.dtype is dtype
    assert not torch.equal(half.float(), exact)
    torch.testing.assert_close(half.float(), exact, atol=within * exact.abs().max().item(), rtol=0)
    assert (products == [torch.float32, dtype]) == (name in ("condconv-wide", "weightnet-wide"))
    for side in (3, 2):  # of CondConv's, outputs mixed
        few = images(2, 4, side, side, dtype=torch.float32)
        small, exact = layer(few.to(dtype)), layer.float()(few)
        layer.to(dtype)
        assert small.dtype is dtype
        torch.testing.assert_close(small.float(), exact, atol=2 * within * exact.abs().max().item(), rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-4), (torch.bfloat16, 0.03), (torch.float16, 0.005)])
@pytest.mark.parametrize("name", MAKERS)
def test_a_gpu_gives_what_the_cpu_gives(cuda: str, name: str, dtype: torch.dtype, within: float) -> None:
    layer, x = MAKERS[name]().eval(), images(2, 4, 9, 9, dtype=torch.float32)
    exact = layer(x)
    there = layer.to(cuda, dtype)(x.to(cuda, dtype, memory_format=torch.channels_last)).float().cpu()
    torch.testing.assert_close(there, exact, atol=within * exact.abs().max().item(), rtol=0)


@pytest.mark.parametrize("side", [9, 3, 2])
@pytest.mark.parametrize("name", HALF)
def test_autocast_is_close_to_float32(name: str, side: int) -> None:
    layer, x = HALF[name]().eval(), images(2, 4, side, side, dtype=torch.float32)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype is torch.bfloat16 or name in ("se", "involution")
    torch.testing.assert_close(half.float(), exact, atol=0.03 * exact.abs().max().item(), rtol=0)


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce = WeightNetReduce(4)
        self.layers = nn.Sequential(*(MAKERS[name]() for name in ("se", "involution")), CondConv2d(4, 4, 1))
        self.shared = WeightNet2d(4, 4, 1, own_reduce=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.layers(x), self.reduce(x))


def test_fx_keeps_the_layers_whole() -> None:
    block = Block().eval()
    graph = LeafTracer().trace(block)
    called = {type(block.get_submodule(str(node.target))) for node in graph.nodes if node.op == "call_module"}
    assert called == set(LAYERS)
    x = images(2, 4, 6, 6, dtype=torch.float32)
    torch.testing.assert_close(fx.GraphModule(block, graph)(x), block(x), atol=0, rtol=0)


@pytest.mark.parametrize("name", HALF)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while its compiler is imported
def test_compile_takes_the_layer_as_one_graph(name: str) -> None:
    layer = HALF[name]().eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for samples, side in ((2, 6), (3, 6), (2, 3), (2, 1 if name.startswith("condconv") else 3)):
        x = images(samples, 4, side, side, dtype=torch.float32)
        torch.testing.assert_close(compiled(x), layer(x))


def test_an_input_just_as_large_as_the_kernel_is_taken() -> None:
    assert CondConv2d(4, 4, (5, 3), padding=(1, 0))(X).shape == (2, 4, 1, 1)
    assert CondConv2d(4, 4, 5, padding="same")(X).shape == (2, 4, 3, 3)


# Errors: one line that says what was given, what is allowed and what to do

X = torch.zeros(2, 4, 3, 3)
ERRORS: dict[str, tuple[Any, list[str]]] = {
    "condconv groups": (lambda: CondConv2d(4, 6, 3, groups=4), ["4 input and 6 output", "4 groups", "must divide"]),
    "condconv padding mode": (lambda: CondConv2d(4, 4, 3, padding_mode="reflect"), ["'reflect'", "'zeros'"]),
    "condconv experts": (lambda: CondConv2d(4, 4, 3, experts=0), ["experts is 0", "at least 1"]),
    "kernel": (lambda: CondConv2d(4, 4, (3, 0)), ["kernel_size is (3, 0)", "at least 1"]),
    "stride": (lambda: WeightNet2d(4, 4, 3, stride=0.5), ["stride is 0.5", "at least 1"]),  # type: ignore[arg-type]
    "padding": (lambda: CondConv2d(4, 4, 3, padding=-1), ["padding is -1", "at least 0"]),
    "padding word": (lambda: CondConv2d(4, 4, 3, padding="full"), ["'full'", "'same' or 'valid'"]),
    "padding same": (lambda: CondConv2d(4, 4, 3, 2, "same"), ["stride 1, not (2, 2)", "as a number"]),
    "condconv input": (lambda: CondConv2d(8, 4, 3)(X), ["(2, 4, 3, 3)", "(N, 8, H, W)"]),
    "condconv one image": (lambda: CondConv2d(4, 4, 3)(X[0]), ["(4, 3, 3)", "(N, 4, H, W)"]),
    "condconv small": (lambda: CondConv2d(4, 4, 3, dilation=2)(X), ["3x3", "(0, 0)", "5x5", "more padding"]),
    "condconv valid": (lambda: CondConv2d(4, 4, (1, 5), padding="valid")(X), ["3x3", "1x5", "more padding"]),
    "weightnet small": (lambda: WeightNet2d(4, 4, 7, padding=1)(X), ["3x3", "(1, 1)", "7x7"]),
    "rows small": (lambda: CondConv2d(4, 4, (6, 1), padding=(1, 0))(X), ["3x3", "(1, 0)", "6x1", "more padding"]),
    "columns small": (lambda: CondConv2d(4, 4, (1, 6), padding=(0, 1))(X), ["3x3", "(0, 1)", "1x6", "more padding"]),
    "weightnet groups": (lambda: WeightNet2d(4, 8, 3, groups=4), ["groups is 4", "4 input and 8", "groups must be 1"]),
    "weightnet g": (lambda: WeightNet2d(3, 8, 3), ["g is 2", "27 weights", "1 always does"]),
    "weightnet multiplier": (lambda: WeightNet2d(4, 8, 3, multiplier=0), ["multiplier is 0", "at least 1"]),
    "weightnet no z": (lambda: WeightNet2d(4, 4, 1, own_reduce=False)(X), ["z is None", "(N, 16)", "own_reduce=True"]),
    "weightnet z": (lambda: WeightNet2d(4, 4, 1)(X, X[:, :, 0, 0]), ["z is (2, 4)", "(2, 16)", "same reduced width"]),
    "reduce input": (lambda: WeightNetReduce(8)(X), ["(2, 4, 3, 3)", "(N, 8, H, W)"]),
    "se input": (lambda: SqueezeExcitation(8)(X), ["(2, 4, 3, 3)", "(N, 8, H, W)"]),
    "se reduction": (lambda: SqueezeExcitation(8, 0), ["reduction is 0", "at least 1"]),
    "involution input": (lambda: Involution2d(8, 8, 3)(X), ["(2, 4, 3, 3)", "(N, 8, H, W)"]),
    "involution channels": (lambda: Involution2d(8, 16, 3), ["8 input and 16 output", "must be the same"]),
    "involution groups": (lambda: Involution2d(12, 12, 3), ["12 channels", "8 groups", "must divide"]),
    "involution padding": (lambda: Involution2d(8, 8, 3, 1, 0), ["padding is 0", "(1, 1)", "None"]),
    "involution kernel": (lambda: Involution2d(8, 8, 4), ["kernel_size is (4, 4)", "odd"]),
    "samples": (
        lambda: per_sample_conv2d(X, torch.zeros(3, 4, 4, 1, 1)),
        ["(2, 4, 3, 3)", "(3, 4, 4, 1, 1)", "same N"],
    ),
    "weight": (lambda: per_sample_conv2d(X, torch.zeros(2, 4, 4, 1, 1), groups=2), ["groups 2", "I/groups"]),
    "bias": (lambda: per_sample_conv2d(X, torch.zeros(2, 5, 4, 1, 1), X[0, 0, 0]), ["bias is (3,)", "(2, 5)"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_named_in_one_line(case: str) -> None:
    call, words = ERRORS[case]
    with pytest.raises(ModelError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and re.match(r"\w+: ", message)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("op", LAYERS)
def test_every_layer_goes_to_channels_last(op):
    made = {
        SqueezeExcitation: lambda: SqueezeExcitation(16),
        CondConv2d: lambda: CondConv2d(16, 16, 3, padding=1),
        WeightNet2d: lambda: WeightNet2d(16, 16, 3, padding=1),
        WeightNetReduce: lambda: WeightNetReduce(16),
        Involution2d: lambda: Involution2d(16, 16, 3),
    }
    layer, x = made[op]().eval(), torch.randn(2, 16, 5, 5)
    expected = layer(x)
    found = layer.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-5)
