"""Weights from files, torchvision's cache or a seed: the same content is the same hash, and nothing wrong fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from itd.data.preprocess import Preprocess
from itd.errors import ModelError
from itd.weights.content import content_sha256
from itd.weights.files import PREPROCESS_KEY
from itd.weights.load import apply_weights, load_weights

StateDict = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> StateDict:
    """resnet18 for 7 classes, at values that fp16 holds exactly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = models.resnet18(num_classes=7)
    return {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}


def refused(model: str, weights: object, match: str, **kwargs: int) -> None:
    with pytest.raises(ModelError, match=match) as error:
        load_weights(model, str(weights), **kwargs)
    assert "\n" not in str(error.value)


def test_every_container_holds_the_same_weights(state: StateDict, tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pt")
    torch.save({"model": halves}, tmp_path / "half.pth")
    save_file(halves, tmp_path / "half.safetensors")
    counters = [k for k in state if k.endswith("num_batches_tracked")]
    save_file({k: v for k, v in halves.items() if k not in counters}, tmp_path / "bare.safetensors")
    reference = models.resnet18(num_classes=7)
    reference.load_state_dict(state)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = reference.eval()(x)
        for path in sorted(tmp_path.iterdir()):
            weights = load_weights("resnet18", path)
            assert (weights.num_classes, weights.label) == (7, path.name)
            assert weights.preprocess == Preprocess()
            assert weights.sha256 == content_sha256(state)
            model = models.resnet18(num_classes=7).eval()
            apply_weights(model, weights)
            assert torch.equal(model(x), expected), path.name


def test_hash_is_of_names_shapes_and_values(state: StateDict) -> None:
    first = content_sha256(state)
    changed = dict(state)
    changed["fc.bias"] = state["fc.bias"].clone()
    changed["fc.bias"][3] += 1e-3
    assert content_sha256(changed) != first
    renamed = {k.replace("fc.", "head."): v for k, v in state.items()}
    assert content_sha256(renamed) != first
    assert content_sha256(state | {"fc.weight": state["fc.weight"].T}) != first
    assert content_sha256(dict(reversed(state.items()))) == first


def test_hash_is_the_documented_one() -> None:
    import hashlib

    tensors = {"b": torch.tensor([[1.5, -2.0]], dtype=torch.float16), "a": torch.tensor([3])}
    text = b"a\0torch.int64\0(1,)\n" + (3).to_bytes(8, "little") + b"b\0torch.float16\0(1, 2)\n"
    text = text.replace(b"float16", b"float32") + bytes.fromhex("0000c03f000000c0")
    assert content_sha256(tensors) == hashlib.sha256(text).hexdigest()


def test_old_densenet_names_are_read(tmp_path: Path) -> None:
    model = models.densenet121(num_classes=5)
    old = {}
    for name, tensor in model.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save({k: v for k, v in old.items() if "num_batches" not in k}, tmp_path / "old.pth")
    weights = load_weights("densenet121", tmp_path / "old.pth")
    assert weights.num_classes == 5
    fresh = models.densenet121(num_classes=5)
    apply_weights(fresh, weights)
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(state: StateDict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    weights = load_weights("resnet18", tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth are not for .* missing \(first: layer1\.0\.conv3\.weight\)") as error:
        apply_weights(models.resnet50(num_classes=7), weights)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"2 have another shape \(first: fc\.weight, \(7, 512\) for \(9, 512\)\)"):
        apply_weights(models.resnet18(num_classes=9), weights)
    torch.save(state | {"extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"1 are unexpected \(first: extra\.weight\)"):
        apply_weights(models.resnet18(num_classes=7), load_weights("resnet18", tmp_path / "w.pth"))


def test_files_that_are_no_weights_are_refused(state: StateDict, tmp_path: Path) -> None:
    refused("resnet18", tmp_path / "gone.pth", r"gone\.pth is not there.*IMAGENET1K_V1")
    refused("resnet18", tmp_path, "is a folder")
    torch.save(state, tmp_path / "cut.pth")
    save_file(state, tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        data = (tmp_path / name).read_bytes()
        for size in (len(data) // 2, 100, 0):
            (tmp_path / name).write_bytes(data[:size])
            refused("resnet18", tmp_path / name, rf"{name} \({size} bytes\) is truncated or no .* file")
    (tmp_path / "text.pth").write_text("hello, this is no checkpoint")
    refused("resnet18", tmp_path / "text.pth", r"text\.pth .* is truncated or no \.pth file")
    torch.save(models.resnet18(), tmp_path / "module.pth")
    refused("resnet18", tmp_path / "module.pth", r"holds more than tensors.*save model\.state_dict\(\)")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused("resnet18", tmp_path / "list.pth", "holds list, not a state dict")
    torch.save({"epoch": 3, "net": state}, tmp_path / "odd.pth")
    refused("resnet18", tmp_path / "odd.pth", "'epoch' is int")


def test_number_of_classes_must_be_the_weights(state: StateDict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    assert load_weights("resnet18", tmp_path / "w.pth", num_classes=7).num_classes == 7
    refused("resnet18", tmp_path / "w.pth", r"7 classes, but `num_classes` is 10", num_classes=10)


@pytest.mark.parametrize("name", ["vgg11_bn", "squeezenet1_0", "regnet_y_400mf", "mobilenet_v2"])
def test_number_of_classes_is_found_in_other_families(name: str, tmp_path: Path) -> None:
    save_file(models.get_model(name, num_classes=6).state_dict(), tmp_path / "w.safetensors")
    assert load_weights(name, tmp_path / "w.safetensors").num_classes == 6


def test_none_is_random_but_always_the_same() -> None:
    weights = load_weights("resnet18", "none", num_classes=4)
    assert (weights.state_dict, weights.label, weights.num_classes) == (None, "none", 4)
    loaded = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = models.resnet18(num_classes=4)
        apply_weights(model, weights)
        loaded.append(model.state_dict())
    assert content_sha256(loaded[0]) == content_sha256(loaded[1]) == weights.sha256
    assert loaded[0]["conv1.weight"].std() > 0
    assert load_weights("resnet18", "none", num_classes=5).sha256 != weights.sha256


def test_none_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_weights("resnet18", "none", num_classes=4)
    assert torch.equal(torch.rand(3), expected)


def test_torchvisions_weights_come_from_its_cache_with_their_own_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("itd.weights.load._require_hash", lambda path: None)  # they stand for the published ones
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    content = models.mobilenet_v2().state_dict()
    for member in models.MobileNet_V2_Weights:
        torch.save(content, folder / member.url.rsplit("/", 1)[-1])
    first = load_weights("mobilenet_v2")
    assert (first.label, first.num_classes, first.preprocess) == ("IMAGENET1K_V1", 1000, Preprocess())
    assert first.sha256 == content_sha256(content)
    second = load_weights("mobilenet_v2", "IMAGENET1K_V2")
    assert (second.label, second.preprocess) == ("IMAGENET1K_V2", Preprocess(232, 224))
    assert load_weights("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V2").label == "IMAGENET1K_V2"
    refused("mobilenet_v2", "IMAGENET1K_V9", r"no such weights: 'IMAGENET1K_V9'.*IMAGENET1K_V1, IMAGENET1K_V2.*FILE")
    refused("resnet19", "IMAGENET1K_V1", "no such model: 'resnet19'")
    cached = folder / models.MobileNet_V2_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    cached.write_bytes(cached.read_bytes()[:1000])
    refused("mobilenet_v2", "IMAGENET1K_V1", rf"cached weights .*{cached.name} cannot be read.*delete that file")
    assert capsys.readouterr().out == ""


def test_without_network_the_message_says_which_file_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import urllib.error
    import urllib.request

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    url = models.ResNet50_Weights.IMAGENET1K_V1.url
    refused("resnet50", "IMAGENET1K_V1", rf"cannot be fetched from {url} .*not known.*`weights=resnet50-0676ba61\.pth`")
    assert capsys.readouterr().out == ""


def test_a_file_may_name_its_own_preprocessing(state: StateDict, tmp_path: Path) -> None:
    import json

    chosen = Preprocess(resize_px=None, crop_px=64)
    save_file(state, tmp_path / "w.safetensors", metadata={PREPROCESS_KEY: json.dumps(chosen.identity())})
    assert load_weights("resnet18", tmp_path / "w.safetensors").preprocess == chosen
    save_file(state, tmp_path / "w.safetensors", metadata={PREPROCESS_KEY: '{"resize_px": 1, "of": 2}'})
    refused("resnet18", tmp_path / "w.safetensors", "names a preprocessing that cannot be read")


@pytest.mark.data
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_real_weights_load_strictly(shared_data: Path, name: str) -> None:
    weights = load_weights(name, shared_data / "weights" / f"{name}.safetensors")
    assert weights.num_classes == 1000
    apply_weights(models.get_model(name), weights)


@pytest.mark.data
def test_real_weights_are_right_on_real_images(shared_data: Path) -> None:
    """resnet18 has 75.9% on all of val1300; every 13th image and a wide margin here."""
    from itd.data.images import select
    from itd.data.loader import batches
    from itd.data.open import open_images

    weights = load_weights("resnet18", shared_data / "weights" / "resnet18.safetensors")
    images = open_images(shared_data / "images" / "val1300", weights_classes=weights.num_classes)
    model = models.resnet18().eval()
    apply_weights(model, weights)
    hits = []
    with torch.inference_mode():
        for batch in batches(images, select(images.labels, 13), weights.preprocess, batch_size=20):
            hits += (model(batch.pixels).argmax(1).numpy() == batch.labels).tolist()
    assert len(hits) == 100
    assert 0.62 <= sum(hits) / len(hits) <= 0.90
