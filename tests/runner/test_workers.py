"""Several processes on one result: the rows are the same as of one, whoever computes them and whoever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL

import pytest

from itd import status, sweep
from itd.errors import ItdError, ItdWarning, ModelError, ResultError
from itd.process import Process, is_gone, machine
from itd.runner.job import SweepJob
from itd.runner.run import SweepStart
from itd.store import at_work, open_result
from support.forked import SCRIPT, Forked, forked
from support.rows_of_work import require_same
from support.work import WAIT_S, Images, busy, make_job, wait_for


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the result of one process is, or is made."""
    return tmp_path_factory.mktemp("alone") / "r.parquet"


def test_a_worker_that_is_killed_costs_its_unit_and_nothing_else(tmp_path: Path, alone: Path) -> None:
    out = str(tmp_path / "r.parquet")
    counted: list[int] = []

    def kill() -> None:
        os.kill(busy(out, 2)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.warns(ItdWarning, match=r"worker \d of 2 \(cpu\) was ended by SIGKILL; it is started again"):
        report = sweep(
            make_job(pause_s=0.1), out=out, devices="cpu*2", batch_size=2, images_per_unit=2, quiet=True,
            on_start=lambda start: counted.append,
        )  # fmt: skip
    killer.join()
    assert report.left == 0 and report.images == 32 and not report.failed
    assert 32 <= report.done <= 36, "each unit once, and at most that of the worker that died, and its next, again"
    assert sum(counted) == 32 * 25
    require_same(out, alone)
    assert not list(Path(out, "_itd/claims").iterdir())
    runs = [run["run"] for run in open_result(out).manifest["provenance"]]
    written = {json.loads(path.read_text())["run"] for path in Path(out, "_itd").glob("part-*.json")}
    assert written <= set(runs) and len(runs) == len(set(runs)) >= 3


def test_a_unit_over_which_every_worker_dies_ends_the_run_and_the_others_are_there(tmp_path: Path) -> None:
    out = str(tmp_path / "r.parquet")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ItdError, match=r"no worker is left, and 2 of 8 images are not in .*was ended by SIGKILL"):
            sweep(make_job(8, fatal=0), out=out, devices=["cpu"], batch_size=2, images_per_unit=2, quiet=True)
    texts = [str(one.message) for one in said if one.category is ItdWarning]
    assert len(texts) == 4 and "for the 4th time, and is not started again" in texts[-1]
    assert open_result(out).images_done == 6


def test_workers_end_with_the_process_that_drives_them(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "r.parquet"
    code = (
        "import sys; from itd import sweep; from support.work import make_job\n"
        "how = dict(devices='cpu*2', batch_size=2, images_per_unit=2, quiet=True)\n"
        "sweep(make_job(pause_s=0.2), out=sys.argv[1], **how)\n"
    )
    driver = Forked(code, out, stdout=DEVNULL, stderr=DEVNULL)
    pids = busy(out, 2)
    driver.kill()
    driver.wait()
    wait_for("the end of the workers", lambda: all(is_gone(Process(machine(), pid)) for pid in pids))
    assert status(out).missing > 0, "they went on to the end of the work"
    report = sweep(make_job(), out=str(out), device="cpu", batch_size=2, quiet=True)
    assert report.left == 0 and report.already + report.done == 32
    require_same(out, alone)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from itd import sweep; from support.work import make_job\n"
        "sweep(make_job(4), out=sys.argv[1], devices=['cpu'], quiet=True)\n"
    )
    ended = forked(SCRIPT, script, tmp_path / "r")
    assert ended.returncode == 1 and 'put what calls itd under `if __name__ == "__main__":`' in ended.stderr


