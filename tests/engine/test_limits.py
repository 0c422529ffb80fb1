"""What bounds the rows of a chunk on a large GPU, counted on shapes alone."""

import pytest
import torch
from torch import nn

from itd.device import MOST_ELEMENTS
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.sizes import LargestValue
from itd.engine.tree import TreeExecutor, default_budget_bytes
from itd.patcher import MODELS, build_model, model_space, parse_sites, patch

SHAPE = (3, 224, 224)
GB = 10**9


def program_on_shapes(name, attribute, swept=None):
    """A registered network's whole space in bf16, or that of some sites, on the meta device."""
    with torch.device("meta"):
        model = patch(build_model(name, 1000), name)
    space = model_space(model, [attribute], entry=MODELS[name], swept=swept)
    return compile_program(model, space, device="meta", precision=Precision("bf16"))


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
    executor = TreeExecutor(program_on_shapes("mobilenet_v2", "dilation", ["D"]), budget_bytes=141 * GB)
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


def test_what_others_hold_of_a_gpu_is_not_budgeted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GB, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 2 * GB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 141 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GB)
    assert default_budget_bytes(torch.device("cuda", 0)) == 1
