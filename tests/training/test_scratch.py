"""Training from scratch: schedules against torch's own, a network that learns, and every command that takes it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from itd.data.cifar import CIFAR10_PREPROCESS, CIFAR100_PREPROCESS
from itd.data.digits import digits_images
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ItdError
from itd.patcher import build_model
from itd.training.data import Augment, augmentation
from itd.training.evaluate import EvaluateRequest, evaluate
from itd.training.schedule import Schedule
from itd.training.scratch import cross_entropy, preprocess_of
from itd_cli.main import cli


def torchs(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("epochs", "steps"), [(1, 10), (3, 7), (30, 22), (2, 1), (1, 4)])
def test_onecycle_and_cosine_are_torchs(epochs, steps):
    total = epochs * steps
    onecycle = torchs(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=total, cycle_momentum=False), total
    )
    cosine = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total), total)
    for shape, expected in (("onecycle", onecycle), ("cosine", cosine)):
        schedule = Schedule(epochs, 0.1, shape=shape)
        assert [schedule.lr_at(step, steps) for step in range(total)] == pytest.approx(expected, rel=1e-9), shape


def test_the_step_schedule_goes_by_epochs():
    schedule = Schedule(6, 1.0, milestones=(2, 5))
    assert [schedule.lr_at(step, 3) for step in range(18)] == pytest.approx([1.0] * 6 + [0.1] * 9 + [0.01] * 3)
    for wrong in ({"shape": "linear"}, {"shape": "cosine", "milestones": (3,)}):
        with pytest.raises(ItdError, match=r"no such `shape`|`milestones` are for"):
            Schedule(6, 1.0, **wrong)


def test_the_loss_is_cross_entropy_with_smoothing():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    pixels, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 4, 2])
    ((_, compute),) = cross_entropy(0.2)(network, pixels, labels, 0)
    p = F.log_softmax(network(pixels), 1)
    target = torch.full((4, 5), 0.2 / 5)
    target[range(4), labels] += 0.8
    assert compute().item() == pytest.approx(-(target * p).sum(1).mean().item(), rel=1e-5)


def test_cifars_augmentation_pads_crops_and_mirrors():
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = rng.integers(1, 256, (32, 32, 3)).astype(np.uint8)
    image = Image.fromarray(picture)
    augment = Augment(CIFAR10_PREPROCESS, pad_px=4)
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + 32, left : left + 32]
            windows[window.tobytes()] = windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left)
    seen = set()
    mean, std = np.array(CIFAR10_PREPROCESS.mean), np.array(CIFAR10_PREPROCESS.std)
    for seed in range(60):
        pixels = augment(image, seed).permute(1, 2, 0).numpy()
        back = np.round((pixels * std + mean) * 255).astype(np.uint8)
        seen.add(windows[back.tobytes()])
        assert torch.equal(augment(image, seed), augment(image, seed))
    assert len(seen) > 20
    assert augment(image.resize((64, 64)), 0).shape == (3, 32, 32)


def test_what_a_network_expects_follows_from_the_images():
    assert preprocess_of("cifar-resnet18", "digits") == DIGITS_PREPROCESS
    assert preprocess_of("resnet18", "cifar10") == preprocess_of("cifar-resnet18+se", "/some") == CIFAR10_PREPROCESS
    assert preprocess_of("resnet18", "/some").crop_px == 224


def test_training_and_fine_tuning_augment_by_the_images():
    assert augmentation("digits", DIGITS_PREPROCESS) == Augment(DIGITS_PREPROCESS, shift_px=4)
    assert preprocess_of("resnet18", "cifar100") == CIFAR100_PREPROCESS
    for published in (CIFAR10_PREPROCESS, CIFAR100_PREPROCESS):
        assert augmentation("/some", published) == Augment(published, pad_px=4)
    assert augmentation("/some", Preprocess()) == Augment(Preprocess())


def test_top_1_and_top_5_are_those_of_the_logits(tmp_path):
    torch.manual_seed(0)
    model = build_model("resnet18", 10)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = evaluate(EvaluateRequest("resnet18", str(tmp_path / "w.pth"), "digits", limit=30, batch_size=7))
    images = digits_images("eval")
    samples = [np.flatnonzero(images.labels == c)[r] for r in range(3) for c in range(10)]
    with torch.inference_mode():
        logits = model(torch.stack([Preprocess()(images.load(int(i))) for i in samples]))
    five = logits.topk(5).indices.numpy()
    labels = images.labels[samples]
    assert found.n == 30 and found.top1 == np.mean(five[:, 0] == labels)
    assert found.top5 == pytest.approx(np.mean([label in row for label, row in zip(labels, five, strict=True)]))


@pytest.mark.parametrize("op", ["conv", "condconv"])
def test_a_network_is_trained_tested_swept_and_used(tmp_path, op):
    def run(*args: str):
        answer = CliRunner().invoke(cli, [str(a) for a in args])
        assert answer.exit_code == 0, answer.stderr
        return answer.stdout

    which = ["--model", "cifar-resnet18", *(["--op", op] if op != "conv" else [])]
    weights = tmp_path / "w.safetensors"
    given = ["--data", "digits", "--epochs", 2, "--epoch-images", 16, "--batch-size", 4, "--lr", 0.005]
    given += ["--out", weights]
    told = json.loads(run("train", *which, *given, "--json"))
    name = "cifar-resnet18" + ("" if op == "conv" else f"+{op}")
    assert told == {"out": str(weights), "model": name, "epochs": 2, "steps": 8, "images": 1437, "already": False}
    assert json.loads(run("train", *which, *given, "--json"))["already"]
    log = list(csv.DictReader((tmp_path / "w.csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in log] == pytest.approx(
        [Schedule(2, 0.005, shape="onecycle").lr_at(step, 4) for step in range(8)], rel=1e-4
    )
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    tested = json.loads(run("evaluate", *which, "--weights", weights, "--data", "digits", "--limit", "10", "--json"))
    assert tested["n"] == 10 and 0 <= tested["top1"] <= tested["top5"] <= 1
    digits_images("eval").load(0).save(tmp_path / "digit.png")
    line = json.loads(run("predict", *which, "--weights", weights, tmp_path / "digit.png", "--json"))
    assert line["config"] is None and 0 <= line["top"][0]["class"] < 10
    out = tmp_path / "r.parquet"
    swept = ["--weights", weights, "--data", "digits", "--attr", "stride", "--limit", "2", "--crop", "32", "--out", out]
    run("sweep", *which, *swept)
    from itd.store import open_result

    result = open_result(out)
    assert result.n == 2 and result.default is not None and result.configs > 50


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "--data", "digits-one-scale"], "holds only evaluation images"),
        (["train", "--op", "magic"], "magic"),
        (["train", "--op", "se", "--multiplier", "3"], "multiplier"),
        (["train", "--model", "resnet18", "--op", "se"], "resnet18"),
        (["train", "--label-smoothing", "1.5"], "--label-smoothing 1.5 is not allowed"),
        (["train", "--schedule", "linear"], "no such --schedule: 'linear'"),
        (["train", "--out", "x.pth"], "must end in .safetensors"),
        (["train", "--epoch-images", "8"], "8 training images are fewer than one batch of 64"),
        (["evaluate", "--weights", "IMAGENET1K_V1", "--data", "digits"], "no published weights"),
    ],
)
def test_a_mistake_is_one_line(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(cli, args)
    assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1


def test_weights_of_another_operator_are_one_line(tmp_path):
    torch.save(build_model("cifar-resnet18", 10).state_dict(), tmp_path / "w.pth")
    for op in ("condconv", "involution"):
        given = ["evaluate", "--op", op, "--weights", str(tmp_path / "w.pth"), "--data", "digits"]
        answer = CliRunner().invoke(cli, given)
        assert answer.exit_code == 1 and f"weights w.pth are not for cifar-resnet18+{op}" in answer.stderr
        assert answer.stderr.count("\n") == 1


def test_the_training_split_is_what_every_training_reads(tmp_path):
    """Also of CIFAR-10 as published, whose folder holds the test images too."""
    from itd.errors import DataError
    from itd.training.data import training_images

    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / f"{name}.bin").write_bytes(bytes([number]) + b"\0" * 3072)
    assert training_images(str(folder)).labels.tolist() == [0, 1, 2, 3, 4]
    assert len(training_images("digits")) == 1437
    with pytest.raises(DataError, match="holds only evaluation images"):
        training_images("digits-one-scale")
