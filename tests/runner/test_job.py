"""A sweep of a user's own network and images: objects in, a result out; and everything that is refused, by name."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
import warnings
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

import itd
from itd.engine.tracers import ModuleTracer
from itd.errors import (
    DataError,
    ItdError,
    ItdWarning,
    ModelError,
    NotFiniteError,
    ResultError,
    SpaceError,
    TraceError,
)
from itd.patcher import MODELS, ModelEntry
from itd.patcher.registry import _BUILDERS
from itd.space import Setting
from itd.store import open_result, verify
from support.forked import Forked
from support.networks import SITES, MyNet, by_hand

SHAPE = (3, 20, 24)


class Images(Dataset):
    """Seeded float images of a shape, each with its label; `change` makes an item into another."""

    def __init__(self, count=7, shape=SHAPE, classes=5, change=lambda i, image, label: (image, label)):
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(count, *shape, generator=generator)
        self.classes_ = torch.randint(0, classes, (count,), generator=generator).tolist()
        self.change = change

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.change(index, self.pixels[index], self.classes_[index])


def make_job(attribute="dilation", images=None, net=None, shape=SHAPE, options=None, **kwargs):
    net = itd.patch(net or MyNet(), SITES)
    lists = {"stride": (0.5, 1, 2, 3), "dilation": (1, 2), "size": (1, 3, 5)}
    chosen = options or {(site, attribute): lists[attribute] for site in "AB"}
    if attribute == "stride":
        chosen["A", "stride"] = (1, 2, 4)
    space = itd.model_space(net, [attribute], options=chosen, stride_range=(1, 64), input_shape=shape)
    return itd.SweepJob(net, space, Images() if images is None else images, name="mynet", **kwargs)


def rows(path):
    return pd.read_parquet(path).sort_values(["config", "sample"]).reset_index(drop=True)


@pytest.mark.parametrize("returns", ["tensor", "tuple", "logits"])
@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
def test_rows_are_those_of_plain_forwards_written_by_hand(attribute, returns, tmp_path):
    if returns == "logits":
        net = dataclass_net()
    else:
        net = MyNet(returns=returns)
    images = Images()
    job = make_job(attribute, images, net)
    report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=3)
    table = rows(report.out)
    assert len(table) == len(job.space) * 7 and len(job.space) == {"stride": 11, "dilation": 4, "size": 9}[attribute]
    with torch.no_grad():
        for number, (a, b) in enumerate(job.space.configs):
            logits = by_hand(net.eval(), images.pixels, a.values(), b.values()).double()
            part = table[table.config == number]
            label = torch.tensor(part.label.to_numpy().astype(np.int64))
            assert label.tolist() == images.classes_
            assert (part.pred.to_numpy() == logits.argmax(1).numpy()).all()
            expected = -torch.log_softmax(logits, 1).gather(1, label[:, None])[:, 0]
            np.testing.assert_allclose(part.nll, expected, rtol=1e-4, atol=1e-5)
            assert (part[f"{attribute}_A"] == getattr(a, attribute)).all()
    assert itd.oracle(itd.open_result(report.out)).n == 7 and verify(report.out).ok


@dataclasses.dataclass
class Returned:
    """What a network of a library's may return."""

    logits: torch.Tensor


def dataclass_net():
    class Wrapped(MyNet):
        def forward(self, x):
            return Returned(super().forward(x))

    return Wrapped()


def test_the_example_of_the_readme_runs_as_it_stands(tmp_path):
    net = itd.patch(MyNet().eval(), {"A": ["stem.conv"], "B": ["block2.conv"]})
    space = itd.model_space(net, ["dilation"], options={("A", "dilation"): (1, 2)})
    job = itd.SweepJob(net, space, images=Images(4, (3, 32, 32)), name="mynet")
    report = itd.sweep(job, out=tmp_path / "mynet-dilation.parquet", device="cpu", precision="bf16", batch_size=64)
    assert len(space) == 10 and itd.oracle(itd.open_result(report.out)).best >= 0
    assert open_result(report.out).manifest["identity"]["precision"] == "bf16"


def test_a_one_channel_non_square_network_is_swept(tmp_path):
    net = MyNet(channels=1)
    images = Images(5, (1, 17, 30))
    job = make_job("stride", images, net, shape=(1, 17, 30))
    assert job.input_shape == (1, 17, 30)
    report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")
    result = open_result(report.out)
    a, b = job.space.configs[5]
    with torch.no_grad():
        expected = by_hand(net.eval(), images.pixels, a.values(), b.values()).argmax(1)
    assert (result.matrix("pred")[5] == expected.numpy()).all()
    by_size = {int(m): c for m, c in zip(job.macs, job.space.configs, strict=True)}
    assert len(by_size) > 5 and min(job.macs) > 0


