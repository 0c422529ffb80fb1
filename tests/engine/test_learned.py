"""Networks with learned dynamic convolutions in the oracle: the tree equals plain forwards, and costs add up."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from itd.engine.op import WindowError
from itd.engine.plain import PlainExecutor
from itd.engine.site_ops import PerSampleOp, SiteOp
from itd.engine.torch_ops import ModuleOp
from itd.errors import ModelError
from itd.layers import CondConv2d, Involution2d, WeightNet2d, WeightNetReduce
from itd.layers.models import LEARNED, OPS, SHUFFLENETS, learned_name
from itd.patcher import (
    MODELS,
    Conventions,
    DynamicConv2d,
    DynamicPerSampleConv2d,
    build_model,
    model_space,
    parse_sites,
    patch,
)
from itd.space import Setting
from support import engine

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
        tree = logits(engine.tree(model, space, budget_bytes=budget), pixels, len(space))
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
        tree = logits(engine.tree(model, space, budget_bytes=budget), pixels, len(space))
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
    tree = logits(engine.tree(model, space), pixels, len(space))
    assert (tree - plain).abs().max() < 1e-4 * plain.abs().max()
    assert (plain[0] - plain[1]).abs().max() > 1e-2 * plain.abs().max()
    by_plain, _ = engine.costs(model, space, 32)
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
    plain, _ = engine.costs(model, space, 224)
    assert plain.per_config[space.default] == LEARNED[name].macs


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_forward_costs_what_the_list_of_models_says(random_network, name):
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    plain, _ = engine.costs(model, space, 32)
    assert plain.per_config[space.default] == LEARNED[name].macs


def test_a_kernel_for_each_row_is_memory_that_a_chunk_needs(random_network):
    """CondConv's last kernels are 512 x 512 x 3 x 3 floats for each row: 9.4 MB beside maps of 128 kB."""
    name = "cifar-resnet18+condconv"
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["stride"], entry=MODELS[name], swept=["D"], options={("D", "stride"): (1, 2)})
    executor = engine.tree(model, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) <= (48 << 20) // (4 * 512 * 512 * 9)
    alike = patch(random_network("cifar-resnet18"), "cifar-resnet18").eval()
    executor = engine.tree(alike, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) > 10


@pytest.mark.parametrize(
    ("setting", "taps", "between"),
    [(Setting(dilation=3), 9, 0), (Setting(size=5), 9 + 25, 0), (Setting(stride=0.5), 9, 64)],
)
def test_a_site_needs_the_memory_of_each_rows_kernel_and_of_what_is_made_of_it(setting, taps, between):
    layer = DynamicPerSampleConv2d.wrap("conv", CondConv2d(8, 6, 3, padding=1), Conventions())
    op = PerSampleOp(layer, setting)
    x = torch.empty(3, 8, 4, 4, device="meta")
    assert op.scratch(op.meta(x), x) == 3 * 8 * (6 * taps + between) * 4  # an image with zeros between is 8 x 8


@pytest.mark.parametrize(
    ("layer", "side", "numbers"),
    [
        (CondConv2d(8, 6, 3, padding=1, experts=5), 5, 6 * 8 * 9),
        (CondConv2d(8, 6, 3, padding=1, experts=5), 4, 16 * (5 * 6 + 8 * 9)),  # outputs, and the image unfolded
        (CondConv2d(8, 6, 3, padding=1, groups=2), 4, 6 * 4 * 9),
        (WeightNet2d(8, 6, 3, padding=1, multiplier=2), 4, 6 * 8 * 9),
        (WeightNet2d(8, 6, 3, padding=1), 4, 2 * 6 * 16),
    ],
)
def test_a_layer_needs_the_memory_of_what_it_makes_for_each_row(layer, side, numbers):
    x, y = torch.empty(3, 8, side, side, device="meta"), torch.empty(3, 6, side, side, device="meta")
    wrapped = DynamicPerSampleConv2d.wrap("conv", layer, Conventions())
    assert ModuleOp(layer).scratch(y, x) == PerSampleOp(wrapped, Setting()).scratch(y, x) == 3 * 4 * numbers


@pytest.mark.parametrize("stride", [0.5, 1, 2])
def test_a_site_costs_the_plain_convolutions_and_its_kernels(stride):
    """Also at stride 1/2, where inserted zeros do not count."""
    setting, x = Setting(stride=stride), torch.empty(3, 8, 6, 6, device="meta")
    layer, plain = CondConv2d(8, 6, 3, 2, 1, experts=4), nn.Conv2d(8, 6, 3, 2, 1)
    made = PerSampleOp(DynamicPerSampleConv2d.wrap("conv", layer, Conventions()), setting)
    wrapped = DynamicConv2d.wrap("conv", plain, Conventions())
    alike = SiteOp("conv", wrapped, plain.weight.detach(), None, Conventions()).at(setting)
    own = 4 * 8 + 4 * 6 * 8 * 9  # the router, and mixing
    assert made.macs(made.meta(x), x) == alike.macs(alike.meta(x), x) + 3 * own


class Shared(nn.Module):
    """A layer that is given z by keyword, and has a reduction of its own besides."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.layer = WeightNetReduce(3), WeightNet2d(3, 8, 3, 1, 1, multiplier=2, g=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.layer(x, z=self.reduce(x)).mean((2, 3)))


def test_what_a_site_is_given_by_keyword_reaches_it():
    torch.manual_seed(0)
    network = Shared().eval()
    sites, swept = parse_sites("any", "C=layer")
    model = patch(network, sites).eval()
    space = model_space(model, ["size"], swept=swept, options={("C", "size"): (3, 5)})
    pixels = 3 * torch.randn(2, 3, 8, 8)
    plain = logits(PlainExecutor(model, space), pixels, len(space))
    tree = logits(engine.tree(model, space), pixels, len(space))
    torch.testing.assert_close(tree, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain[space.default], network(pixels).detach(), rtol=1e-4, atol=1e-5)
    network.layer.forward(pixels)  # and its own reduction gives something else
    own = network.fc(network.layer(pixels).mean((2, 3)))
    assert (own - network(pixels)).abs().max() > 1e-3


def test_only_a_window_too_large_excludes_a_configuration():
    op = ModuleOp(WeightNet2d(4, 4, 3, own_reduce=False))
    with pytest.raises(ModelError, match="z is None"):
        op.meta(torch.empty(1, 4, 5, 5, device="meta"))


def test_a_site_checks_its_input_at_every_setting():
    model = patch(nn.Sequential(CondConv2d(4, 4, 3, padding=1)), parse_sites("any", "C=0")[0])
    for setting in (Setting(), Setting(size=5)):
        with model.configured({"C": setting}), pytest.raises(ModelError, match=r"^CondConv2d: the input is"):
            model(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("layer", [CondConv2d(4, 4, 3), Involution2d(8, 8, 3), WeightNet2d(4, 4, 3)])
def test_a_learned_layer_that_exceeds_its_input_excludes_the_configuration(layer):
    op = ModuleOp(layer)
    assert op.windowed
    channels = layer.in_channels
    assert op.meta(torch.empty(1, channels, 3, 3, device="meta")).shape[0] == 1
    if not isinstance(layer, Involution2d):  # which pads by itself
        with pytest.raises(WindowError):
            op.meta(torch.empty(1, channels, 2, 2, device="meta"))
