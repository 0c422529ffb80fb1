"""The registered families of torchvision beside ResNet, MobileNetV2 and DenseNet: one small network of each."""

import functools

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from itd.engine.plain import PlainExecutor
from itd.patcher import build_model, model_space, patch
from itd.patcher.model import measured_stem_stride
from support import engine
from support.networks import narrow_head

SMALL = ["convnext_tiny", "efficientnet_b0", "efficientnet_v2_s", "mobilenet_v3_small", "regnet_y_400mf", "vgg11_bn"]
DILATIONS = {"A": (1, 3), "B": (1, 2), "C": (1, 2), "D": (1, 3)}
SIZES = {"A": (3, 7), "B": (3, 5), "C": (3, 5), "D": (5, 9)}
STRIDES = {"A": (2, 3), "B": (1, 2), "C": (2, 3), "D": (0.5, 4)}
OWN_STRIDES = {
    "convnext_tiny": {"B": (1, 2), "C": (2, 3), "D": (1, 2)},
    "vgg11_bn": {"A": (2, 3), "B": (1, 2), "C": (1, 2), "D": (1, 2)},
}


def images(count=2, px=64):
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(1))


@functools.cache
def network_of(name):
    """Random weights, and the statistics of images: with others so deep a network forgets what it is shown."""
    torch.manual_seed(0)
    network = build_model(name, 10).train()
    if name == "vgg11_bn":
        narrow_head(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, (StochasticDepth, nn.Dropout)):
            module.p = 0.0
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.3)
    for path, parameter in network.named_parameters():
        if path.endswith("layer_scale"):  # of ConvNeXt, whose blocks would otherwise do next to nothing
            nn.init.uniform_(parameter, 0.5, 2)
    with torch.no_grad():
        network(images(8))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # few images, so some variances are far too small
                module.running_var += 0.3 * module.running_var.mean()
    return network.eval()


@pytest.mark.parametrize("name", SMALL)
def test_the_default_configuration_is_torchvisions_and_the_output_stride_the_entrys(name):
    network = network_of(name)
    model = patch(network, name)
    assert list(model.sites) == list("ABCD") and measured_stem_stride(model) == model.entry.stem_stride
    with torch.inference_mode():
        expected = network(images())
        for attribute in ("stride", "dilation", "size"):
            space = model_space(model, [attribute])
            with model.configured(space.configs[space.default]):
                torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
@pytest.mark.parametrize("name", SMALL)
def test_tree_equals_plain_and_every_site_matters(name, attribute):
    model = patch(network_of(name), name)
    lists = {"stride": OWN_STRIDES.get(name, STRIDES), "dilation": DILATIONS, "size": SIZES}[attribute]
    options = {(site, attribute): values for site, values in lists.items()}
    space = model_space(model, [attribute], options=options, swept=list(lists), stride_range=(1, 999))
    assert len(space) == 2 ** len(lists)
    plain = engine.logits(PlainExecutor(model, space), images(), 10)
    tree = engine.logits(engine.tree(model, space), images(), 10)
    scale = plain.abs().amax(-1, keepdim=True)
    assert ((tree - plain).abs() <= 1e-4 * scale).all()
    for bit in range(len(lists)):  # the last site varies fastest
        assert ((plain[1 << bit] - plain[0]).abs().amax(-1) > 1e-3 * scale[0, :, 0]).all()


def test_what_it_costs_can_be_asked_after_a_run():
    model = patch(network_of("convnext_tiny"), "convnext_tiny")  # whose normalisation is a module of its own
    space = model_space(model, ["size"], swept=["D"], options={("D", "size"): (5, 7)})
    executor = engine.tree(model, space)
    engine.logits(executor, images(1, 32), 10)
    assert executor.program.prefix_costs((3, 64, 64)).macs > 0


def test_convnexts_stem_and_vggs_pools_are_what_their_pages_say():
    convnext = patch(build_model("convnext_tiny", 10), "convnext_tiny")
    assert len(model_space(convnext, ["stride"])) == 4**3  # A has none, and 2x2 convolutions do not upsample
    vgg = patch(build_model("vgg11_bn", 10), "vgg11_bn")
    assert len(model_space(vgg, ["stride"])) == 4**4 - 1 - 5  # total output strides 2, and five above 288
