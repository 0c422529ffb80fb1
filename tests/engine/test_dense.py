"""Shared sums, clamps and maps that grow in place, each against the plain network and counted by what is executed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itd.engine.dense import AppendOp, ClampOp, RoomOp, clamped, grown, shared
from itd.engine.graph import Graph, Node, Ref, build_graph
from itd.engine.kernels import finish_plain, normalise_plain
from itd.engine.op import ShapeError
from itd.engine.ops import BatchNormOp, CatOp, ConvOp
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.stages import levels
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor
from itd.patcher import model_space, patch
from tests.support.engine import logits, maps

CL = torch.channels_last


class Layer(nn.Module):
    """Normalisation, ReLU, 1x1, normalisation, ReLU, 3x3: a layer of DenseNet, with 2 * growth channels between."""

    def __init__(self, inputs, growth=4):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, parts):
        x = self.conv1(F.relu(self.norm1(torch.cat(parts, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class Dense(nn.Module):
    """Two blocks of four layers with a transition between, as DenseNet is built."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.first = nn.ModuleList(Layer(8 + 4 * i) for i in range(4))
        self.norm, self.conv, self.pool = nn.BatchNorm2d(24), nn.Conv2d(24, 12, 1, bias=False), nn.AvgPool2d(2, 2)
        self.second = nn.ModuleList(Layer(12 + 4 * i) for i in range(4))
        self.last, self.head = nn.BatchNorm2d(28), nn.Linear(28, 5)
        generator = torch.Generator().manual_seed(1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                nn.init.normal_(module.weight, 0.5, 0.7, generator=generator)  # some are negative
                nn.init.normal_(module.bias, 0, 0.5, generator=generator)
        with torch.no_grad():
            self.first[1].norm1.weight[3] = 0.0
            self.second[2].norm1.weight[5] = 1e-38

    def forward(self, x):
        parts = [self.stem(x)]
        for layer in self.first:
            parts.append(layer(list(parts)))
        x = self.pool(self.conv(F.relu(self.norm(torch.cat(parts, 1)))))
        parts = [x]
        for layer in self.second:
            parts.append(layer(list(parts)))
        return self.head(F.relu(self.last(torch.cat(parts, 1))).mean((2, 3)))


SITES = {
    "first layers": {"A": ["first.0.conv2"], "B": ["second.0.conv2"]},
    "middle layers": {"A": ["first.1.conv2"], "B": ["second.2.conv2"]},
    "last layers": {"A": ["first.3.conv2"], "B": ["second.3.conv2"]},
    "one block": {"A": ["first.0.conv2"], "B": ["first.2.conv2"]},
}


def patched(sites, attribute="dilation"):
    model = patch(Dense().eval(), SITES[sites])
    values = {"dilation": (1, 2, 3), "size": (1, 3, 5), "stride": (1, 2)}[attribute]
    return model, model_space(model, [attribute], options={(s, attribute): values for s in "AB"})


@pytest.mark.parametrize("attribute", ["dilation", "size"])
@pytest.mark.parametrize("sites", SITES)
@pytest.mark.parametrize("budget_bytes", [None, 1, 200_000])
def test_the_tree_is_the_plain_network_wherever_the_sites_are(sites, attribute, budget_bytes):
    model, space = patched(sites, attribute)
    pixels = maps(3, 3, 32, 32)
    expected = logits(PlainExecutor(model, space), pixels, 5)
    found = logits(TreeExecutor(compile_program(model, space), budget_bytes=budget_bytes), pixels, 5)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_half_precision_shares_sums_too_and_stays_near():
    model, space = patched("first layers")
    program = compile_program(model, space, precision=Precision("bf16"))
    found = logits(TreeExecutor(program), maps(2, 3, 32, 32), 5)
    expected = logits(PlainExecutor(model, space), maps(2, 3, 32, 32), 5)
    assert not any(isinstance(n.op, ClampOp) for n in program.graph.nodes)
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


def test_what_a_block_begins_with_is_convolved_once_for_all_siblings():
    model, space = patched("first layers")
    program = compile_program(model, space)
    macs = program.prefix_costs((3, 32, 32)).macs
    apart = compile_program(model, space, subsample=False).prefix_costs((3, 32, 32)).macs
    # 3 layers of 8 and a transition of 12 outputs read 8 channels of 16 x 16 pixels, which 3 siblings did each, and 1
    # does; in the second block 3 layers read 12 channels of 8 x 8, which 9 did each, and 3 do
    saved = 2 * (3 * 8 + 12) * 8 * 256 + 6 * 3 * 8 * 12 * 64
    assert apart - macs == saved
    counted = {"convolved": 0}
    own = ConvOp._run

    def run(self, x, *others):
        out = own(self, x, *others)
        counted["convolved"] += self.macs(out, x)
        return out

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(ConvOp, "_run", run)
        TreeExecutor(program).run(maps(1, 3, 32, 32), lambda *_: None)
    assert macs - counted["convolved"] == len(space) * 28 * 5  # the rest is the head


def test_a_graph_without_concatenations_is_left_as_it_is(random_network):
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], swept=["D"])
    graph = build_graph(trace(model), torch.float32, "cpu")
    assert shared(graph, levels(model, graph, space)) is graph
    assert clamped(graph).nodes == graph.nodes


