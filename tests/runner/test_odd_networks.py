"""Files of a user's own that do what nobody expects: found, swept, or refused in one line that says what to do."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import itd
from itd.errors import ItdError, ModelError
from itd.patcher.names import canonical_name, name_with_arguments
from itd_cli.main import cli

SOURCE = """
import os
import threading
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


class Printing(Net):
    def forward(self, x):
        print("forward")
        return super().forward(x)


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Fixed(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 8 * 8, 10)

    def forward(self, x):
        return self.head(self.b(self.a(x)).view(x.size(0), -1))


class Viewing(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(0.1)  # or it would count as folded away
        self.pool, self.head = nn.AdaptiveAvgPool2d(4), nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.norm(self.b(self.a(x))))).view(x.size(0), -1))


class Addressed(Net):
    def __init__(self):
        super().__init__()
        self.a = Named(3, 4, 3, 2, 1)


class Named(nn.Conv2d):
    def extra_repr(self):
        return f"{super().extra_repr()}, made by {object()}"


def double():
    return Net().double()


def bfloat16():
    return Net().bfloat16()


def leaving():
    os.chdir("/")
    return Net()


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10))


def parallel():
    return nn.DataParallel(Net())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(SOURCE)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "nets.py").write_text("from .other import Net\n")
    (tmp_path / "pack" / "other.py").write_text(SOURCE)
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request_(name, **more):
    given = {"sites": "auto", "options": ("1,2",), "data": "digits", "limit": 2, "device": "cpu", **more}
    return itd.SweepRequest(name, "dilation", **given)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd.py:lazy", "lazy layers that know no shape yet; run it once"),
        ("odd.py:parallel", "wrapped for several devices; give its .module"),
        ("odd.py:Locked", r"Locked cannot be copied \(cannot pickle '_thread.lock' object\)"),
        ("odd.py:Fixed", r"does not take an image of 64 x 64 .*; give the size that it takes \(`input_px`; of a sweep"),
        ("pack/nets.py:Net", "attempted relative import.*; give a file of a package as package.module:NAME"),
        ("folder.py:Net", r"cannot read folder\.py: it is no file; did you mean odd\.py"),
        ("odd.py:Net(width=4)(width=5)", "what stands in brackets is not key=value"),
    ],
)
def test_what_cannot_be_is_one_line_for_sites_and_for_a_sweep(name, words):
    for ask in (lambda: itd.sites(name, input_px=64), lambda: itd.plan(request_(name))):
        with pytest.raises(ItdError, match=words) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_is_refused_as_what_it_is():
    script = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 9, 9))
    with pytest.raises(ModelError, match="cannot rewrite a TorchScript module"):
        itd.auto_sites(script, 32)


@pytest.mark.parametrize("name", ["odd.py:double", "odd.py:bfloat16", "pack.nets:Net", "odd.py:leaving"])
def test_a_network_of_another_number_format_or_place_is_swept(name, folder):
    assert itd.plan(request_(name)).configs == 4 and os.getcwd() == str(folder)
    report = itd.sweep(request_(name, out=str(folder / "r.parquet")), quiet=True)
    assert report.executor == "tree" and pd.read_parquet(report.out).nll.notna().all()


def test_sites_are_looked_for_at_the_size_that_is_asked_for():
    found = itd.plan(request_("odd.py:Fixed", crop_px=32))
    assert found.input_shape == (3, 32, 32) and list(found.sites["A"]) == ["a"]


def test_what_a_network_prints_does_not_end_up_in_json():
    done = CliRunner().invoke(cli, ["sites", "--model", "odd.py:Printing", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["model"] == "odd.py:Printing" and "forward" in done.stderr


SMALL = ("--data", "digits", "--epochs", "1", "--epoch-images", "32", "--batch-size", "16")
SITE = ("--sites", "A=b", "--attr", "dilation", "--options", "1,2")


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "--data", "digits", "--limit", "4"),
        ("predict", "digits"),
        ("train", *SMALL),
        ("rof", *SITE, *SMALL, "--val-limit", "2"),
        ("recalibrate", *SITE, "--data", "digits", "--val", "digits", "--limit", "2", "--images", "4"),
    ],
    ids=lambda command: command[0],
)
def test_a_head_that_views_its_maps_runs_in_every_command(command):
    """`x.view(x.size(0), -1)` fails on maps whose channels come last in memory."""
    answer = CliRunner().invoke(cli, [command[0], "--model", "odd.py:Viewing", *command[1:]])
    assert answer.exit_code == 0, answer.output


def test_what_a_network_prints_is_no_part_of_a_plans_json():
    args = ["sweep", "--model", "odd.py:Printing", *SITE, "--data", "digits", "--limit", "2", "--plan=quick", "--json"]
    answer = CliRunner().invoke(cli, args)
    assert json.loads(answer.stdout)["model"] == "odd.py:Printing"


def test_a_name_is_the_same_in_every_process(folder):
    code = 'from itd.patcher.names import name_with_arguments as n; print(n(\'a.py:f\', [\'x={"p", "q", "r", "s"}\']))'
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1 and "p" in told.pop()
    assert canonical_name(name_with_arguments("a.py:f", ["x={'b': 1}", "a=[(2,)]"])) == "a.py:f(a=[(2,)], x={'b': 1})"


def test_where_an_object_lies_in_memory_is_no_part_of_a_network():
    keep = [request_("odd.py:Addressed", sites="A=b").job() for _ in range(2)]
    assert keep[0].network_sha256 == keep[1].network_sha256
    assert keep[0].network_sha256 != request_("odd.py:Net", sites="A=b").job().network_sha256
