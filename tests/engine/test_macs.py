"""Multiply-accumulates counted by intercepting what is executed, against DESIGN's table and against the plan."""

import functools

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from itd.engine.plain import PlainExecutor
from itd.patcher import MODELS, build_model, model_space, patch
from support import engine

# model -> attribute -> (naive, tree) GMAC per image at 224 x 224, every configuration
TABLE = {
    "resnet50": {"stride": (2289, 1171), "dilation": (2556, 592), "size": (3326, 577)},
    "resnext50_32x4d": {"stride": (2379, 1180), "dilation": (2644, 572), "size": (2740, 602)},
    "mobilenet_v2": {"stride": (471, 287), "dilation": (188, 64), "size": (195, 65)},
    "densenet121": {"stride": (2585, 746), "dilation": (1771, 126), "size": (2027, 127)},
}
CASES = [(m, a) for m, by in TABLE.items() for a in by]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    engine.quick_normalisation(monkeypatch)  # which multiplies nothing that is counted


def counted(run):
    """GMAC of what `run` executes, by torch's own counter (a FLOP there is half a multiply-accumulate)."""

    def conv(x, *args, out_val=None, **_):
        # x, weight, bias, ... or, with an addition, x and other, in either order, weight, bias, ...
        weight = args[1] if isinstance(args[1], torch.Tensor) and args[1].ndim == 4 else args[0]
        return 2 * out_val.numel() * weight.shape[1:].numel()

    conv._get_raw = True
    mapping = {torch.ops.mkldnn._convolution_pointwise: conv, torch.ops.mkldnn._convolution_pointwise_: conv}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops() / 2e9


def counted_again(run):
    """`counted` of a second run: the first also works out shapes, on meta tensors, which the counter would see."""
    run()
    return counted(run)


@functools.cache
def network(name, classes):
    return patch(build_model(name, classes), name)


def patched(name, attribute, **options):
    model = network(name, 1000 if not options else 10)
    return model, model_space(model, [attribute], entry=MODELS[name], **options)


@functools.cache
def costs(name, attribute):
    """Of an image at every configuration: plain forwards, and the tree."""
    return engine.costs(*patched(name, attribute), 224)


@pytest.mark.parametrize(("name", "attribute"), CASES)
def test_the_tree_executes_what_the_table_says(name, attribute):
    model, space = patched(name, attribute)
    executor = engine.tree(model, space, device="meta", budget_bytes=1 << 34)
    got = counted_again(lambda: executor.run(torch.empty(1, 3, 224, 224, device="meta"), lambda *_: None))
    assert got == pytest.approx(TABLE[name][attribute][1], rel=0.01)
    plain, tree = costs(name, attribute)
    assert got == pytest.approx(tree.macs / 1e9, rel=1e-6)
    assert sum(plain.per_config) / 1e9 == pytest.approx(TABLE[name][attribute][0], rel=0.01)


def test_strides_one_to_four_share_one_convolution_and_what_is_pointwise_after_it():
    shared, alone = (
        engine.costs(*patched("resnet50", "stride", swept=["D"], options={("D", "stride"): strides}), 224)[1].macs
        for strides in ((1, 2, 3, 4), (1,))
    )
    # layer4.0: conv2, projection, conv3, then layer4.1.conv1, all at 14 x 14; the rest of layer4 at each stride's own
    rest = 512 * 512 * 9 + 512 * 2048 + 2048 * 512 + 512 * 512 * 9 + 512 * 2048
    head = 2048 * 10
    assert shared == alone + sum(size**2 * rest + head for size in (7, 5, 4))


@pytest.mark.parametrize(("name", "attribute"), CASES)
def test_nominal_macs_are_what_a_plain_forward_executes(name, attribute):
    model, space = patched(name, attribute)
    plain, _ = costs(name, attribute)
    executor = PlainExecutor(model, space, device="meta")
    for number in (0, len(space) // 2, len(space) - 1, space.default):
        pixels = torch.empty(1, 3, 224, 224, device="meta")
        got = counted(lambda n=number, p=pixels: executor.run(p, lambda *_: None, [n]))
        assert got == pytest.approx(plain.per_config[number] / 1e9, rel=1e-6)


@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
def test_a_cpu_executes_what_was_planned(attribute):
    model, space = patched("resnet18", attribute, swept=["C", "D"])
    executor = engine.tree(model, space)
    _, tree = engine.costs(model, space, 64)
    got = counted_again(lambda: executor.run(torch.zeros(1, 3, 64, 64), lambda *_: None))
    assert got == pytest.approx(tree.macs / 1e9, rel=1e-6)


def test_a_really_dynamic_network_runs_only_what_was_chosen(monkeypatch):
    monkeypatch.setenv("ITD_WINOGRAD", "0")  # which multiplies less than a convolution's definition, that is counted
    model, space = patched("resnet18", "stride", options={})
    routed, plain = engine.routed(model, space), np.array(engine.costs(model, space, 64)[0].per_config)
    macs = np.array(routed.program.prefix_costs((3, 64, 64)).per_config)
    assert (macs <= plain).all() and (macs >= 0.8 * plain).all()  # less what meets padding alone
    for configs in ([0, 94], [17, 17], [40, 41], [12]):
        got = counted_again(
            lambda configs=configs: routed.logits(torch.randn(len(configs), 3, 64, 64), np.array(configs))
        )
        assert got == pytest.approx(macs[configs].sum() / 1e9, rel=1e-6)
