"""Networks that few write and everybody may: the tree gives their logits too, and does not refuse or misread them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.engine.check import check_tree
from itd.engine.dense import ClampOp, channels_of
from itd.engine.graph import Node, Ref
from itd.engine.ops import ConvOp
from itd.engine.pieces import Pieces
from itd.engine.plain import PlainExecutor, widen_head
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.torch_ops import FunctionOp
from itd.engine.tree import TreeExecutor
from itd.errors import ItdError
from itd.patcher import model_space, patch
from tests.support.engine import logits

CL = torch.channels_last


class Parts(nn.Module):
    """Layers to make networks of: two sites, and what stands around them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.one, self.mix, self.mix2 = nn.Conv2d(6, 1, 1), nn.Conv2d(18, 6, 1), nn.Conv2d(18, 6, 1)
        self.left, self.right, self.norm = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.place = nn.Parameter(torch.randn(1, 6, 8, 8))
        self.halves = nn.ParameterList([torch.randn(6, 3, 1, 1), torch.randn(6, 3, 1, 1)])
        self.head, self.between = nn.Linear(6, 6), nn.LayerNorm(6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.head.weight

    def maps(self, x):
        return self.b(self.a(self.stem(x)))


def mean(x):
    return x.mean((2, 3))


class LaterAlone(Parts):
    """What a deeper layer reads as its early parts is what an earlier one read as its late parts."""

    def forward(self, x):
        first = self.stem(x)
        y = self.a(first)
        left, right = F.relu(self.left(y)), F.relu(self.right(y))
        z = self.b(self.mix(torch.cat([first, left, right], 1)))
        return self.head(mean(self.mix2(torch.cat([left, right, z], 1))))


class OneToMany(Parts):
    """A convolution of one output channel that is added to six."""

    def forward(self, x):
        y = self.stem(x)
        z = self.a(y)
        return self.head(mean(self.b(self.mix(torch.cat([self.one(y) + y, F.max_pool2d(z, 3, 1, 1), z], 1)))))


class AddsABool(Parts):
    def forward(self, x):
        y = self.a(self.stem(x))
        return self.head(mean(self.b(self.left(y) + (y > 0))))


class AddsADouble(Parts):
    def forward(self, x):
        y = self.a(self.stem(x))
        return self.head(mean(self.b((self.left(y) + y.double()).to(y.dtype))))


class JoinsParameters(Parts):
    def forward(self, x):
        return self.head(mean(F.conv2d(self.maps(x), torch.cat([self.halves[0], self.halves[1]], 1))))


class ConvolvesAParameter(Parts):
    def forward(self, x):
        return self.head(mean(self.maps(x) + F.relu(self.norm(self.left(self.place)))))


class AddsParameters(Parts):
    def forward(self, x):
        both = self.halves[0] * 2 + self.halves[1] * 2
        return self.head(mean(F.conv2d(self.maps(x), F.relu(torch.cat([both, both], 1)))))


class ReadsTheHead(Parts):
    def forward(self, x):
        return self.head(F.linear(mean(self.maps(x)), self.head.weight))


class RunsTheHeadTwice(Parts):
    def forward(self, x):
        return self.head(self.between(self.head(mean(self.maps(x)))))


class TiesTheHead(Parts):
    def forward(self, x):
        return self.head(self.tied(mean(self.maps(x))))


UNUSUAL = (
    LaterAlone,
    OneToMany,
    AddsABool,
    AddsADouble,
    JoinsParameters,
    ConvolvesAParameter,
    AddsParameters,
    ReadsTheHead,
    RunsTheHeadTwice,
    TiesTheHead,
)


def patched(kind, attribute="dilation"):
    model = patch(kind().eval(), {"A": ["a"], "B": ["b"]})
    options = {(site, attribute): (1, 2) for site in "AB"}
    return model, model_space(model, [attribute], options=options, stem_stride=1, stride_range=(1, 64))


def pixels():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("budget_bytes", [None, 1])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_the_tree_is_the_network(kind, budget_bytes):
    model, space = patched(kind)
    program = compile_program(model, space)
    check_tree(program, (3, 8, 8), kind.__name__)
    found = logits(TreeExecutor(program, budget_bytes=budget_bytes), pixels(), 6)
    expected = logits(PlainExecutor(model, space), pixels(), 6)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", [kind for kind in UNUSUAL if kind is not AddsADouble])
def test_in_bf16_both_run_and_stay_near(kind):
    model, space = patched(kind)
    expected = logits(PlainExecutor(model, space), pixels(), 6)
    bf16 = Precision("bf16")
    for executor in (
        PlainExecutor(model, space, precision=bf16),
        TreeExecutor(compile_program(model, space, precision=bf16)),
    ):
        found = logits(executor, pixels(), 6)
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
        assert (found != found.bfloat16().float()).any()  # made in float32


def test_a_plain_forward_s_last_layer_is_not_rounded():
    whole = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    x = torch.randn(4, 3, 2, 2).bfloat16()
    narrow = copy.deepcopy(whole).bfloat16()
    widen_head(narrow, x, whole)
    assert torch.equal(narrow(x), whole(x.float()))


@pytest.mark.parametrize("added", [torch.float64, torch.bool, torch.int64, torch.bfloat16])
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_convolution_adds_values_of_another_type_as_torch_does(added, pieces, packed):
    op = ConvOp(torch.randn(4, 3, 3, 3), torch.randn(4), (1, 1), (1, 1), (1, 1), 1, "relu")
    op.packed = op.packed if packed else None
    x, other = torch.randn(4, 3, 5, 5), (torch.randn(4, 4, 5, 5) * 2).to(added)
    expected = F.relu(F.conv2d(x, op.weight, op.bias, padding=1) + other)
    found = op(x, Pieces([other[:2], other[2:]]) if pieces else other)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)


