"""Values that siblings share: read where they are, and the same as if they had been copied together."""

from __future__ import annotations

import pytest
import torch

from itd.engine import ops
from itd.engine.graph import Node, Ref, build_graph
from itd.engine.ops import AddOp, ConvOp
from itd.engine.pieces import Pieces, whole
from itd.engine.plain import PlainExecutor
from itd.engine.program import compile_program
from itd.engine.stages import _added, moving
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor
from itd.patcher import MODELS, model_space, patch
from tests.engine.test_dense import patched
from tests.support.engine import logits, maps
from tests.support.networks import MyNet


def some_pieces():
    a, b, c = maps(3, 4, 2, 2), maps(2, 4, 2, 2, seed=1), maps(1, 4, 2, 2, seed=2)
    return Pieces.of([a, a, Pieces([a, b]), b, c, a[1:], a[1:], a[:1], b[:0], c])


def test_pieces_are_the_rows_of_their_tensors():
    pieces = some_pieces()
    joined = pieces.joined()
    assert pieces.shape == joined.shape == (20, 4, 2, 2) and whole(pieces).equal(joined) and whole(3) == 3
    for first in range(20):
        for last in range(first + 1, 21):
            part = pieces.rows(first, last)
            assert whole(part).equal(joined[first:last])
            assert isinstance(part, Pieces) == (len(getattr(part, "tensors", [0])) > 1)


def test_what_comes_several_times_is_added_at_once():
    pieces = some_pieces()
    times = [(rows.stop - rows.start, len(tensor), times) for rows, tensor, times in pieces.repeats()]
    assert times == [(9, 3, 3), (4, 2, 2), (1, 1, 1), (4, 2, 2), (1, 1, 1), (0, 0, 1), (1, 1, 1)]
    out = maps(20, 4, 2, 2, seed=3)
    expected = out + pieces.joined()
    assert pieces.add_to(out) is out and out.equal(expected)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_convolution_adds_pieces_as_it_adds_their_rows(packed, finished, activation):
    from itd.engine.kernels import finish_plain

    op = ConvOp(maps(4, 3, 3, 3), torch.linspace(-1, 1, 4), (1, 1), (1, 1), (1, 1), 1, activation)
    op.packed = op.packed if packed else None
    op.finish = finish_plain if finished else None
    x, pieces = maps(20, 3, 2, 2, seed=4), some_pieces()
    assert torch.allclose(op(x, pieces), op(x, pieces.joined()), atol=1e-6)


@pytest.mark.parametrize("budget_bytes", [1, 100_000, 400_000, 1 << 30])
@pytest.mark.parametrize("sites", ["first layers", "middle layers", "one block"])
def test_a_tree_that_adds_pieces_is_the_plain_network(sites, budget_bytes, monkeypatch):
    monkeypatch.setattr(ops, "can_fuse", lambda weight: False)
    added = []
    own = ConvOp._run_on_pieces
    monkeypatch.setattr(ConvOp, "_run_on_pieces", lambda op, x, other: added.append(len(other)) or own(op, x, other))
    model, space = patched(sites)
    expected = logits(PlainExecutor(model, space), maps(3, 3, 32, 32), 5)
    found = logits(TreeExecutor(compile_program(model, space), budget_bytes=budget_bytes), maps(3, 3, 32, 32), 5)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert bool(added) == (budget_bytes > 1)


@pytest.mark.parametrize("attribute", ["stride", "dilation"])
def test_residuals_that_a_space_leaves_in_place_are_added_by_the_convolution(attribute, random_network, monkeypatch):
    monkeypatch.setattr(ops, "can_fuse", lambda weight: False)
    model = patch(random_network("resnet50"), "resnet50")
    options = {(site, attribute): (1, 2) for site in "AD"}
    space = model_space(model, [attribute], entry=MODELS["resnet50"], swept=["A", "D"], options=options)
    graph = build_graph(trace(model), torch.float32, "cpu", moving=moving(model, space))
    kept = sum(isinstance(node.op, AddOp) for node in graph.nodes)
    # by a projection that takes a stride itself the sum waits for the branch; 16 blocks have one each
    assert kept == {"stride": 2, "dilation": 0}[attribute]
    pixels = maps(2, 3, 64, 64)
    expected = logits(PlainExecutor(model, space), pixels, 10)
    for budget_bytes in (None, 3_000_000):
        found = logits(TreeExecutor(compile_program(model, space), budget_bytes=budget_bytes), pixels, 10)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_of_two_convolutions_whose_sum_is_taken_one_adds_the_other():
    model = patch(MyNet().eval(), {"A": ["stem.conv"]})
    space = model_space(model, ["dilation"], options={("A", "dilation"): (1, 2)})
    graph = build_graph(trace(model), torch.float32, "cpu", moving=moving(model, space))
    assert [len(node.args) for node in graph.nodes if isinstance(node.op, ConvOp)] == [1, 2]
    assert not any(isinstance(node.op, AddOp) for node in graph.nodes)
    found = logits(TreeExecutor(compile_program(model, space)), maps(2, 3, 32, 32), 5)
    expected = logits(PlainExecutor(model, space), maps(2, 3, 32, 32), 5)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_value_that_is_convolved_and_added_to_itself_is_not_left_in_pieces():
    conv = ConvOp(maps(4, 4, 1, 1), None, (1, 1), (0, 0), (1, 1), 1)
    nodes = [Node(3, conv, (Ref(1), Ref(1))), Node(4, conv, (Ref(3), Ref(2)))]
    assert _added(nodes, {1, 2, 5}) == {2, 5}
