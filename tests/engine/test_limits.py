"""What bounds the rows of a chunk on a large GPU, counted on shapes alone."""

import functools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from itd.device import MOST_ELEMENTS
from itd.engine import tree
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.sizes import LargestValue
from itd.engine.tree import TreeExecutor, default_budget_bytes
from itd.patcher import MODELS, build_model, model_space, parse_sites, patch

SHAPE = (3, 224, 224)
GB = 10**9


@functools.cache
def program_on_shapes(name, attribute, swept=None):
    """A registered network's whole space in bf16, or that of some sites, on the meta device."""
    with torch.device("meta"):
        model = patch(build_model(name, 1000), name)
    space = model_space(model, [attribute], entry=MODELS[name], swept=swept)
    return compile_program(model, space, device="meta", precision=Precision("bf16"))


class Launches(TorchDispatchMode):
    """Counts operators inside its block that are not views, and collects the shapes of convolutions."""

    def __init__(self):
        super().__init__()
        self.count, self.shapes = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        if "conv" in func.__name__:
            self.shapes.add((tuple(args[0].shape), tuple(args[1].shape), str(args[3:])))
        return func(*args, **(kwargs or {}))


def launched(program):
    """(distinct convolutions, launches) of 64 images in a sixteenth of 141 GB."""
    executor = TreeExecutor(program, budget_bytes=141 * GB // 16)
    with Launches() as launches:
        executor.run(images(64), ignore)
    return len(launches.shapes), launches.count


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
def test_no_value_of_a_tree_has_more_elements_than_a_gpu_indexes(name, attribute):
    program = program_on_shapes(name, attribute)
    TreeExecutor(program, budget_bytes=GB).run(images(1), ignore)  # the costs are counted, on many rows at once
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
    ("resnet50", "stride"): (313, 1842, 296, 1829),
    ("resnet50", "dilation"): (54, 257, 54, 257),
    ("resnet50", "size"): (73, 542, 73, 542),
    ("resnext50_32x4d", "stride"): (304, 1873, 279, 1864),
    ("resnext50_32x4d", "dilation"): (54, 257, 54, 257),
    ("resnext50_32x4d", "size"): (54, 257, 54, 257),
    ("mobilenet_v2", "stride"): (380, 1766, 361, 1748),
    ("mobilenet_v2", "dilation"): (52, 158, 52, 158),
    ("mobilenet_v2", "size"): (52, 158, 52, 158),
    ("densenet121", "stride"): (1533, 9720, 1433, 10297),
    ("densenet121", "dilation"): (133, 641, 133, 641),
    ("densenet121", "size"): (148, 771, 148, 771),
}
"""Distinct convolutions and launches for 64 images: with as many rows as fit, and with rounded ones, which are run."""


@pytest.mark.parametrize(("name", "attribute"), TABLE)
def test_rows_are_rounded_so_that_fewer_convolutions_occur(name, attribute, monkeypatch):
    program = program_on_shapes(name, attribute)
    TreeExecutor(program, budget_bytes=GB).run(images(1), ignore)
    after = launched(program)
    monkeypatch.setattr(tree, "rounded", lambda rows, images: rows)
    assert (*launched(program), *after) == TABLE[name, attribute]


def test_rounded_rows_are_no_worse_over_twelve_sweeps():
    before, _, after, _ = (sum(column) for column in zip(*TABLE.values(), strict=True))
    assert len(TABLE) == 12 and after < before
    assert all(after <= before and more <= 1.07 * few for before, few, after, more in TABLE.values())


def test_what_others_hold_of_a_gpu_is_not_budgeted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GB, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 2 * GB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 1