def test_the_numbers_of_shared_sums_are_in_the_order_that_they_are_run():
    model, space = patched("middle layers")
    graph = build_graph(trace(model), torch.float32, "cpu")
    split = shared(graph, levels(model, graph, space))
    assert [node.id for node in split.nodes] == list(range(1, len(split.nodes) + 1))
    assert all(max(node.inputs(), default=0) < node.id for node in split.nodes)
    assert len(split.nodes) > len(graph.nodes) and split.output == split.nodes[-1].id


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 6)])
@pytest.mark.parametrize(
    ("scale", "bounds"),
    [
        ([2.0, -2.0, 0.5, -0.1, 0.0, 0.0, 1e-40, -1e-35], (True, True)),
        ([2.0, 1.0, 0.5, 0.1, 3.0, 0.2, 1.0, 1.0], (True, False)),
        ([-2.0, -1.0, -0.5, -0.1, -3.0, -0.2, -1.0, -1.0], (False, True)),
    ],
)
def test_a_clamp_and_a_convolution_are_normalisation_relu_and_convolution(bias, scale, bounds):
    scale = torch.tensor(scale)
    shift = torch.tensor([0.3, 0.3, -1.0, 2.0, 0.7, -0.7, 0.4, -0.4])
    weight, x = maps(6, 8, 1, 1, seed=1), maps(2, 8, 5, 5, seed=2) * 3
    nodes = (
        Node(1, BatchNormOp(scale, shift, "relu"), (Ref(0),)),
        Node(2, ConvOp(weight, bias, (1, 1), (0, 0), (1, 1), 1, "relu"), (Ref(1),)),
    )
    before, after = clamped(Graph(nodes, 2)).nodes
    assert isinstance(before.op, ClampOp) and before.op.channels == 8
    assert (before.op.low is not None, before.op.high is not None) == bounds
    normalised = (x.double() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).relu()
    expected = F.conv2d(normalised, weight.double(), None if bias is None else bias.double()).relu()
    assert (after.op(before.op(x)) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    "changed",
    [
        {"padding": (1, 1)},
        {"groups": 2},
        {"activation": None},
        {"readers": 2},
    ],
)
def test_no_clamp_where_a_shift_would_not_be_the_same_everywhere(changed):
    groups, padding = changed.get("groups", 1), changed.get("padding", (0, 0))
    conv = ConvOp(maps(6, 8 // groups, 1, 1), None, (1, 1), padding, (1, 1), groups)
    norm = BatchNormOp(torch.ones(8), torch.ones(8), changed.get("activation", "relu"))
    nodes = [Node(1, norm, (Ref(0),)), Node(2, conv, (Ref(1),))]
    nodes += [Node(3, conv, (Ref(1),))] * (changed.get("readers", 1) - 1)
    assert clamped(Graph(tuple(nodes), len(nodes))).nodes == tuple(nodes)


def test_maps_grow_in_place_and_leave_what_was_there():
    a, b, c = maps(2, 3, 4, 4), maps(2, 2, 4, 4, seed=1), maps(2, 4, 4, 4, seed=2)
    first = RoomOp(9)([a, b])
    assert torch.equal(first, torch.cat([a, b], 1))
    second = AppendOp()(first, [c])
    assert torch.equal(second, torch.cat([a, b, c], 1)) and torch.equal(first, torch.cat([a, b], 1))
    assert second.data_ptr() == first.data_ptr() and second.is_contiguous(memory_format=CL)
    with pytest.raises(ShapeError, match="concatenation meets"):
        RoomOp(9).meta([a.to("meta"), maps(2, 2, 1, 1).to("meta")])
    with pytest.raises(ShapeError, match="concatenation meets"):
        AppendOp().meta(a.to("meta"), [maps(2, 2, 1, 1).to("meta")])


def test_maps_that_another_stage_reads_or_that_more_than_clamps_read_do_not_grow():
    clamp = ClampOp(torch.zeros(4), torch.ones(4))
    nodes = [
        Node(1, CatOp(), ([Ref(0), Ref(9)],)),
        Node(2, clamp, (Ref(1),)),
        Node(3, CatOp(), ([Ref(0), Ref(9), Ref(2)],)),
        Node(4, clamp, (Ref(3),)),
    ]
    kinds = [type(node.op) for node in grown(nodes, {4})]
    assert kinds == [RoomOp, ClampOp, AppendOp, ClampOp]
    assert [type(node.op) for node in grown(nodes, {3, 4})] == [type(node.op) for node in nodes]
    read = [*nodes, Node(5, BatchNormOp(torch.ones(4), torch.ones(4)), (Ref(3),))]
    assert [type(node.op) for node in grown(read, {5})] == [type(node.op) for node in read]


def test_no_map_that_crosses_a_stage_is_part_of_a_wider_one():
    for sites in SITES:
        model, space = patched(sites)
        crossed = []

        class Watched(TreeExecutor):
            def _push(self, queues, number, segment, crossed=crossed):
                crossed.extend(v for v in segment.values.values() if isinstance(v, torch.Tensor) and v.ndim == 4)
                super()._push(queues, number, segment)

        Watched(compile_program(model, space)).run(maps(2, 3, 32, 32), lambda *_: None)
        assert crossed and all(value.is_contiguous(memory_format=CL) for value in crossed)


@pytest.mark.parametrize("sites", SITES)
def test_maps_grow_on_a_gpu_too_where_one_kernel_normalises(sites, monkeypatch):
    """On a CPU in bf16, with the kernels' plain forms, which take part of a wider tensor as they do."""
    monkeypatch.setattr("itd.engine.ops.fused_normalise", lambda scale: normalise_plain)
    monkeypatch.setattr("itd.engine.ops.fused_finish", lambda weight: finish_plain)
    monkeypatch.setattr("itd.engine.ops.can_fuse", lambda weight: False)
    model, space = patched(sites)
    program = compile_program(model, space, precision=Precision("bf16"))
    kinds = {type(node.op) for stage in program.stages for node in stage.nodes}
    assert {RoomOp, AppendOp, BatchNormOp} <= kinds and ClampOp not in kinds
    found = logits(TreeExecutor(program, budget_bytes=200_000), maps(3, 3, 32, 32), 5)
    expected = logits(PlainExecutor(model, space), maps(3, 3, 32, 32), 5)
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


def test_every_row_comes_once():
    model, space = patched("one block")
    seen = np.zeros((len(space), 4), int)
    executor = TreeExecutor(compile_program(model, space), budget_bytes=50_000)
    executor.run(maps(4, 3, 32, 32), lambda configs, images, _: np.add.at(seen, (configs, images), 1))
    assert (seen == 1).all()
