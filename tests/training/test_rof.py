"""Random-option fine-tuning: gradients, draws, a killed run, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from subprocess import DEVNULL

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import models

from itd import sweep
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import DataError, ItdError, ModelError
from itd.patcher import build_model, patch
from itd.store import open_result
from itd.training import trainer
from itd.training.data import Augment, TrainingSet
from itd.training.rof import RofRequest, draw_configs, rof, rof_objective
from itd.training.schedule import Schedule
from itd.training.trainer import RunFiles
from itd_cli.main import cli
from support.forked import COMMAND, Forked, forked

SMALL = Schedule(epochs=3, batch_size=8, lr=0.01)


@pytest.fixture
def request_(tmp_path):
    return RofRequest(
        "resnet18", "dilation", options=("1,2",), data="digits", weights="none", epoch_images=24, schedule=SMALL,
        device="cpu", out=str(tmp_path / "w.safetensors"),
    )  # fmt: skip


@pytest.fixture
def network(random_network):
    """A patched ResNet-18 without random state of its own, and 16 configurations."""
    request = RofRequest("resnet18", "dilation", options=("1,2",))
    swept = request.sweep().sites_asked()[1]
    import copy

    model = patch(copy.deepcopy(random_network("resnet18")), "resnet18")
    return model.train(), request.sweep().space_of(model, swept)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def run_parts(parts) -> float:
    total = 0.0
    for _, compute in parts:
        loss = compute()
        loss.backward()
        total += float(loss.detach())
    return total


def test_a_steps_gradients_are_those_of_the_plainly_patched_network(network):
    model, space = network
    pixels, labels = torch.randn(6, 3, 64, 64), torch.arange(6)
    (number,) = draw_configs(3, 11, len(space))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = run_parts(rof_objective(model, space, RofRequest(schedule=Schedule(seed=3)))(model, pixels, labels, 11))
    found = gradients(model)
    plain = models.resnet18(num_classes=10).train()
    plain.load_state_dict(state)
    for site, setting in zip("1234", space.configs[number], strict=True):
        conv = plain.get_submodule(f"layer{site}.0.conv1")
        conv.dilation, conv.padding = (setting.dilation,) * 2, (setting.dilation,) * 2
    expected = F.cross_entropy(plain(pixels), labels)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert list(found) == [name for name, _ in plain.named_parameters()]
    for name, p in plain.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_add_up_to_the_batchs_mean_loss(network):
    model, space = network
    trainer.set_training(model, "frozen")  # so that an image's loss does not depend on its batch
    pixels, labels = torch.randn(7, 3, 64, 64), torch.arange(7)
    request = RofRequest(per_sample=3, schedule=Schedule(seed=1))
    loss = run_parts(rof_objective(model, space, request)(model, pixels, labels, 0))
    found = gradients(model)
    model.zero_grad()
    each = []
    for number, chosen in zip(draw_configs(1, 0, len(space), 3), torch.arange(7).tensor_split(3), strict=True):
        with model.configured(space.configs[number]):
            each.append(F.cross_entropy(model(pixels[chosen]), labels[chosen], reduction="sum"))
    expected = torch.stack(each).sum() / 7
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-6)


def test_distillation_teaches_the_drawn_configuration_by_the_defaults_outputs(network):
    model, space = network
    trainer.set_training(model, "frozen")
    pixels, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    loss = run_parts(rof_objective(model, space, RofRequest(distill=True))(model, pixels, labels, 5))
    (number,) = draw_configs(0, 5, len(space))
    with model.configured(space.configs[space.default]):
        default = model(pixels)
    with model.configured(space.configs[number]):
        drawn = model(pixels)
    soft = -(torch.softmax(default, 1) * torch.log_softmax(drawn, 1)).sum(1).mean()
    assert loss == pytest.approx(float((F.cross_entropy(default, labels) + soft).detach()), rel=1e-5)


def test_draws_are_uniform_and_depend_on_seed_and_step_alone():
    drawn = np.array([draw_configs(0, step, 10)[0] for step in range(5000)])
    assert abs(np.bincount(drawn, minlength=10) / 5000 - 0.1).max() < 0.02
    assert draw_configs(1, 4, 361) != draw_configs(1, 5, 361) or draw_configs(2, 4, 361) != draw_configs(1, 4, 361)
    assert draw_configs(1, 4, 361, 3) == draw_configs(1, 4, 361, 3)


def test_the_weights_are_plain_torchvisions_and_say_how_they_were_made(request_, tmp_path):
    report = rof(request_)
    state = load_file(request_.out)
    models.resnet18(num_classes=10).load_state_dict(state, strict=True)
    before = build_model("resnet18", 10).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in before.items()}
    assert int(state["bn1.num_batches_tracked"]) == 9
    told = json.loads((tmp_path / "w.json").read_text())
    assert told["sha256"] == report.sha256 and told["schedule"]["epochs"] == 3
    with open(tmp_path / "w.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(9)) and report.steps == 9
    assert [int(r["configs"]) for r in rows] == [draw_configs(0, s, 16)[0] for s in range(9)]
    assert [float(r["lr"]) for r in rows] == [0.01] * 6 + [0.001] * 3
    assert not (tmp_path / "w.checkpoint").exists()
    assert rof(request_).already
    with pytest.raises(DataError, match="another run"):
        rof(replace(request_, schedule=replace(SMALL, lr=0.02)))
    swept = request_.sweep(data="digits", weights=request_.out, limit=4, out=str(tmp_path / "r.parquet"))
    sweep(swept, quiet=True)
    assert open_result(swept.out).manifest["identity"]["weights_sha256"] == report.sha256


CHILD = """
import sys
from itd.training.rof import RofRequest, rof
from itd.training.schedule import Schedule
rof(RofRequest("resnet18", "dilation", options=("1,2",), data="digits", weights="none", epoch_images=12,
    schedule=Schedule(epochs=3, batch_size=4, lr=0.01), device="cpu", out=sys.argv[1]))
