"""Even, non-square and "same" convolutions at a stride and a dilation, through a patched network and through the tree.

Held against `support.convolution`, and at the default setting against torch itself.
"""

import warnings

import pytest
import torch
from torch import nn

from itd.errors import ModelError, SpaceError
from itd.layers import CondConv2d, WeightNet2d
from itd.layers.se import SqueezeExcitation
from itd.patcher import Conventions, Geometry, SiteModule, conv_at, model_space, patch, per_sample_conv_at, takes
from itd.patcher.model import site_specs
from itd.space import Setting
from support import engine
from support.convolution import by_loops

ALL = frozenset({"stride", "dilation", "size"})
SLIDING = frozenset({"stride", "dilation"})


def conv(kernel, stride=1, padding=0, dilation=1, groups=1, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups)


LAYERS = {
    "2x2, stride 2": conv(2, 2),
    "2x2, padding 1": conv(2, 1, 1, groups=2),
    "2x2, same": conv(2, padding="same"),
    "2x2, same, dilation 2": conv(2, padding="same", dilation=2),
    "2x2, same, dilation 3": conv(2, padding="same", dilation=3),
    "4x4, stride 4": conv(4, 4),
    "4x4, stride 2": conv(4, 2, 1, groups=2),
    "4x4, same": conv(4, padding="same"),
    "1x7": conv((1, 7), padding=(0, 3)),
    "7x1": conv((7, 1), padding=(3, 0)),
    "3x5, stride 2": conv((3, 5), 2, (1, 2)),
    "3x4, same": conv((3, 4), padding="same"),
    "3x5, same, dilation 2": conv((3, 5), padding="same", dilation=2),
    "3x3, same": conv(3, padding="same", groups=2),
    "5x5, same, dilation 2": conv(5, padding="same", dilation=2),
    "3x3, padding 1 and 0": conv(3, 2, (1, 0)),
}
OPTIONS = [Setting(stride=s) for s in (1, 2, 3, 4)] + [Setting(dilation=d) for d in (1, 2, 3)]
OPTIONS += [Setting(stride=2, dilation=2), Setting(stride=3, dilation=2), Setting(stride=4, dilation=3)]


def image(height=11, width=9, channels=4, seed=1):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


def possible(layer, setting, x):
    """Whether the dilated kernel is within the padded input, and no padding would be negative."""
    geometry = Geometry.of("layer", layer)
    try:
        at = geometry.at(setting)
    except SpaceError:
        return False
    sides = zip(x.shape[2:], at.padding, at.extra, at.kernel, at.dilation, strict=True)
    return all(n + 2 * p + e >= d * (k - 1) + 1 for n, p, e, k, d in sides)


def equals(got, expected):
    expected = torch.as_tensor(expected).float()
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_stride_and_a_dilation_are_what_the_definition_says(name):
    layer, x = LAYERS[name], image()
    model = patch(nn.Sequential(layer).eval(), {"A": "0"})
    settings = [s for s in OPTIONS if possible(layer, s, x)]
    assert len(settings) >= 8
    for setting in settings:
        expected = by_loops(x, layer, setting.stride, setting.dilation)
        with model.configured({"A": setting}), torch.no_grad():
            equals(model(x), expected)
        equals(
            conv_at(x, layer.weight.detach(), layer.bias.detach(), Geometry.of("c", layer), setting, Conventions()),
            expected,
        )


