"""The executor and the scores on fake CUDA tensors: no device is mixed with another, and nothing waits for the GPU."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from itd.engine import kernels
from itd.engine.graph import _Builder
from itd.engine.op import CHANNELS_LAST
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.rows import leaves
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor
from itd.patcher import MODELS, build_model, model_space, patch
from itd.runner.scores import ScoreBuffer
from support.engine import CheckedTree, is_channels_last

PAIRS = [
    ("resnet50", "stride"),
    ("resnext50_32x4d", "dilation"),
    ("mobilenet_v2", "stride"),
    ("mobilenet_v2", "size"),
    ("densenet121", "stride"),
    ("densenet121", "size"),
]
BF16 = Precision("bf16")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique", "unique", "is_nonzero")
"""Operators whose result the host has to wait for."""


class Watched(FakeTensorMode):
    """Fake tensors; while `watching`, raises where the host would wait for the GPU."""

    watching = False

    def dispatch(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        given = [v.device.type for v in leaves((args, kwargs or {})) if isinstance(v, torch.Tensor)]
        if name == "batch_norm":  # torch's own way on shapes takes as long as all the rest
            assert len(set(given)) == 1, f"batch_norm of tensors on {given}"
            return torch.empty_like(args[0])
        out = super().dispatch(func, types, args, kwargs)
        made = [v.device.type for v in leaves(out) if isinstance(v, torch.Tensor)]
        if self.watching and "cuda" in given:
            masked = name.startswith("index") and any(
                isinstance(v, torch.Tensor) and v.dtype == torch.bool for v in leaves(args[1])
            )
            copied = name.startswith("copy") and args[0].device.type == "cpu"
            if masked or copied or "cpu" in made or name.startswith(WAITING):
                raise AssertionError(f"{name} waits for the GPU")
        if name.startswith(("convolution", "conv2d", "conv_transpose2d")) and any(map(is_channels_last, args[:2])):
            return torch.empty_like(out, memory_format=CHANNELS_LAST)  # cuDNN's rule, which a torch without it lacks
        return out


def moved(builder, module, dtype=None):
    """A layer on the device with its weights as buffers: `Module.to` exchanges parameters, which fakes cannot be."""
    made = copy.deepcopy(module, {id(value): value for value in module.state_dict(keep_vars=True).values()})
    for child in made.modules():
        held = {name: value for name, value in (child._parameters | child._buffers).items() if value is not None}
        for name, value in held.items():
            child._parameters.pop(name, None)
            child._buffers[name] = value.detach().to(builder.device, dtype or builder.dtype)
    return made


def traced(name, attribute):
    """A network and its whole space, before anything is fake."""
    model = patch(build_model(name, 1000), name)
    return trace(model), model_space(model, [attribute], entry=MODELS[name])


def run(program, device, px, count, watch=lambda on: None):
    """One unit through the tree into scores: a batch at every configuration, one at three. (executor, scores)."""
    executor, space = CheckedTree(program, budget_bytes=1 << 30), program.space
    buffer = ScoreBuffer(len(space), np.arange(2 * count), device, among=np.ones(1000, bool))
    watch(True)
    for first, some in ((0, None), (count, (0, space.default, len(space) - 1))):
        pixels = torch.empty(count, 3, px, px)
        executor.run(pixels, lambda configs, rows, logits, at=first: buffer.add(configs, rows + at, logits), some)
    watch(False)
    return executor, buffer


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What fakes lack of a GPU."""
    monkeypatch.setattr(_Builder, "_moved", moved)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def run_on_fakes(name, attribute):
    """`run` on a GPU that is not there."""
    network, space = traced(name, attribute)
    on_shapes = compile_program(network, space, device="meta", precision=BF16)
    TreeExecutor(on_shapes, budget_bytes=1 << 30).run(torch.empty(1, 3, 224, 224, device="meta"), lambda *_: None)
    with Watched(allow_non_fake_inputs=True) as fake:
        program = compile_program(network, space, device="cuda", precision=BF16)
        program.__dict__["costs"] = on_shapes.costs  # worked out on shapes, outside of the fakes
        return run(program, "cuda", 224, 4, partial(setattr, fake, "watching"))


@pytest.mark.parametrize(("name", "attribute"), PAIRS)
def test_a_unit_mixes_no_devices_and_waits_for_nothing(name, attribute, on_a_gpu):
    executor, buffer = run_on_fakes(name, attribute)
    assert executor.crossed > 20
    assert {column.device.type for column in buffer.columns.values()} == {"cuda"}


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "densenet121"])
def test_triton_kernel_finishes_every_convolution_of_a_tree(name, on_a_gpu, monkeypatch):
    pytest.importorskip("triton")
    calls = []

    def finish(out, bias, other, activation):
        calls.append((kernels.applies(out, other), bias is not None, other is not None, activation))
        return kernels.finish_plain(out, bias, other, activation)

    def normalise(x, scale, shift, activation):
        rooms.append((kernels._room(x), x.shape[1]))
        return kernels.normalise_plain(x, scale, shift, activation).contiguous(memory_format=CHANNELS_LAST)

    rooms = []
    monkeypatch.setenv("ITD_FUSED_EPILOGUE", "1")
    monkeypatch.setattr(kernels, "finish", finish)
    monkeypatch.setattr(kernels, "normalise", normalise)
    run_on_fakes(name, "dilation")
    assert bool(rooms) == (name == "densenet121") and all(room is not None for room, _ in rooms)
    assert not rooms or any(room > channels for room, channels in rooms)
    assert len(calls) > 50 and all(applies for applies, *_ in calls)
    assert {activation for *_, activation in calls} >= {"mobilenet_v2": {"relu6"}}.get(name, {"relu"})
    assert any(added for *_, added, _ in calls) and any(biased for _, biased, *_ in calls)
