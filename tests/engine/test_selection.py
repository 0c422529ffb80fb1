"""Rows of a prefix are selected as they lie in memory: the same values as the plain form, channels-last."""

import pytest
import torch

from itd.engine.tree import maps_of
from itd.patcher import MODELS, model_space, patch
from support import engine

CHANNELS_LAST = torch.channels_last


def plain(maps, index):
    return maps.index_select(0, index).contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(7, 5, 4, 3), (7, 1, 4, 3), (7, 5, 1, 1), (1, 5, 4, 3)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
def test_rows_are_those_of_the_plain_form(shape, dtype, memory_format):
    maps = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    maps = maps.contiguous(memory_format=memory_format)
    for rows in ([0], range(shape[0]), range(shape[0] - 1, -1, -2), []):
        index = torch.tensor(list(rows), dtype=torch.int64)
        found = maps_of(maps, index)
        assert torch.equal(found, plain(maps, index))
        assert found.is_contiguous(memory_format=CHANNELS_LAST)
        assert not len(found) or found.data_ptr() != maps.data_ptr()


def test_a_cut_out_of_maps_is_selected_as_well():
    maps = torch.arange(2 * 6 * 8 * 8.0).view(2, 6, 8, 8)[:, ::2, 1::2]
    assert torch.equal(maps_of(maps, torch.tensor([1])), plain(maps, torch.tensor([1])))


def test_logits_of_a_tree_are_bit_identical_to_those_of_the_plain_form(random_network, monkeypatch):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["stride"], entry=MODELS["resnet18"], swept=["B", "D"])
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calls = []
    monkeypatch.setattr("itd.engine.tree.maps_of", lambda maps, index: calls.append(len(index)) or maps_of(maps, index))
    found = engine.logits(engine.tree(model, space), pixels, 10)
    monkeypatch.setattr("itd.engine.tree.maps_of", plain)
    assert calls and torch.equal(found, engine.logits(engine.tree(model, space), pixels, 10))
