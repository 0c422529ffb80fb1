"""Images without scores where several processes share a result: each is tried once, and what came of it is known."""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from itd import SweepRequest, sweep
from itd.errors import SetAsideWarning
from itd.runner import fleet
from itd.runner.member import Member, MemberSpec, pickled
from itd.runner.options import RunOptions
from itd.runner.run import SweepReport, open_run
from itd.store import Claims, FailedUnit, open_result


@pytest.fixture
def request_(tmp_path: Path) -> SweepRequest:
    """Sixteen images in eight units, with null rows in four of those; one of the four images was replaced since."""
    folder, rng = tmp_path / "data" / "cat", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{i:02d}.png")
    wholes = {i: (folder / f"{i:02d}.png").read_bytes() for i in (1, 4, 9, 14)}
    for i, whole in wholes.items():
        (folder / f"{i:02d}.png").write_bytes(whole[:100])
    request = SweepRequest(
        "resnet18", "dilation", sites="D", options=("1,2",), data=str(folder.parent), weights="none", num_classes=1,
        order="path", crop_px=32, resize_px=32, batch_size=2, device="cpu", out=str(tmp_path / "r.parquet"),
        images_per_unit=2, allow_missing=4,
    )  # fmt: skip
    assert sweep(request, quiet=True).nulls == 4
    (folder / "04.png").write_bytes(wholes[4])
    return replace(request, retry_missing=True)


def test_workers_compute_each_once(request_: SweepRequest) -> None:
    report = sweep(replace(request_, device=None, devices="cpu*2"), quiet=True)
    assert (report.already, report.done, report.left, report.kept, report.nulls) == (8, 8, 0, 0, 3)
    assert (open_result(request_.out).nulls, len(list(Path(request_.out, "_itd").glob("part-*.json")))) == (3, 8)


def test_where_warnings_are_errors_a_worker_still_says_what_it_set_aside(request_: SweepRequest) -> None:
    request = replace(request_, retry_missing=False, allow_missing=0, out=f"{request_.out}.2")
    options = RunOptions.of(request)
    spec = MemberSpec(pickled(request), options, request.job().identity("fp32"), torch.get_num_threads(), os.getcwd())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = Member(pickle.dumps(spec)).work()
    assert isinstance(report, SweepReport) and len(report.failed) == 3 and report.left == 6


def test_what_another_run_wrote_after_all_is_not_said_to_be_set_aside(request_: SweepRequest) -> None:
    request = replace(request_, retry_missing=False, allow_missing=0, out=f"{request_.out}.2")
    rows: list[int] = []

    def progress(count: int) -> None:
        rows.append(count)
        if sum(rows) > 2 * 8 and len(others) < 1:  # past the ninth image, of the fifth unit
            others.append(sweep(replace(request, allow_missing=4), shard=(4, 4), quiet=True))

    others: list[SweepReport] = []
    with pytest.warns(SetAsideWarning) as said:
        report = sweep(request, on_start=lambda start: progress, quiet=True)
    assert [str(one.message)[:15] for one in said] == ["images 14 to 15"]
    assert [other.done for other in others] == [4]
    assert [(one.first, one.last) for one in report.failed] == [(14, 15)] and report.left == 2


@pytest.mark.parametrize("others_went_on", [True, False])
def test_a_run_has_stopped_where_no_worker_went_on(others_went_on: bool, request_: SweepRequest) -> None:
    request = replace(request_, retry_missing=False, out=f"{request_.out}.2")
    job, options = request.job(), RunOptions.of(request)
    failed = tuple(FailedUnit(first, first + 1, "undecodable", "torn") for first in (0, 4, 8))
    with Claims(Path(request.out or "")) as claims:
        opened = open_run(job, options, job.identity("fp32"), "plain", claims)
    stopped = SweepReport(request.out or "", 16, 0, 0, 2, 1.0, failed=failed, stopped="the first 3 units all failed")
    went_on = tuple(FailedUnit(unit.first, unit.last, "undecodable", "torn") for unit in opened.units[1:])
    reports = [stopped, replace(stopped, failed=went_on, stopped=None)] if others_went_on else [stopped]
    workers = [SimpleNamespace(report=report, given_up=None, all_done=0) for report in reports]
    with pytest.warns(SetAsideWarning):
        report = fleet._report(SimpleNamespace(workers=workers), opened, 0.0, "plain")  # type: ignore[arg-type]
    assert (report.stopped is None) == others_went_on and len(report.failed) == (8 if others_went_on else 3)
