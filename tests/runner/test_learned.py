"""Networks with learned dynamic convolutions in the oracle: the tree equals plain forwards, and costs add up."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from itd.layers import CondConv2d, Involution2d, WeightNet2d
from itd.layers.models import LEARNED, OPS, SHUFFLENETS, learned_name
from itd.patcher import MODELS, Choices, DynamicPerSampleConv2d, build_model, model_space, parse_sites, patch
from itd.runner.ops import ModuleOp, WindowError
from itd.runner.plain import PlainExecutor
from itd.runner.request import walks
from itd.runner.site_ops import PerSampleOp
from itd.runner.tree import TreeExecutor
from itd.space import Setting

NAMES = [learned_name("cifar-resnet18", op) for op in OPS]


def logits(executor, pixels, configs: int) -> torch.Tensor:
    out = torch.full((configs, len(pixels), 10), float("nan"))

    def keep(numbers, images, values):
        out[torch.from_numpy(np.asarray(numbers)), torch.from_numpy(np.asarray(images))] = values.float().cpu()

    executor.run(pixels, keep)
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attribute", ["stride", "size"])
def test_the_tree_equals_plain_forwards(random_network, name, attribute):
    model = patch(random_network(name), name).eval()
    options = {("B", attribute): (1, 3), ("C", attribute): (0.5, 2) if attribute == "stride" else (3, 5)}
    space = model_space(model, [attribute], entry=MODELS[name], swept=["B", "C"], options=options)
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32)
    plain = logits(PlainExecutor(model, space), pixels, len(space))
    for budget in (None, 1 << 16):  # also one row at a time: a kernel belongs to its own row
        tree = logits(TreeExecutor(model, space, budget_bytes=budget), pixels, len(space))
        assert (tree - plain).abs().max() < 1e-4 * plain.abs().max()
    assert (plain[0] - plain[1]).abs().max() > 1e-3 * plain.abs().max()


def spread_out(network):
    """Normalised by what its own activations are, so that what a site changes reaches the logits."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    torch.manual_seed(2)
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))
    return network.eval()


SITES_OF_SHUFFLENET = {
    "stride": {("B", "stride"): (1, 2, 4), ("C", "stride"): (0.5, 2, 3)},
    "dilation": {("B", "dilation"): (1, 3), ("C", "dilation"): (1, 2)},
    "size": {("B", "size"): (3, 5), ("C", "size"): (1, 3, 7)},
}


@pytest.mark.parametrize("op", ["", "+weightnet-1x", "+weightnet-8x"])
@pytest.mark.parametrize("attribute", SITES_OF_SHUFFLENET)
def test_the_tree_equals_plain_forwards_where_a_site_makes_its_own_kernels(random_network, op, attribute):
    name = f"shufflenet-v2-x0.5{op}"
    model = patch(spread_out(random_network(name)), name).eval()
    space = model_space(
        model, [attribute], entry=MODELS[name], swept=["B", "C"], options=SITES_OF_SHUFFLENET[attribute]
    )
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 64, 64)
    plain = logits(PlainExecutor(model, space), pixels, len(space))
    for budget in (None, 1 << 16):
        tree = logits(TreeExecutor(model, space, budget_bytes=budget), pixels, len(space))
        for own, expected in zip(tree, plain, strict=True):
            assert (own - expected).abs().max() < 1e-4 * expected.abs().max()
    default = plain[space.default]
    others = [(plain[i] - default).abs().max() for i in range(len(space)) if i != space.default]
    assert min(others) > 1e-2 * default.abs().max()


def test_an_expert_layer_of_any_network_can_be_a_site(random_network):
    model = spread_out(random_network("cifar-resnet18+condconv"))
    sites, swept = parse_sites("any", "C=layer2.1.conv2,D=layer4.1.conv2")
    model = patch(model, sites).eval()
    options = {("C", "size"): (3, 5), ("D", "size"): (1, 3)}
    space = model_space(model, ["size"], swept=swept, options=options)
    pixels = torch.randn(2, 3, 32, 32)
    plain = logits(PlainExecutor(model, space), pixels, len(space))
    tree = logits(TreeExecutor(model, space), pixels, len(space))
    assert (tree - plain).abs().max() < 1e-4 * plain.abs().max()
    assert (plain[0] - plain[1]).abs().max() > 1e-2 * plain.abs().max()
    by_plain, _ = walks(model, space, 32)
    more = 128 * 128 * (25 - 9) * 16 * 16  # 5x5 for 3x3 on maps of 16 x 16
    fives = [i for i, config in enumerate(space.configs) if (config[0].size, config[1].size or 3) == (5, 3)]
    assert [by_plain.per_config[i] for i in fives] == [by_plain.per_config[space.default] + more]


@pytest.mark.parametrize("name", [n for n, entry in LEARNED.items() if entry.model in SHUFFLENETS])
def test_shufflenets_are_registered_and_cost_what_was_counted(name):
    model = patch(build_model(name), name)
    assert {m.path: m.attributes for m in model.sites["C"]} == {
        "stage3.0.depthwise": {"stride", "dilation", "size"}, "stage3.0.project_depthwise": {"stride"},
    }  # fmt: skip
    sizes = [len(model_space(model, [a], entry=MODELS[name])) for a in ("stride", "dilation", "size")]
    assert sizes == [370, 625, 625]
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    plain, _ = walks(model, space, 224)
    assert plain.per_config[space.default] == LEARNED[name].macs


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_forward_costs_what_the_list_of_models_says(random_network, name):
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    plain, _ = walks(model, space, 32)
    assert plain.per_config[space.default] == LEARNED[name].macs


def test_a_kernel_for_each_row_is_memory_that_a_chunk_needs(random_network):
    """CondConv's last kernels are 512 x 512 x 3 x 3 floats for each row: 9.4 MB beside maps of 32 kB."""
    name = "cifar-resnet18+condconv"
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    executor = TreeExecutor(model, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) <= (48 << 20) // (4 * 512 * 512 * 9)
    alike = patch(random_network("cifar-resnet18"), "cifar-resnet18").eval()
    executor = TreeExecutor(alike, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) > 10


@pytest.mark.parametrize(("setting", "taps"), [(Setting(), 9), (Setting(dilation=3), 9), (Setting(size=5), 9 + 25)])
def test_a_site_needs_the_memory_of_each_rows_kernel_and_of_the_resized_one(setting, taps):
    layer = DynamicPerSampleConv2d.wrap("conv", CondConv2d(8, 6, 3, padding=1), Choices())
    op = PerSampleOp(layer, setting)
    x = torch.empty(3, 8, 4, 4, device="meta")
    assert op.scratch(op.meta(x), x) == 3 * 6 * 8 * taps * 4


@pytest.mark.parametrize("layer", [CondConv2d(4, 4, 3), Involution2d(8, 8, 3), WeightNet2d(4, 4, 3)])
def test_a_learned_layer_that_exceeds_its_input_excludes_the_configuration(layer):
    op = ModuleOp(layer)
    assert op.windowed
    channels = layer.in_channels
    assert op.meta(torch.empty(1, channels, 3, 3, device="meta")).shape[0] == 1
    if not isinstance(layer, Involution2d):  # which pads by itself
        with pytest.raises(WindowError):
            op.meta(torch.empty(1, channels, 2, 2, device="meta"))
