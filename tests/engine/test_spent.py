"""Where a convolution may write over what it adds: only where nothing reads that again, by whatever name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from itd.engine.op import ACTIVATIONS
from itd.engine.ops import ConvOp
from itd.engine.plain import PlainExecutor
from itd.patcher import model_space, patch
from tests.support.engine import logits, maps, tree


class Residual(nn.Module):
    """A site and two blocks after it that add what they began with. after: what else reads the second one's addend."""

    def __init__(self, after):
        super().__init__()
        self.site = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second, self.third = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.head, self.after = nn.Linear(8, 5), after

    def forward(self, x):
        x = self.site(x).relu()
        x = self.first(x)
        y = self.second(x.relu() if self.after == "activated" else x)
        seen = x.flatten(2).transpose(1, 2) if self.after == "a view" else None
        if self.after == "an addition":
            y = y + x
        y = self.third(y) + x
        if self.after == "another reader":
            y = y + x
        if seen is not None:
            y = y + seen.transpose(1, 2).unflatten(2, y.shape[2:])
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize(
    ("after", "count"),
    [("nothing", 1), ("a view", 0), ("an addition", 1), ("another reader", 0), ("activated", 0)],
)
def test_only_what_nothing_reads_again_is_written_over(after, count):
    torch.manual_seed(0)
    model = patch(Residual(after).eval(), {"A": "site"})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2, 3)})
    executor = tree(model, space)
    assert sum(len(stage.spent) for stage in executor.stages) == count
    pixels = maps(4, 3, 9, 9)
    made, expected = (logits(e, pixels, 5) for e in (executor, PlainExecutor(model, space)))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


class Carried(nn.Module):
    """Adds what was made before the site, which its other settings read too."""

    def __init__(self):
        super().__init__()
        self.first, self.site, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x)
        return self.head((self.last(self.site(x).relu()) + x).mean((2, 3)))


def test_what_several_settings_read_is_not_written_over():
    torch.manual_seed(0)
    model = patch(Carried().eval(), {"A": "site"})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2, 3)})
    executor = tree(model, space)
    assert not any(stage.spent for stage in executor.stages)
    pixels = maps(4, 3, 9, 9)
    made, expected = (logits(e, pixels, 5) for e in (executor, PlainExecutor(model, space)))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_the_output_takes_the_place_of_what_is_added(dtype, activation):
    weight, x, other = maps(32, 16, 1, 1, dtype=dtype), maps(3, 16, 5, 5, dtype=dtype), maps(3, 32, 5, 5, dtype=dtype)
    op = ConvOp(weight, torch.linspace(-1, 1, 32), (1, 1), (0, 0), (1, 1), 1, activation)
    with torch.inference_mode():
        expected = op(x, other)
        kept = other.clone()
        assert torch.equal(op(x, other), expected) and torch.equal(other, kept)
        made = op(x, other, spent=True)
    assert made.data_ptr() == other.data_ptr() and torch.equal(made, expected)
    own = torch.nn.functional.conv2d(x.float(), weight.float(), op.bias) + kept.float()
    own = ACTIVATIONS[activation](own) if activation else own
    assert (made.float() - own).abs().max() <= (1e-6 if dtype == torch.float32 else 1e-2) * own.abs().max()


def test_what_is_added_stays_where_it_has_another_shape():
    op = ConvOp(maps(32, 16, 1, 1), None, (1, 1), (0, 0), (1, 1), 1)
    x, other = maps(3, 16, 5, 5, seed=1), maps(1, 32, 1, 1, seed=2)
    kept = other.clone()
    assert op(x, other, spent=True).shape == (3, 32, 5, 5) and torch.equal(other, kept)
