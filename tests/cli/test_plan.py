"""What a sweep says of itself: `--plan`, full, quick and as JSON, and the lines at the start of a sweep."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import itd
import itd.runner.plan as planning
from itd.data.digits import digits_images
from itd.patcher import build_model
from itd.runner.estimate import TimeEstimate
from itd.weights.digits import RECIPES, Recipe, digits_file, train_on_digits
from itd.weights.load import load_weights
from itd_cli.main import cli
from itd_cli.plan import MOST, plan_text, shortened_sites, start_notes
from support.commands import one_line, run

SMALL = ("sweep", "--model", "resnet18", "--attr", "dilation", "--sites", "CD", "--options", "1,2", "--data", "digits",
         "--device", "cpu", "--limit", 3)  # fmt: skip
RANDOM = (*SMALL, "--weights", "none", "--crop", 32)
UNTRACEABLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = -x if float(x.abs().max()) < 0 else x
        return self.head(self.conv(x).mean((2, 3)))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and nothing trained or fetched before."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ITD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


@pytest.fixture(autouse=True)
def _any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has bf16 is said to have it, in a line of its own."""
    monkeypatch.setattr("itd.runner.precision.cpu_has_bf16", lambda: False)


@pytest.fixture
def looking(here: Path) -> tuple[object, ...]:
    """A sweep of a network that cannot be traced."""
    (here / "looks.py").write_text(UNTRACEABLE)
    return ("sweep", "--model", "looks.py:Net", "--sites", "A=conv", "--attr", "dilation", "--options", "1,2",
            "--data", "digits", "--limit", 2, "--device", "cpu")  # fmt: skip


def fields(text: str) -> dict[str, str]:
    return {line[:16].strip(): line[17:] for line in text.splitlines()}


def notes(text: str) -> list[str]:
    return [line.removeprefix("itd: note: ") for line in text.splitlines() if line.startswith("itd: note: ")]


def planned(*args: object) -> dict:
    answer = run(*args, "--plan=quick", "--json")
    assert answer.exit_code == 0 and answer.stderr == "", answer.stderr
    return json.loads(answer.stdout)


def test_a_plan_says_everything_and_writes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "estimate_time", lambda *_, **how: TimeEstimate(12_000.0, 8, 4, how["budget_s"]))
    answer = run(*RANDOM, "--plan", "--progress", "log")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stderr == "itd: timing the sweep on noise, at most 20 s (--plan=quick leaves it out)\n"
    sha256 = load_weights("resnet18", "none", num_classes=10).sha256
    said = fields(answer.stdout)
    assert said.pop("MACs, plain").endswith("MMAC: every configuration on its own")
    assert re.fullmatch(r"[\d.,]+ MMAC: [\d.]+x fewer in the prefix tree", said.pop("MACs, shared"))
    assert said == {
        "model": "resnet18, dilation",
        "weights": f"none: random, always the same, SHA-256 {sha256}",
        "site A": "layer1.0.conv1; not swept",
        "site B": "layer2.0.conv1, layer2.0.downsample.0 (stride); not swept",
        "site C": "layer3.0.conv1, layer3.0.downsample.0 (stride)",
        "site D": "layer4.0.conv1, layer4.0.downsample.0 (stride)",
        "preprocessing": "not resized, crop 32 px, mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
        "configurations": "4 (default: 0)",
        "images": "3 images of 3 of 10 classes, digits",
        "executor": "the prefix tree",
        "precision": "fp32",
        "scores": "0.0 MB before compression",
        "result": "results/resnet18-dilation.parquet",
        "time": "about 3 h 20 min, measured on 8 images of noise",
    }
    assert list(here.iterdir()) == [] and not (here.parent / "cache").exists()


def test_the_json_of_a_plan_is_the_librarys(here: Path) -> None:
    answer = run(*RANDOM, "--plan", "--json", "--progress", "none")
    assert answer.exit_code == 0 and answer.stderr == "", answer.stderr
    said = json.loads(answer.stdout)
    timed = said.pop("estimate")
    assert set(timed) == {"seconds", "images", "configs", "measured_s"} and timed["seconds"] > 0
    request = itd.SweepRequest("resnet18", "dilation", sites="CD", options=("1,2",), data="digits", weights="none",
                               crop_px=32, limit=3, device="cpu")  # fmt: skip
    plan = itd.plan(request)
    assert plan.estimate is None and {**said, "estimate": None} == json.loads(json.dumps(plan.as_dict()))
    assert said["sites"]["D"] == {
        "layer4.0.conv1": ["stride", "dilation", "size"],
        "layer4.0.downsample.0": ["stride"],
    }
    assert said["preprocess"]["crop_px"] == 32 and said["macs_unknown"] == [] and said["swept"] == ["C", "D"]
    assert said["plain_macs"] == 3 * sum(request.job().macs) > said["tree_macs"] > 0
    assert list(here.iterdir()) == []


