"""benchmarks/sweep.py: what it counts, how sure its extrapolation is, and that its plain loop is the network."""

import importlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from itd.engine.precision import Precision
from itd.engine.tracing import trace
from itd.patcher import MODELS, build_model, model_space, patch

CPU = torch.device("cpu")


@pytest.fixture
def benchmark(repository, monkeypatch):
    """name -> a module of benchmarks/."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module


# -- the error of the extrapolation -----------------------------------------------------------------------------------


def test_times_that_follow_the_macs_leave_no_doubt(benchmark):
    macs = [3, 1, 4, 1, 5, 9, 2, 6]
    told = benchmark("extrapolation").extrapolate([6, 8, 10, 4], [0, 2, 4, 6], macs)
    assert told.total_s == pytest.approx(2 * sum(macs))
    assert told.low_s == pytest.approx(told.total_s) and told.high_s == pytest.approx(told.total_s)
    assert told.half_error == pytest.approx(0)


def test_all_configurations_are_not_extrapolated_and_one_says_nothing_of_its_error(benchmark):
    extrapolate = benchmark("extrapolation").extrapolate
    told = extrapolate([5.0, 2.0, 3.0], [0, 1, 2], [1, 1, 1])
    assert (told.total_s, told.low_s, told.high_s) == (10.0, 10.0, 10.0)
    assert told.half_error == pytest.approx(1.0)  # 4 s each in one half, 2 s in the other
    single = extrapolate([5.0], [0], [1])
    assert (single.total_s, single.low_s, single.high_s) == (5.0, 5.0, 5.0)
    alone = extrapolate([5.0], [1], [1, 1, 1])
    assert (alone.total_s, alone.low_s, alone.high_s, alone.half_error) == (15.0, None, None, None)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_interval_holds_the_time_of_all_configurations_about_19_times_of_20(benchmark, noise):
    extrapolate, drawn = benchmark("extrapolation").extrapolate, benchmark("extrapolation").drawn
    rng, inside, widths = np.random.default_rng(0), 0, []
    for seed in range(400):
        macs = rng.integers(1, 20, 361)
        timed = drawn(macs, 24, seed)
        seconds = macs * rng.lognormal(0, noise, 361)
        told = extrapolate(seconds[timed], timed, macs)
        inside += told.low_s <= seconds.sum() <= told.high_s
        widths.append((told.high_s - told.low_s) / told.total_s)
    assert 0.9 < inside / 400 < 0.98
    assert 1.2 * noise / 24**0.5 * 2 < np.mean(widths) < 3 * noise / 24**0.5 * 2


def test_configurations_that_are_slow_at_every_sixteenth_are_not_taken_for_all(benchmark):
    extrapolate, drawn = benchmark("extrapolation").extrapolate, benchmark("extrapolation").drawn
    numbers = np.arange(370)
    macs = 10 + numbers % 16
    seconds = macs * np.where(numbers % 16 == 0, 3.0, 1.0)
    even = list(range(0, 370, 16))
    assert extrapolate(seconds[even], even, macs).total_s > 2.5 * seconds.sum()
    found = [
        extrapolate(seconds[timed], timed, macs).total_s for timed in (drawn(macs, 48, seed) for seed in range(99))
    ]
    assert np.mean(found) == pytest.approx(seconds.sum(), rel=0.03) and max(found) < 1.3 * seconds.sum()


@pytest.mark.parametrize(("count", "wanted"), [(90, 9), (64, 48), (81, 48), (370, 48)])
def test_each_configuration_is_as_likely_to_be_drawn_and_all_costs_are(benchmark, count, wanted):
    drawn = benchmark("extrapolation").drawn
    macs = np.random.default_rng(0).permutation(count)
    often = np.zeros(count)
    for seed in range(2000):
        timed = drawn(macs, wanted, seed)
        assert len(set(timed)) == wanted and timed == sorted(timed)
        assert max(np.diff([-1, *sorted(macs[timed]), count])) <= 2 * count / wanted + 1
        often[timed] += 1
    assert np.abs(often / 2000 - wanted / count).max() < 0.06
    assert drawn(macs, wanted, 3) == drawn(macs, wanted, 3)
    assert drawn(macs, count) == drawn(macs, count + 10) == list(range(count))


@pytest.mark.parametrize("count", [64, 81, 370])
def test_the_interval_holds_the_time_also_where_it_does_not_follow_the_macs(benchmark, count):
    extrapolate, drawn = benchmark("extrapolation").extrapolate, benchmark("extrapolation").drawn
    macs = np.linspace(1, 10, count)
    seconds, inside = macs + 1, 0
    for seed in range(200):
        timed = drawn(macs, 48, seed)
        told = extrapolate(seconds[timed], timed, macs)
        inside += told.low_s <= seconds.sum() <= told.high_s
    assert inside >= 190


# -- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "attribute", "macs"),
    [
        ("resnet50", "dilation", 591_564_111_872),
        ("resnet50", "size", 577_125_089_792),
        ("mobilenet_v2", "stride", 287_097_811_008),
        ("densenet121", "dilation", 170_972_667_904),
    ],
)
def test_a_share_counts_the_tree_that_computes_everything_plainly(benchmark, name, attribute, macs):
    with torch.device("meta"):
        model = patch(build_model(name, 1000), name)
    space = model_space(model, [attribute], entry=MODELS[name])
    assert benchmark("reference").reference_macs(trace(model), space, (3, 224, 224)) == macs


def test_only_clear_predictions_must_agree(benchmark):
    compare = benchmark("sweep").compare
    plain = torch.tensor([[10.0, 9.95, 0.0], [10.0, 9.0, 0.0], [10.0, 9.999, 0.0]])
    tree = plain[:, [1, 0, 2]]
    assert compare(plain, tree, 1e-3)[0::2] == (0.0, 2)
    assert compare(plain, tree, 1e-2)[0::2] == (0.0, 1)
    assert compare(plain, plain, 1e-2)[0::2] == (1.0, 1)
    assert compare(plain, tree, 0.5)[0::2] == (1.0, 0)


@pytest.mark.parametrize(
    ("precision", "agreement", "difference", "is_wrong"),
    [
        ("fp32", 1.0, 1e-5, False),
        ("fp32", 0.999, 1e-5, True),
        ("fp32", 1.0, 1e-3, True),
        ("bf16", 0.991, 1e-2, False),
        ("bf16", 0.989, 1e-2, True),
        ("bf16", 1.0, float("nan"), True),
    ],
)
def test_a_tree_that_disagrees_fails_the_benchmark(benchmark, precision, agreement, difference, is_wrong):
    report = {"precision": precision, "top1_agreement": agreement, "max_logit_difference": difference}
    assert benchmark("sweep").wrong(report) is is_wrong


# -- what is run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_loop(random_network, repository):
    """A plain loop over few configurations on three small images."""
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], entry=MODELS["resnet18"], swept=["D"])
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(repository / "benchmarks")
        plain_loop = importlib.import_module("plain_loop")
    return plain_loop, plain_loop.PlainLoop(model, space, pixels, CPU, Precision("bf16"))


@pytest.mark.parametrize("way", [{"batch": 2}, {"batch": 3, "channels_last": False}, {"batch": 1, "autocast": True}])
def test_the_plain_loop_is_the_network_whatever_its_way(small_loop, way):
    plain_loop, loop = small_loop
    logits = torch.zeros(3, 10)
    assert loop.time(4, plain_loop.Way(**way), logits) > 0
    with torch.no_grad(), loop.model.configured(loop.space.configs[4]):
        wanted = loop.model(loop.pixels)
    scale = wanted.abs().amax(-1, keepdim=True)
    assert ((logits - wanted).abs() / scale).max() < 0.05
    assert ((logits - wanted).abs() / scale).max() > 1e-4  # it was computed in bf16
    held, pixels = loop._network(plain_loop.Way(**way))
    maps = held.get_submodule("layer1.0.conv1").weight
    assert maps.is_contiguous(memory_format=torch.channels_last) is way.get("channels_last", True)
    assert pixels.is_contiguous(memory_format=torch.channels_last) is way.get("channels_last", True)
    assert maps.dtype == pixels.dtype == (torch.float32 if way.get("autocast") else torch.bfloat16)


def test_the_plain_loop_takes_the_fastest_way(small_loop, monkeypatch):
    plain_loop, loop = small_loop
    monkeypatch.setattr(loop, "time", lambda config, way, logits=None: {1: 3.0, 4: 1.0, 8: 2.0}[way.batch])
    monkeypatch.setattr(loop, "warm", lambda configs, way: None)
    monkeypatch.setattr(loop, "pixels", torch.empty(8, 3, 2, 2))
    assert loop.best_way([0]) == plain_loop.Way(4)
    monkeypatch.setattr(loop, "device", torch.device("cuda"))
    monkeypatch.setattr(loop, "pixels", torch.empty(300, 3, 2, 2))

    def time(config, way, logits=None):
        if way.batch == 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return way.batch / 64 + way.channels_last - 0.5 * way.autocast + 0.1 * way.tuned

    monkeypatch.setattr(loop, "time", time)
    assert loop.best_way([0]) == plain_loop.Way(64, channels_last=False, autocast=True)


def test_the_compiler_is_tried_and_what_it_cannot_costs_nothing(small_loop):
    plain_loop, loop = small_loop
    speedup, said = loop.compiled_speedup([0, 4], plain_loop.Way(2), backend="eager")
    assert speedup >= 1 and said.endswith("times as fast on 2 configurations")
    speedup, said = loop.compiled_speedup([0], plain_loop.Way(2), backend="no such backend")
    assert speedup == 1 and said.startswith("does not work: ")


def test_the_command_prints_lines_and_json(benchmark, monkeypatch):
    sweep, rates = benchmark("sweep"), benchmark("rates")
    monkeypatch.setattr(rates, "MATRIX_SIDE", {"cpu": 256})
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 1 << 20})
    asked = "--model resnet18 --attr dilation --options A=1,2 --options B=1 --options C=1 --options D=1,3"
    typed = f"{asked} --images 2 --crop 48 --plain-configs 3 --against bf16 --device cpu"
    done = CliRunner().invoke(sweep.main, typed.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    *lines, last = done.output.strip().splitlines()
    report = json.loads(last)
    assert report["configs"] == 4 and report["plain_configs"] == 3 and report["top1_agreement"] == 1
    assert report["ratio"] == pytest.approx(report["plain_s"] / report["tree_s"])
    assert report["ratio_low"] <= report["ratio"] <= report["ratio_high"]
    middle = (report["ratio_low"] + report["ratio_high"]) / 2
    assert report["ratio_low"] == 0 or middle == pytest.approx(report["ratio"])
    counted = 2 * report["reference_macs"] * report["images"] / report["tree_s"]
    assert report["share"] == pytest.approx(counted / report["matrix_flops"])
    assert 0 < report["tree_macs"] <= report["reference_macs"]
    assert f"{report['ratio_low']:.2f} to {report['ratio_high']:.2f}" in lines[0]
    assert f"{report['share']:.0%} of a matrix product's" in "\n".join(lines)
    assert f"fp32 over bf16: {report['against_ratio']:.2f}x" in lines[-1]
