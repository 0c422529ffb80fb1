"""Multiply-accumulates of networks: by hand, against the engine's own count, and what is not counted by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models

import itd
from itd.engine.macs import macs
from itd.errors import ItdError, ModelError, SpaceError
from itd.layers import CondConv2d
from itd.patcher import build_model, model_space, patch
from itd.store import open_result
from support import engine
from support.networks import SITES, MyNet


class Apply(nn.Module):
    """A convolution whose maps a function turns into logits."""

    def __init__(self, function, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, 2, 1)
        self.function = function
        self.weight = nn.Parameter(torch.randn(5, channels))

    def forward(self, x):
        return self.function(self, self.conv(x))


STEM = 8 * 8 * 8 * 3 * 9  # of a 16 x 16 image: 8 x 8 places, 8 channels of 3 x 3 x 3
COUNTED = {
    "linear": (lambda m, x: F.linear(x.mean((2, 3)), m.weight), 5 * 8),
    "matmul": (lambda m, x: x.mean((2, 3)) @ m.weight.T, 5 * 8),
    "a tensor's method": (lambda m, x: x.mean((2, 3)).matmul(m.weight.T), 5 * 8),
    "einsum": (lambda m, x: torch.einsum("nchw,kc->nk", x, m.weight), None),
    "bmm": (lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).mean(2), 64 * 8 * 8),
    "attention": (
        lambda m, x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3).mean(1),
        2 * 64 * 64 * 8,
    ),
    "mv": (lambda m, x: torch.mv(m.weight, x.mean((2, 3))[0])[None], 5 * 8),
    "conv1d": (lambda m, x: F.conv1d(x.flatten(2), m.weight[:, :, None].repeat(1, 1, 3)).mean(2), 62 * 5 * 8 * 3),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.weight.T[:, :, None, None], stride=2).mean((2, 3)), 64 * 8 * 5),
    "nothing": (lambda m, x: torch.cat([x.sigmoid() * x, F.interpolate(x, scale_factor=1)], 1).amax((2, 3)), 0),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_has_no_definition_of_its_own_is_counted_by_what_it_comes_down_to(name):
    function, expected = COUNTED[name]
    network = Apply(function)
    found = macs(network, input_shape=(3, 16, 16))
    assert found.unknown == ()
    if expected is None:  # einsum may contract in either order
        assert found - STEM in (5 * 8, 64 * 8 * 5)
    else:
        assert found == STEM + expected
    if name == "mv":
        return  # one row only: no batch
    model = patch(network, {"A": "conv"})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2)})
    plain, tree = engine.costs(model, space, 16)
    assert plain.per_config == (found, found) and tree.unknown == plain.unknown == ()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


def test_multi_head_attention_and_a_recurrent_layer_count_by_their_formulas():
    tokens, width = 64, 8
    projections, products = 4 * tokens * width * width, 2 * tokens * tokens * width
    found = macs(Attention(), input_shape=(3, 16, 16))
    assert found == STEM + projections + products and found.unknown == ()

    class Recurrent(Apply):
        def __init__(self):
            super().__init__(lambda m, x: m.cell(x.flatten(2).transpose(1, 2))[0][:, -1])
            self.cell = nn.GRU(8, 6, batch_first=True)

    assert macs(Recurrent(), input_shape=(3, 16, 16)) == STEM + 64 * 3 * 6 * (8 + 6)


UNKNOWN = {
    "_cdist_forward": lambda m, x: torch.cdist(x.flatten(2), x.flatten(2)).mean(2),
    "upsample_bilinear2d": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear").mean((2, 3)),
    "_fft_r2c": lambda m, x: torch.fft.rfft(x.flatten(2)).abs().mean(2),
    "grid_sampler_2d": lambda m, x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False).mean((2, 3)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_counted_is_reported_by_name(name):
    network = Apply(UNKNOWN[name])
    found = macs(network, input_shape=(3, 16, 16))
    assert found == STEM and len(found.unknown) == 1 and name in found.unknown[0] and "without" in repr(found)
    model = patch(network, {"A": "conv"})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2)})
    plain, tree = engine.costs(model, space, 16)
    assert len(plain.unknown) == 1 and name in plain.unknown[0] and tree.unknown == plain.unknown


def test_a_result_and_a_plan_say_what_their_costs_leave_out(tmp_path):
    network = Apply(UNKNOWN["_cdist_forward"], channels=6)
    model = patch(network, {"A": "conv"})
    space = itd.model_space(model, ["dilation"], options={("A", "dilation"): (1, 2)})
    job = itd.SweepJob(model, space, [(torch.randn(3, 16, 16), i) for i in range(4)], name="distances")
    report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")
    (unknown,) = open_result(report.out).macs_unknown
    assert "_cdist_forward" in unknown and itd.plan(job).macs_unknown == (unknown,)


@pytest.mark.parametrize(
    ("attribute", "options"),
    [("stride", {"C": (0.5, 2), "D": (0.5, 1, 4)}), ("size", {"C": (1, 3), "D": (3, 9)}), ("dilation", {"D": (1, 5)})],
)
@pytest.mark.parametrize("name", ["resnet18", "cifar-resnet18+condconv", "cifar-resnet18+involution"])
def test_a_patched_network_at_a_configuration_costs_what_the_engine_says(name, attribute, options):
    model = patch(build_model(name, 10), name)
    lists = {(site, attribute): values for site, values in options.items()}
    space = model_space(model, [attribute], swept=list(options), options=lists, stride_range=(1, 999))
    plain, _ = engine.costs(model, space, 64)
    counted = [macs(model, config, (3, 64, 64)) for config in space.configs]
    assert counted == list(plain.per_config)
    assert not any(number.unknown for number in counted)  # resizing a kernel is done once: no part of an image's cost


def test_a_learned_layer_at_stride_one_half_does_not_count_the_zeros():
    layer = CondConv2d(3, 6, 3, padding=1)
    model = patch(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), {"A": "0"})
    one, half = (macs(model, {"A": itd.Setting(stride=s)}, (3, 16, 16)) for s in (1, 0.5))
    made = layer.router.weight.numel() + layer.kernels.numel()
    assert one == half == 16 * 16 * 6 * 3 * 9 + made


def test_resnet50_by_hand():
    total = 112 * 112 * 64 * 3 * 49
    inputs = 64
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            first = side if block or width == 64 else 2 * side  # conv1 sees the larger map
            total += first**2 * inputs * width + side**2 * width * width * 9 + side**2 * width * 4 * width
            if block == 0:
                total += side**2 * inputs * 4 * width
            inputs = 4 * width
    assert macs(build_model("resnet50")) == total + 2048 * 1000 == 4089184256


@pytest.mark.parametrize(
    "name",
    ["convnext_tiny", "efficientnet_b0", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "vgg11_bn",
     "densenet121", "swin_t", "vit_b_16", "squeezenet1_0", "mnasnet0_5", "maxvit_t"],
)  # fmt: skip
def test_of_common_networks_everything_is_counted(name):
    with torch.device("cpu" if name in ("swin_t", "regnet_y_400mf") else "meta"):  # the two read values
        network = torchvision_models.get_model(name, weights=None)
    found = macs(network)
    published = torchvision_models.get_model_weights(name).DEFAULT.meta["_ops"]  # GMAC, as torchvision measured them
    assert found.unknown == () and float(found) / 1e9 == pytest.approx(published, rel=0.02)


def test_the_shape_may_be_any_and_bad_input_is_said():
    net = patch(MyNet(channels=1).train(), SITES)
    assert macs(net, input_shape=(1, 20, 30)) == 10 * 15 * 8 * 9 + 5 * 8 * 12 * (8 * 9 + 8) + 12 * 5
    for args, kind, words in (
        (("resnet50",), ModelError, "macs takes an nn.Module, given str"),
        ((net, None, 224), ItdError, "input_shape is 224"),
        ((net, None, (1, 20)), ItdError, "input_shape is"),
        ((net, None, (1, 0, 3)), ItdError, "input_shape is"),
        ((net, None, (1, True, 3)), ItdError, "input_shape is"),
        ((net, "A=2"), SpaceError, "config is 'A=2'; give site -> Setting"),
        ((net, 3), SpaceError, "config is 3"),
        ((net, {"A": 2}), SpaceError, "config is {'A': 2}"),
        ((net, [itd.Setting()] * 9), SpaceError, "config has 9 settings; give one for each of the sites"),
        ((net, {"Z": itd.Setting()}), SpaceError, "no such site: Z"),
        ((patch(MyNet(channels=1), SITES).to("meta"), {"Z": itd.Setting()}), SpaceError, "no such site: Z"),
        ((torchvision_models.vit_b_32(), None, (3, 100, 100)), ModelError, "does not take an image.*Expected 224"),
        ((net, None, (3, 20, 20)), ModelError, "does not take an image of 20 x 20 with 3 channels"),
        ((MyNet(), {"A": itd.Setting(stride=1)}), ModelError, "a configuration is of a patched network"),
    ):
        with pytest.raises(kind, match=words):
            macs(*args)
