"""What bounds the rows of a chunk on a large GPU, counted on shapes alone."""

import functools
import importlib
import json

import pytest
import torch
from torch import nn

from itd.device import MOST_ELEMENTS
from itd.engine import tree
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.sizes import LargestValue
from itd.engine.tree import TreeExecutor, default_budget_bytes
from itd.patcher import MODELS, build_model, model_space, parse_sites, patch
from support import engine

SHAPE = (3, 224, 224)
GB = 10**9


@pytest.fixture
def quickly(monkeypatch):
    engine.quick_normalisation(monkeypatch)


@functools.cache
def program_on_shapes(name, attribute, swept=None):
    """A registered network's whole space in bf16, or that of some sites, on the meta device, its costs known."""
    with torch.device("meta"):
        model = patch(build_model(name, 1000), name)
    space = model_space(model, [attribute], entry=MODELS[name], swept=swept)
    program = compile_program(model, space, device="meta", precision=Precision("bf16"))
    with pytest.MonkeyPatch.context() as patches:
        engine.quick_normalisation(patches)
        TreeExecutor(program, budget_bytes=GB).run(images(1), ignore)  # the costs are counted, on many rows at once
    return program


def images(count):
    return torch.empty(count, *SHAPE, device="meta")


def ignore(*_):
    pass


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("mobilenet_v2", "stride"),
        ("mobilenet_v2", "dilation"),
        ("mobilenet_v2", "size"),
        ("resnet50", "dilation"),
        ("densenet121", "stride"),
    ],
)
def test_no_value_of_a_tree_has_more_elements_than_a_gpu_indexes(name, attribute, quickly):
    program = program_on_shapes(name, attribute)
    for budget_gb in (80, 141):
        executor = TreeExecutor(program, budget_bytes=budget_gb * GB)
        with LargestValue() as largest:
            executor.run(images(64), ignore)
        assert 0 < largest.elements <= MOST_ELEMENTS


def test_rows_are_only_as_many_as_images_that_a_gpu_indexes():
    executor = TreeExecutor(program_on_shapes("mobilenet_v2", "dilation", "D"), budget_bytes=141 * GB)
    sizes = []
    run = executor._run_rows
    executor._run_rows = lambda number, rows, sink: sizes.append((number, len(rows))) or run(number, rows, sink)
    executor.run(images(20_000), ignore)
    assert max(rows for number, rows in sizes if number == 0) <= MOST_ELEMENTS // images(1).numel()


class Widening(nn.Module):
    """Its largest value lies inside: the maps of `wide`, 64 times as large as an image."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 192, 3, padding=1)
        self.head = nn.Conv2d(192, 5, 1)

    def forward(self, x):
        return self.head(torch.relu(self.wide(x))).mean((2, 3))


def test_no_value_of_a_plain_forward_has_more_elements_than_a_gpu_indexes():
    with torch.device("meta"):
        model = patch(Widening().eval(), parse_sites("mine", "A=wide")[0])
    space = model_space(model, ["stride"], options={("A", "stride"): (1, 2)}, stride_range=(1, 9))
    executor, rows = PlainExecutor(model, space, device="meta"), []
    with LargestValue() as largest:
        executor.run(images(300), lambda configs, images, logits: rows.append(len(images)))
    most = MOST_ELEMENTS // (192 * 224**2)
    assert largest.elements == most * 192 * 224**2
    assert rows == [most, 300 - most, 300]


TABLE = {
    ("resnet50", "stride"): {80: (52.27, 18.521, 1.672, 296), 141: (43.33, 18.528, 1.438, 296)},
    ("resnet50", "dilation"): {80: (6.17, 9.732, 0.141, 54), 141: (4.47, 9.717, 0.109, 44)},
    ("resnet50", "size"): {80: (12.52, 11.771, 0.172, 87), 141: (8.70, 11.744, 0.125, 73)},
    ("resnext50_32x4d", "stride"): {80: (54.20, 22.340, 1.797, 281), 141: (44.23, 22.821, 1.469, 279)},
    ("resnext50_32x4d", "dilation"): {80: (7.80, 12.269, 0.172, 54), 141: (5.69, 12.233, 0.125, 54)},
    ("resnext50_32x4d", "size"): {80: (7.80, 12.269, 0.172, 54), 141: (5.69, 12.233, 0.125, 54)},
    ("mobilenet_v2", "stride"): {80: (53.72, 26.132, 1.766, 372), 141: (44.36, 25.996, 1.516, 361)},
    ("mobilenet_v2", "dilation"): {80: (3.75, 5.730, 0.094, 52), 141: (3.73, 5.719, 0.094, 52)},
    ("mobilenet_v2", "size"): {80: (3.75, 5.730, 0.094, 52), 141: (3.73, 5.719, 0.094, 52)},
    ("densenet121", "stride"): {80: (242.75, 65.542, 2.594, 1449), 141: (195.84, 65.549, 2.281, 1433)},
    ("densenet121", "dilation"): {80: (24.42, 10.460, 0.141, 135), 141: (17.78, 10.420, 0.109, 135)},
    ("densenet121", "size"): {80: (30.77, 10.902, 0.156, 171), 141: (19.81, 10.883, 0.109, 150)},
}
"""(model, attribute) -> GB of the GPU -> kernels launched, GB moved and chunks for each image, distinct convolutions.