def test_channels_are_only_said_where_an_addition_cannot_widen_them():
    wide, narrow = (ConvOp(torch.randn(n, 6, 1, 1), None, (1, 1), (0, 0), (1, 1), 1) for n in (6, 1))
    assert channels_of(Node(2, wide, (Ref(0),)), {}) == channels_of(Node(2, wide, (Ref(0), Ref(1))), {}) == 6
    assert channels_of(Node(2, narrow, (Ref(0),)), {}) == 1
    assert channels_of(Node(2, narrow, (Ref(0), Ref(1))), {}) is None
    assert channels_of(Node(2, FunctionOp(torch.sin), (Ref(0),)), {}) is channels_of(None, {}) is None


class Silent(Parts):
    """A normalisation of a channel that hardly varied: its shift is thousands of times the others."""

    def __init__(self, shift):
        super().__init__()
        self.norm.bias.data[2] = shift

    def forward(self, x):
        return self.head(mean(self.b(self.left(F.relu(self.norm(self.a(self.stem(x)) * 1.0))))))


@pytest.mark.parametrize(("shift", "clamps"), [(-3.0, True), (-3e5, False)])
def test_no_clamp_where_a_shift_would_cancel(shift, clamps):
    model, space = patched(lambda: Silent(shift))
    program = compile_program(model, space)
    assert any(isinstance(node.op, ClampOp) for node in program.graph.nodes) == clamps
    found = logits(TreeExecutor(program), pixels(), 6)
    expected = logits(PlainExecutor(model, space), pixels(), 6)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("how", ["times", "plus"])
def test_a_parameter_with_places_of_its_own_meets_a_stride_as_in_the_network(how):
    class Placed(Parts):
        def forward(self, x):
            y, place = self.maps(x), F.relu(self.place * 2)
            return self.head(mean(y * place if how == "times" else y + place))

    model, space = patched(Placed, "stride")
    with pytest.raises(RuntimeError, match="size of tensor"):
        PlainExecutor(model, space).run(pixels(), lambda *_: None)
    with pytest.raises(ItdError, match=r"stride=2.* does not fit the network"):
        compile_program(model, space).prefix_costs((3, 8, 8))


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (3, 3), (4, 0)])
def test_maps_of_two_sizes_are_not_joined_where_the_network_cannot(stride, padding):
    """At stride 4 the maps are 8 x 8 and 2 x 2; a convolution of each might be 4 x 4 and 1 x 1, or as large."""

    class Joined(Parts):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(18, 6, 1 if not padding else 3, stride, padding, max(1, padding))

        def forward(self, x):
            first = self.stem(x)
            late = F.relu(self.a(self.b(first)))
            return self.head(mean(self.last(torch.cat([first, late, first], 1))))

    model = patch(Joined().eval(), {"A": ["a"], "B": ["b"]})
    space = model_space(model, ["stride"], options={("A", "stride"): (1, 4), ("B", "stride"): (1,)}, stem_stride=1)
    with pytest.raises(ItdError, match="a concatenation meets"):
        compile_program(model, space).prefix_costs((3, 8, 8))
