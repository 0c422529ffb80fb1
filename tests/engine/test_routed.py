"""The really dynamic network against plain forwards, one image at a time; and that nothing else is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itd.engine.plain import PlainExecutor
from itd.engine.routed import pooled, pooling_macs
from itd.engine.tree import run_nodes
from itd.errors import SpaceError
from itd.patcher import MODELS, model_space, patch
from support import engine


def dynamic(random_network, name: str, attributes: list[str], **space):
    model = patch(random_network(name), name).eval()
    return model, model_space(model, attributes, entry=MODELS[name], **space)


def plainly(model, space, pixels, configs) -> torch.Tensor:
    plain, found = PlainExecutor(model, space), []
    for image, config in enumerate(configs):
        plain.run(pixels[image : image + 1], lambda c, i, logits: found.append(logits[0]), configs=[int(config)])
    return torch.stack(found)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mobilenet_v2", "densenet121"])
@pytest.mark.parametrize("attribute", ["stride", "size"])
def test_each_image_runs_its_own_configuration(random_network, name, attribute):
    model, space = dynamic(random_network, name, [attribute], stride_range=(4, 32))
    torch.manual_seed(1)
    pixels = torch.randn(6, 3, 96, 96)
    configs = np.random.default_rng(2).integers(0, len(space), 6)
    configs[3] = configs[0]
    network = engine.routed(model, space)
    expected = plainly(model, space, pixels, configs)
    for choose in (configs, lambda frontier, images: configs[images]):
        found = network.logits(pixels, choose)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
        assert network.chosen.tolist() == configs.tolist()


def test_a_small_budget_changes_nothing(random_network):
    model, space = dynamic(random_network, "resnet18", ["stride"])
    torch.manual_seed(1)
    pixels, configs = torch.randn(5, 3, 64, 64), np.array([7, 90, 7, 0, 33])
    small = engine.routed(model, space, budget_bytes=1 << 18).logits(pixels, lambda frontier, images: configs[images])
    assert torch.allclose(small, engine.routed(model, space).logits(pixels, configs), atol=1e-5)


def test_the_frontier_is_where_the_first_swept_site_is(random_network):
    """Also where the listed configurations do not move it, so that what a selector learnt from stays the same."""
    model, space = dynamic(random_network, "resnet18", ["dilation"], options={("A", "dilation"): [1]})
    pixels = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        x = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
    (found,) = engine.routed(model, space, swept=("A", "B", "C", "D")).frontier(pixels).values()
    assert torch.allclose(found, x, atol=1e-4)
    assert np.allclose(pooled({3: x}), np.concatenate([x.mean((2, 3)), x.std((2, 3), correction=0)], 1), atol=1e-5)
    assert pooling_macs({3: x, 4: x[:, :, 0, 0]}) == 2 * 64 * 16 * 16
    with torch.inference_mode():
        shortcut = model.layer1(x)  # what site B's block reads: its convolution and its projection
    later = engine.routed(model, space, swept=("B", "C", "D")).frontier(pixels)
    assert any(v.shape == shortcut.shape and torch.allclose(v, shortcut, atol=1e-3) for v in later.values())


@pytest.mark.parametrize("most", [None, 1, 2])
def test_the_frontier_is_made_in_pieces_that_fit(random_network, monkeypatch, most):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], entry=MODELS["resnet18"], swept=["D"])
    pixels = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = engine.routed(model, space, budget_bytes=1 << 30).frontier(pixels)
    network, sizes = engine.routed(model, space, budget_bytes=1 if most is None else 1 << 30), []

    def scarce(stage, values, rows):
        sizes.append(rows)
        if most is not None and rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_nodes(stage, values, rows)

    monkeypatch.setattr("itd.engine.routed.run_nodes", scarce)
    found = network.frontier(pixels)
    assert max(sizes[-2:]) <= (most or 1) and found.keys() == whole.keys()
    assert all(torch.allclose(found[i], whole[i], atol=1e-5) for i in whole)


def test_a_configuration_that_is_not_there_is_refused(random_network):
    model, space = dynamic(random_network, "resnet18", ["dilation"], swept=["D"])
    with pytest.raises(SpaceError, match="no such configuration among 5: 5 to 5"):
        engine.routed(model, space).logits(torch.zeros(1, 3, 64, 64), np.array([5]))


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same_network(random_network, cuda):
    model, space = dynamic(random_network, "resnet18", ["stride"])
    torch.manual_seed(1)
    pixels, configs = torch.randn(6, 3, 64, 64), np.array([0, 94, 17, 17, 40, 41])
    expected = engine.routed(model, space).logits(pixels, configs)
    found = engine.routed(model, space, device=cuda).logits(pixels, lambda frontier, images: configs[images])
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
