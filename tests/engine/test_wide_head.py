"""In bf16 and fp16 the last linear layer, biases, scales and shifts stay in float32, in the tree and in plain runs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.engine.graph import build_graph
from itd.engine.ops import BatchNormOp, ConvOp
from itd.engine.plain import PlainExecutor, widen_head
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.routed import RoutedExecutor, routed_program
from itd.engine.torch_ops import HeadOp
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor
from itd.patcher import model_space, patch
from tests.support.engine import logits
from tests.support.networks import MyNet


def patched(returns="tensor"):
    net = patch(MyNet(returns=returns).eval(), {"A": ["stem.conv"], "B": ["block2.conv"]})
    return net, model_space(net, ["dilation"], options={("A", "dilation"): (1, 2), ("B", "dilation"): (1, 2)})


def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("returns", ["tensor", "tuple", "logits"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_logits_are_made_in_float32_of_rounded_features(precision, returns):
    model, space = patched(returns)
    precision = Precision(precision)
    seen = {}
    executors = {"plain": PlainExecutor(model, space, precision=precision)}
    if returns != "logits":  # torch.fx does not follow an object of a class of one's own
        executors["tree"] = TreeExecutor(compile_program(model, space, precision=precision))
    for name, executor in executors.items():
        kinds = []
        executor.run(pixels(), lambda _, __, rows, kinds=kinds: kinds.append(rows.dtype))
        assert set(kinds) == {torch.float32}
        seen[name] = logits(executor, pixels(), 5)
        assert (seen[name] != seen[name].to(precision.dtype).float()).any()  # more bits than the maps have
    full = logits(PlainExecutor(model, space), pixels(), 5)
    for found in seen.values():
        assert (found - full).abs().max() < 0.03 * full.abs().max()


def test_a_routed_network_makes_its_logits_in_float32_too():
    model, space = patched()
    routed = RoutedExecutor(routed_program(model, space, precision=Precision("bf16")))
    found = routed.logits(pixels(), torch.zeros(3, dtype=torch.int64).numpy())
    assert (found != found.bfloat16().float()).any()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_biases_scales_and_shifts_are_in_float32(precision, random_network):
    model = patch(random_network("densenet121"), "densenet121")
    dtype = Precision(precision).dtype
    ops = [node.op for node in build_graph(trace(model), dtype, "cpu").nodes]
    convs, norms = ([op for op in ops if isinstance(op, kind)] for kind in (ConvOp, BatchNormOp))
    assert convs and norms
    assert {op.weight.dtype for op in convs} == {dtype}
    assert {op.bias.dtype for op in convs if op.bias is not None} == {torch.float32}
    assert {t.dtype for op in norms for t in (op.scale, op.shift, op.zeros, op.ones)} == {torch.float32}
    assert sum(isinstance(op, HeadOp) for op in ops) == (precision != "fp32")


def test_a_normalisation_of_narrow_maps_is_computed_in_float32():
    scale, shift = torch.linspace(0.1, 3, 8), torch.linspace(-2, 2, 8)
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    expected = F.relu(x.float() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
    found = BatchNormOp(scale, shift, "relu")(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() <= 2**-8 * expected.abs().max()


def test_plain_forwards_normalise_in_float32_and_convolve_in_fewer_bits():
    model, space = patched()
    executor = PlainExecutor(copy.deepcopy(model).double(), space, precision=Precision("bf16"))
    kinds = {
        kind: {t.dtype for m in executor.model.modules() if isinstance(m, kind) for t in m.state_dict().values()}
        for kind in (nn.Conv2d, nn.BatchNorm2d)
    }
    assert kinds == {nn.Conv2d: {torch.bfloat16}, nn.BatchNorm2d: {torch.float32, torch.int64}}
    assert {t.dtype for t in PlainExecutor(model, space).model.parameters()} == {torch.float32}
    assert {t.dtype for t in model.parameters()} == {torch.float32}  # the network itself is left alone


def test_the_layer_that_makes_the_logits_is_found_by_what_it_gives():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4), nn.Identity()).bfloat16()
    widen_head(net, torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))
    made = []
    net[1].register_forward_hook(lambda *one: made.append(one[2].dtype))
    assert net(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert made == [torch.bfloat16]


def test_a_network_whose_logits_no_linear_layer_makes_stays_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).bfloat16()
    widen_head(net, torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))
    assert net(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
