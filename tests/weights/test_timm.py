"""timm/NAME: timm's networks, weights and preprocessing, and the same rows as torchvision's from the same tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import itd
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.errors import ModelError
from itd.runner.request import SweepRequest
from itd.weights import digits as digits_module
from itd.weights import timm as ours
from itd.weights.load import load_weights, skeleton_of
from support.commands import one_line, run

pytestmark = pytest.mark.timm
timm = pytest.importorskip("timm", reason="timm is not there: pip install 'itd-oracle[timm]'")
SWEEP = ("sweep", "--attr", "dilation", "--sites", "A=layer4.0.conv1", "--options", "1,2", "--limit", 2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders with an image each."""
    rng = np.random.default_rng(0)
    for number, size in enumerate([(300, 260), (220, 400)]):
        folder = tmp_path / "photos" / f"class{number}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).resize(size).save(folder / "a.png")
    return tmp_path / "photos"


def test_random_weights_plan_and_sweep(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = (*SWEEP, "--model", "timm/resnet18", "--weights", "none", "--num-classes", 2, "--data", photos)
    planned = run(*command, "--plan=quick")
    assert planned.exit_code == 0 and "timm-resnet18-dilation.parquet" in planned.stdout, planned.stderr
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    result = itd.open_result("results/timm-resnet18-dilation.parquet")
    identity = result.manifest["identity"]
    assert result.images_done == 2 and identity["model"] == "timm/resnet18" and "network_sha256" not in identity
    assert identity["preprocess"] == {"resize_px": 235, "crop_px": 224, "mean": [0.485, 0.456, 0.406],
                                      "std": [0.229, 0.224, 0.225], "interpolation": "bicubic"}  # fmt: skip


def test_random_weights_have_the_classes_that_are_asked_for_or_the_networks_own() -> None:
    assert load_weights("timm/resnet18", "none", num_classes=7).network().num_classes == 7
    first, again = load_weights("timm/resnet18", "none"), load_weights("timm/resnet18", "none")
    assert first.num_classes == 1000 and first.sha256 == again.sha256 and first.label == "none"
    assert skeleton_of("timm/resnet50_clip").num_classes != 1000  # its pretrained weights have others


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50.tv_in1k", "mobilenetv3_large_100", "densenet121", "tf_efficientnet_b1"]
)
def test_preprocessing_is_timms_own_transform(name: str) -> None:
    network = skeleton_of(f"timm/{name}")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    mine = ours.timm_preprocess(f"timm/{name}", network)
    rng = np.random.default_rng(1)
    for size in ((400, 300, 3), (231, 505, 3), (100, 90, 3)):
        image = Image.fromarray(rng.integers(0, 256, size, np.uint8))
        assert torch.allclose(mine(image), theirs(image), rtol=0, atol=1e-6)


def changed(**values: object) -> torch.nn.Module:
    network = skeleton_of("timm/resnet18")
    network.pretrained_cfg = dict(network.pretrained_cfg) | values  # type: ignore[assignment, operator]
    return network


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"crop_mode": "squash"}, "the crop mode 'squash'.*`resize_px` and `crop_px`"),
        ({"input_size": (3, 256, 192)}, "256 x 192 pixels.*`resize_px` and `crop_px`"),
        ({"interpolation": "lanczos"}, "lanczos interpolation.*itd.SweepJob"),
        ({"input_size": (1, 224, 224)}, "images of 1 channels.*itd.SweepJob"),
    ],
)
def test_preprocessing_that_is_no_square_at_the_centre_is_refused_by_name(values: dict, said: str) -> None:
    network = changed(**values)
    with pytest.raises(ModelError, match=said):
        ours.timm_preprocess("timm/resnet18", network)
    if "resize_px" in said:
        own = ours.timm_preprocess("timm/resnet18", network, (250, 200))
        assert (own.resize_px, own.crop_px, own.interpolation) == (250, 200, "bicubic")