def test_the_help_names_every_field_of_the_json() -> None:
    text = run("sweep", "--help").stdout.split("JSON:")[1]
    names = [*itd.SweepPlan.__dataclass_fields__, *TimeEstimate.__dataclass_fields__]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_quick_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "estimate_time", None)
    monkeypatch.setattr(planning, "make_executor", None)
    answer = run(*RANDOM, "--plan=quick")
    assert answer.exit_code == 0 and answer.stderr == "" and "time" not in fields(answer.stdout), answer.stderr
    refused = run(*RANDOM, "--plan=slow")
    assert refused.exit_code == 2 and "full" in refused.stderr and "quick" in refused.stderr


def test_json_is_of_a_plan_alone() -> None:
    one_line(run(*RANDOM, "--json"), "--json", "--plan")


def test_weights_are_said_by_content_or_why_they_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(*args: object) -> list:
        found = planned(*args)
        return [found["weights"], found["weights_sha256"], found["weights_pending"]]

    random = load_weights("shufflenet_v2_x0_5", "none", num_classes=10)
    save_file(random.network().state_dict(), tmp_path / "mine.safetensors")
    named = ("sweep", "--model", "shufflenet_v2_x0_5", "--attr", "dilation", "--sites", "A=stage2.0.branch2.3",
             "--data", "digits", "--limit", 2)  # fmt: skip
    assert weights(*named, "--weights", "none") == ["none", random.sha256, None]
    assert weights(*named, "--weights", tmp_path / "mine.safetensors") == ["mine.safetensors", random.sha256, None]
    monkeypatch.setitem(RECIPES, "shufflenet_v2_x0_5", Recipe(steps=1, batch_size=8, enough=0.0))
    file = digits_file("shufflenet_v2_x0_5")
    assert weights(*named) == [file.name, None, "not trained yet"] and not file.exists()
    text = fields(run(*named, "--plan=quick").stdout)["weights"]
    assert text.startswith(f"{file.name}, not trained yet; the sweep first trains")
    assert train_on_digits("shufflenet_v2_x0_5", on_prepare=None) == file
    assert weights(*named) == [file.name, load_weights("shufflenet_v2_x0_5", file).sha256, None]
    published = (*named, "--weights", "IMAGENET1K_V1", "--num-classes", 1000)
    one_line(run(*published, "--plan=quick"), "10 classes")


def test_published_weights_are_not_fetched_and_known_where_they_were(tmp_path: Path, monkeypatch) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights as Enum
    from torchvision.models import shufflenet_v2_x0_5

    from itd.weights.load import plan_weights

    def found() -> tuple:
        weights = plan_weights("shufflenet_v2_x0_5", None, num_classes=None, digits=False)
        return weights.label, weights.pending, weights.preprocess.crop_px

    assert found() == ("IMAGENET1K_V1", "not fetched", 224)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr("itd.weights.load._require_hash", lambda path: None)
    torch.save(shufflenet_v2_x0_5().state_dict(), folder / Path(Enum.IMAGENET1K_V1.url).name)
    assert found() == ("IMAGENET1K_V1", None, 224)


def test_a_job_whose_weights_are_not_there_is_not_run() -> None:
    job = itd.SweepRequest("resnet18", "dilation", sites="D", data="digits", limit=1).job(only_plan=True)
    assert itd.plan(job).weights_pending == "not trained yet"
    with pytest.raises(itd.errors.ModelError, match=r"not trained yet.*without only_plan"):
        itd.sweep(job, out="r.parquet")
    assert not Path("r.parquet").exists()


def test_a_plain_network_says_so_and_why(looking: tuple[object, ...]) -> None:
    said = fields(run(*looking, "--plan=quick").stdout)
    assert said["executor"].startswith("plain forwards: ") and "trace" in said["executor"]
    assert said["MACs, shared"] == "none: every configuration is a plain forward"
    assert said["weights"].startswith("as built, SHA-256 ")
    found = planned(*looking)
    assert found["executor"] == "plain" and found["why_plain"] in said["executor"]
    assert planned(*RANDOM, "--executor", "plain")["why_plain"] == "asked for"


