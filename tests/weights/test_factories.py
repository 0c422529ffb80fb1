"""FILE.py:NAME and package.module:NAME: code that gives a network, in every command, with its own identity."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import itd
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ModelError, ResultError
from itd.patcher.factories import build_factory
from itd.patcher.names import canonical_name, model_slug, name_with_arguments, parse_factory
from itd.runner.request import SweepRequest
from itd.store import open_result
from itd.weights.files import PREPROCESS_KEY
from itd.weights.load import load_weights
from support.commands import one_line, run
from support.own_network import SITES, write_nets

MAKE = "mynets.py:make"
SWEPT = ("--attr", "dilation", "--sites", SITES, "--options", "1,2")


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder has mynets.py and what it imports."""
    path = write_nets(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("mynets", "mylayers", "pack", "pack.nets"):  # of another test's folder
        sys.modules.pop(name, None)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten folders with an image each."""
    rng = np.random.default_rng(0)
    for number in range(10):
        (tmp_path / "photos" / f"class{number}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"class{number}" / "a.png")
    return tmp_path / "photos"


def asked(model: str = MAKE, **others: object) -> SweepRequest:
    how = {"attributes": "dilation", "sites": SITES, "options": ("1,2",), "data": "digits", "limit": 2} | others
    return SweepRequest(model, **how)  # type: ignore[arg-type]


def test_every_way_to_write_a_name_is_one_text() -> None:
    text = "mynets.py:make(act='SiLU', width=2)"
    assert name_with_arguments("./sub/../mynets.py:make", ["width=2", "act=SiLU"]) == text
    assert name_with_arguments("mynets.py:make(width=2)", ["act='SiLU'"]) == text
    assert canonical_name("mynets.py:make(width=2,act=SiLU)") == text == canonical_name(text)
    assert canonical_name("package.module:Net.small") == "package.module:Net.small"
    assert dict(parse_factory("m:f(a=[1, 'x:(y)'], b=None, c=a b)".replace("a b", "'a b'")).arguments) == {
        "a": [1, "x:(y)"], "b": None, "c": "a b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["mynets.py:", ":make", "my nets:make", "m:f(1)", "m:f(a=1, a=2)", "m:f(**a)", "m:f(a="]
)
def test_a_text_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"FILE\.py:NAME or package\.module:NAME|key=value"):
        parse_factory(name)


def test_files_are_named_without_slashes_colons_and_brackets() -> None:
    assert asked("/a/b/mynets.py:make").out_path() == "results/mynets-make-dilation.parquet"
    assert asked("mynets.py:make(width=0.5, act='SiLU')").out_path() == (
        "results/mynets-make-actSiLU-width0.5-dilation.parquet"
    )
    assert asked("timm/resnet50.a1_in1k").out_path() == "results/timm-resnet50.a1_in1k-dilation.parquet"
    assert str(itd.RofRequest("p.nets:Net", "dilation").out_path()) == "rof/p.nets-Net-dilation.safetensors"
    long = [model_slug(f"m.py:f(text={'x' * 300 + end!r})") for end in "ab"]
    assert long[0] != long[1] and max(map(len, long)) < 120
    assert not set(model_slug("../a b/m.py:f(p='/x:y', q=(1, {'k': 2}))")) & set("/:()'{} ")


def test_a_sweep_of_a_file_goes_to_parquet_and_the_same_command_extends_it(tmp_path: Path) -> None:
    command = ("sweep", "--model", "./mynets.py:make", "--model-arg", "width=6", "--model-arg", "act=SiLU", *SWEPT)
    first = run(*command, "--limit", 2)
    assert first.exit_code == 0, first.stderr
    second = run(*command, "--limit", 5)
    assert "2 of them there already" in second.stderr, second.stderr
    (out,) = (tmp_path / "results").iterdir()
    assert out.name == "mynets-make-actSiLU-width6-dilation.parquet"
    result = open_result(out)
    assert result.images_done == 5 and result.configs == 4
    identity = result.manifest["identity"]
    assert identity["model"] == "mynets.py:make(act='SiLU', width=6)"
    assert identity["preprocess"] == DIGITS_PREPROCESS.identity()
    assert len(identity["network_sha256"]) == len(identity["weights_sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mynets.py:mak",), ("mynets.py has no 'mak'", "the nearest are", "make")),
        (("mynet.py:make",), ("cannot read mynet.py: no such file", "did you mean mynets.py?")),
        (("gone/mine.py:make",), ("cannot read gone/mine.py", "current folder")),
        (("mynets.py",), ("mynets.py:NAME",)),
        (("no_such_package.nets:make",), ("no module 'no_such_package'", "FILE.py:NAME")),
        (("broken.py:make",), ("broken.py cannot be loaded: ModuleNotFoundError: No module named 'not_there'",)),
        (("broken:make",), ("broken cannot be loaded: ModuleNotFoundError: No module named 'not_there'",)),
        (("syntax.py:make",), ("syntax.py cannot be loaded: SyntaxError",)),
        (("mynets.py:five",), ("mynets.py:five is a int", "name a function or class")),
        (("mynets.py:there",), ("mynets.py:there is a network", "function or class")),
        (("mynets.py:fails",), ("mynets.py:fails raised ValueError: no checkpoint here; ",)),
        (("mynets.py:leaves",), ("mynets.py:leaves raised SystemExit: bye",)),
        (("mynets.py:number",), ("mynets.py:number returned a int", "nn.Module")),
        (("mynets.py:nothing",), ("mynets.py:nothing returned nothing", "nn.Module")),
        (("mynets.py:Map",), ("mynets.py:Map gives logits of the shape (1, 4, 32, 32)", "(1, K)")),
        (("mynets.py:Flat",), ("mynets.py:Flat cannot take an image of 3 x 64 x 64", "--crop")),
        (("mynets.py:Net", "--model-arg", "widht=3"), ("takes no argument 'widht'", "it takes width, classes, act")),
        (("mynets.py:fails", "--model-arg", "a=3"), ("takes no argument 'a'", "it takes none")),
        (("mynets.py:needy",), ("mynets.py:needy needs depth", "--model-arg depth=VALUE")),
        ((MAKE, "--model-arg", "act=Relu"), ("raised AttributeError", "'Relu'")),
        ((MAKE, "--model-arg", "width"), ("--model-arg width is not key=value",)),
        ((MAKE, "--model-arg", "class=2"), ("--model-arg class=2 is not key=value",)),
        ((MAKE, "--model-arg", "width=2", "--model-arg", "width=3"), ("width", "given twice")),
        ((f"{MAKE}(width=2)", "--model-arg", "width=3"), ("width", "given twice")),
        (("resnet18", "--model-arg", "width=3"), ("--model-arg width=3", "resnet18")),
        ((MAKE, "--model-arg", "classes=7"), ("gives 7 logits", "10 classes", "--data", "--weights")),
        ((MAKE, "--num-classes", "7", "--data", "photos"), ("gives 10 logits", "7 classes", "--num-classes")),
        ((MAKE, "--weights", "IMAGENET1K_V1"), ("no such weights: 'IMAGENET1K_V1'", "as it was built")),
        ((MAKE, "--weights", "gone.pth"), ("gone.pth is not there",)),
        (("resnet99",), ("no such model", "FILE.py:NAME", "package.module:NAME", "timm/NAME")),
        ((MAKE, "--sites", "AB"), ("no registered sites", "A=path[+path]")),
        ((MAKE, "--op", "se"), ("--op",)),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(words: tuple[str, ...], said: tuple[str, ...], photos: Path) -> None:
    Path("broken.py").write_text("import not_there\n")
    Path("syntax.py").write_text("def make(:\n")
    sys.modules.pop("broken", None)
    where = () if "--data" in words else ("--data", "digits")
    sites = () if "--sites" in words else ("--sites", "A=0" if words[0].endswith(("Map", "Flat")) else "A=stem.0")
    one_line(run("sweep", "--model", *words, "--attr", "dilation", *sites, *where, "--limit", 1), *said)


def test_no_model_at_all_cannot_have_arguments() -> None:
    one_line(run("predict", "digits", "--model-arg", "a=1"), "not named")


def test_arguments_tensors_and_code_are_told_apart(nets: Path, tmp_path: Path) -> None:
    first = asked().job().identity()
    assert asked().job().identity() == first == asked("./mynets.py:make").job().identity()
    wider = asked(f"{MAKE}(width=5)").job().identity()
    assert {n for n in first if first[n] != wider[n]} == {"model", "weights_sha256", "network_sha256"}
    out = str(tmp_path / "r.parquet")
    itd.sweep(asked(out=out), quiet=True)
    source = nets.read_text()
    nets.write_text(source.replace("return Net(width, **others)", "torch.rand(1); return Net(width, **others)"))
    tensors = asked().job().identity()
    assert {n for n in first if first[n] != tensors[n]} == {"weights_sha256"}
    with pytest.raises(ResultError, match="weights_sha256"):
        itd.sweep(asked(out=out, limit=3), quiet=True)
    nets.write_text(source.replace(".mean((2, 3))", ".amax((2, 3))"))
    code = asked().job().identity()
    assert {n for n in first if first[n] != code[n]} == {"network_sha256"}
    with pytest.raises(ResultError, match="network_sha256"):
        itd.sweep(asked(out=out, limit=3), quiet=True)
    with pytest.raises(ResultError, match="its code, or what it calls, changed"):
        itd.select(open_result(out), itd.SelectRequest(data="digits", k=2, folds=2))


def test_a_registered_networks_identity_is_what_it_was() -> None:
    assert "network_sha256" not in asked("resnet18", sites="D", weights="none").job().identity()


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_factory(MAKE).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_factory(MAKE).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not build_factory(MAKE).training


def test_a_file_finds_what_is_beside_it_and_a_module_what_is_in_the_current_folder(tmp_path: Path) -> None:
    path = write_nets(tmp_path / "pack", "nets.py")
    (tmp_path / "mylayers.py").unlink()
    assert build_factory("pack/nets.py:Net(width=3)").head.in_features == 3
    assert not {str(tmp_path), str(tmp_path / "pack")} & set(sys.path)
    path.write_text(path.read_text().replace("mylayers", "pack.mylayers"))
    assert build_factory("pack.nets:Net(width=3)").head.in_features == 3
    assert not {str(tmp_path), str(tmp_path / "pack")} & set(sys.path)


def test_a_changed_file_is_read_again(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before, source = os.stat(nets), nets.read_text()
    assert build_factory("mynets.py:Net").head.in_features == 4
    nets.write_text(source.replace("width=4, classes=10", "width=5, classes=10"))
    os.utime(nets, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert build_factory("mynets.py:Net").head.in_features == 5


def test_the_number_of_classes_is_read_off_the_logits() -> None:
    assert load_weights(f"{MAKE}(classes=13)").num_classes == 13
    assert load_weights("mynets.py:Values(classes=9)").num_classes == 7  # which no forward on shapes could say
    assert load_weights("mynets.py:Flat", size_px=(None, 32)).num_classes == 10


def test_weights_are_as_built_or_of_a_file_that_fits(tmp_path: Path) -> None:
    built, none = load_weights(MAKE), load_weights(MAKE, "none")
    assert (built.label, none.label) == ("as built", "none") and built.sha256 == none.sha256
    assert built.preprocess == Preprocess()
    torch.manual_seed(1)
    other = {
        name: torch.rand_like(t) if t.is_floating_point() else t for name, t in built.network().state_dict().items()
    }
    save_file(other, tmp_path / "w.safetensors")
    own = Preprocess(resize_px=40, crop_px=32, mean=(0.1, 0.2, 0.3))
    save_file(other, tmp_path / "p.safetensors", metadata={PREPROCESS_KEY: json.dumps(own.identity())})
    weights = load_weights(MAKE, tmp_path / "w.safetensors")
    assert weights.preprocess == Preprocess() and weights.label == "w.safetensors" and weights.sha256 != built.sha256
    assert torch.equal(weights.network().head.weight, other["head.weight"])
    assert load_weights("mynets.py:Net", tmp_path / "p.safetensors").preprocess == own
    answer = run("sweep", "--model", MAKE, "--model-arg", "width=5", *SWEPT, "--weights", "w.safetensors", "--limit", 1)
    one_line(answer, "weights w.safetensors are not for mynets.py:make(width=5)", "have another shape")


def test_on_the_digits_it_stays_as_it_was_built() -> None:
    job = asked().job()
    assert job.weights_label == "as built" and job.weights_sha256 == load_weights(MAKE).sha256
    assert asked(weights="none").job().identity() == job.identity()


def test_each_command_takes_it(photos: Path, tmp_path: Path) -> None:
    named = ("--model", "mynets.py:make", "--model-arg", "width=5")
    text = "mynets.py:make(width=5)"
    swept = run("sweep", *named, *SWEPT, "--data", photos)
    assert swept.exit_code == 0, swept.stderr
    chosen = run("select", "results/mynets-make-width5-dilation.parquet", "--data", photos, "--k", 2, "--folds", 2,
                 "--resamples", 20, "--method", "averaging", "--save", "s.safetensors", "--json")  # fmt: skip
    assert chosen.exit_code == 0 and json.loads(chosen.stdout)["n"] == 10, chosen.stderr
    for how in (
        named,
        ("--model", "mynets.py:noisy"),
        ("--selector", "s.safetensors"),
        (*named, "--selector", "s.safetensors"),
    ):
        said = run("predict", photos, *how, "--json")
        assert said.exit_code == 0, said.stderr
        lines = [json.loads(line) for line in said.stdout.splitlines()]  # and nothing that the factory prints
        assert len(lines) == 10 and all(0 <= line["top"][0]["class"] < 10 for line in lines)
    one_line(run("predict", photos, "--model", MAKE, "--selector", "s.safetensors"), f"for {text}, not for")
    tested = run("evaluate", *named, "--data", photos, "--json")
    assert tested.exit_code == 0, tested.stderr
    assert json.loads(tested.stdout)["model"] == text and json.loads(tested.stdout)["weights"] == "as built"
    again = run("recalibrate", *named, *SWEPT, "--data", photos, "--val", photos, "--images", 4)
    assert again.exit_code == 0, again.stderr
    assert open_result("results/mynets-make-width5-dilation-recalibrated.parquet").images_done == 10


def test_a_network_of_one_image_size_is_chosen_for_and_used_at_it(photos: Path) -> None:
    how = ("--model", "mynets.py:Flat", "--data", photos, "--attr", "dilation", "--sites", "A=0", "--options", "1,2")
    swept = run("sweep", *how, "--resize", 34, "--crop", 32)
    assert swept.exit_code == 0, swept.stderr
    chosen = run("select", "results/mynets-Flat-dilation.parquet", "--data", photos, "--k", 2, "--folds", 2,
                 "--resamples", 20, "--method", "averaging", "--save", "s.safetensors")  # fmt: skip
    assert chosen.exit_code == 0, chosen.stderr
    said = run("predict", photos, "--selector", "s.safetensors")
    assert said.exit_code == 0, said.stderr
    one_line(run("predict", photos, "--model", "mynets.py:Flat"), "cannot take an image of 3 x 224 x 224")


def test_timm_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> object:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    one_line(run("sweep", *SWEPT, "--data", "digits", "--model", "timm/resnet18"), "pip install 'itd-oracle[timm]'")


def test_fine_tuning_takes_it_and_says_before_and_after(tmp_path: Path) -> None:
    done = run("rof", "--model", "mynets.py:make", "--model-arg", "width=5", *SWEPT, "--data", "digits", "--epochs", 1,
               "--epoch-images", 64, "--batch-size", 32, "--val-limit", 4, "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["out"] == "rof/mynets-make-width5-dilation.safetensors" and report["compare"] is not None
    record = json.loads((tmp_path / "rof" / "mynets-make-width5-dilation.json").read_text())
    assert record["identity"]["model"] == "mynets.py:make(width=5)" and record["began_with"] == "as built"
    trained = run("train", "--model", MAKE, "--data", "digits", "--epochs", 1, "--epoch-images", 64, "--batch-size", 32)
    assert trained.exit_code == 0 and (tmp_path / "trained" / "mynets-make.safetensors").exists(), trained.stderr