"""


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(request_, tmp_path):
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    assert forked(CHILD, whole).returncode == 0
    child = Forked(CHILD, killed, stdout=DEVNULL, stderr=DEVNULL)
    log = killed.with_suffix(".csv")
    while child.poll() is None and not (
        killed.with_suffix(".checkpoint").exists() and len(log.read_text().splitlines()) > 5
    ):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not killed.exists()
    assert forked(CHILD, killed).returncode == 0
    one, two = load_file(whole), load_file(killed)
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert whole.with_suffix(".csv").read_text() == log.read_text()


def test_a_loss_that_is_not_finite_names_the_configuration_and_keeps_the_last_epoch(request_, tmp_path, monkeypatch):
    plain = trainer._step

    def broken(network, parts, *rest):
        if rest[-1] == 4:
            parts = [(name, lambda c=compute: c() * float("nan")) for name, compute in parts]
        return plain(network, parts, *rest)

    monkeypatch.setattr(trainer, "_step", broken)
    (number,) = draw_configs(0, 4, 16)
    with pytest.raises(ModelError, match=rf"loss of step 4 is nan at configuration {number};.*checkpoint"):
        rof(request_)
    kept = torch.load(RunFiles(tmp_path / "w.safetensors").checkpoint, weights_only=True)
    assert kept["epochs"] == 1 and all(v.isfinite().all() for v in kept["model"].values())
    assert not (tmp_path / "w.safetensors").exists()


def test_a_checkpoint_of_another_run_is_refused_naming_what_differs(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "set_training", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    torch.save({"identity": json.dumps({"model": "resnet50"}), "epochs": 1}, tmp_path / "w.checkpoint")
    with pytest.raises(DataError, match='model is "resnet50", given "resnet18"'):
        rof(request_)
    (tmp_path / "w.checkpoint").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a checkpoint of a run"):
        rof(request_)


def test_folded_normalisation_needs_frozen_statistics(request_, tmp_path):
    state = build_model("resnet18", 10).state_dict()  # fresh statistics are 0 and 1, as folded ones
    save_file(state, tmp_path / "folded.safetensors")
    folded = replace(request_, weights=str(tmp_path / "folded.safetensors"))
    with pytest.raises(ModelError, match=r"folded into the convolutions.*`bn=frozen`"):
        rof(folded)
    frozen = replace(folded, schedule=replace(SMALL, epochs=1, bn="frozen"))
    rof(frozen)
    trained = load_file(request_.out)
    assert torch.equal(trained["bn1.running_mean"], state["bn1.running_mean"])
    assert not torch.equal(trained["conv1.weight"], state["conv1.weight"])


def test_training_images_depend_on_seed_epoch_and_image_alone():
    from itd.data.digits import digits_images

    images = digits_images("train")
    made = TrainingSet(images, Augment(DIGITS_PREPROCESS, 4), seed=2, epoch_images=20)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = list(made.epoch(1, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    again = list(made.epoch(1, 5, workers=1))
    assert len(first) == 4 and all(
        torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(first[0][0], next(made.epoch(2, 5))[0])
    ranks = [list(made.epoch(1, 5, rank=r, ranks=2)) for r in (0, 1)]
    labels = torch.cat([y for rank in ranks for _, y in rank])
    assert sorted(labels.tolist()) == sorted(torch.cat([y for _, y in first]).tolist())
    with pytest.raises(DataError, match="20 training images are fewer than one batch of 32"):
        made.steps(32)


def test_the_standard_augmentation_crops_mirrors_and_normalises():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    augment = Augment(Preprocess(crop_px=32, resize_px=40))
    one, two = augment(image, 1), augment(image, 2)
    assert one.shape == (3, 32, 32) and not torch.equal(one, two) and torch.equal(one, augment(image, 1))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--lr", "-1"], "--lr -1 is not allowed"),
        (["--bn", "half"], "allowed are train and frozen"),
        (["--precision", "fp8"], "fp32, bf16 and fp16"),
        (["--attr", "speed"], "no such attribute"),
        (["--out", "w.pth"], "must end in .safetensors"),
        (["--per-sample", "65"], "--per-sample 65"),
        (["--milestones", "x"], "--milestones"),
        (["--data", "/absent"], "/absent"),
    ],
)
def test_mistakes_are_one_line(args, words):
    answer = CliRunner().invoke(cli, ["rof", "--model", "resnet18", "--weights", "none", "--num-classes", "10", *args])
    line = answer.stderr.strip()
    assert answer.exit_code != 0 and "\n" not in line and words in line, answer.stderr


def test_no_training_images_and_unknown_classes_are_one_line(request_, tmp_path):
    (tmp_path / "data" / "one").mkdir(parents=True)
    with pytest.raises(ItdError, match=r"no image|holds no"):
        rof(replace(request_, data=str(tmp_path / "data"), num_classes=1))


def test_two_processes_of_torchrun_train_the_same_weights_as_one(tmp_path):
    """All draw the same configurations and each sees its half of the batch; the statistics are frozen, as they are not
    shared between processes."""
    given = ["rof", "--model", "resnet18", "--attr", "dilation", "--sites", "CD", "--data", "digits", "--weights"]
    given += ["none", "--epochs", "2", "--epoch-images", "32", "--bn", "frozen", "--lr", "0.01", "--val-limit", "1"]
    alone = [*given, "--batch-size", "16", "--out", str(tmp_path / "one.safetensors")]
    assert forked(COMMAND, *alone).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["itd_cli.main", *given, "--batch-size", "8", "--out", str(tmp_path / "two.safetensors")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and not (one["bn1.weight"] == 1).all()
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-5) for name in one)
    logs = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("one", "two")]
    configs = [[row["configs"] for row in csv.DictReader(log)] for log in logs]
    assert configs[0] == configs[1] and len(configs[0]) == 4
