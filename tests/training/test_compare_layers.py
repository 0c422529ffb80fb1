"""The comparison of learned dynamic convolutions: counts, turns taken, accuracies of the weights that are there."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from itd.data.cifar import CIFAR10_PREPROCESS
from itd.layers.models import LEARNED
from itd.patcher import build_model
from itd.training import compare_layers as module
from itd.training.compare_layers import CompareLayersRequest, LayerComparison, Spread, comparison_figure, timed
from itd.training.evaluate import EvaluateRequest, evaluate
from itd.weights.files import PREPROCESS_KEY
from itd_cli.main import cli


def test_the_networks_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    calls = []
    clock = iter(range(1000))
    monkeypatch.setattr(module, "_forward", lambda network, pixels: calls.append(("forward", network)))
    monkeypatch.setattr(module, "_step", lambda network, *_: calls.append(("step", network)))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    forward, step = timed({"a": "A", "b": "B"}, torch.zeros(2, 3, 4, 4), 3)
    one_round = [("forward", "A"), ("step", "A"), ("forward", "B"), ("step", "B")]
    assert calls == one_round * 4
    assert forward == step == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_a_step_trains_and_leaves_evaluation_mode():
    network = build_model("cifar-resnet18+se", 10)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    module._step(network, torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert {"conv1.weight", "layer4.1.conv2.0.weight", "fc.weight"} <= moved and not network.training
    assert all(p.grad is None for p in network.parameters())


def test_the_command_tells_counts_times_and_the_accuracy_of_what_is_trained(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "cifar-resnet18.safetensors"
    from safetensors.torch import save_file

    header = {PREPROCESS_KEY: json.dumps(CIFAR10_PREPROCESS.identity())}  # as of trained ones: 32 px, not 224
    save_file(build_model("cifar-resnet18", 10).state_dict(), path, header)
    names = "cifar-resnet18,cifar-resnet18+condconv"
    given = ["compare-layers", "--models", names, "--data", "digits", "--folder", str(tmp_path), "--side", "32"]
    given += ["--batch-size", "2", "--repeats", "3", "--limit", "4", "--epoch-images", "100"]
    answer = CliRunner().invoke(
        cli, [*given, "--json", "--plot", str(tmp_path / "d.png"), "--csv", str(tmp_path / "d.csv")]
    )
    assert answer.exit_code == 0, answer.stderr
    plain, dynamic = json.loads(answer.stdout)
    for row in (plain, dynamic):
        entry = LEARNED[row["model"]]
        assert (row["params"], row["macs"]) == (entry.params, entry.macs)
        assert row["megabytes"] == pytest.approx(4e-6 * entry.params)
        assert 0 < row["forward_ms"]["low"] <= row["forward_ms"]["median"] <= row["forward_ms"]["high"]
        assert (
            row["epoch_s"]["median"] * 1e3 > 50 * row["forward_ms"]["median"] * 0.5
        )  # 50 steps, each more than a forward
    expected = evaluate(EvaluateRequest("cifar-resnet18", str(path), "digits", limit=4))
    assert (plain["top1"], plain["n"]) == (expected.top1, 4) and (dynamic["top1"], dynamic["n"]) == (None, 0)
    assert (tmp_path / "d.png").stat().st_size > 5000 and len((tmp_path / "d.csv").read_text().splitlines()) == 3
    text = CliRunner().invoke(cli, [*given, "--models", "cifar-resnet18+condconv"]).stdout
    assert "29,982,314" in text and "median (quartiles) of 3 rounds" in text


def test_the_figure_shows_each_row():
    rows = [
        LayerComparison(name, 10**6, 10**7, Spread(2.0, 1.5, 3.0), Spread(20.0, 15.0, 30.0), 0.5, 100)
        for name in ("a", "b")
    ]
    drawing = comparison_figure(rows, CompareLayersRequest(("a", "b")))
    assert [row["model"] for row in drawing.rows] == ["a", "b"] and len(drawing.marks) == 4
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())


def test_no_or_unknown_models_are_one_line():
    for given, said in ((",", "nothing to compare"), ("cifar-resnet18+magic", "no such")):
        answer = CliRunner().invoke(cli, ["compare-layers", "--models", given])
        assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1