def test_mistakes_are_one_line(photos: Path) -> None:
    named = (*SWEEP, "--data", photos, "--model")
    one_line(run(*named, "timm/resnet5"), "has no 'resnet5'; the nearest are timm/resnet5")
    assert run(*named, "timm/resnet5").stderr.count("timm/") == 5
    one_line(run(*named, "timm/resnet50.no_tag"), "has no 'resnet50.no_tag'; the nearest are ")
    one_line(run(*named, "timm/resnet18", "--weights", "IMAGENET1K_V1"), "timm/resnet18.a1_in1k", "FILE")
    one_line(run(*named, "timm/resnet18", "--num-classes", 7, "--plan"), "1000 classes", "--num-classes is 7")
    one_line(run(*named, "timm/resnet18", "--model-arg", "a=1"), "--model-arg a=1", "timm/resnet18")
    one_line(run("sweep", "--attr", "dilation", "--model", "timm/resnet18", "--data", photos), "A=path[+path]")
    without = next(n for n in timm.list_models("convnext*") if not timm.models.is_model_pretrained(n))
    sites = ("--sites", "A=stages.0.blocks.0.conv_dw")
    one_line(run("sweep", "--attr", "dilation", *sites, "--data", photos, "--model", f"timm/{without}"),
             f"timm has no weights for {without}", "--weights none")  # fmt: skip


def test_weights_that_cannot_be_fetched_are_one_line_at_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args: object, **how: object) -> None:
        assert how["timeout"] <= 60
        raise OSError("Name or service not known")

    session = type("Session", (), {"head": staticmethod(unreachable)})()
    monkeypatch.setattr(hub.utils, "get_session", lambda: session)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args, **how: None)
    answer = run(*SWEEP, "--data", photos, "--model", "timm/resnet18", "--progress", "none")
    line = answer.stderr.strip().splitlines()[-1]
    assert answer.exit_code == 1 and "timm's weights of resnet18 cannot be fetched (Name or service not known)" in line
    assert "--weights FILE" in line and len(answer.stderr.strip().splitlines()) <= 2


def test_cached_weights_need_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    torch.manual_seed(0)
    network = timm.create_model("resnet18")
    save_file(network.state_dict(), tmp_path / "model.safetensors")

    def from_cache(repository: str, name: str, revision: str | None = None) -> str | None:
        assert repository == "timm/resnet18.a1_in1k"
        return str(tmp_path / "model.safetensors") if name == "model.safetensors" else None

    monkeypatch.setattr(hub, "try_to_load_from_cache", from_cache)
    monkeypatch.setattr(hub.utils, "get_session", lambda: pytest.fail("the hub was asked"))
    weights = load_weights("timm/resnet18", on_prepare=lambda *said: pytest.fail("said that it fetches"))
    assert weights.label == "resnet18.a1_in1k" and weights.num_classes == 1000
    assert torch.equal(weights.network().fc.weight, network.fc.weight)


def test_a_file_keeps_timms_preprocessing_and_says_its_classes(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18", num_classes=6).state_dict(), tmp_path / "w.safetensors")
    weights = load_weights("timm/resnet18", tmp_path / "w.safetensors")
    assert weights.num_classes == 6 and weights.preprocess.interpolation == "bicubic"
    with pytest.raises(ModelError, match="6 classes, but `num_classes` is 5"):
        load_weights("timm/resnet18", tmp_path / "w.safetensors", num_classes=5)


def test_for_the_digits_it_is_trained_once_as_torchvisions_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = digits_module.Recipe(steps=2, batch_size=8, enough=0.0)
    path = digits_module.train_on_digits("timm/test_resnet", cache_dir=tmp_path, recipe=recipe, on_prepare=None)
    assert path.parent == tmp_path and path.name.startswith("digits-timm-test_resnet-")
    weights = load_weights("timm/test_resnet", path)
    assert weights.num_classes == 10 and weights.preprocess == DIGITS_PREPROCESS


@pytest.mark.data
def test_one_state_dict_as_torchvisions_and_as_timms_gives_identical_rows(shared_data: Path, tmp_path: Path) -> None:
    how = {"attributes": "dilation", "sites": "A=layer2.0.conv2", "options": ("1,2",), "limit": 3, "every": 97}
    how |= {"weights": str(shared_data / "weights" / "resnet50.safetensors"), "device": "cpu"}
    how["data"] = str(shared_data / "images" / "sample1000")
    tables = []
    for name, model in (("a", "resnet50"), ("b", "timm/resnet50.tv_in1k")):
        out = str(tmp_path / f"{name}.parquet")
        itd.sweep(SweepRequest(model, out=out, **how), quiet=True)
        assert itd.open_result(out).manifest["identity"]["preprocess"]["interpolation"] == "bilinear"
        tables.append(pd.read_parquet(out))
    assert len(tables[0]) == 6
    pd.testing.assert_frame_equal(*tables, check_exact=True)
