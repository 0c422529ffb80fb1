"""A run that has nothing to do but wait for others."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from itd import sweep
from itd.data.loader import stream
from itd.store import Claims
from support.work import make_job


def test_a_run_that_waits_starts_nothing_that_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `workers` it would be so many processes at each look, four times a second."""
    streams: list[int] = []
    looks: list[float] = []

    def counted(*args: Any, **keywords: Any) -> Any:
        streams.append(len(looks))
        return stream(*args, **keywords)

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            other.release(0, 1)

    monkeypatch.setattr("itd.runner.worker.stream", counted)
    monkeypatch.setattr("itd.runner.shares.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with Claims(tmp_path / "r") as other:
        assert other.take(0, 1)
        report = sweep(make_job(8), out=str(tmp_path / "r"), device="cpu", images_per_unit=2, quiet=True)
    assert report.left == 0 and streams == [0, 5]
