"""A layer at a setting against its definition: zeros inserted, kernels resized by torch itself, sizes counted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.errors import ModelError, SpaceError
from itd.layers import CondConv2d, Involution2d, WeightNet2d
from itd.patcher import Conventions, Geometry, conv_at, patch, per_sample_conv_at, pool_at, resize_matrix
from itd.patcher.dynamic import DynamicConv2d
from itd.patcher.families import ALL, SiteModule
from itd.space import Setting

CHANNELS = 64
GROUPS = [1, 32, 64]  # dense, ResNeXt's 32 groups, depthwise


def layer(groups, out=CHANNELS):
    torch.manual_seed(groups)
    conv = nn.Conv2d(CHANNELS, out, 3, stride=2, padding=1, groups=groups)
    return torch.randn(2, CHANNELS, 9, 7), conv.weight.detach(), conv.bias.detach(), Geometry.of("conv", conv)


def close(a, b):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_half_stride_is_zero_insertion_then_an_ordinary_convolution(groups, dilation):
    x, weight, bias, geometry = layer(groups, out=128)
    inserted = torch.zeros(2, CHANNELS, 18, 14)
    inserted[:, :, ::2, ::2] = x
    expected = F.conv2d(inserted, weight, bias, 1, dilation, dilation, groups)
    close(conv_at(x, weight, bias, geometry, Setting(stride=0.5, dilation=dilation), Conventions()), expected)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("name", "power"), [("area", 2), ("side", 1), ("none", 0)])
def test_size_is_torch_interpolation_of_the_kernel_with_the_output_scaled(groups, k, align_corners, name, power):
    x, weight, bias, geometry = layer(groups)
    kernel = F.interpolate(weight, size=(k, k), mode="bilinear", align_corners=align_corners)
    if k == 1:  # which with aligned corners would be the top left tap
        kernel = weight[:, :, 1:2, 1:2]
    expected = F.conv2d(x, kernel, None, 2, k // 2, 1, groups)
    expected = (expected * (3 / k) ** power if k != 3 else expected) + bias.view(1, -1, 1, 1)
    close(conv_at(x, weight, bias, geometry, Setting(size=k), Conventions(name, align_corners)), expected)


def test_size_one_is_nine_times_the_centre_tap():
    x, weight, bias, geometry = layer(1)
    expected = F.conv2d(x, 9 * weight[:, :, 1:2, 1:2], bias, 2)
    close(conv_at(x, weight, bias, geometry, Setting(size=1), Conventions()), expected)


@pytest.mark.parametrize("groups", GROUPS)
def test_attributes_compose_resize_then_dilate_then_stride(groups):
    x, weight, bias, geometry = layer(groups)
    kernel = F.interpolate(weight, size=(5, 5), mode="bilinear", align_corners=False) * (3 / 5) ** 2
    expected = F.conv2d(x, kernel, bias, 3, 6, 3, groups)
    close(conv_at(x, weight, bias, geometry, Setting(stride=3, dilation=3, size=5), Conventions()), expected)


@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 5])
def test_dilation_leaves_the_output_size(dilation):
    x, weight, bias, geometry = layer(1)
    assert conv_at(x, weight, bias, geometry, Setting(dilation=dilation), Conventions()).shape[2:] == (5, 4)


def test_the_projection_at_half_stride_fills_with_zeros_or_the_nearest_value():
    x = torch.randn(2, 4, 3, 3)
    weight, bias = torch.randn(6, 4, 1, 1), torch.randn(6)
    small = F.conv2d(x, weight)
    zeros = torch.zeros(2, 6, 6, 6)
    zeros[:, :, ::2, ::2] = small
    geometry = Geometry.square(1, 2, 0, 1, 1)
    shift = bias.view(1, -1, 1, 1)
    close(conv_at(x, weight, bias, geometry, Setting(stride=0.5), Conventions()), zeros + shift)
    nearest = small.repeat_interleave(2, 2).repeat_interleave(2, 3) + shift
    close(conv_at(x, weight, bias, geometry, Setting(stride=0.5), Conventions(shortcut="nearest")), nearest)


@pytest.mark.parametrize(("pool", "fill"), [(nn.MaxPool2d(3, 2, 1), float("-inf")), (nn.AvgPool2d(2, 2), None)])
def test_pool_at_half_stride_upsamples_then_pools_at_stride_one(pool, fill):
    x = torch.randn(1, 2, 4, 5)
    up = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if fill is not None:
        up = F.pad(up, (1, 1, 1, 1), value=fill)
        expected = up.unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))
    else:
        up = torch.cat([up, up[:, :, -1:]], 2)
        up = torch.cat([up, up[:, :, :, -1:]], 3)
        expected = up.unfold(2, 2, 1).unfold(3, 2, 1).mean((-1, -2))
    assert expected.shape == (1, 2, 8, 10)
    close(pool_at(x, pool, Setting(stride=0.5), Conventions()), expected)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_pool_strides_keep_kernel_and_padding(stride):
    x = torch.randn(1, 2, 9, 9)
    close(pool_at(x, nn.MaxPool2d(3, 2, 1), Setting(stride=stride), Conventions()), F.max_pool2d(x, 3, stride, 1))
    close(pool_at(x, nn.AvgPool2d(2, 2), Setting(stride=stride), Conventions()), F.avg_pool2d(x, 2, stride))


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
def test_the_resize_matrix_resizes_by_two_products(k):
    kernel = torch.randn(3, 3)
    u = resize_matrix(3, k, False)
    expected = F.interpolate(kernel[None, None], size=(k, k), mode="bilinear", align_corners=False)[0, 0]
    close(u.T @ kernel @ u, expected)


@pytest.mark.parametrize(
    ("conv", "words"),
    [
        (nn.Conv2d(3, 4, 2), "site.conv: kernel 2x2 is even"),
        (nn.Conv2d(3, 4, (1, 3)), "site.conv: kernel 1x3 is not square"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "site.conv: padding_mode 'reflect'"),
        (nn.Linear(3, 4), "site.conv is a Linear"),
    ],
)
def test_layers_that_cannot_vary_are_refused_by_path(conv, words):
    net = nn.Module()
    net.site = nn.Sequential()
    net.site.add_module("conv", conv)
    with pytest.raises(ModelError, match=words):
        patch(net, {"A": (SiteModule("site.conv", ALL),)})


def test_a_padding_that_is_negative_or_not_whole_is_refused():
    with pytest.raises(SpaceError, match="would need a padding of -1"):
        Geometry.square(5, 1, 1, 1, 1).at(Setting(size=1), "x")
    with pytest.raises(SpaceError, match="stride 1/2 needs a padding of 1"):
        Geometry.square(3, 1, 0, 1, 1).at(Setting(stride=0.5), "x")


def test_resized_kernels_follow_the_weights():
    conv = DynamicConv2d.wrap("c", nn.Conv2d(2, 2, 3, padding=1), Conventions())
    conv.setting = Setting(size=5)
    x = torch.randn(1, 2, 6, 6)
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(2)
        conv.bias.mul_(2)
        close(conv(x), 2 * before)


# A kernel for each sample: what `conv_at` gives for that sample alone

SETTINGS = [
    Setting(stride=0.5), Setting(stride=1), Setting(stride=4), Setting(dilation=3), Setting(size=7), Setting(size=1),
    Setting(stride=0.5, dilation=2, size=5), Setting(stride=3, dilation=2, size=5),
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("groups", GROUPS)
def test_a_kernel_for_each_sample_is_the_convolution_of_each_sample(setting, groups):
    x, _, _, geometry = layer(groups)
    x = x.double()
    weight, bias = torch.randn(2, 128, CHANNELS // groups, 3, 3).double(), torch.randn(2, 128).double()
    expected = [conv_at(x[[n]], weight[n], bias[n], geometry, setting, Conventions()) for n in range(2)]
    close(per_sample_conv_at(x, weight, bias, geometry, setting, Conventions()), torch.cat(expected))


@pytest.mark.parametrize("shortcut", ["zero", "nearest"])
def test_a_pointwise_kernel_for_each_sample_at_half_stride(shortcut):
    x, weight = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 4, 1, 1)
    geometry, conventions, half = Geometry.square(1, 2, 0, 1, 1), Conventions(shortcut=shortcut), Setting(stride=0.5)
    expected = [conv_at(x[[n]], weight[n], None, geometry, half, conventions) for n in range(2)]
    close(per_sample_conv_at(x, weight, None, geometry, half, conventions), torch.cat(expected))


MAKERS = {
    "condconv": lambda: CondConv2d(8, 6, 3, 2, 1, groups=2, experts=3),
    "weightnet": lambda: WeightNet2d(8, 6, 3, 2, 1, multiplier=2, bias=True),
    "weightnet-1x": lambda: WeightNet2d(8, 6, 3, 2, 1, multiplier=1),
    "weightnet-depthwise": lambda: WeightNet2d(8, 8, 3, 2, 1, groups=8, multiplier=1),
}


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_a_learned_layer_at_a_setting_convolves_with_its_own_kernels(name, setting):
    torch.manual_seed(0)
    own, x = MAKERS[name](), 3 * torch.randn(2, 8, 9, 7)
    network = nn.Sequential(own).eval()
    model = patch(network, {"C": (SiteModule("0", ALL),)})
    assert list(model.state_dict()) == list(network.state_dict()) and model[0].geometry.stride == (2, 2)
    weight, bias = own.sample_kernels(x)
    geometry = Geometry.square(3, 2, 1, 1, own.groups)
    one = [None if bias is None else bias[n] for n in range(2)]
    expected = [conv_at(x[[n]], weight[n], one[n], geometry, setting, Conventions()) for n in range(2)]
    with model.configured({"C": setting}):
        close(model(x), torch.cat(expected))
    close(model(x), own(x))
    assert type(network[0]) in (CondConv2d, WeightNet2d)


def test_an_involution_cannot_be_a_site():
    with pytest.raises(ModelError, match="Involution2d, which cannot vary; a site takes Conv2d, CondConv2d"):
        patch(nn.Sequential(Involution2d(8, 8, 3)), {"C": (SiteModule("0", ALL),)})