In bf16, 64 images at once. `python benchmarks/roofline.py --table` prints it anew.
"""
RISE = 1.02
"""A count may fall, and is then to be written down; it may not rise by more."""


@pytest.fixture
def counts(repository, monkeypatch):
    """benchmarks/counts.py, which counts kernels on shapes."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module("counts")


@pytest.mark.parametrize(("name", "attribute"), TABLE)
def test_a_sweep_launches_moves_and_splits_no_more_than_it_did(name, attribute, counts, repository, monkeypatch):
    program = program_on_shapes(name, attribute)
    found = {}
    for budget_gb in (80, 141):
        seen, each = counts.kernels(program, budget_gb * GB)
        found[budget_gb] = (each.launches, each.bytes / GB, each.chunks, len(seen.convolutions))
    assert_documented(name, attribute, each, repository)
    for budget_gb, allowed in TABLE[name, attribute].items():
        for now, before in zip(found[budget_gb], allowed, strict=True):
            assert now <= RISE * before, f"{budget_gb} GB: {found[budget_gb]} where {allowed} was"
    if attribute != "stride":
        return  # few shapes, and rows of whole prefixes anyway
    monkeypatch.setattr(tree, "rounded", lambda rows, images: rows)
    unrounded, each = counts.kernels(program, 141 * GB)
    assert found[141][3] <= len(unrounded.convolutions), "rounding the rows is for fewer convolutions"
    assert found[141][0] <= 1.07 * each.launches, "and not for many more kernels"


def assert_documented(name, attribute, each, repository):
    """That docs/performance.md's table is of the sweep as it is."""
    text = (repository / "results" / "networks" / "roofline.jsonl").read_text(encoding="utf-8")
    (row,) = [r for r in map(json.loads, text.splitlines()) if (r["model"], r["attr"]) == (name, attribute)]
    for key in ("launches", "bytes", "macs", "chunks", "bound_s"):
        now = getattr(each, key)
        assert now == pytest.approx(row[key], rel=0.1), f"{key}: `python benchmarks/roofline.py`, then `make tables`"


def test_the_table_is_of_the_twelve_sweeps(counts):
    assert tuple(TABLE) == counts.SWEEPS and all(set(row) == {80, 141} for row in TABLE.values())


def test_kernels_are_counted_as_a_gpu_runs_them(counts):
    x = torch.empty(2, 8, 6, 6, device="meta", dtype=torch.bfloat16)
    weight, bias = torch.empty(4, 8, 3, 3, device="meta", dtype=torch.bfloat16), torch.empty(4, device="meta")
    with torch.inference_mode(), counts.Kernels() as seen:
        out = torch.relu_(nn.functional.conv2d(x, weight, bias.bfloat16(), padding=1).flatten(1))
        rows = out.unflatten(1, (4, 6, 6))[:1].index_select(0, torch.empty(3, device="meta", dtype=torch.int64))
        rows.contiguous()
    made, cast = 2 * out.numel(), 4 * 4 + 2 * 4
    convolved = 2 * (x.numel() + weight.numel()) + made
    biased, activated, selected = 2 * made + 2 * 4, 2 * made, 2 * 2 * rows.numel()
    assert seen.launches == 5
    assert seen.bytes == cast + convolved + biased + activated + selected
    assert seen.macs == out.numel() * 8 * 9
    assert seen.bound_s == pytest.approx(seen.bytes / counts.BYTES_PER_S)
    assert [(key.x, key.bias, count) for key, count in seen.convolutions.items()] == [((2, 8, 6, 6), True, 1)]


def test_what_others_hold_of_a_gpu_is_not_budgeted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GB, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 2 * GB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 1