def test_fake_data_and_a_folder_go_through_a_transform_as_it_is(tmp_path):
    transform = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24), transforms.ToTensor()])
    fake = FakeData(6, (3, 30, 40), num_classes=5)
    job = make_job(images=fake, shape=(3, 24, 24), preprocess=transform)
    report = itd.sweep(job, out=tmp_path / "fake.parquet", device="cpu")
    result = open_result(report.out)
    assert sorted(result.samples) == list(range(6)) and result.labels.tolist() == [fake[i][1] for i in result.samples]
    pixels = torch.stack([transform(fake[i][0]) for i in result.samples])
    with torch.no_grad():
        logits = by_hand(MyNet().eval(), pixels, *(s.values() for s in job.space.configs[1]))
    assert (result.matrix("pred")[1] == logits.argmax(1).numpy()).all()

    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    folder = ImageFolder(str(tmp_path / "images"))
    job = make_job(images=folder, shape=(3, 24, 24), preprocess=transform)
    assert job.images.class_names == ("a", "b") and job.images.labels.tolist() == [0, 0, 1, 1]
    part = make_job(images=Subset(folder, [3, 0]), shape=(3, 24, 24), preprocess=transform)
    assert part.images.labels.tolist() == [1, 0]
    report = itd.sweep(part, out=tmp_path / "part.parquet", device="cpu", workers=1)
    assert open_result(report.out).labels.tolist() == [0, 1] and open_result(report.out).samples.tolist() == [1, 0]


def test_a_known_transform_is_kept_in_fields_and_a_result_without_them_goes_on(tmp_path):
    steps = [transforms.Resize(26), transforms.CenterCrop(24), transforms.ToTensor()]
    normalise = transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    fake = FakeData(6, (3, 30, 40), num_classes=5)
    known = make_job(images=fake, shape=(3, 24, 24), preprocess=transforms.Compose([*steps, normalise]), limit=4)
    fields = known.identity()["preprocess"]
    assert (fields["resize_px"], fields["crop_px"], fields["mean"]) == (26, 24, [0.5, 0.4, 0.3])
    own = make_job(
        images=fake, shape=(3, 24, 24), preprocess=lambda image: transforms.Compose([*steps, normalise])(image)
    )
    assert own.identity()["preprocess"] is None and own.identity()["data"] == known.identity()["data"]
    itd.sweep(known, out=tmp_path / "r.parquet", device="cpu")
    assert itd.sweep(own, out=tmp_path / "r.parquet", device="cpu").done == 2
    other = make_job(images=fake, shape=(3, 24, 24), preprocess=transforms.Compose(steps))
    with pytest.raises(ResultError, match=r"data is .*preprocess\.|preprocess is|data is"):
        itd.sweep(other, out=tmp_path / "r.parquet", device="cpu")


@pytest.mark.parametrize("kind", ["pil", "uint8 tensor", "uint8 array", "grey tensor", "grey array"])
def test_every_kind_of_image_reaches_the_transform_as_the_picture_that_it_depicts(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 30, 3), np.uint8)
    grey = np.ascontiguousarray(pixels[:, :, :1])
    item = {
        "pil": Image.fromarray(pixels),
        "uint8 tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "uint8 array": pixels,
        "grey tensor": torch.from_numpy(grey).permute(2, 0, 1),
        "grey array": grey,
    }[kind]
    seen = []

    def transform(image):
        seen.append((image.mode, np.asarray(image)))
        return transforms.functional.to_tensor(image.convert("RGB"))

    make_job(images=[(item, torch.tensor([3])), (item, np.array(1))], shape=(3, 24, 30), preprocess=transform)
    mode, shown = seen[0]
    assert mode == ("L" if kind.startswith("grey") else "RGB")
    np.testing.assert_array_equal(shown, grey[:, :, 0] if mode == "L" else pixels)