def test_two_runs_on_one_result_share_its_units(tmp_path: Path, alone: Path) -> None:
    """Each in a process of its own, as tracing a network is for one thread of a process at a time."""
    out = tmp_path / "r.parquet"
    code = (
        "import sys; from itd import sweep; from support.work import make_job\n"
        "job = make_job(pause_s=0.05, at_home=True)\n"
        "report = sweep(job, out=sys.argv[1], device='cpu', batch_size=2, images_per_unit=2, quiet=True)\n"
        "print(report.done, report.left)\n"
    )
    runs = [Forked(code, out, stderr=DEVNULL) for _ in range(2)]
    said = [run.communicate(timeout=WAIT_S)[0].split() for run in runs]
    done, left = zip(*(map(int, words) for words in said), strict=True)
    assert [run.returncode for run in runs] == [0, 0] and left == (0, 0)
    assert 32 <= sum(done) <= 36, "at most two units were computed twice"
    require_same(out, alone)


def test_a_run_that_joins_another_says_so(tmp_path: Path) -> None:
    out, notes = str(tmp_path / "r.parquet"), []
    job = make_job(4)

    def join(start: SweepStart) -> None:
        sweep(job, out=out, device="cpu", quiet=True, on_start=lambda begun: notes.extend(begun.notes))

    sweep(job, out=out, device="cpu", quiet=True, on_start=join)
    assert any(f"process {os.getpid()} on " in text and text.endswith("the units are shared") for text in notes)


def test_a_shard_that_helps_finishes_the_work_of_the_others(tmp_path: Path, alone: Path) -> None:
    out = str(tmp_path / "r.parquet")
    how = {"out": out, "device": "cpu", "batch_size": 2, "images_per_unit": 2, "quiet": True}
    assert sweep(make_job(), shard=(1, 3), **how).done == 10  # type: ignore[arg-type]
    report = sweep(make_job(), shard=(2, 3), help_others=True, **how)  # type: ignore[arg-type]
    assert (report.already, report.done, report.left) == (10, 22, 0)
    require_same(out, alone)


def test_what_one_engine_began_another_ends(tmp_path: Path, alone: Path) -> None:
    out = str(tmp_path / "r.parquet")
    how = {"out": out, "batch_size": 2, "images_per_unit": 2, "quiet": True}
    assert sweep(make_job(), device="cpu", shard=(1, 2), **how).left == 16  # type: ignore[arg-type]
    assert sweep(make_job(), devices="cpu", **how).done == 16  # type: ignore[arg-type]
    require_same(out, alone)


def test_other_options_are_refused_while_somebody_works(tmp_path: Path) -> None:
    out = str(tmp_path / "r.parquet")
    with pytest.raises(ResultError) as caught:
        job = make_job(4)
        sweep(
            job, out=out, device="cpu", quiet=True,
            on_start=lambda start: sweep(job, out=out, device="cpu", precision="bf16", quiet=True),
        )  # fmt: skip
    text = str(caught.value)
    assert re.search(
        rf"process {os.getpid()} on .* works on .*r\.parquet since .*precision is \"fp32\", given \"bf16\"", text
    )
    assert "give another `out`, or wait" in text
    with pytest.raises(ResultError, match="works on"):
        sweep(
            job, out=out, device="cpu", quiet=True,
            on_start=lambda start: sweep(job, out=out, device="cpu", precision="bf16", overwrite=True, quiet=True),
        )  # fmt: skip
    assert not at_work(Path(out))


def test_a_job_that_cannot_be_sent_is_refused_before_anything_starts(tmp_path: Path) -> None:
    job = make_job(4)
    images = Images(4)
    images.made_by = lambda: None  # type: ignore[attr-defined]
    kept = SweepJob(job.model, job.space, images, name="noise", fingerprint="noise")
    with pytest.raises(ItdError, match="cannot be sent to other processes"):
        sweep(kept, out=str(tmp_path / "r"), devices="cpu*2", quiet=True)
    assert not (tmp_path / "r").exists()


