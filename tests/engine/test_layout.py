"""Maps stay channels-last: one that crosses a stage otherwise would be copied by every convolution that reads it."""

import itertools

import pytest
import torch

from itd.engine.program import compile_program
from itd.patcher import MODELS, model_space, patch
from support.engine import CheckedTree, is_channels_last

FAMILIES = ("resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121")
OPTIONS = {
    "stride": {"A": (1, 2), "B": (2,), "C": (0.5, 2), "D": (1, 2, 3)},
    "dilation": {"A": (1, 2), "B": (1,), "C": (3,), "D": (1, 5)},
    "size": {"A": (1, 3), "B": (3,), "C": (5,), "D": (3, 9)},
}


def checked_tree(network, name, attribute, **how):
    """The tree of a few configurations, of which some prefixes do not take all settings of a site."""
    model = patch(network, name)
    options = {(site, attribute): values for site, values in OPTIONS[attribute].items()}
    if attribute == "stride" and name == "resnet18":
        del options["A", "stride"]  # there is no layer whose stride it could take
    space = model_space(model, [attribute], options=options, entry=MODELS[name], stride_range=(1, 288))
    space = space.without(range(1, len(space), 5), "left out here")
    return CheckedTree(compile_program(model, space, **how), budget_bytes=1 << 20)


@pytest.mark.parametrize(("name", "attribute"), list(itertools.product(FAMILIES, OPTIONS)))
def test_every_map_that_crosses_a_stage_is_channels_last(name, attribute, random_network):
    tree = checked_tree(random_network(name), name, attribute)
    tree.run(torch.randn(2, 3, 64, 64), lambda *_: None)
    assert tree.crossed >= len(tree.space)
    assert any((fork.children < 0).any() for fork in tree.prefixes.forks), "no rows were selected"


def test_a_map_in_another_layout_would_be_seen(random_network):
    tree = checked_tree(random_network("resnet18"), "resnet18", "dilation")
    node = next(node for node in tree.stages[0].nodes if node.id in tree.stages[0].leaving)
    node.op = Contiguous(node.op)
    with pytest.raises(AssertionError):
        tree.run(torch.randn(2, 3, 64, 64), lambda *_: None)
    assert not is_channels_last(torch.randn(2, 3, 4, 4)) and is_channels_last(
        torch.randn(2, 4, 4, 3).permute(0, 3, 1, 2)
    )


class Contiguous:
    """An operator that makes its maps channel after channel."""

    def __init__(self, op):
        self.op = op

    def __call__(self, *args, **kwargs):
        return self.op(*args, **kwargs).contiguous()

    def __getattr__(self, name):
        return getattr(self.op, name)