def refusing(change, at=2):
    return Images(change=lambda i, image, label: change(image, label) if i == at else (image, label))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda image, label: (image[:, :10], label),
            r"sample 2 has the shape \(3, 10, 24\), the first one \(3, 20, 24\)",
        ),
        (lambda image, label: (image, 5), "sample 2 has the label 5, and the network has 5 logits; allowed are 0 to 4"),
        (lambda image, label: (image, -1), "sample 2 has the label -1"),
        (lambda image, label: (image, 0.5), "sample 2 has the label 0.5"),
        (lambda image, label: (image, torch.tensor([1, 2])), "sample 2 has the label"),
        (lambda image, label: (image, "cat"), "sample 2 has the label cat"),
        (lambda image, label: image, "sample 2 is a Tensor"),
        (lambda image, label: (image, label, 1), "sample 2 is a tuple of 3"),
        (lambda image, label: ("cat.png", label), "sample 2 is a str; an image is PIL"),
        (lambda image, label: (image[0], label), r"sample 2 has the shape \(20, 24\)"),
        (lambda image, label: (image.int(), label), "sample 2 is a Tensor .* of int32"),
        (lambda image, label: (Image.new("RGB", (24, 20)), label), "sample 2 is an image .* no preprocess="),
        (lambda image, label: 1 / 0, "sample 2 cannot be read: ZeroDivisionError"),
    ],
)
def test_an_item_that_cannot_be_is_named_before_anything_is_written(change, words, tmp_path):
    with pytest.raises(ItdError, match=words) as caught:
        itd.sweep(make_job(images=refusing(change)), out=tmp_path / "r.parquet", device="cpu")
    assert "\n" not in str(caught.value) and not (tmp_path / "r.parquet").exists()