def test_a_worker_refuses_another_job(tmp_path: Path) -> None:
    import pickle

    from itd.runner.member import Member, MemberSpec
    from itd.runner.options import RunOptions

    job = make_job(4)
    spec = MemberSpec(pickle.dumps(job), RunOptions.of(out=tmp_path / "r", device="cpu"), job.identity(), 1, ".")
    other = replace(spec, identity={**job.identity(), "weights_sha256": "0" * 64})
    refused = Member(pickle.dumps(other)).work()
    lost = Member(pickle.dumps(replace(spec, folder=str(tmp_path / "gone")))).work()
    assert isinstance(lost, ItdError) and "cannot go to" in str(lost)
    assert isinstance(refused, ModelError) and "a worker has another job" in str(refused)
    assert 'weights_sha256 is "000' in str(refused)


def test_what_all_workers_load_is_loaded_once() -> None:
    code = (
        "from multiprocessing import forkserver; import torch; from itd.runner.local import LocalCrew\n"
        "forkserver.ensure_running = lambda: None\n"
        "LocalCrew([torch.device('cpu')])\n"
        "print(*forkserver._forkserver._preload_modules)\n"
    )
    assert forked(code).stdout.split() == ["itd.data.loader", "itd.runner.member"]


def test_who_is_stopped_while_they_load_leaves_nothing_behind_that_fails_later(tmp_path: Path) -> None:
    """A traceback, seconds after the prompt is back."""
    go_on = tmp_path / "go_on"
    (tmp_path / "slow.py").write_text(f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n")
    code = (
        "import sys; from multiprocessing import forkserver; import torch\n"
        "from itd.data import processes; from itd.runner import local\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "processes.PRELOADED[:], local.load_ahead = ['slow'], processes.start_server\n"
        "forkserver.read_signed = lambda fd: sys.exit(3)  # as Ctrl-C does while the process is awaited\n"
        "local.LocalCrew([torch.device('cpu')]).start(0, b'', ())\n"
    )
    with Forked(code, tmp_path) as child:
        assert child.wait(WAIT_S) == 3
        go_on.touch()
        assert child.communicate(WAIT_S) == ("", "")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"devices": "cpu*0"}, "behind \\* stands how many"),
        ({"devices": "gpu"}, "no such device"),
        ({"devices": ""}, "no such devices"),
        ({"devices": []}, "give for example"),
        ({"devices": "cpu", "device": "cpu"}, "both given"),
        ({"devices": "cpu", "engine": "ray"}, "are of `engine=local`"),
        ({"engine": "slurm"}, "allowed are inline, local, ray"),
        ({"address": "auto"}, "is of `engine=ray`"),
        ({"engine": "ray", "device": "cpu"}, "take the device that Ray gives them"),
        ({"engine": "ray", "workers_per_node": 0}, "at least 1"),
        ({"help_others": True}, "is of a shard"),
    ],
)
def test_engines_that_cannot_be_are_refused(tmp_path: Path, how: dict[str, object], text: str) -> None:
    with pytest.raises(ItdError, match=text):
        sweep(make_job(4), out=str(tmp_path / "r"), quiet=True, **how)  # type: ignore[arg-type]


def test_a_worker_that_is_stopped_does_not_hold_the_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take over its units after a minute, and then it is ended."""
    out = str(tmp_path / "r.parquet")
    monkeypatch.setattr("itd.runner.fleet._LOOK_S", 0.5)

    def stop() -> None:
        os.kill(busy(out, 2)[0], signal.SIGSTOP)
        wait_for("all the others", lambda: status(out).missing <= 8)
        for path in Path(out, "_itd/claims").glob("*.json"):
            os.utime(path, (time.time() - 100,) * 2)  # as after a while: a worker that works touches its own again

    stopper = threading.Thread(target=stop)
    stopper.start()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = sweep(make_job(pause_s=0.1), out=out, devices="cpu*2", batch_size=2, images_per_unit=2, quiet=True)
    stopper.join()
    assert report.left == 0
    assert any("gave no sign of life for a minute, and was ended" in str(one.message) for one in said)
