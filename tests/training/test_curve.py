"""The learning curve: what is held out changes no weight, and the points are those of the weights of each epoch."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from itd.errors import DataError, ItdError, NotFiniteError
from itd.patcher import build_model
from itd.training import evaluate as evaluation
from itd.training import scratch as learned
from itd.training.curve import Curve, CurvePoint, curves_figure
from itd.training.evaluate import EvaluateRequest, evaluate
from itd.training.schedule import Schedule
from itd.training.scratch import TrainRequest, train
from itd_cli.main import cli

POINTS = [CurvePoint(e, 64 * e, 3.0 - e, 36, 0.1 * e) for e in (1, 2, 3)]


def test_points_are_read_as_they_were_added_and_later_ones_are_dropped(tmp_path):
    curve = Curve(tmp_path / "a.epochs.csv")
    assert curve.points() == []
    for point in POINTS:
        curve.add(point)
    assert curve.points() == POINTS
    again = CurvePoint(2, 128, 0.5, 36, 0.9)  # a run that goes on after its second epoch
    curve.add(again)
    assert curve.points() == [POINTS[0], again]
    curve.begin("", resumed=True)
    assert curve.points() == [POINTS[0], again]
    with pytest.raises(DataError, match="was measured on other images than `test`"):
        curve.begin("other/1", resumed=True)
    curve.begin("other/1", resumed=False)
    assert curve.points() == []
    for point in POINTS:
        curve.add(point)
    curve.path.write_text(curve.path.read_text()[:-30])
    with pytest.raises(DataError, match="only a part of one; move it away"):
        curve.begin("", resumed=True)
    curve.path.write_text("epoch,loss\n1,x\n")
    with pytest.raises(DataError, match="is not a learning curve"):
        curve.points()


def request(out, **given) -> TrainRequest:
    schedule = Schedule(2, 0.005, batch_size=16, shape="onecycle")
    return TrainRequest("resnet18", "digits", schedule=schedule, epoch_images=32, out=str(out), **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("curve") / "resnet18.safetensors"
    train(request(out, test="digits-one-scale", test_every=12))
    return out


def test_the_last_point_is_the_accuracy_of_the_weights(trained, monkeypatch):
    last = Curve(trained.with_suffix(".epochs.csv")).points()[-1]
    assert (last.epoch, last.images, last.n) == (2, 64, 30)
    from itd.data.open import open_images

    images = open_images("digits-one-scale")
    model = build_model("resnet18", 10).eval()
    model.load_state_dict(load_file(trained))
    preprocess = learned.preprocess_of("resnet18", "digits")
    with torch.inference_mode():
        said = [int(model(preprocess(images.load(i))[None]).argmax()) for i in range(0, 360, 12)]
    assert last.top1 == sum(a == b for a, b in zip(said, images.labels[::12], strict=True)) / 30


def test_what_is_held_out_changes_no_weight(trained, tmp_path):
    train(request(tmp_path / "resnet18.safetensors"))
    ours, theirs = load_file(trained), load_file(tmp_path / "resnet18.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "resnet18.epochs.csv").exists()


def test_a_curve_of_another_run_does_not_stay_beside_the_weights(trained, tmp_path):
    stale = tmp_path / "resnet18.epochs.csv"
    stale.write_bytes(trained.with_suffix(".epochs.csv").read_bytes())
    train(request(tmp_path / "resnet18.safetensors"))
    assert not stale.exists()
    with pytest.raises(ItdError, match="trained already, without `test`: its curve cannot be had any more"):
        train(request(tmp_path / "resnet18.safetensors", test="digits-one-scale"))


def folders(path, classes, colour) -> str:
    from PIL import Image

    for name in classes:
        (path / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i, colour, 0)).save(path / name / f"{i}.png")
    return str(path)


def test_what_is_held_out_has_the_classes_and_not_the_images_that_are_trained(tmp_path):
    given = {
        "model": "cifar-resnet18",
        "data": folders(tmp_path / "a", "abc", 1),
        "out": str(tmp_path / "w.safetensors"),
    }
    schedule = Schedule(1, 0.01, batch_size=8)
    with pytest.raises(DataError, match=r"has the classes b, c, d, ..., and `data=.*` a, b, c"):
        train(TrainRequest(**given, schedule=schedule, test=folders(tmp_path / "b", "bcd", 2)))
    with pytest.raises(DataError, match="holds the very images that are trained on"):
        train(TrainRequest(**given, schedule=schedule, test=given["data"]))


class Constant(torch.nn.Module):
    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x):
        return torch.full((len(x), 10), self.logit)


def test_a_network_that_says_nothing_is_right_by_the_order_of_the_classes_alone():
    from itd.data.open import open_images

    images, cpu = open_images("digits"), torch.device("cpu")
    given = (range(30), learned.preprocess_of("resnet18", "digits"), cpu)
    assert evaluation.label_ranks(Constant(0.0), images, *given).tolist() == images.labels[:30].tolist()
    with pytest.raises(NotFiniteError, match=r"image 0, .*: a logit is not finite"):
        evaluation.label_ranks(Constant(float("nan")), images, *given)


def test_the_loss_is_the_mean_of_the_epochs_steps(trained):
    import pandas as pd

    steps = pd.read_csv(trained.with_suffix(".csv")).groupby("epoch")["loss"].mean().tolist()
    assert [p.loss for p in Curve(trained.with_suffix(".epochs.csv")).points()] == pytest.approx(steps)


def test_a_run_that_goes_on_keeps_the_points_of_the_epochs_that_are_done(trained, tmp_path, monkeypatch):
    out = tmp_path / "resnet18.safetensors"
    real = learned.label_ranks
    calls = []

    def dies(*args, **given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **given)

    monkeypatch.setattr(learned, "label_ranks", dies)
    with pytest.raises(KeyboardInterrupt):
        train(request(out, test="digits-one-scale", test_every=12))
    monkeypatch.setattr(learned, "label_ranks", real)
    train(request(out, test="digits-one-scale", test_every=12))
    assert Curve(out.with_suffix(".epochs.csv")).points() == Curve(trained.with_suffix(".epochs.csv")).points()


def test_the_figure_draws_each_network_that_has_points():
    drawing = curves_figure({"a": POINTS, "none": [], "b": POINTS[:2]})
    assert [(mark.x, mark.y) for mark in drawing.marks] == [(p.images, 100 * p.top1) for p in (*POINTS, *POINTS[:2])]
    assert [row["model"] for row in drawing.rows] == ["a"] * 3 + ["b"] * 2
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())
    with pytest.raises(DataError, match="no learning curve of none; `itd train --test DIR` writes one"):
        curves_figure({"none": []})


def test_the_commands_draw_and_tell_the_curves(trained, tmp_path):
    given = ["compare-layers", "--models", "resnet18", "--data", "digits", "--folder", str(trained.parent)]
    given += ["--side", "32"]
    given += ["--batch-size", "2", "--repeats", "3", "--limit", "4", "--json", "--curves", str(tmp_path / "c.png")]
    answer = CliRunner().invoke(cli, given)
    assert answer.exit_code == 0, answer.stderr
    (row,) = json.loads(answer.stdout)
    assert (tmp_path / "c.png").stat().st_size > 5000
    assert evaluate(EvaluateRequest("resnet18", str(trained), "digits", limit=4)).top1 == row["top1"]
    given[given.index("--folder") + 1] = str(tmp_path)
    answer = CliRunner().invoke(cli, given)
    assert answer.exit_code == 1 and answer.stderr.startswith("itd: error: there is no learning curve of resnet18")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "--test-every", "3"], "--test-every 3 is of --test, which is not given"),
        (["train", "--test", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(cli, args)
    assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1
