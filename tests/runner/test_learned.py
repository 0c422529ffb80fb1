"""Networks with learned dynamic convolutions in the oracle: the tree equals plain forwards, and costs add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itd.layers.models import LEARNED, OPS, learned_name
from itd.patcher import MODELS, model_space, patch
from itd.runner.plain import PlainExecutor
from itd.runner.request import walks
from itd.runner.tree import TreeExecutor

NAMES = [learned_name("cifar-resnet18", op) for op in OPS]


def logits(executor, pixels, configs: int) -> torch.Tensor:
    out = torch.full((configs, len(pixels), 10), float("nan"))

    def keep(numbers, images, values):
        out[torch.from_numpy(np.asarray(numbers)), torch.from_numpy(np.asarray(images))] = values.float().cpu()

    executor.run(pixels, keep)
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attribute", ["stride", "size"])
def test_the_tree_equals_plain_forwards(random_network, name, attribute):
    model = patch(random_network(name), name).eval()
    options = {("B", attribute): (1, 3), ("C", attribute): (0.5, 2) if attribute == "stride" else (3, 5)}
    space = model_space(model, [attribute], entry=MODELS[name], swept=["B", "C"], options=options)
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32)
    plain = logits(PlainExecutor(model, space), pixels, len(space))
    for budget in (None, 1 << 16):  # also one row at a time: a kernel belongs to its own row
        tree = logits(TreeExecutor(model, space, budget_bytes=budget), pixels, len(space))
        assert (tree - plain).abs().max() < 1e-4 * plain.abs().max()
    assert (plain[0] - plain[1]).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_forward_costs_what_the_list_of_models_says(random_network, name):
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    plain, _ = walks(model, space, 32)
    assert plain.per_config[space.default] == LEARNED[name].macs


def test_a_kernel_for_each_row_is_memory_that_a_chunk_needs(random_network):
    """CondConv's last kernels are 512 x 512 x 3 x 3 floats for each row: 9.4 MB beside maps of 32 kB."""
    name = "cifar-resnet18+condconv"
    model = patch(random_network(name), name).eval()
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    executor = TreeExecutor(model, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) <= (48 << 20) // (4 * 512 * 512 * 9)
    alike = patch(random_network("cifar-resnet18"), "cifar-resnet18").eval()
    executor = TreeExecutor(alike, space, budget_bytes=48 << 20)
    executor.run(torch.randn(1, 3, 32, 32), lambda *_: None)
    assert min(executor._limits.values()) > 10