@pytest.mark.parametrize("name", [name for name in LAYERS if "same" in name])
def test_torchs_same_padding_is_the_default_setting(name):
    layer, x = LAYERS[name], image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that an odd padding may copy the input
        with torch.no_grad():
            expected = layer(x)
    model = patch(nn.Sequential(layer).eval(), {"A": "0"})
    spec = site_specs(model)[0]
    assert spec.default.stride == 1 and spec.default.dilation == layer.dilation[0]
    with model.configured({"A": spec.default}), torch.no_grad():
        equals(model(x), expected)
    equals(expected, by_loops(x, layer))


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("setting", [Setting(size=7), Setting(size=1), Setting(stride=0.5), Setting(2, 3, 5)], ids=str)
def test_an_odd_square_kernel_with_same_padding_takes_what_it_takes_with_the_number(k, setting):
    same, number, x = conv(k, padding="same", seed=3), conv(k, padding=k // 2, seed=3), image()
    models = [patch(nn.Sequential(layer).eval(), {"C": "0"}) for layer in (same, number)]
    outputs = []
    for model in models:
        assert takes(model[0]) == ALL
        with model.configured({"C": setting}), torch.no_grad():
            outputs.append(model(x))
    assert torch.equal(*outputs)


class Twice(nn.Module):
    """Two sites, normalised, activated and mixed."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.norm, self.second = first, nn.BatchNorm2d(6), second
        self.mix, self.head = nn.Conv2d(6, 4, 1), nn.Linear(6, 5)
        self.norm.running_mean.normal_(0, 0.2)
        self.norm.running_var.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, x):
        x = self.mix(torch.relu(self.norm(self.first(x))))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))

    @torch.no_grad()
    def by_loops(self, x, first, second):
        x = torch.from_numpy(by_loops(x, self.first, first.stride, first.dilation)).float()
        x = self.mix(torch.relu(self.norm(x)))
        x = torch.from_numpy(by_loops(x, self.second, second.stride, second.dilation)).float()
        return self.head(torch.relu(x).mean((2, 3)))


@pytest.mark.parametrize("attribute", ["stride", "dilation"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2x2, stride 2", "1x7"), ("4x4, stride 4", "2x2, same"), ("3x4, same", "4x4, stride 2"),
        ("7x1", "3x5, stride 2"), ("2x2, same, dilation 3", "3x3, same"),
    ],
)  # fmt: skip
def test_the_tree_is_the_definition(first, second, attribute):
    torch.manual_seed(5)
    network, x = Twice(LAYERS[first], LAYERS[second]), image(26, 29)
    model = patch(network, {"A": "first", "B": "second"})
    lists = {"stride": (1, 2, 3, 4), "dilation": tuple(range(3, 6)) if "dilation 3" in first else (1, 2, 3)}
    options = {("A", attribute): lists[attribute], ("B", attribute): {"stride": (1, 2), "dilation": (1, 2)}[attribute]}
    space = model_space(model, [attribute], options=options, stride_range=(1, 999), input_shape=(4, 26, 29))
    assert len(space) == len(lists[attribute]) * 2
    for config, got in zip(space.configs, engine.logits(engine.tree(model, space), x, 5), strict=True):
        expected = network.by_loops(x, *config)
        assert ((got - expected).abs() <= 1e-4 * expected.abs().amax(-1, keepdim=True)).all()


def test_a_resized_kernel_runs_in_its_own_degrees_of_freedom_with_other_zeros_above_than_at_the_left():
    torch.manual_seed(6)
    network = nn.Sequential(nn.Conv2d(4, 64, 3, 2, (1, 0)), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    model, x = patch(network, {"A": "0"}), image(17, 14)
    space = model_space(model, ["size"], options={("A", "size"): (3, 7, 9)}, input_shape=(4, 17, 14))
    for config, got in zip(space.configs, engine.logits(engine.tree(model, space), x, 256), strict=True):
        with model.configured(config), torch.no_grad():
            torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


# A kernel for each sample


@pytest.mark.parametrize("setting", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["2x2, stride 2", "4x4, same", "1x7", "2x2, same, dilation 3"])
def test_a_kernel_for_each_sample_is_padded_the_same_way(name, setting):
    layer, x = LAYERS[name], image()
    geometry = Geometry.of("layer", layer)
    if not possible(layer, setting, x):
        pytest.skip("not defined")
    weight = torch.randn(2, *layer.weight.shape, generator=torch.Generator().manual_seed(2))
    expected = [conv_at(x[[n]], weight[n], None, geometry, setting, Conventions()) for n in range(2)]
    equals(per_sample_conv_at(x, weight, None, geometry, setting, Conventions()), torch.cat(expected))


@pytest.mark.parametrize("make", [CondConv2d, WeightNet2d], ids=lambda make: make.__name__)
def test_a_learned_layer_with_an_even_kernel_strides_and_dilates_in_the_tree(make):
    torch.manual_seed(2)
    network, x = Twice(make(4, 6, 2, 2, 0, 1, 1), LAYERS["3x3, same"]), image(20, 20)
    model = patch(network, {"A": "first"})
    assert model.sites["A"][0].attributes == SLIDING
    space = model_space(model, ["stride", "dilation"], stride_range=(1, 99), input_shape=(4, 20, 20))
    assert len(space) == 20
    for config, got in zip(space.configs, engine.logits(engine.tree(model, space), x, 5), strict=True):
        with model.configured(config), torch.no_grad():
            torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


# What a layer takes


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 4, 3), ALL),
        (nn.Conv2d(3, 4, 3, padding="same"), ALL),
        (nn.Conv2d(3, 4, 3, padding="valid"), ALL),
        (nn.Conv2d(3, 4, 1, stride=2), {"stride"}),
        (nn.Conv2d(3, 4, 2), SLIDING),
        (nn.Conv2d(3, 4, (1, 7), padding="same"), SLIDING),
        (nn.Conv2d(3, 4, 3, stride=(2, 1)), {"dilation", "size"}),
        (nn.Conv2d(3, 4, 3, dilation=(2, 1)), {"stride", "size"}),
        (nn.Conv2d(3, 4, 4, stride=(2, 1)), {"dilation"}),
        (nn.Conv2d(3, 4, 1, stride=(2, 1)), set()),
        (nn.Conv2d(3, 4, 3, padding_mode="reflect", padding=1), set()),
        (nn.ConvTranspose2d(3, 4, 3), set()),
        (CondConv2d(4, 4, 3, 1, 1), ALL),
        (CondConv2d(4, 4, 1), {"stride"}),
        (CondConv2d(4, 4, 2), SLIDING),
        (nn.MaxPool2d(3, 2, 1), {"stride"}),
        (nn.MaxPool2d((2, 2)), {"stride"}),
        (nn.AvgPool2d(2, (2, 1)), set()),
        (nn.MaxPool2d(2, return_indices=True), set()),
        (nn.ReLU(), set()),
        (SqueezeExcitation(32, 16), set()),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), set()),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_a_layer_takes_what_is_defined_for_it(layer, expected):
    assert takes(layer) == expected
    if expected:
        model = patch(nn.Sequential(layer), {"A": "0"})
        assert model.sites["A"][0].attributes == expected and takes(model[0]) == expected
    else:
        with pytest.raises(ModelError, match=r"^0"):
            patch(nn.Sequential(layer), {"A": "0"})


@pytest.mark.parametrize(
    ("layer", "attributes", "words"),
    [
        (nn.Conv2d(3, 4, 2), ALL, "0: kernel 2x2 is even.*it takes dilation and stride: name nothing else"),
        (nn.Conv2d(3, 4, (3, 5)), ALL, "0: kernel 3x5 is not square.*it takes dilation and stride"),
        (nn.Conv2d(3, 4, 3, (2, 1)), ALL, "0: stride 2x1 differs between rows and columns.*it takes dilation and size"),
        (nn.Conv2d(3, 4, 1, (2, 1)), frozenset(), "0: stride 2x1 differs.*choose another layer"),
        (nn.MaxPool2d(2), ALL, "0: a MaxPool2d has no kernel that could change; it takes stride: name nothing else"),
    ],
)
def test_an_attribute_that_a_layer_cannot_take_is_refused_by_path(layer, attributes, words):
    with pytest.raises(ModelError, match=words) as refused:
        patch(nn.Sequential(layer), {"A": SiteModule("0", attributes)})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("layer", "setting", "words"),
    [
        (conv(2), Setting(size=3), "site A cannot take size 3: 0: kernel 2x2 is even, and only odd square"),
        (conv((1, 7)), Setting(size=7), "site A cannot take size 7: 0: kernel 1x7 is not square"),
        (conv(2, 2), Setting(stride=0.5), "0: stride 1/2 is not defined for a kernel of 2x2"),
        (conv((1, 7), padding="same"), Setting(stride=0.5), "0: stride 1/2 is not defined for a kernel of 1x7"),
        (conv(4, padding=1, dilation=2), Setting(dilation=1), "0: dilation=1 would need a padding of -0.5"),
        (conv(3, padding=(1, 0)), Setting(stride=0.5), "0: stride 1/2 needs a padding of 1, this layer's is 1x0"),
        (conv(3, padding=1), Setting(size=4), "0: size 4 is not defined for a kernel of 3x3"),
    ],
)
def test_a_setting_that_is_not_defined_is_refused_by_path(layer, setting, words):
    model = patch(nn.Sequential(layer), {"A": "0"})
    with pytest.raises(SpaceError, match=words) as refused, model.configured({"A": setting}):
        pass
    assert "\n" not in str(refused.value)


def test_by_default_only_what_every_layer_of_a_site_can_take_is_offered():
    def spec(site, *layers):
        names = [f"{i}" for i in range(len(layers))]
        return site_specs(patch(nn.Sequential(*layers), {site: names}))[0]

    even = spec("C", nn.Conv2d(3, 4, 2, 2))
    assert even.default == Setting(stride=2, dilation=1)
    assert even.options == {"stride": (1, 2, 3, 4), "dilation": (1, 2, 3, 4, 5)} and "2x2 is even" in even.fixed["size"]
    assert spec("A", nn.Conv2d(3, 4, 3)).options["size"] == (3, 5, 7, 9)  # 1 would need a padding of -1
    assert spec("A", nn.Conv2d(3, 4, 3, padding=1, dilation=3)).options["dilation"] == (2, 3, 4, 5)
    mixed = spec("C", nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 3))
    assert mixed.options == {"stride": (1, 2, 3, 4), "dilation": (1, 2, 3, 4, 5), "size": (3, 5, 7, 9)}
    assert spec("C", nn.Conv2d(3, 4, 3, padding="same")).options["stride"] == (0.5, 1, 2, 3, 4)
    assert spec("A", nn.Conv2d(3, 4, 3, dilation=8)).options["dilation"] == (
        8,
    )  # every other would need less than none


def test_an_option_that_no_layer_of_the_site_takes_is_refused_with_its_path():
    model = patch(nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3, padding=1)), {"A": "0", "B": "1"})
    with pytest.raises(SpaceError, match=r"site A cannot take size 3: 0: kernel 2x2 is even.*; leave it out"):
        model_space(model, ["size"], options={("A", "size"): (3,)})
    space = model_space(model, ["size"])
    assert len(space) == 5 and set(space.columns()["size_A"]) == {None}
