"""Sites found without being named: what is found, that all of it fits, and why something is not found."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import itd
from itd.engine.plain import PlainExecutor
from itd.errors import ModelError
from itd.patcher import SiteModule, build_model
from itd.patcher.auto import registered_like
from itd_cli.main import cli
from support import engine


class Block(nn.Module):
    """A residual block. shortcut: `conv`, `pool` (ResNet-D), or `none`."""

    def __init__(self, inside, outside, stride, shortcut="conv"):
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1)
        if shortcut == "conv":
            self.shortcut = nn.Conv2d(inside, outside, 1, stride)
        elif shortcut == "pool":
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(pool, nn.Conv2d(inside, outside, 1))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Net(nn.Module):
    """A stem to a half, then a stage of one block for each (channels, stride, shortcut)."""

    def __init__(self, *blocks, channels=3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, 2, 1)
        made, inside = [], 4
        for outside, stride, shortcut in blocks:
            made.append(Block(inside, outside, stride, shortcut))
            inside = outside
        self.stages, self.head = nn.Sequential(*made), nn.Linear(inside, 5)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


FOUR = [(4, 1, "conv"), (6, 2, "conv"), (8, 2, "pool"), (8, 2, "conv")]


def paths(sites, attribute):
    return {name: [m.path for m in modules if attribute in m.attributes] for name, modules in sites.items()}


def test_each_stage_has_its_stride_with_what_must_follow_and_its_first_odd_convolution():
    sites = itd.auto_sites(Net(*FOUR), input_px=64)
    assert sites.registered is None and sites.why == ()
    assert paths(sites, "stride") == {
        "A": ["stages.0.first", "stages.0.shortcut"],
        "B": ["stages.1.first", "stages.1.shortcut"],
        "C": ["stages.2.first", "stages.2.shortcut.0"],
        "D": ["stages.3.first", "stages.3.shortcut"],
    }
    for attribute in ("dilation", "size"):
        assert paths(sites, attribute) == {s: [f"stages.{i}.first"] for i, s in enumerate("ABCD")}


def test_the_last_four_stages_are_taken_and_the_stem_is_not():
    sites = itd.auto_sites(Net((4, 2, "conv"), *FOUR[1:], (8, 2, "conv")), input_px=128)
    assert [modules[0].path for modules in sites.values()] == [f"stages.{i}.first" for i in (1, 2, 3, 4)]


def test_a_stage_whose_shortcut_cannot_follow_takes_no_stride_and_says_why():
    sites = itd.auto_sites(Net((4, 1, "none"), *FOUR[1:]), input_px=64)
    assert paths(sites, "stride")["A"] == [] and paths(sites, "dilation")["A"] == ["stages.0.first"]
    assert len(sites.why) == 1 and "at 32 px" in sites.why[0] and "stages.0.first" in sites.why[0]


def test_fewer_than_four_stages_are_said():
    sites = itd.auto_sites(Net(*FOUR[:2]), input_px=64)
    assert list(sites) == ["A", "B"] and sites.why == (
        "2 stages of different resolution beside the stem hold an odd square convolution",
    )


@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
@pytest.mark.parametrize("last", ["conv", "pool"])
def test_every_configuration_of_the_sites_found_runs_and_the_tree_is_the_network(attribute, last):
    torch.manual_seed(0)
    model = itd.patch(net := Net(*FOUR[:3], (8, 2, last)).eval(), itd.auto_sites(net, input_px=48))
    space = itd.model_space(model, [attribute], input_shape=(3, 48, 48), stride_range=(2, 60))
    few = space.without([i for i in range(len(space)) if i % 37 and i != space.default], "thinned")
    pixels = torch.randn(2, 3, 48, 48)
    tree, plain = (engine.logits(e, pixels, 5) for e in (engine.tree(model, few), PlainExecutor(model, few)))
    assert (tree - plain).abs().max() < 1e-5 * plain.abs().max() and len(few) > 5
    with torch.no_grad():
        assert torch.allclose(plain[few.default], net(pixels), atol=1e-6)


def test_a_pool_that_follows_gives_as_many_rows_as_the_convolution_at_every_stride():
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    net = itd.patch(nn.Sequential(pool), {"A": SiteModule("0", frozenset({"stride"}))})
    for side in range(3, 20):
        x = torch.randn(1, 2, side, side)
        for stride in (1, 2, 3, 4):
            with net.configured({"A": itd.Setting(stride=stride)}):
                out = net(x)
            windows = [range(start, min(start + 2, side)) for start in range(0, side, stride)]
            expected = torch.stack(
                [torch.stack([x[:, :, list(r)][..., list(c)].mean((2, 3)) for c in windows], -1) for r in windows], -2
            )
            assert out.shape == expected.shape and torch.allclose(out, expected, atol=1e-6)


def test_a_registered_network_is_known_by_its_tensors_whatever_its_classifier():
    network = build_model("resnet18", num_classes=7)
    sites = itd.auto_sites(network)
    assert sites.registered == "resnet18" and paths(sites, "stride")["B"] == ["layer2.0.conv1", "layer2.0.downsample.0"]
    model = itd.patch(network, sites)
    space = itd.model_space(model, ["stride"], input_shape=(3, 64, 64))
    assert len(space) == 95 and model.entry.name == "resnet18"
    assert registered_like(Net(*FOUR)) is None
    network.layer1[0].conv1 = nn.Conv2d(64, 64, 5, padding=2, bias=False)
    assert registered_like(network) is None


def test_what_has_no_site_is_one_line():
    flat = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    for model, px, words in (
        (flat, 32, "Sequential has no layer that can be a site: 0 stages"),
        (Net(*FOUR), 0, "input_px is 0"),
        ("resnet18", 32, "given str"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 32, "does not take an image of 32 x 32"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            itd.auto_sites(model, px)
        assert "\n" not in str(caught.value)


def test_images_of_other_channels_and_networks_that_read_values():
    class Reading(Net):
        def forward(self, x):
            return super().forward(x if float(x.sum()) < 1e9 else -x)

    assert list(itd.auto_sites(Net(*FOUR, channels=1), input_px=64)) == list("ABCD")
    assert list(itd.auto_sites(Reading(*FOUR), input_px=64)) == list("ABCD")


class Again(nn.Module):
    """Runs one convolution and one pool twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.b(self.a(self.a(self.pool(self.stem(x)))))
        return self.head(self.c(self.pool(x)).mean((2, 3)))


