"""The networks' parameters and multiply-accumulates, to the integer where SPECS gives one; and what can be replaced."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torchvision import models

from itd.engine.macs import layer_macs
from itd.engine.macs import macs as count
from itd.errors import ModelError
from itd.layers import LAYERS, CondConv2d, Involution2d, SqueezeExcitation, WeightNet2d
from itd.layers.models import LEARNED, OPS, SHUFFLENETS, build_learned, is_learned, learned_name
from itd.layers.replace import replace_convs

# What independent prototypes count: parameters; MACs as an integer, or in millions to three digits.
COUNTED = {
    "cifar-resnet18": (11_173_962, 555_422_720),
    "cifar-resnet18+involution": (5_116_682, 268_456_960),
    "cifar-resnet18+condconv": (29_982_314, 580_497_920),
    "shufflenet-v2-x0.5": (1_366_792, 40_476_448),
    "shufflenet-v2-x1.0": (2_211_976, 137_610_912),
    "shufflenet-v2-x1.5": (3_507_720, 298_970_656),
    "shufflenet-v2-x2.0": (5_503_992, 557_269_648),
    "shufflenet-v2-x0.5+weightnet-1x": (1_463_928, 40.704),
    "shufflenet-v2-x1.0+weightnet-1x": (2_435_832, 138.534),
    "shufflenet-v2-x1.5+weightnet-1x": (3_915_344, 301.097),
    "shufflenet-v2-x2.0+weightnet-1x": (6_198_068, 561.368),
    "shufflenet-v2-x0.5+weightnet-8x": (2_994_072, 42.200),
    "shufflenet-v2-x1.0+weightnet-4x": (5_143_896, 141.209),
    "shufflenet-v2-x1.5+weightnet-4x": (10_173_104, 307.302),
    "shufflenet-v2-x2.0+weightnet-4x": (18_268_604, 573.364),
}
CIFAR = [learned_name("cifar-resnet18", op) for op in OPS]


def on_meta(name: str, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return build_learned(name, num_classes)


@pytest.mark.parametrize("name", LEARNED)
def test_parameters_and_macs_are_those_that_were_counted(name):
    entry = LEARNED[name]
    model = on_meta(name, entry.num_classes)
    params, macs = (
        sum(p.numel() for p in model.parameters()),
        count(model, input_shape=(3, entry.side_px, entry.side_px)),
    )
    assert (params, macs) == (entry.params, entry.macs)
    if name in COUNTED:
        counted, wanted = COUNTED[name]
        assert params == counted
        assert macs == wanted if isinstance(wanted, int) else f"{macs / 1e6:.3f}" == f"{wanted:.3f}"


def test_counts_of_the_two_that_no_paper_has_follow_by_hand():
    """Each block's second convolution is C to C; a reduction to max(16, C / 16), and SE's to C / 16."""
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    gates = sum(2 * c * (c // 16) + c // 16 + c for c in widths)
    assert LEARNED["cifar-resnet18+se"].params == 11_173_962 + gates
    assert LEARNED["cifar-resnet18+se"].macs == 555_422_720 + sum(2 * c * (c // 16) for c in widths)
    extra = 0
    for c in widths:
        reduced = max(16, c // 16)
        extra += (c + 1) * reduced + (reduced + 1) * 2 * c  # reduce; fc1 to M * o gates, M = 2; the FC is the kernel
    assert LEARNED["cifar-resnet18+weightnet"].params == 11_173_962 + extra


def test_eleven_of_sixteen_cells_of_the_published_table_agree():
    agree = 0
    for entry in LEARNED.values():
        if entry.op == "weightnet" and entry.model in SHUFFLENETS:
            agree += f"{entry.params / 1e6:.1f}M" == entry.published["params"]
            agree += f"{entry.macs / 1e6:.0f}M" == entry.published["macs"]
    assert agree == 11


@pytest.mark.parametrize("name", [*CIFAR, "shufflenet-v2-x0.5", "shufflenet-v2-x0.5+weightnet-8x"])
def test_a_network_runs_traces_and_keeps_its_weights(name):
    torch.manual_seed(0)
    model = build_learned(name, 10)
    x = torch.randn(2, 3, 32 if name in CIFAR else 64, 32 if name in CIFAR else 64)
    with torch.inference_mode():
        expected = model(x)
    assert expected.shape == (2, 10) and expected.isfinite().all() and not model.training

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m, path):
            return isinstance(m, LAYERS) or super().is_leaf_module(m, path)

    traced = fx.GraphModule(model, Tracer().trace(model))
    with torch.inference_mode():
        assert torch.allclose(traced(x), expected, atol=1e-5)
    other = build_learned(name, 10)
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(other(x), expected)
    model.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_shuffled_halves_are_every_second_channel():
    """Against the usual shuffle: split in two groups, transpose, cut."""
    model = build_learned("shufflenet-v2-x0.5", 10)
    unit = model.stage2[1]
    x = torch.randn(2, 48, 6, 6)
    groups = x.reshape(2, 24, 2, 6, 6)
    kept, changed = groups[:, :, 0], groups[:, :, 1]
    with torch.inference_mode():
        assert torch.equal(unit(x)[:, :24], kept)
        assert torch.allclose(unit(x)[:, 24:], unit._main(changed, None))


def test_the_operator_is_in_the_second_convolution_of_every_block():
    for op, layer in (("condconv", CondConv2d), ("weightnet", WeightNet2d), ("involution", Involution2d),
                      ("se", SqueezeExcitation)):  # fmt: skip
        model = on_meta(f"cifar-resnet18+{op}", 10)
        found = {path.split(".conv2")[0] for path, m in model.named_modules() if isinstance(m, layer)}
        assert found == {f"layer{s}.{b}" for s in range(1, 5) for b in range(2)}


def test_names_go_back_and_forth():
    for name, entry in LEARNED.items():
        assert is_learned(name) and learned_name(entry.model, entry.op, entry.multiplier) == name
    assert not is_learned("resnet18") and not is_learned("cifar-resnet181")
    assert learned_name("cifar-resnet18", "weightnet", 4) == "cifar-resnet18+weightnet-4x"
    assert sum(p.numel() for p in on_meta("cifar-resnet18+weightnet-4x", 10).parameters()) > 11_319_274


@pytest.mark.parametrize(
    ("model", "op", "multiplier", "said"),
    [
        ("resnet18", "se", None, "`op` is for cifar-resnet18"),
        ("cifar-resnet18", "magic", None, "no such `op` for cifar-resnet18: 'magic'; allowed are conv, involution"),
        ("shufflenet-v2-x0.5", "condconv", None, "allowed are conv, weightnet"),
        ("cifar-resnet18", "se", 2, "`multiplier=2` is WeightNet's"),
        ("cifar-resnet18", "weightnet", 0, "`multiplier=0` is not allowed"),
        ("cifar-resnet18", "weightnet", 1.5, "`multiplier=1.5` is not allowed"),
    ],
)
def test_names_that_do_not_go_together_are_refused(model, op, multiplier, said):
    with pytest.raises(ModelError) as error:
        learned_name(model, op, multiplier)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no such model"):
        build_learned("cifar-resnet18+CondConv")


# -- replacing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
@pytest.mark.parametrize(
    ("layer", "kind"),
    [("condconv", CondConv2d), ("se", SqueezeExcitation), ("weightnet", WeightNet2d), ("involution", Involution2d)],
)
def test_any_torchvision_network_takes_them(name, layer, kind):
    model = models.get_model(name, num_classes=10).eval()
    before = list(model.state_dict())
    if name in ("mobilenet_v2", "densenet121") and layer == "involution":
        # depthwise convolutions, or ones that change the channels: nothing there that involution stands for
        with pytest.raises(ModelError, match="nothing to replace"):
            replace_convs(model, layer)
        return
    new = replace_convs(model, layer).eval()
    assert list(model.state_dict()) == before and sum(isinstance(m, kind) for m in new.modules()) >= 8
    with torch.inference_mode():
        assert new(torch.randn(1, 3, 64, 64)).shape == (1, 10)
    assert type(new.get_submodule(next(p for p, m in model.named_modules() if isinstance(m, nn.Conv2d)))) is nn.Conv2d


def test_only_what_was_asked_for_is_replaced():
    model = models.resnet18(num_classes=10)
    by_path = replace_convs(model, "condconv", ["layer4.1.conv2"], experts=2)
    assert [p for p, m in by_path.named_modules() if isinstance(m, CondConv2d)] == ["layer4.1.conv2"]
    assert by_path.layer4[1].conv2.experts == 2
    by_rule = replace_convs(model, "se", lambda path, conv: conv.kernel_size == (1, 1))
    assert sum(isinstance(m, SqueezeExcitation) for m in by_rule.modules()) == 3
    own = replace_convs(model, lambda conv: nn.Identity(), ["layer1.0.conv1"])
    assert isinstance(own.layer1[0].conv1, nn.Identity) and isinstance(model.layer1[0].conv1, nn.Conv2d)
    gated = replace_convs(model, "se", ["layer1.0.conv2"])
    assert torch.equal(gated.layer1[0].conv2[0].weight, model.layer1[0].conv2.weight)


@pytest.mark.parametrize(
    ("layer", "where", "said"),
    [
        ("magic", None, "no such layer: 'magic'; allowed are conv, se, condconv, weightnet, involution"),
        ("se", ["layer9"], "'layer9' is no convolution of the network"),
        ("se", [], "no path was given"),
        ("involution", ["layer2.0.conv1"], "layer2.0.conv1 cannot be replaced: Involution2d: 64 input and 128 output"),
        ("se", lambda path, conv: False, "none of its 20 convolutions fits"),
    ],
)
def test_what_cannot_be_replaced_is_one_line(layer, where, said):
    with pytest.raises(ModelError) as error:
        replace_convs(models.resnet18(), layer, where)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_original_keeps_its_layers_and_values_and_other_paths_stay():
    for name in ("resnet18", "mobilenet_v2", "densenet121"):
        model = models.get_model(name, num_classes=10)
        layers, values = dict(model.named_modules()), {k: v.clone() for k, v in model.state_dict().items()}
        path = next(p for p, m in list(layers.items())[5:] if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1)
        new = replace_convs(model, "condconv", path)
        assert all(m is layers[p] for p, m in model.named_modules())
        assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
        state = new.state_dict()
        changed = {k for k in values if k not in state} | {k for k in state if k not in values}
        assert changed and all(k.startswith(f"{path}.") for k in changed)
        assert all(torch.equal(state[k], values[k]) for k in values if k not in changed)


def test_what_is_new_has_the_mode_of_what_it_replaces():
    model = models.resnet18(num_classes=10).eval()
    assert not any(m.training for m in replace_convs(model, "involution").modules())
    assert all(m.training for m in replace_convs(model.train(), "involution").modules())


def test_conv_replaces_nothing():
    model = models.resnet18(num_classes=10)
    new = replace_convs(model, "conv")
    assert new is not model and [type(m) for m in new.modules()] == [type(m) for m in model.modules()]


def test_a_convolution_at_two_paths_stays_one_and_one_alone_is_replaced():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    new = replace_convs(nn.Sequential(nn.Conv2d(3, 4, 1), conv, conv), "condconv")
    assert isinstance(new[1], CondConv2d) and new[2] is new[1]
    assert isinstance(replace_convs(conv, "condconv", [""]), CondConv2d)


@pytest.mark.parametrize(
    ("layer", "options", "said"),
    [
        ("condconv", {"kernels": 3}, "layer condconv has no option kernels; allowed are experts"),
        ("weightnet", {"own_reduce": False}, "no option own_reduce; allowed are multiplier, g, reduced"),
        ("conv", {"experts": 3}, "it takes none"),
        ("condconv", {"experts": 0}, "layer1.0.conv1: CondConv2d: experts is 0"),
        (lambda conv: conv, {"experts": 3}, "set them in the function"),
    ],
)
def test_options_that_a_layer_does_not_take_are_one_line(layer, options, said):
    with pytest.raises(ModelError) as error:
        replace_convs(models.resnet18(), layer, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_function_must_return_a_module():
    with pytest.raises(ModelError, match="conv1 cannot be replaced: the function returned a int"):
        replace_convs(models.resnet18(), lambda conv: 3, ["conv1"])  # type: ignore[arg-type,return-value]


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layer", ["se", "condconv", "weightnet", "involution"])
def test_a_batch_costs_its_samples_and_a_network_its_layers(layer, stride):
    conv = nn.Conv2d(16, 16, 3, stride, 1, bias=False)
    made = replace_convs(conv, layer, [""])
    x = torch.zeros(3, 16, 8, 8)
    rows, plain = (8 // stride) ** 2, (8 // stride) ** 2 * 16 * 16 * 9
    wanted = {
        "se": plain + 2 * 16,
        "condconv": plain + 4 * 16 + 4 * 16 * 16 * 9,
        "weightnet": plain + 16 * 16 + 16 * 32 + 16 * 16 * 9,
        "involution": rows * (16 * 4 + 4 * 72 + 16 * 9),
    }[layer]
    network = nn.Sequential(nn.Conv2d(3, 16, 1), made)
    assert count(network, input_shape=(3, 8, 8)) == 8 * 8 * 3 * 16 + wanted
    if layer != "se":
        assert layer_macs(made, x, made(x)) == 3 * wanted


def test_an_image_that_is_too_small_is_said():
    with pytest.raises(ModelError, match="does not take an image of 4 x 4 with 3 channels") as error:
        count(nn.Sequential(nn.Conv2d(3, 4, 7)), input_shape=(3, 4, 4))
    assert "\n" not in str(error.value)


# -- what is published ------------------------------------------------------------------------------------------------


def test_megabytes_of_the_report_are_four_bytes_for_each_parameter():
    told = [entry for entry in LEARNED.values() if "megabytes" in entry.published]
    assert len(told) == 3 and all(f"{4 * e.params / 1e6:.3f}" == e.published["megabytes"] for e in told)


def test_every_shufflenet_traces_without_computing():
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m, path):
            return isinstance(m, LAYERS) or super().is_leaf_module(m, path)

    for name, entry in LEARNED.items():
        if entry.model in SHUFFLENETS:
            model = on_meta(name, 10)
            traced = fx.GraphModule(model, Tracer().trace(model))
            assert traced(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 10)
            assert model.dropout.p == (0.2 if "x2.0" in name else 0.0)