def test_random_augmentation_is_found_at_once_and_also_where_it_comes_late(tmp_path):
    def jitter(image, label):
        return image + torch.rand(1), label

    with pytest.raises(DataError, match="sample 0 is not what it was"):
        make_job(images=refusing(jitter, at=0))
    calm = Images()
    job = make_job(images=calm)
    calm.change = lambda i, image, label: (image + (i == 6), label)
    with pytest.raises(DataError, match="sample 6 is not what it was when it was first read"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=2, images_per_unit=3)
    assert open_result(tmp_path / "r.parquet").n == 6
    calm.change = lambda i, image, label: (image, (label + 1) % 5)
    with pytest.raises(DataError, match=r"sample 6 has label . now and had . before"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")


def test_a_float_tensor_with_a_transform_and_a_transform_that_makes_no_tensor_are_refused():
    with pytest.raises(DataError, match="sample 0 is a float tensor, which is taken as it stands"):
        make_job(preprocess=transforms.Normalize([0.5] * 3, [0.5] * 3))
    images = [(Image.new("RGB", (24, 20)), 0)]
    with pytest.raises(DataError, match="preprocess= makes Image of sample 0"):
        make_job(images=images, preprocess=lambda image: image)
    with pytest.raises(DataError, match="preprocess= does not take sample 0: ZeroDivisionError"):
        make_job(images=images, preprocess=lambda image: 1 / 0)


def test_labels_come_from_the_user_the_data_set_or_one_pass():
    read = []
    counted = Images(change=lambda i, image, label: (read.append(i), (image, label))[1])
    job = make_job(images=counted)
    assert set(read) == set(range(7)) and job.images.labels.tolist() == counted.classes_
    counted.targets = torch.tensor(counted.classes_)
    assert make_job(images=counted).images.labels.tolist() == counted.classes_
    counted.targets = [(label + 1) % 5 for label in counted.classes_]
    with pytest.raises(DataError, match="sample 0 has label"):
        make_job(images=counted)
    assert len(make_job(images=counted, labels=counted.classes_)) == 7
    for labels, words in (([1, 2], r"labels is a ndarray \(2,\)"), (["a"] * 7, "labels is"), ([0.5] * 7, "labels is")):
        with pytest.raises(DataError, match=words):
            make_job(images=counted, labels=labels)


def test_a_tensor_data_set_and_a_list_are_data_sets():
    images = Images()
    held = TensorDataset(images.pixels, torch.tensor(images.classes_))
    job, other = make_job(images=held), make_job(images=[held[i] for i in range(7)])
    assert job.identity() == other.identity() == make_job(images=images).identity()
    assert job.images.source == "TensorDataset"


def test_the_identity_is_of_network_preprocessing_and_data_and_each_is_refused_by_field(tmp_path):
    out = tmp_path / "r.parquet"
    itd.sweep(make_job(), out=out, device="cpu")
    before = rows(out)
    other = Images()
    other.pixels[6, 0, 0, 0] += 1
    changes = {
        "weights_sha256": make_job(net=MyNet(seed=1)),
        "data": make_job(images=other),
        "space": make_job(options={("A", "dilation"): (1, 3)}),
    }
    for field, job in changes.items():
        with pytest.raises(ResultError, match=field):
            itd.sweep(job, out=out, device="cpu")
    with pytest.raises(ResultError, match='precision is "fp32", given "bf16"'):
        itd.sweep(make_job(), out=out, device="cpu", precision="bf16")
    pd.testing.assert_frame_equal(rows(out), before)
    tensors = [(Image.fromarray(np.full((20, 24, 3), 9 * i, np.uint8)), 0) for i in range(3)]
    first = make_job(images=tensors, preprocess=transforms.ToTensor())
    brighter = transforms.Compose([transforms.ToTensor(), lambda x: x * 1.01])
    assert first.identity()["data"] != make_job(images=tensors, preprocess=brighter).identity()["data"]
    named = make_job(images=tensors, preprocess=brighter, fingerprint="tensors-1")
    assert named.identity()["data"] == "tensors-1"


def test_a_larger_limit_extends_a_result(tmp_path):
    out = tmp_path / "r.parquet"
    assert itd.sweep(make_job(limit=3), out=out, device="cpu").done == 3
    assert itd.sweep(make_job(), out=out, device="cpu").done == 4
    whole = itd.sweep(make_job(), out=tmp_path / "w.parquet", device="cpu")
    pd.testing.assert_frame_equal(rows(out), rows(whole.out), check_exact=False, rtol=1e-4, atol=1e-6)


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
import itd
from runner_job import make_job
itd.sweep(make_job("stride"), out=sys.argv[1], device="cpu", images_per_unit=1, batch_size=1)
"""


def test_killed_and_resumed_it_ends_in_the_rows_of_an_uninterrupted_run(tmp_path):
    shutil.copy(__file__, tmp_path / "runner_job.py")
    tests = str(Path(__file__).parents[1])
    whole = itd.sweep(make_job("stride"), out=tmp_path / "whole.parquet", device="cpu", images_per_unit=1, batch_size=1)
    out, kills = tmp_path / "killed.parquet", 0
    code = CHILD.replace("import itd\n", f"sys.path.insert(0, {tests!r})\nimport itd\n", 1)
    while kills < 2:
        child = Forked(code, out, tmp_path, stdout=DEVNULL, stderr=DEVNULL)
        wanted = len(list(out.glob("part-*"))) + 2
        while child.poll() is None and len(list(out.glob("part-*"))) < wanted:
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        if len(list(out.glob("part-*"))) == 7:
            break
    assert kills >= 1
    itd.sweep(make_job("stride"), out=out, device="cpu", batch_size=1)
    pd.testing.assert_frame_equal(rows(out), rows(whole.out))
    assert verify(out).ok


@pytest.mark.parametrize("weights", ["none", "file"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sweep_builds_and_traces_the_network_at_most_twice(weights, precision, tmp_path, monkeypatch, random_network):
    calls = {"build": 0, "trace": 0}
    import itd.weights.state

    built, traced = itd.weights.state.build_model, ModuleTracer.trace

    def count_build(*args, **kwargs):
        calls["build"] += 1
        return built(*args, **kwargs)

    def count_trace(*args, **kwargs):
        calls["trace"] += 1
        return traced(*args, **kwargs)

    monkeypatch.setattr("itd.weights.state.build_model", count_build)
    monkeypatch.setattr("itd.patcher.registry.build_model", count_build)
    monkeypatch.setattr(ModuleTracer, "trace", count_trace)
    if weights == "file":
        weights = str(tmp_path / "w.pth")
        torch.save(random_network("resnet18").state_dict(), weights)
    request = itd.SweepRequest("resnet18", "stride", sites="D", data="digits", weights=weights, limit=1, crop_px=32)
    itd.sweep(request, out=str(tmp_path / "r.parquet"), device="cpu", precision=precision)
    assert 1 <= calls["build"] <= 2 and 1 <= calls["trace"] <= 2


def test_what_patch_is_given_may_be_in_any_state():
    net = MyNet().train()
    first = itd.patch(net, SITES)
    assert net.training and not first.training and type(net) is MyNet
    again = itd.patch(first, {"A": "block2.conv"})
    assert again.sites.keys() == {"A"} and type(again).__bases__[1] is MyNet
    assert type(again.stem.conv) is nn.Conv2d and again.stem.conv.weight is net.stem.conv.weight
    assert list(first.sites) == ["A", "B"] and type(first.stem.conv) is not nn.Conv2d
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        expected = net.eval()(x)
        assert torch.equal(again(x), expected) and torch.equal(first(x), expected)
        with again.configured({"A": Setting(dilation=2)}):
            assert torch.allclose(again(x), by_hand(net, x, {}, {"dilation": 2}), atol=1e-6)


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def weight_normalised():
    net = MyNet()
    nn.utils.parametrizations.weight_norm(net.stem.conv)
    return net


def own_convolution():
    net = MyNet()
    net.stem.conv = OwnConv(3, 8, 3, 2, 1)
    return net


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its future
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3)))


def not_copyable():
    net = MyNet()
    net.cache = (torch.ones(1, requires_grad=True) * 2,)
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "resnet50", "patch takes an nn.Module, given str"),
        (scripted, "TorchScript"),
        (lambda: torch.compile(MyNet()), "_orig_mod"),
        (lambda: nn.DataParallel(MyNet()), r"\.module"),
        (weight_normalised, "stem.conv has a weight that is made anew"),
        (own_convolution, "stem.conv is a OwnConv, which computes in its own way"),
        (not_copyable, "cannot be copied"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), "lazy layers"),
    ],
)
def test_a_model_that_cannot_be_patched_is_said_in_one_line(make, words):
    with pytest.raises(ModelError, match=words) as caught:
        itd.patch(make(), {"A": "stem.conv"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({}, "sites is dict"),
        (["stem.conv"], "sites is list"),
        ({"E": "stem.conv"}, "no such site: 'E'"),
        ({"A": "stem.nowhere"}, "no module 'stem.nowhere'"),
        ({"A": []}, "site A is"),
        ({"A": 3}, "site A is 3"),
        ({"A": ["stem.conv", "stem.conv"]}, "stem.conv is twice in site A"),
        ({"A": "stem.conv", "B": "stem.conv"}, "a module has one site"),
        ({"A": "head"}, "head is a Linear"),
        ("mynet", "mynet has no registered sites"),
    ],
)
def test_sites_that_cannot_be_are_said_in_one_line(sites, words):
    with pytest.raises(ModelError, match=words):
        itd.patch(MyNet(), sites)


def test_a_job_takes_only_what_it_can_and_says_so():
    net = itd.patch(MyNet(), SITES)
    space = itd.model_space(net, ["dilation"], input_shape=SHAPE)
    good = {"model": net, "space": space, "images": Images(), "name": "mynet"}
    elsewhere = itd.model_space(itd.patch(MyNet(), {"A": "stem.conv"}), ["dilation"])
    meta = itd.patch(MyNet().to("meta"), SITES)
    for change, kind, words in (
        ({"model": MyNet()}, ModelError, "takes what itd.patch returned, given MyNet"),
        ({"model": meta}, ModelError, "meta device"),
        ({"space": "dilation"}, SpaceError, "space is str"),
        ({"space": elsewhere}, SpaceError, "the space has the sites A, the network A, B"),
        ({"images": "folder"}, DataError, "sample 0 is a str"),
        ({"images": 5}, DataError, "images is a int"),
        ({"images": iter([1])}, DataError, "images is a list_iterator"),
        ({"images": []}, DataError, "empty"),
        ({"name": ""}, ItdError, "name is ''"),
        ({"name": "a/b"}, ItdError, "without a slash"),
        ({"preprocess": 3}, DataError, "preprocess is int"),
        ({"fingerprint": 3}, DataError, "fingerprint is 3"),
        ({"limit": 0}, DataError, "limit is 0"),
        ({"class_names": ["a", "a"]}, DataError, "'a' twice"),
        ({"class_names": ["a", "b"]}, DataError, "class_names has 2 names, and the network has 5 logits"),
    ):
        with pytest.raises(kind, match=words) as caught:
            itd.SweepJob(**{**good, **change})
        assert "\n" not in str(caught.value)


def test_logits_that_are_not_finite_name_the_sample(tmp_path):
    net = MyNet()
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match=r"image 2 \(sample 2\)"):
        itd.sweep(make_job(net=net), out=tmp_path / "r.parquet", device="cpu", fail_fast=True)


@pytest.mark.parametrize("value", [None, 5, "resnet50", {}])
def test_a_sweep_of_anything_else_is_an_itd_error(value):
    for verb in (itd.sweep, itd.plan):
        with pytest.raises(ItdError, match="a SweepJob or a SweepRequest, given"):
            verb(value)
    with pytest.raises(ItdError, match=r"model_space takes what itd\.patch returned"):
        itd.model_space(value, ["stride"])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"device": "abacus"}, "no such device: 'abacus'"),
        ({"device": 3.5}, "no such device"),
        ({"precision": "fp8"}, "no such precision"),
        ({"precision": 3}, "no such precision"),
        ({"batch_size": 0}, "`batch_size=0` is not allowed"),
        ({"allow_missing": "no"}, "`allow_missing=no` is not allowed"),
        ({"on_start": 5}, "on_start is 5"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"workers": -1}, "`workers=-1`"),
        ({"shard": (3, 2)}, "no such shard"),
        ({"images_per_unit": 0}, "`images_per_unit=0`"),
    ],
)
def test_how_to_run_is_checked_before_anything_is_written(how, words, tmp_path):
    with pytest.raises(ItdError, match=words):
        itd.sweep(make_job(), out=tmp_path / "r.parquet", **how)
    assert not (tmp_path / "r.parquet").exists()


def test_keywords_go_before_a_requests_own(tmp_path):
    request = itd.SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=2, crop_px=32,
                               out=str(tmp_path / "a.parquet"), precision="fp32", device="abacus")  # fmt: skip
    report = itd.sweep(request, out=str(tmp_path / "b.parquet"), device="cpu", precision="bf16", batch_size=1)
    assert report.out == str(tmp_path / "b.parquet") and not (tmp_path / "a.parquet").exists()
    manifest = json.loads((tmp_path / "b.parquet" / "_itd" / "manifest.json").read_text())
    assert manifest["identity"]["precision"] == "bf16" and manifest["provenance"][0]["batch_size"] == 1


def test_the_output_stride_of_a_network_of_ones_own_is_measured_by_one_forward():
    space = itd.model_space(itd.patch(MyNet(), SITES), ["stride"], input_shape=SHAPE)
    # both sites halve: the stem stride is 1, so that A times B itself lies between 4 and 288
    assert all(a.stride * b.stride >= 4 for a, b in space.configs) and len(space) == 11
    deep = nn.Sequential(nn.AvgPool2d(4), MyNet())
    sites = {"A": "1.stem.conv", "B": ["1.block2.conv", "1.block2.project"]}
    wider = itd.model_space(itd.patch(deep, sites), ["stride"], input_shape=(3, 28, 28))
    assert len(wider) == 16  # the pool makes every product of 1 to 4 allowed


def test_a_worker_gives_the_scores_of_one_unit_and_takes_units_as_they_come(tmp_path):
    from itd.engine.tree import TreeExecutor
    from itd.runner.worker import Worker
    from itd.store import Unit

    job = make_job("size")
    worker = Worker(job, TreeExecutor(job.program("cpu")), batch_size=2)
    units = [Unit(i, min(i + 2, 6), np.arange(i, min(i + 3, 7), dtype=np.int32)) for i in (0, 3, 6)]
    asked = []

    def given():
        for unit in units:
            asked.append(unit)
            yield unit

    streamed = list(worker.stream(given()))
    assert asked == units and [s.unit for s in streamed] == units
    for scores in streamed:
        alone = worker.run(scores.unit)
        assert alone.labels.tolist() == [job.images.labels[i] for i in scores.unit.samples]
        for name, values in scores.columns.items():
            assert values.shape == (len(job.space), len(scores.unit))
            np.testing.assert_allclose(values, alone.columns[name], rtol=1e-5)


class Gelu(MyNet):
    def forward(self, x):
        x = self.block2(nn.functional.gelu(self.stem.conv(x)))
        return self.head(x.mean((2, 3)))


def test_another_network_with_the_same_tensors_is_refused(tmp_path):
    out = tmp_path / "r.parquet"
    itd.sweep(make_job(limit=3), out=out, device="cpu")
    wider = MyNet()
    wider.block2.norm.eps = 0.5
    buffered, other = MyNet(), MyNet()
    buffered.register_buffer("shift", torch.ones(1), persistent=False)
    other.register_buffer("shift", torch.zeros(1), persistent=False)
    for net in (Gelu(), wider, buffered):
        with pytest.raises(ResultError, match="network_sha256"):
            itd.sweep(make_job(net=net), out=out, device="cpu")
    assert make_job(net=buffered).identity() != make_job(net=other).identity()
    assert itd.sweep(make_job(), out=out, device="cpu").done == 4


def test_weights_that_change_after_the_job_was_made_are_refused(tmp_path):
    net = MyNet()
    job = make_job(net=net)
    with torch.no_grad():
        net.head.weight.mul_(-3)
    with pytest.raises(ModelError, match="the weights of mynet changed since its job was made"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")
    assert not (tmp_path / "r.parquet").exists()


def test_values_that_are_not_finite_are_named_before_an_activation_hides_them(tmp_path):
    for value in (float("nan"), float("inf")):
        job = make_job(images=refusing(lambda image, label, v=value: (image * v, label), at=2), fingerprint="f")
        with pytest.raises(DataError, match="sample 2 has values that are not finite"):
            itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", fail_fast=True)


class Mixing(MyNet):
    def forward(self, x):
        x = self.block2(self.stem.act(self.stem.conv(x)))
        return self.head((x / x.abs().max()).mean((2, 3)))


def test_a_network_that_mixes_the_images_of_a_batch_is_run_on_one_image_at_a_time_or_refused(tmp_path):
    job = make_job(net=Mixing())
    with pytest.raises(ModelError, match=r"touch another.*batch_size=1"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu")
    with pytest.raises(ModelError, match="touch another"):
        itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", executor="plain")
    with pytest.warns(ItdWarning, match="no work is shared"):
        report = itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", batch_size=1)
    assert report.executor == "plain" and report.done == len(job)


class Looking(MyNet):
    """Reads a value, which no tracing can follow, and does nothing with it."""

    def forward(self, x):
        return super().forward(-x if float(x.abs().max()) < 0 else x)


def test_a_network_that_cannot_be_traced_is_swept_by_plain_forwards_with_the_same_rows(tmp_path):
    way = {}
    for name, net in (("traced", MyNet()), ("untraceable", Looking())):
        net.load_state_dict(MyNet().state_dict() if not way else way["state"])
        way["state"] = net.state_dict()
        job = make_job(net=net)
        assert (job.why_plain is None) == (name == "traced")
        if name == "traced":
            way[name] = itd.sweep(job, out=tmp_path / f"{name}.parquet", device="cpu")
            way["plain"] = itd.sweep(job, out=tmp_path / "plain.parquet", device="cpu", executor="plain")
        else:
            with pytest.raises(TraceError, match=r"torch\.fx cannot trace Looking.*`executor=plain`"):
                itd.sweep(job, out=tmp_path / "none.parquet", device="cpu", executor="tree")
            assert not (tmp_path / "none.parquet").exists() and itd.plan(job).executor == "plain"
            with pytest.warns(ItdWarning, match=r"not traceable: no work is shared, \d+ forwards.*cannot trace"):
                way[name] = itd.sweep(job, out=tmp_path / f"{name}.parquet", device="cpu")
    assert [way[n].executor for n in ("traced", "plain", "untraceable")] == ["tree", "plain", "plain"]
    assert open_result(way["untraceable"].out).manifest["provenance"][-1]["executor"] == "plain"
    frames = {n: rows(way[n].out) for n in ("traced", "plain", "untraceable")}
    pd.testing.assert_frame_equal(frames["plain"], frames["untraceable"])
    exact = ["sample", "label", "config", "pred", "rank"]
    pd.testing.assert_frame_equal(frames["traced"][exact], frames["plain"][exact])
    for column in ("quality", "nll", "confidence"):
        assert np.allclose(frames["traced"][column], frames["plain"][column], atol=1e-5)
    costs = [pd.read_parquet(Path(way[n].out) / "_itd" / "configs.parquet") for n in ("traced", "untraceable")]
    pd.testing.assert_frame_equal(*costs)


def test_a_head_of_zeros_is_a_network_like_any_other(tmp_path):
    net = MyNet()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    assert itd.sweep(make_job(net=net), out=tmp_path / "r.parquet", device="cpu").done == 7


def test_images_of_another_number_of_channels_are_refused_when_the_job_is_made():
    with pytest.raises(SpaceError, match="takes 3 channels, and 1 are given"):
        make_job(images=Images(3, (1, 20, 24)))


class Shared(MyNet):
    def __init__(self):
        super().__init__()
        self.again = nn.Sequential(self.stem.conv, nn.ReLU())

    def forward(self, x):
        return self.head(self.block2(self.again(x)).mean((2, 3)))


@pytest.mark.parametrize("path", ["stem.conv", "again.0"])
def test_a_layer_with_two_names_is_a_site_under_either(path):
    net = Shared()
    model = itd.patch(net, {"A": path})
    x = torch.randn(2, *SHAPE)
    with torch.no_grad(), model.configured({"A": Setting(dilation=2)}):
        assert torch.allclose(model(x), by_hand(net.eval(), x, {"dilation": 2}, {}), atol=1e-6)
    space = itd.model_space(model, ["dilation"], input_shape=SHAPE)
    assert len(itd.SweepJob(model, space, Images(), name="shared")) == 7
    with pytest.raises(ModelError, match="a module has one site"):
        itd.patch(net, {"A": "stem.conv", "B": "again.0"})


class Dies(Images):
    def __getitem__(self, index):
        if index == 3 and self.change is not None and torch.utils.data.get_worker_info():
            os._exit(1)
        if index == 5 and self.change is None:
            raise KeyError("broken")
        return self.pixels[index], self.classes_[index]


def test_a_decoding_process_that_dies_is_one_line_and_none_stays_behind(tmp_path):
    for change, words in (
        (lambda i, image, label: (image, label), "processes that decode images died"),
        (None, "sample"),
    ):
        images = Dies(change=change)
        job = make_job(images=images, fingerprint="f", labels=images.classes_)
        with pytest.raises(DataError, match=words) as caught:
            itd.sweep(job, out=tmp_path / "r.parquet", device="cpu", workers=2, batch_size=2, fail_fast=True)
        assert "\n" not in str(caught.value) and not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"attributes": None}, "attributes is None"),
        ({"options": 5}, "options is 5"),
        ({"options": {"A": (1, 2)}}, "options is"),
        ({"options": {("A", "dilation"): 2}}, "options is"),
        ({"input_shape": 224}, "input_shape is 224"),
        ({"input_shape": (3, 0, 0)}, "input_shape is"),
        ({"stride_range": 5}, "stride_range is 5"),
        ({"swept": 5}, "swept is 5"),
        ({"stem_stride": "x"}, "stem_stride is 'x'"),
        ({"entry": "resnet18"}, "entry is 'resnet18'"),
    ],
)
def test_a_space_of_wrong_types_is_said_by_the_parameter(kwargs, words):
    model = itd.patch(MyNet(), SITES)
    with pytest.raises(SpaceError, match=re.escape(words)):
        itd.model_space(model, **{"attributes": ["dilation"], **kwargs})


def test_wrong_types_in_sites_entries_labels_and_units_are_said():
    with pytest.raises(ModelError, match=r"stem\.conv takes"):
        itd.patch(MyNet(), {"A": itd.SiteModule("stem.conv", frozenset({"speed"}))})
    with pytest.raises(ModelError, match="conventions is str"):
        itd.patch(MyNet(), SITES, "x")
    for entry, build in (
        (ModelEntry("", {"A": "stem"}, 1, None), None),
        (ModelEntry("mine", 5, 1, None), None),
        (ModelEntry("mine", {"A": "stem.conv"}, 1, None), 5),
        ("mine", None),
    ):
        with pytest.raises(ModelError):
            itd.register_model(entry, build)
    for labels in ([[1], [2, 3]], [0.5] * 7):
        with pytest.raises(DataError, match="labels is"):
            make_job(labels=labels)
    for label in ([1, [2, 3]], torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0, requires_grad=True)):
        with pytest.raises(DataError, match="sample 2 has the label"):
            make_job(images=refusing(lambda image, _, wrong=label: (image, wrong)))
    ragged = Images()
    ragged.targets = [[1], [2, 3]]
    assert len(make_job(images=ragged)) == 7
    job = make_job()
    for how in ({"shard": (0.5, 2)}, {"shard": ("a", 2)}, {"out": 5}, {"foo": 1}):
        with pytest.raises(ItdError):
            itd.plan(job, **how)
    model = itd.patch(MyNet(), SITES)
    model.block2.norm.train()
    with pytest.raises(ModelError, match=r"block2\.norm is in training mode"):
        itd.SweepJob(model, job.space, Images(), name="mynet")


def test_a_registered_network_of_ones_own_is_known_by_name():
    entry = ModelEntry("mynet-test", {"A": "stem.conv", "B": ["block2.conv", "block2.project"]}, 1, None)
    itd.register_model(entry, lambda classes: MyNet(classes=classes))
    try:
        assert any(row["model"] == "mynet-test" and row["configs"]["dilation"] == 25 for row in itd.models())
        request = itd.SweepRequest("mynet-test", "dilation", data="digits", weights="none", limit=2)
        assert itd.plan(request).configs == 25
        with pytest.raises(ModelError, match="registered already"):
            itd.register_model(entry)
    finally:
        del MODELS["mynet-test"], _BUILDERS["mynet-test"]


@pytest.mark.parametrize(
    ("align_corners", "sizes", "engine"), [(True, (1, 3), 2), (True, (3, 5), None), (False, (1, 3), None)]
)
def test_only_a_result_of_size_one_with_aligned_corners_says_that_it_is_the_centre_tap(align_corners, sizes, engine):
    from itd.space import Conventions

    net = itd.patch(MyNet().eval(), {"A": ["stem.conv"]}, conventions=Conventions(align_corners=align_corners))
    space = itd.model_space(net, ["size"], options={("A", "size"): sizes})
    job = itd.SweepJob(net, space, images=[(torch.zeros(3, 32, 32), 0)], name="mynet")
    assert job.identity().get("engine") == engine
    assert job.identity("tf32").get("engine") == engine
    assert job.identity("bf16")["engine"] == job.identity("fp16")["engine"] == 3
