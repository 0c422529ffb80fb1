"""`precision=auto`: bf16 only where its predictions are fp32's, settled once and taken up by whoever goes on."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import itd
from itd import SweepRequest, plan, sweep
from itd.engine.precision import Precision
from itd.errors import ResultError
from itd.runner import precision as module
from itd.runner.executors import Way, make_executor
from itd.runner.options import RunOptions
from itd.runner.precision import Agreement, agreement, choose, first_images, first_scores, settled, tried
from itd.store import open_result
from itd_cli.plan import plan_text, start_notes
from support.commands import run

SWEEP = sys.modules[itd.sweep.__module__]
TREE = Way("tree")


@pytest.fixture
def request_(tmp_path: Path) -> SweepRequest:
    return SweepRequest(
        "support.small:ten_classes", "dilation", sites="D=body", options=("1,2,3",), data="digits", num_classes=10,
        crop_px=32, resize_px=32, batch_size=4, images_per_unit=4, limit=8, workers=0,
        out=str(tmp_path / "r.parquet"),
    )  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is none: what is to be run on it is run on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(SWEEP, "current", lambda device: contextlib.nullcontext())
    for owner in (SWEEP, sys.modules[itd.plan.__module__]):
        monkeypatch.setattr(owner, "way_of", lambda *_: TREE)
        monkeypatch.setattr(owner, "make_executor", on_cpu)
    monkeypatch.setattr(sys.modules[itd.plan.__module__], "current", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        sys.modules[itd.plan.__module__], "_shared_macs", lambda job, options: 1
    )  # which asks for a program on the GPU


def on_cpu(job, options, way):
    """The executor on the CPU, which has no tf32."""
    name = {"tf32": "fp32"}.get(options.precision.name, options.precision.name)
    return make_executor(job, replace(options, device=torch.device("cpu"), precision=Precision(name)), way)


def columns(right: np.ndarray, pred: np.ndarray | None = None, finite: np.ndarray | None = None) -> dict:
    """right: (C, n) bool."""
    pred = np.where(right, 1, 0) if pred is None else pred
    finite = np.ones_like(right) if finite is None else finite
    return {"pred": pred, "quality": np.where(right, 1.5, 0.25), "finite": finite}


def test_an_agreement_is_what_counting_by_hand_gives() -> None:
    rng = np.random.default_rng(0)
    preds, labels = rng.integers(0, 4, (2, 7, 40)), rng.integers(0, 4, 40)
    finite = rng.random((2, 7, 40)) > 0.05
    here, there = (columns(p == labels, p, f) for p, f in zip(preds, finite, strict=True))
    found = agreement("bf16", here, there, default=3)
    same, right = 0, {name: [0, 0] for name in ("static", "worst", "median", "best")}
    for image in range(40):
        for config in range(7):
            same += all(finite[:, config, image]) and preds[0, config, image] == preds[1, config, image]
        for one in (0, 1):
            hits = [bool(preds[one, c, image] == labels[image] and finite[one, c, image]) for c in range(7)]
            for name, hit in zip(right, (hits[3], *(sorted(hits)[place] for place in (0, 3, 6))), strict=True):
                right[name][one] += hit
    assert (found.images, found.rows) == (40, 280) and found.same == pytest.approx(same / 280)
    assert [getattr(found, name) for name in right] == [a - b for a, b in right.values()]
    assert agreement("bf16", here, there, default=None).static is None


def other(share: float = 1.0, apart: int = 0, configs: int = 4, images: int = 100) -> tuple[dict, dict]:
    """(scores, those of fp32): so large a share of equal predictions, and so many images fewer that are right."""
    right = np.ones((configs, images), bool)
    pred = np.ones((configs, images), int)
    before = columns(right, pred)
    after, others = right.copy(), pred.copy()
    after[:, :apart] = False
    others.reshape(-1)[: round((1 - share) * pred.size)] = 2
    return columns(after, others), before


@pytest.mark.parametrize(
    ("share", "apart", "holds"),
    [(1, 0, True), (0.99, 0, True), (0.9875, 0, False), (1, 1, True), (1, -1, True), (1, 2, False), (1, -2, False)],
)
def test_the_rule_is_99_percent_of_the_predictions_and_an_image(share: float, apart: int, holds: bool) -> None:
    here, there = other(share, abs(apart))
    assert agreement("bf16", *((there, here) if apart < 0 else (here, there)), default=0).holds is holds


@pytest.mark.parametrize("name", ["static", "worst", "median", "best"])
def test_each_of_the_four_counts(name: str) -> None:
    found = Agreement("bf16", 256, 1000, 1.0, 0, 0, 0, 0)
    assert found.holds and not replace(found, **{name: 2}).holds and replace(found, static=None).holds


@pytest.mark.parametrize(
    ("shares", "expected", "run_in"),
    [
        ({"bf16": 1.0}, "bf16", ["fp32", "bf16"]),
        ({"bf16": 0.5, "tf32": 1.0}, "tf32", ["fp32", "bf16", "tf32"]),
        ({"bf16": 0.5, "tf32": 0.5}, "fp32", ["fp32", "bf16", "tf32"]),
    ],
)
def test_bf16_then_tf32_then_fp32(shares: dict[str, float], expected: str, run_in: list[str]) -> None:
    ran: list[str] = []

    def scores_in(name: str) -> dict:
        ran.append(name)
        return other(shares.get(name, 1.0))[0]

    name, found = choose(scores_in, 0)
    assert name == expected and ran == run_in and [one.precision for one in found] == run_in[1:]
    assert [one.holds for one in found] == [one.precision == name for one in found]


def test_the_rule_with_real_bf16_is_what_two_sweeps_say(request_: SweepRequest, tmp_path: Path) -> None:
    request_ = replace(request_, model="resnet18", sites="D", weights="none")  # which bf16 changes
    job, options = request_.job(), RunOptions.of(request_, device="cpu")
    results = {}
    for name in ("fp32", "bf16"):
        sweep(job, out=tmp_path / f"{name}.parquet", device="cpu", precision=name, quiet=True, batch_size=4)
        results[name] = open_result(tmp_path / f"{name}.parquet")
    _, (found, *_) = tried(job, options, TREE, make=on_cpu)
    bf16, fp32 = results["bf16"], results["fp32"]
    assert found.precision == "bf16" and (found.images, found.rows) == (8, 24)
    assert found.same == float((bf16.matrix("pred") == fp32.matrix("pred")).mean())
    for name, place in (("worst", 0), ("median", 1), ("best", 2)):
        right = [int((np.sort(r.matrix("quality"), axis=0)[place] >= 1).sum()) for r in (bf16, fp32)]
        assert getattr(found, name) == right[0] - right[1]


def test_no_more_than_the_first_256_images_are_tried_and_those_that_can_be_read(request_, monkeypatch) -> None:
    monkeypatch.setattr(module, "FIRST_IMAGES", 6)
    job, options = request_.job(), RunOptions.of(request_, device="cpu")
    read, bad = job.images.pixels.images.read, int(job.images.samples[1])

    def reading(index: int, name: str):
        if index == bad:
            raise itd.errors.DataError("cannot decode it")
        return read(index, name)

    object.__setattr__(job.images.pixels.images, "read", reading)
    labels = np.concatenate([of for _, of in first_images(job, options)])
    assert labels.tolist() == job.images.labels[job.images.samples[[0, 2, 3, 4, 5]]].tolist()
    found = first_scores(job, on_cpu(job, options, TREE), list(first_images(job, options)))
    assert found["pred"].shape == (3, 5) and found["finite"].all()
    object.__setattr__(job.images.pixels.images, "read", lambda index, name: (_ for _ in ()).throw(MemoryError))
    assert tried(job, options, TREE) == ("fp32", ())


def test_where_there_is_not_enough_memory_it_is_fp32_and_a_bug_is_a_bug(request_) -> None:
    job, options = request_.job(), RunOptions.of(request_, device="cpu")

    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert tried(job, options, TREE, make=short) == ("fp32", ())
    with pytest.raises(RuntimeError, match="shapes"):
        tried(job, options, TREE, make=broken)


GOOD = Agreement("bf16", 8, 24, 1.0, 0, 0, 0, 1)
BAD = Agreement("bf16", 8, 24, 0.5, 0, 0, 0, 1)


def never() -> tuple[str, tuple[Agreement, ...]]:
    raise AssertionError("nothing is tried")


def test_nobody_names_a_format(request_, gpu) -> None:
    options = {device: RunOptions.of(request_, device=device) for device in ("cpu", "cuda")}
    assert [options[device].auto for device in options] == [False, True]
    assert [options[device].precision.name for device in options] == ["fp32", "fp32"]
    named = RunOptions.of(request_, device="cuda", precision="fp16")
    assert not named.auto and settled(request_.job(), named, never).precision.name == "fp16"


def test_on_a_cpu_auto_is_fp32_and_nothing_is_tried(request_) -> None:
    options = settled(request_.job(), RunOptions.of(request_, device="cpu", precision="auto"), never)
    assert (options.precision, options.auto, options.agreements) == (Precision("fp32", "cpu"), False, ())


def test_a_gpu_settles_it_once_and_whoever_goes_on_takes_it_up(request_, gpu, monkeypatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr(SWEEP, "tried", lambda *_: ("bf16", (GOOD,)))
    first = replace(request_, limit=4)
    report = sweep(first, device="cuda", quiet=True, on_start=lambda start: begun.append(start) or None)
    assert report.precision == "bf16" and begun[0].notes == (GOOD.text(),)
    result = open_result(request_.out)
    assert result.identity["precision"] == "bf16"
    assert [run.get("agreement") for run in result.manifest["provenance"]] == [[GOOD.as_dict()]]
    monkeypatch.setattr(SWEEP, "tried", never)
    assert sweep(replace(request_, limit=6), device="cuda", quiet=True).precision == "bf16"
    with pytest.raises(ResultError, match=r"precision is .*bf16.*, given .*fp32"):
        sweep(request_, device="cpu", quiet=True)
    assert plan(request_, device="cpu", precision="auto").precision == "bf16"
    report = sweep(request_, device="cpu", precision="auto", quiet=True)
    assert (report.precision, report.already, report.done) == ("bf16", 6, 2)
    assert sum("agreement" in run for run in open_result(request_.out).manifest["provenance"]) == 1


def test_the_result_of_another_run_is_tried_for_anew_only_where_it_is_thrown_away(request_, gpu, monkeypatch) -> None:
    sweep(replace(request_, precision="fp16"), device="cpu", quiet=True)
    job = replace(request_, options=("1,2",)).job()
    options = RunOptions.of(request_, device="cuda", out=request_.out)
    assert settled(job, options, never).precision.name == "fp16", "it will be refused, and need not be tried for"
    anew = settled(job, replace(options, overwrite=True), lambda: ("bf16", (GOOD,)))
    assert anew.precision.name == "bf16" and anew.agreements == (GOOD,)
    same = settled(request_.job(), replace(options, overwrite=True), never)
    assert same.precision.name == "fp16", "one of the same run goes on"
    for part in Path(request_.out).glob("part-*"):
        part.unlink()
    assert settled(job, options, lambda: ("tf32", ())).precision.name == "tf32", "nothing is lost: it begins anew"


def test_what_another_shard_settled_in_the_meantime_holds(request_, gpu) -> None:
    def meanwhile() -> tuple[str, tuple[Agreement, ...]]:
        sweep(replace(request_, precision="bf16", shard=(1, 2)), device="cpu", quiet=True)
        return "fp32", (BAD,)

    options = settled(request_.job(), RunOptions.of(request_, device="cuda"), meanwhile)
    assert options.precision.name == "bf16" and options.agreements == ()


def test_a_shard_that_another_one_overtook_goes_on_in_its_format(request_, gpu, monkeypatch) -> None:
    """Between what it settled on and the creation of its result another one creates it."""
    monkeypatch.setattr(SWEEP, "tried", lambda *_: ("fp32", (BAD,)))
    real, runs = SWEEP.run_job, []

    def overtaken(job: object, options: RunOptions, *given: object, **how: object) -> object:
        runs.append(options.precision.name)
        if len(runs) == 1:
            cpu = RunOptions.of(request_, device="cpu", precision="bf16", shard=(1, 2))
            real(request_.job(), cpu, lambda: on_cpu(request_.job(), cpu, TREE))
        return real(job, options, *given, **how)

    monkeypatch.setattr(SWEEP, "run_job", overtaken)
    report = sweep(request_, device="cuda", shard=(2, 2), quiet=True)
    assert runs == ["fp32", "bf16"] and (report.precision, report.left) == ("bf16", 0)
    with pytest.raises(ResultError, match="options that it was made with"):
        sweep(replace(request_, options=("1,2",)), device="cuda", quiet=True)


def test_a_gpus_format_cannot_be_taken_up_on_a_cpu(request_, gpu, monkeypatch) -> None:
    monkeypatch.setattr(SWEEP, "tried", lambda *_: ("tf32", (BAD, replace(GOOD, precision="tf32"))))
    assert sweep(replace(request_, limit=4), device="cuda", quiet=True).precision == "tf32"
    with pytest.raises(ResultError, match=r"r\.parquet is in tf32, a GPU's number format, .*`device=cpu`"):
        sweep(request_, device="cpu", precision="auto", quiet=True)


def test_what_is_said_of_an_agreement() -> None:
    assert GOOD.text() == (
        "precision bf16: on the first 8 images 100.00% of 24 predictions are those of fp32; images that are right: "
        "static +0, worst +0, median +0, best +1"
    )
    assert replace(BAD, static=None).text().startswith("precision bf16 is not taken: on the first 8 images 50.00% of")
    assert "static" not in replace(BAD, static=None).text()


def test_the_notes_of_a_sweep_say_it(request_, gpu) -> None:
    job = request_.job()
    lines = start_notes(SimpleNamespace(job=job, already=0, out="r.parquet", notes=(BAD.text(), GOOD.text())))
    assert lines[2:4] == [BAD.text(), GOOD.text()] and lines[-1].endswith("0 of them there already -> r.parquet")


def test_a_cpu_that_has_bf16_is_said_where_nobody_named_a_format(request_, monkeypatch) -> None:
    monkeypatch.chdir(Path(request_.out).parent)
    command = "sweep --model resnet18 --attr dilation --sites D --options 1,2 --data digits --weights none --crop 32"
    command += " --resize 32 --limit 2 --device cpu --out"
    said = "docs/performance.md has what was measured): --precision bf16"
    for has in (True, False):
        monkeypatch.setattr(module, "cpu_has_bf16", lambda has=has: has)
        answer = run(*command.split(), f"{has}.parquet")
        assert (said in answer.stderr) is has, answer.stderr
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: True)
    assert "bf16" not in run(*command.split(), "True.parquet").stderr, "another format would be another result"
    assert "bf16" not in run(*command.split(), "fp32.parquet", "--precision", "fp32").stderr


def test_a_cpu_that_lacks_bf16_is_said_where_it_is_asked_for(request_, monkeypatch) -> None:
    monkeypatch.chdir(Path(request_.out).parent)
    command = "sweep --model resnet18 --attr dilation --sites D --options 1,2 --data digits --weights none --crop 32"
    command += " --resize 32 --limit 2 --device cpu --precision bf16 --out"
    for has in (True, False):
        monkeypatch.setattr(module, "cpu_has_bf16", lambda has=has: has)
        answer = run(*command.split(), f"{has}.parquet")
        assert ("this CPU has no instructions for bf16" in answer.stderr) is not has, answer.stderr


def test_a_plan_says_auto_where_it_is_not_settled_yet(request_, gpu) -> None:
    planned = {device: plan(request_, device=device) for device in ("cpu", "cuda")}
    assert [planned[device].precision for device in planned] == ["fp32", "auto"]
    assert "precision        auto: bf16 or tf32 where they agree with fp32 on the first images" in plan_text(
        planned["cuda"]
    )
    assert json.dumps(planned["cuda"].as_dict())
    sweep(replace(request_, precision="fp16", limit=4), device="cpu", quiet=True)
    assert plan(request_, device="cuda").precision == "fp16" and plan(request_, device="cuda").already == 4


def test_a_format_that_is_none_is_refused(request_) -> None:
    with pytest.raises(
        itd.errors.SpaceError, match="no such precision: 'fp8'; allowed are auto, fp32, tf32, bf16, fp16"
    ):
        sweep(request_, precision="fp8", quiet=True)
