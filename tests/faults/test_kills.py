"""SIGKILL of a real sweep at random moments, then the same command: the rows of one that was never interrupted.

A hundred kills take about a quarter of an hour, so they run with ITD_SOAK alone; tests/store/test_kill.py has the quick
ones, at each step on the disk.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from itd.store import verify
from support.fuzzing import SOAK

KILLS = 100


def command(out: Path) -> list[str]:
    options = "--attr dilation --sites CD --options 1,2,3 --data digits --weights none --num-classes 10 --crop 32"
    return [
        sys.executable, "-m", "itd_cli.main", "sweep", "--model", "resnet18", *options.split(), "--resize", "32",
        "--device", "cpu", "--limit", "360", "--batch-size", "4", "--progress", "none", "--out", str(out),
    ]  # fmt: skip


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out).sort_values(["config", "sample"], ignore_index=True)


def started(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(out), env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(not SOAK, reason="a hundred runs of a sweep; set ITD_SOAK")
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("ITD_SOAK_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ITD_SOAK_SEED={seed}")
    choose, whole = random.Random(seed), tmp_path / "whole.parquet"
    began = time.monotonic()
    assert started(whole).wait() == 0
    once_s, expected = time.monotonic() - began, rows(whole)
    kills = results = 0
    while kills < KILLS:
        out = tmp_path / f"r{results}.parquet"
        results += 1
        while True:
            child = started(out)
            try:
                code = child.wait(timeout=choose.uniform(0.0, once_s if kills < KILLS else 1e6))
                assert code == 0
                break
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                kills += 1
            if (out / "_itd/manifest.json").exists():
                assert not verify(out).damaged, f"ITD_SOAK_SEED={seed}, kill {kills}"
            if kills >= KILLS:
                assert started(out).wait() == 0
                break
        pd.testing.assert_frame_equal(rows(out), expected)
        assert verify(out).complete and not list((out / "_itd").glob("tmp-*"))
    print(f"{kills} kills of {results} sweeps, {once_s:.0f} s each where nothing ends it")
