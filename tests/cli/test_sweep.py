"""`itd sweep` and `itd models` as a user runs them."""

import json
import os
import signal
import time
from subprocess import DEVNULL

import pytest
from click.testing import CliRunner

import itd
from itd.store import open_result
from itd_cli.main import cli
from support.forked import COMMAND, Forked, forked

SMALL = ["sweep", "--model", "resnet18", "--attr", "dilation", "--sites", "CD", "--options", "1,2", "--data", "digits",
         "--weights", "none", "--crop", "32", "--device", "cpu"]  # fmt: skip


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args])


def test_sweep_then_oracle_and_the_same_command_says_how_much_was_there(tmp_path):
    out = tmp_path / "r.parquet"
    first = run(*SMALL, "--limit", 3, "--out", out)
    assert first.exit_code == 0, first.stderr
    assert "4 configurations, 3 images of 3 of 10 classes, 0 of them there already" in first.stderr
    second = run(*SMALL, "--limit", 5, "--out", out)
    assert "3 of them there already" in second.stderr and "5 of 5 images" in second.stderr
    rows = json.loads(run("oracle", out, "--json").stdout)
    assert rows[0]["n"] == 5 and rows[0]["configs"] == 4 and rows[0]["result"] == str(out)


def test_plan_says_what_would_be_done_and_writes_nothing(tmp_path):
    answer = run("sweep", "--model", "resnet50", "--attr", "stride", "--data", "digits", "--weights", "none",
                 "--crop", "224", "--plan=quick", "--out", tmp_path / "r.parquet")  # fmt: skip
    assert answer.exit_code == 0, answer.stderr
    assert "configurations   361 (default: 33)" in answer.stdout
    assert "39: total output stride out of range" in answer.stdout
    assert not list(tmp_path.iterdir())


def test_a_default_that_is_not_in_the_space_is_said_and_static_is_null(tmp_path):
    out = tmp_path / "r.parquet"
    args = [a if a != "1,2" else "2,3" for a in SMALL]
    assert run(*args, "--limit", 2, "--out", out).exit_code == 0
    assert json.loads(run("oracle", out, "--json").stdout)[0]["static"] is None
    assert "not in the space" in run(*args, "--limit", 2, "--plan=quick").stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["sweep"], 2, "--model"),
        (["sweep", "--model", "resnet18", "--attr", "speed"], 1, "no such attribute: 'speed'"),
        (["sweep", "--model", "resnet99", "--attr", "size"], 1, "no such model: 'resnet99'"),
        ([*SMALL, "--size-scale", "volume"], 2, "volume"),
        ([*SMALL, "--stride-range", "4"], 2, "4,288"),
        ([*SMALL, "--shard", "3/2"], 2, "1/8"),
        ([*SMALL, "--limit", "0"], 2, "--limit"),
        ([*SMALL, "--precision", "fp8"], 1, "fp32, tf32, bf16, fp16"),
        ([*SMALL, "--num-classes", "7"], 1, "10 classes"),
    ],
)
def test_mistakes_are_one_line_and_a_non_zero_exit(args, code, words):
    answer = run(*args)
    line = answer.stderr.strip()
    assert answer.exit_code == code and words in line and "\n" not in line, answer.stderr
    assert line.startswith("itd: error: ")


def test_an_out_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    answer = run(*SMALL, "--limit", 1, "--out", tmp_path / "file" / "r.parquet")
    assert answer.exit_code == 1 and "file" in answer.stderr.splitlines()[-1]


def test_a_refused_identity_ends_with_one_line_every_time(tmp_path):
    out = tmp_path / "r.parquet"
    assert run(*SMALL, "--limit", 1, "--out", out).exit_code == 0
    for _ in range(2):
        done = forked(COMMAND, *SMALL, "--limit", "1", "--every", "2", "--out", out)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = forked(COMMAND, "models", "--learned", stdout=full)
    assert done.returncode == 1 and done.stderr.splitlines()[0].startswith("itd: error: cannot write the output"), (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_result_without_images_is_passed_over_beside_others(tmp_path):
    full, empty = tmp_path / "full.parquet", tmp_path / "empty.parquet"
    assert run(*SMALL, "--limit", 9, "--out", full).exit_code == 0
    assert run(*SMALL, "--limit", 3, "--shard", "1/2", "--out", empty).exit_code == 0
    answer = run("oracle", empty, full, "--json")
    assert [row["result"] for row in json.loads(answer.stdout)] == [str(full)]
    assert "passed over" in answer.stderr
    assert run("oracle", empty).exit_code == 1


def test_ctrl_c_says_how_to_go_on_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "r.parquet"
    slowly = ["--limit", "300", "--batch-size", "1"]  # or a busy machine would be done before it is interrupted
    child = Forked(COMMAND, *SMALL, *slowly, "--out", out, stdout=DEVNULL)
    while child.poll() is None and not list(out.glob("part-*")):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=60)[1]
    assert child.returncode == 130, error
    said, command = error.splitlines()[-2:]
    assert said == "itd: interrupted; what is in the result is kept: the same command goes on from there"
    assert command.endswith(f"--out {out}")
    there = open_result(out).images_done
    assert 0 < there < 300
    answer = run(*SMALL, "--limit", str(there + 1), "--out", out)
    assert answer.exit_code == 0 and f"{there} of them there already" in answer.stderr


def test_models_lists_every_registered_model_and_its_spaces(monkeypatch):
    rows = {row["model"]: row for row in json.loads(run("models", "--json").stdout)}
    assert rows["resnet50"]["configs"] == {"stride": 361, "dilation": 625, "size": 625}
    assert rows["densenet121"]["sites"]["A"] == ["features.pool0", "features.denseblock1.denselayer1.conv2"]
    monkeypatch.setattr(itd, "models", lambda learned: list(rows.values()), raising=False)  # which takes seconds
    assert len(rows) == 67 and "resnext50_32x4d" in run("models").stdout
    assert rows["cifar-resnet18+condconv"]["configs"]["dilation"] == 625


@pytest.mark.parametrize(("former", "now"), [("test", "evaluate"), ("dynamics", "compare-layers")])
def test_a_former_name_of_a_command_says_its_new_one_and_does_the_same(former, now):
    old, new = run(former, "--help"), run(now, "--help")
    assert old.exit_code == new.exit_code == 0 and old.stdout == new.stdout
    assert old.stderr == f"itd: note: `itd {former}` is now `itd {now}`\n" and new.stderr == ""
    listing = run("--help").stdout.split("Commands:")[1]
    assert f"  {now} " in listing and f"  {former} " not in listing
    assert former not in run("nonsense").stderr.split("the commands are")[1].split(";")[0].split(", ")
