"""Ray's actors as workers, on a real cluster of this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray (the extra of that name)")

import ray

from itd import sweep
from itd.errors import ItdError, ItdWarning
from itd.runner import on_ray
from itd.runner.run import SweepReport
from itd.store import open_result
from support.fuzzing import SOAK
from support.rows_of_work import require_same
from support.work import busy, make_job, processes_of, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own warnings are of Ray, and this machine alone is what it listens on."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_NODE_IP_ADDRESS", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    warnings.simplefilter("ignore", ResourceWarning)
    warnings.simplefilter("ignore", FutureWarning)


def swept(out: Path, workers: int, pause_s: float = 0.0) -> SweepReport:
    return sweep(
        make_job(pause_s=pause_s), out=str(out), engine="ray", workers_per_node=workers, batch_size=2,
        images_per_unit=2, quiet=True,
    )  # fmt: skip


def test_an_actor_that_is_killed_costs_its_unit_and_nothing_lives_on(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"

    def kill() -> None:
        os.kill(busy(out, 2)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.warns(ItdWarning, match=r"worker \d of 2 .* died: .*; it is started again"):
        report = swept(out, 2, pause_s=0.2)
    killer.join()
    assert report.left == 0 and 32 <= report.done <= 36
    require_same(out, tmp_path / "alone.parquet")
    assert not ray.is_initialized(), "also where it is closed a second time"
    wait_for("the end of the cluster", lambda: not processes_of("raylet"))
    assert not list(Path(out, "_itd/claims").glob("part-*"))


@pytest.mark.skipif(not SOAK, reason="a cluster of its own takes a minute to start; set ITD_SOAK")
def test_a_cluster_that_runs_is_joined_and_stays(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"]
    where = ["--node-ip-address", "127.0.0.1", "--port", str(port), "--include-dashboard", "false"]
    cluster = subprocess.Popen([*start, *where], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for("the cluster", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        out = tmp_path / "r.parquet"
        report = sweep(
            make_job(), out=str(out), engine="ray", address=f"127.0.0.1:{port}", batch_size=2, images_per_unit=2,
            quiet=True,
        )  # fmt: skip
        assert report.done == 32 and open_result(out).n == 32
        require_same(out, tmp_path / "alone.parquet")
        assert cluster.poll() is None and processes_of("raylet")
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait()


def test_no_cluster_at_an_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ItdError, match=r"there is no Ray cluster at 127\.0\.0\.1:1: ") as caught:
        sweep(make_job(4), out=str(tmp_path / "r"), engine="ray", address="127.0.0.1:1", quiet=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "r").exists()


def test_without_an_address_no_other_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was killed leaves a file that names it, to which Ray would try to connect for minutes."""
    started: list[object] = []
    monkeypatch.setattr(ray, "init", lambda address=None, **how: started.append(address))
    on_ray._connect(ray, None)
    assert started == ["local"]
