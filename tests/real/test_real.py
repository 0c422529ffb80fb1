"""Real images and real weights: labels, published accuracies, one site moved at a time (the `data` mark)."""

import csv
import functools

import numpy as np
import pytest
import torch
from torchvision import models as torchvision_models

from itd import sweep
from itd.analysis import combine
from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.engine.plain import PlainExecutor
from itd.patcher import MODELS, build_model, model_space, patch, site_specs
from itd.runner.job import SweepJob
from itd.runner.request import SweepRequest
from itd.space import Setting, SpaceList, listed_space, write_space
from itd.store import open_result
from itd.store.identity import as_json
from itd.weights.load import apply_weights, load_weights
from support import engine

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def weights_of(shared_data):
    """name -> the weights of a network, read once."""
    return functools.cache(lambda name: load_weights(name, shared_data / "weights" / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def val1300(shared_data):
    """The 1300 images of the validation split."""
    return open_images(shared_data / "images" / "val1300")


PUBLISHED = {
    ("dilation", "B"): {1: 80, 2: 67, 3: 55, 4: 47, 5: 44},
    ("size", "C"): {1: 6, 3: 80, 5: 77, 7: 64, 9: 58},
    ("stride", "A"): {1: 80, 2: 45, 3: 20, 4: 6},
    ("stride", "D"): {0.5: 30, 1: 75, 2: 80, 3: 73, 4: 67},
}
"""(attribute, site) -> value -> accuracy in percent of ResNet-50 with that site alone moved."""


@pytest.fixture(scope="module")
def found(shared_data, weights_of):
    """What `PUBLISHED` has, of 64 images spread over sample1000, by one tree, as all share the network as it is."""
    images = open_images(shared_data / "images" / "sample1000")
    batch = next(batches(images, np.linspace(0, 999, 64).astype(np.int32), Preprocess(), batch_size=64))
    network = build_model("resnet50")
    apply_weights(network, weights_of("resnet50"))
    model, entry = patch(network, "resnet50"), MODELS["resnet50"]
    moved = {}  # (attribute, site, value) -> configuration
    for attribute, site in PUBLISHED:
        alone = model_space(model, [attribute], entry=entry, swept=[site], stride_range=(1, 999))
        for config in alone.configs:
            setting = config["ABCD".index(site)]
            moved[attribute, site, getattr(setting, attribute)] = {site: setting}
    space = listed_space(SpaceList(("stride", "dilation", "size"), tuple(moved.values())), site_specs(model, entry))
    right = np.zeros((len(space), 64), bool)
    executor = engine.tree(model, space)
    for first in range(0, 64, 8):

        def sink(configs, images, logits, first=first):
            right[configs, images + first] = logits.argmax(1).numpy() == batch.labels[images + first]

        executor.run(batch.pixels[first : first + 8], sink)
    accuracies = {one: {} for one in PUBLISHED}
    for (attribute, site, value), config in moved.items():
        full = tuple(spec.default | config.get(spec.name, Setting()) for spec in space.sites)
        accuracies[attribute, site][value] = 100 * right[space.configs.index(full)].mean()
    return accuracies


@pytest.mark.parametrize(("attribute", "site"), PUBLISHED)
def test_one_site_moved_gives_the_accuracies_of_an_independent_implementation(found, attribute, site):
    # the published ones are +-6 at n = 64, in bf16
    assert found[attribute, site] == pytest.approx(PUBLISHED[attribute, site], abs=7)


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "mobilenet_v2"])
def test_the_default_of_real_weights_reproduces_torchvision(val1300, weights_of, name):
    pixels = next(batches(val1300, np.arange(0, 1300, 164, dtype=np.int32), Preprocess(), batch_size=8)).pixels
    network = torchvision_models.get_model(name, weights=None).eval()
    network.load_state_dict(weights_of(name).state_dict)
    model = patch(network, name)
    space = model_space(model, ["dilation"], entry=MODELS[name], swept=["D"])
    kept = {}
    engine.tree(model, space).run(pixels, lambda c, i, x: kept.update(zip(zip(c, i, strict=True), x, strict=True)))
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
    assert len(names) >= 10 and result.labels.tolist() == [label_of[names[i]] for i in result.samples]
    assert (result.matrix("pred")[result.default_index] == result.labels).mean() > 0.5