def test_sites_that_were_looked_for_say_what_was_not_found(here: Path) -> None:
    (here / "looks.py").write_text(UNTRACEABLE.replace("x = -x if float(x.abs().max()) < 0 else x", "pass"))
    net = "super().__init__()\n        self.stem = nn.Conv2d(3, 3, 3, 1, 1)"
    text = (
        Path("looks.py")
        .read_text()
        .replace("super().__init__()", net, 1)
        .replace("self.conv(x)", "self.conv(self.stem(x))")
    )
    Path("looks.py").write_text(text)
    found = planned("sweep", "--model", "looks.py:Net", "--sites", "auto", "--attr", "dilation", "--data", "digits")
    assert list(found["sites"]) == ["A", "B"] and any("stages of different resolution" in why for why in found["why"])
    stride = planned("sweep", "--model", "resnet18", "--attr", "stride", "--data", "digits", "--weights", "none")
    assert stride["why"] == ["A keeps its stride: its block has no projection on the shortcut to take the same stride"]


def test_what_is_assumed_of_weights_is_said_until_it_is_given(here: Path) -> None:
    torch.save(build_model("resnet18", 10).state_dict(), "w.pth")
    args = ("sweep", "--model", "resnet18", "--attr", "dilation", "--sites", "D", "--options", "1,2", "--data",
            "digits", "--weights", "w.pth", "--limit", 1, "--device", "cpu", "--progress", "none")  # fmt: skip
    assumed = "resize 256 px, crop 224 px, bilinear, mean 0.485,0.456,0.406, std 0.229,0.224,0.225"
    text = (
        f"weights w.pth do not say how images are preprocessed; assumed: {assumed}; change it with --resize, --crop, "
    )
    text += "--interpolation, --mean, --std"
    assert fields(run(*args, "--plan=quick").stdout)["assumed"] == text
    assert planned(*args)["assumed"] == ["resize_px", "crop_px", "interpolation", "mean", "std"]
    small = ("--crop", 56, "--crop-fraction", 0.875, "--mean", "0.5,0.4,0.3", "--interpolation", "bicubic")
    told = notes(run(*args, *small).stderr)
    assert (
        told[2]
        == "weights w.pth do not say how images are preprocessed; assumed: std 0.229,0.224,0.225; change it with --std"
    )
    result = itd.open_result("results/resnet18-dilation.parquet")
    assert result.identity["preprocess"] == {"resize_px": 64, "crop_px": 56, "interpolation": "bicubic",
                                             "mean": [0.5, 0.4, 0.3], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    whole = (*small, "--std", "0.2,0.2,0.2")
    for command in (args, ("evaluate", "--model", "resnet18", "--weights", "w.pth", "--data", "digits", "--limit", 1),
                    ("predict", "digit.png", "--model", "resnet18", "--weights", "w.pth")):  # fmt: skip
        digits_images("eval").load(0).save("digit.png")
        out = ("--out", here / "other.parquet") if command is args else ()
        assert "do not say how images are preprocessed" in run(*command, *out).stderr, command
        out = ("--out", here / "third.parquet") if command is args else ()
        assert "do not say how" not in run(*command, *out, *whole).stderr, command


@pytest.mark.parametrize(("words", "said"), [
    (("--crop-fraction", 1.2), "--crop-fraction 1.2 is not allowed"),
    (("--crop-fraction", 0.9, "--resize", 256), "both say what images are resized to"),
    (("--mean", "0.5,0.4"), "--mean 0.5,0.4 is not allowed; give three numbers"),
    (("--std", "0.5,0,0.4"), "--std 0.5,0,0.4 is not allowed; give three numbers above 0"),
])  # fmt: skip
def test_preprocessing_that_cannot_be_is_one_line(here: Path, words: tuple[object, ...], said: str) -> None:
    one_line(run(*RANDOM, *words), said)


def test_what_is_there_already_is_counted_and_another_run_refused_with_nothing_else(
    looking: tuple[object, ...],
) -> None:
    out = ("--out", "r.parquet")
    assert run(*RANDOM, *out).exit_code == 0
    before = sorted(Path("r.parquet").rglob("*"))
    more = (*RANDOM, "--limit", 5, *out)
    assert planned(*more)["already"] == 3
    assert fields(run(*more, "--plan=quick").stdout)["images"] == (
        "5 images of 5 of 10 classes, digits, 3 of them there already"
    )
    done = fields(run(*RANDOM, *out, "--plan", "--progress", "none").stdout)
    assert done["time"] == "none: every image is there already"
    for command in ((*RANDOM, "--every", 2), looking):
        one_line(run(*command, *out, "--plan"), "holds another run")
        one_line(run(*command, *out), "holds another run")
    assert sorted(Path("r.parquet").rglob("*")) == before


def test_several_plans_are_a_list_and_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def fake(*_: object, budget_s: float, **__: object) -> TimeEstimate:
        budgets.append(budget_s)
        return TimeEstimate(1.0, 1, 1, 1.0)

    monkeypatch.setattr(planning, "estimate_time", fake)
    answer = run(*RANDOM, "--scale", "1,2", "--plan", "--json", "--progress", "none")
    first, second = json.loads(answer.stdout)
    assert first["variation"] == {"scale": 1.0} and second["input_shape"] == [3, 64, 64] and budgets == [10, 10]
    texts = run(*RANDOM, "--context", "16,32", "--plan=quick").stdout.split("\n\n")
    assert [fields(text)["preprocessing"].split(", ")[2] for text in texts] == ["context 16 px", "context 32 px"]


def test_a_sweep_starts_with_three_lines(tmp_path: Path) -> None:
    answer = run(*RANDOM, "--options", "C=2,3", "--progress", "none")
    said = notes(answer.stderr)
    sha256 = load_weights("resnet18", "none", num_classes=10).sha256
    assert said[0] == (
        f"resnet18, weights none: random, always the same, SHA-256 {sha256[:12]}; sites C layer3.0.conv1, "
        "D layer4.0.conv1"
    )
    assert said[1].startswith("digits: not resized, crop 32 px, mean 0.5 0.5 0.5, std 0.5 0.5 0.5")
    assert (
        said[2]
        == "4 configurations, 3 images of 3 of 10 classes, 0 of them there already -> results/resnet18-dilation.parquet"
    )
    assert len(said) == 4 and said[3].startswith("3 of 3 images are in ")


def test_sites_are_shortened_to_fit_their_line() -> None:
    layers = {site: [f"layer{i}.0.conv2", f"layer{i}.0.downsample.0"] for i, site in enumerate("ABCD", 1)}
    whole = shortened_sites(layers, 200)
    assert whole.startswith("A layer1.0.conv2+layer1.0.downsample.0, B ") and len(whole) > 120
    assert shortened_sites(layers, 120) == ", ".join(f"{s} layer{i}.0.conv2+1" for i, s in enumerate("ABCD", 1))
    assert shortened_sites(layers, 50) == "A, B, C, D (8 layers)"


def test_a_plain_sweep_says_so_before_its_three_lines(looking: tuple[object, ...]) -> None:
    said = notes(run(*looking, "--progress", "none").stderr)
    assert said[0].startswith("not traceable: no work is shared, 2 forwards") and len(said) == 5
    assert said[3].startswith("2 configurations, 2 images of 2 of 10 classes, 0 of them there already -> ")


def test_what_is_left_out_and_lost_stands_in_the_lines_at_the_start() -> None:
    args = [a if a != "1,2" else "2,3" for a in RANDOM]
    assert (
        "; the default configuration is not among them: there will be no static accuracy"
        in notes(run(*args, "--limit", 1, "--progress", "none").stderr)[1]
    )
    stride = ("sweep", "--model", "mobilenet_v2", "--attr", "stride", "--sites", "CD", "--data", "digits", "--weights",
              "none", "--limit", 1, "--device", "cpu", "--stride-range", "1,64", "--progress", "none")  # fmt: skip
    said = notes(run(*stride).stderr)
    assert re.search(r"; \d+ configurations are left out: total output stride out of range", said[1]), said
    assert len(said[0]) <= MOST


def test_operators_that_are_not_counted_are_named_in_both() -> None:
    request = itd.SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=2)
    job = request.job()
    job.costs = replace(job.costs, unknown=("einsum", "cdist"))
    said = fields(plan_text(itd.plan(job)))
    for name in ("MACs, plain", "MACs, shared"):
        assert said[name].startswith("not known: einsum, cdist are not counted, the others are ")
    lines = start_notes(SimpleNamespace(job=job, already=0, out="r.parquet", notes=()))
    assert len(lines) == 3 and lines[1].endswith("; multiply-accumulates do not count einsum, cdist")


def test_the_document_shows_what_is_printed(repository: Path) -> None:
    shown = (repository / "docs" / "results.md").read_text("utf-8").split("--limit 40 --plan\n")[1].split("```")[0]
    documented = fields(shown)
    command = ("sweep", "--model", "resnet18", "--attr", "dilation", "--data", "digits", "--limit", 40)
    printed = fields(run(*command, "--plan=quick").stdout)
    assert re.fullmatch(r"about \d+ s, measured on \d images of noise, the training apart", documented.pop("time"))
    for one in (documented, printed):  # the name goes by torch's version
        one["weights"] = re.sub(r"-[0-9a-f]{16}\.", "-KEY.", one["weights"])
    assert documented == printed


def test_every_option_of_the_plan_is_one_of_the_sweep() -> None:
    command = cli.get_command(None, "sweep")  # type: ignore[arg-type]
    option = next(p for p in command.params if "--plan" in p.opts)  # type: ignore[union-attr]
    assert option.flag_value == "full" and list(option.type.choices) == ["full", "quick"]  # type: ignore[attr-defined]
