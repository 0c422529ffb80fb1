"""Real images and real weights: labels, published accuracies, one site moved at a time (the `data` mark)."""

import csv

import numpy as np
import pytest
import torch
from torchvision import models as torchvision_models

from itd.api import sweep
from itd.patcher import MODELS, build_model, model_space, patch
from itd.runner.images import open_images
from itd.runner.loader import batches
from itd.runner.plain import PlainExecutor
from itd.runner.preprocess import Preprocess
from itd.runner.request import SweepRequest, prepare
from itd.runner.tree import TreeExecutor
from itd.runner.weights import apply_weights, load_weights
from itd.store import open_result

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def sanity(shared_data):
    """64 images spread over sample1000, their labels, and ResNet-50 with the weights there."""
    images = open_images(shared_data / "images" / "sample1000")
    batch = next(batches(images, np.linspace(0, 999, 64).astype(np.int32), Preprocess(), batch_size=64))
    network = build_model("resnet50")
    apply_weights(network, load_weights("resnet50", shared_data / "weights" / "resnet50.safetensors"))
    return batch.pixels, batch.labels, patch(network, "resnet50")


@pytest.mark.parametrize(
    ("attribute", "site", "published"),
    [
        ("dilation", "B", {1: 80, 2: 67, 3: 55, 4: 47, 5: 44}),
        ("size", "C", {1: 6, 3: 80, 5: 77, 7: 64, 9: 58}),
        ("stride", "A", {1: 80, 2: 45, 3: 20, 4: 6}),
        ("stride", "D", {0.5: 30, 1: 75, 2: 80, 3: 73, 4: 67}),
    ],
)
def test_one_site_moved_gives_the_accuracies_of_an_independent_implementation(sanity, attribute, site, published):
    pixels, labels, model = sanity
    space = model_space(model, [attribute], entry=MODELS["resnet50"], swept=[site], stride_range=(1, 999))
    right = np.zeros((len(space), len(labels)), bool)
    executor = TreeExecutor(model, space)
    for first in range(0, len(labels), 8):

        def sink(configs, images, logits, first=first):
            right[configs, images + first] = logits.argmax(1).numpy() == labels[images + first]

        executor.run(pixels[first : first + 8], sink)
    values = [getattr(config["ABCD".index(site)], attribute) for config in space.configs]
    found = dict(zip(values, 100 * right.mean(1), strict=True))
    assert found == pytest.approx(published, abs=7)  # the published ones are +-6 at n = 64, in bf16


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "mobilenet_v2"])
def test_the_default_of_real_weights_reproduces_torchvision(shared_data, name):
    images = open_images(shared_data / "images" / "val1300")
    pixels = next(batches(images, np.arange(0, 1300, 164, dtype=np.int32), Preprocess(), batch_size=8)).pixels
    weights = load_weights(name, shared_data / "weights" / f"{name}.safetensors")
    network = torchvision_models.get_model(name, weights=None).eval()
    network.load_state_dict(weights.state_dict)
    model = patch(network, name)
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    kept = {}
    TreeExecutor(model, space).run(pixels, lambda c, i, x: kept.update(zip(zip(c, i, strict=True), x, strict=True)))
    with torch.inference_mode():
        expected = network(pixels)
    got = torch.stack([kept[space.default, i] for i in range(8)])
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(got.argmax(1), expected.argmax(1))


def test_ten_class_folders_keep_imagenets_own_indices(shared_data, tmp_path):
    with open(shared_data / "val1300.csv") as file:
        label_of = {row["path"].split("val1300/")[1]: int(row["label"]) for row in csv.DictReader(file)}
    chosen = sorted({path.split("/")[0] for path in label_of})[::73][:10]
    (tmp_path / "ten").mkdir()
    for wnid in chosen:
        (tmp_path / "ten" / wnid).symlink_to(shared_data / "images" / "val1300" / wnid, target_is_directory=True)
    request = SweepRequest(
        "resnet18", "dilation", sites="D", options=("1,2",), data=str(tmp_path / "ten"), device="cpu",
        weights=str(shared_data / "weights" / "resnet18.safetensors"), out=str(tmp_path / "r.parquet"),
    )  # fmt: skip
    sweep(request, quiet=True)
    result = open_result(request.out)
    names = open_images(tmp_path / "ten").names
    assert len(names) >= 10 and result.labels.tolist() == [label_of[name] for name in names]
    assert (result.matrix("pred")[result.default_index] == result.labels).mean() > 0.5


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
def test_the_results_in_the_repository_are_what_plain_forwards_give(shared_data, repository, name, attribute):
    result = open_result(repository / "results" / f"{name}-{attribute}-val1300.parquet")
    images = open_images(shared_data / "images" / "val1300")
    weights = load_weights(name, shared_data / "weights" / f"{name}.safetensors")
    identity = result.manifest["identity"]
    prepared = prepare(SweepRequest(name, attribute, device="cpu"), images, weights)
    assert identity == {**prepared.identity, "every": identity["every"]}
    rows = [0, len(result.samples) // 2, len(result.samples) - 1]
    samples = result.samples[rows]
    pixels = next(batches(images, samples, Preprocess(), batch_size=3)).pixels
    assert (result.labels[rows] == images.labels[samples]).all()
    nll = result.matrix("nll")
    for number in (0, len(prepared.space) // 2, prepared.space.default, len(prepared.space) - 1):
        kept = []
        PlainExecutor(prepared.model, prepared.space).run(pixels, lambda c, i, x, k=kept: k.append(x), [number])
        log_p = torch.log_softmax(kept[0].double(), 1).gather(1, torch.tensor(result.labels[rows].astype(int))[:, None])
        np.testing.assert_allclose(nll[number, rows], -log_p[:, 0], rtol=1e-3, atol=1e-3)