def job_of(request, images, weights):
    """A request's job, its network given these weights and its images being these."""
    model = request.patched(weights)
    return SweepJob.assembled(
        model, request.space_of(model, request.sites_asked()[1]), request.job_images(images, weights.preprocess),
        name=request.model, weights_sha256=weights.sha256, weights_label=weights.label, out="r.parquet",
    )  # fmt: skip


def agree(result, job, images, rows, numbers):
    """Some rows of a result against plain forwards of the job's network, on newly decoded images."""
    identity = result.manifest["identity"]
    assert identity == {**as_json(job.identity()), "every": identity["every"]}
    samples = result.samples[rows]
    pixels = torch.stack([job.images.pixels[int(sample)] for sample in samples])
    assert (result.labels[rows] == images.labels[samples]).all()
    nll = result.matrix("nll")
    for number in numbers:
        kept = []
        PlainExecutor(job.model, job.space).run(pixels, lambda c, i, x, k=kept: k.append(x), [number])
        log_p = torch.log_softmax(kept[0].double(), 1).gather(1, torch.tensor(result.labels[rows].astype(int))[:, None])
        np.testing.assert_allclose(nll[number, rows], -log_p[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("attribute", ["stride", "dilation", "size"])
def test_the_results_in_the_repository_are_what_plain_forwards_give(val1300, weights_of, repository, name, attribute):
    result = open_result(repository / "results" / f"{name}-{attribute}-val1300.parquet")
    job = job_of(SweepRequest(name, attribute, device="cpu"), val1300, weights_of(name))
    rows = [0, len(result.samples) // 2, len(result.samples) - 1]
    agree(result, job, val1300, rows, (0, len(job.space) // 2, job.space.default, len(job.space) - 1))


CROSSED = {"attributes": "stride,size", "options": ("stride:1,2,3,4", "size:1,3"), "stride_range": (1, 1024)}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("dilation-val1300-scale0.25", {"attributes": "dilation", "scale": 0.25}),
        ("dilation-val1300-scale2", {"attributes": "dilation", "scale": 2.0}),
        ("dilation-val1300-context50", {"attributes": "dilation", "context_px": 50}),
        ("stride+size-val1300", CROSSED),
    ],
)
def test_results_of_varied_images_and_crossed_attributes_are_what_plain_forwards_give(
    val1300, weights_of, repository, name, asked
):
    result = open_result(repository / "results" / f"resnet50-{name}.parquet")
    job = job_of(SweepRequest("resnet50", device="cpu", **asked), val1300, weights_of("resnet50"))
    agree(result, job, val1300, [0, result.n - 1], (job.space.default, len(job.space) // 2))


@pytest.mark.parametrize("combined", ["stride+size", "stride+dilation", "dilation+size", "stride+dilation+size"])
def test_combined_results_are_of_the_space_that_combine_makes_today(
    val1300, weights_of, repository, tmp_path, combined
):
    singles = [open_result(repository / f"results/resnet50-{a}-val1300.parquet") for a in combined.split("+")]
    # of few resamples, which say how sure its held-out accuracy is and choose nothing
    write_space(tmp_path / "s.json", combine(singles, budget=625, resamples=2).space)
    result = open_result(repository / "results" / f"resnet50-combined-{combined}-val1300.parquet")
    request = SweepRequest("resnet50", space_file=str(tmp_path / "s.json"), device="cpu")
    job = job_of(request, val1300, weights_of("resnet50"))
    agree(result, job, val1300, [1, result.n - 1], (3, len(job.space) - 2))