def test_a_layer_that_is_run_twice_is_no_site():
    sites = itd.auto_sites(Again(), input_px=32)
    assert paths(sites, "size") == {"A": ["stem"], "B": ["b"], "C": ["c"]}
    assert paths(sites, "stride")["B"] == []
    assert "at 16 px no layer that lowers the resolution can take a stride" in sites.why


FILE = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a, self.pool, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.a(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return "mine.py:Plain"


def test_the_command_lists_layers_and_what_would_be_taken(own_file):
    done = CliRunner().invoke(cli, ["sites", "--model", own_file, "--input", "64", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["model"] == own_file and found["input_px"] == 64
    assert [layer["path"] for layer in found["layers"]] == ["stem", "a", "pool", "b"]
    assert found["layers"][2] == {
        "path": "pool", "kind": "MaxPool2d", "takes": ["stride"], "input": [4, 64, 64], "output": [4, 32, 32],
    }  # fmt: skip
    assert found["auto"]["stride"] == {"A": ["stem"], "B": ["pool"]} and found["auto"]["size"]["B"] == ["b"]
    text = CliRunner().invoke(cli, ["sites", "--model", own_file, "--attr", "dilation"], catch_exceptions=False).stdout
    assert "pool" not in text and "--sites auto:\n  dilation A stem; B b" in text


def test_what_a_registered_network_keeps_is_no_site_and_is_said():
    found = itd.sites("resnet18", "stride", 64)
    assert list(found["auto"]) == ["stride"] and list(found["auto"]["stride"]) == ["B", "C", "D"]
    assert found["why"] == [
        "site A keeps its stride: its block has no projection on the shortcut to take the same stride"
    ]


def test_sites_that_were_found_are_swept_extended_and_read_back(own_file, tmp_path):
    out = str(tmp_path / "r.parquet")
    asked = ["sweep", "--model", own_file, "--sites", "auto", "--attr", "stride", "--stride-range", "1,64",
             "--data", "digits", "--out", out]  # fmt: skip
    for limit in ("2", "4"):
        CliRunner().invoke(cli, [*asked, "--limit", limit], catch_exceptions=False)
    result = itd.open_result(out)
    identity = result.manifest["identity"]
    assert result.images_done == 4 and identity["sites"] == {"A": ["stem"], "B": ["pool", "b:dilation:size"]}
    from itd.runner.sites import sites_text
    from itd.selectors.source import open_source

    assert sites_text(own_file, identity["sites"]) == "A=stem,B=pool+b:dilation:size"
    source = open_source(result, "digits")
    assert [m.attributes for m in source.model.sites["B"]] == [{"stride"}, {"dilation", "size"}]


def test_an_attribute_of_a_path_that_is_none_is_refused(own_file):
    for text, words in (("A=a:colour", "'colour' is none of stride"), ("A=pool:size", "no kernel that could change")):
        request = itd.SweepRequest(own_file, "stride", sites=text, data="digits", limit=1)
        with pytest.raises(ModelError, match=words):
            request.job(only_plan=True)
