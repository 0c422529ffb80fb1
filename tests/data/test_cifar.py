"""CIFAR-10 and CIFAR-100 as published, pickles and binaries, made here in small; and what is neither."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets.utils
from torchvision.datasets import CIFAR10
from torchvision.datasets import CIFAR100 as PUBLISHED_100

from itd.data import cifar
from itd.data.cifar import CIFAR10_PREPROCESS, CIFAR100, CIFAR100_PREPROCESS, CLASSES, cifar_of
from itd.data.open import open_images
from itd.errors import DataError

NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


@pytest.fixture
def pixels():
    """(6 files, 4 images, 32, 32, 3), and their labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 4, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, (6, 4))


@pytest.fixture
def binaries(tmp_path, pixels):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, images, labels in zip(NAMES, *pixels, strict=True):
        records = [
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


@pytest.fixture
def pickles(tmp_path, pixels, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for name, images, labels in zip(NAMES, *pixels, strict=True):
        held = {"data": images.transpose(0, 3, 1, 2).reshape(4, -1), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(held))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    meta = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[n, sums[n]] for n in NAMES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[NAMES[5], sums[NAMES[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return folder


@pytest.mark.parametrize("form", ["binaries", "pickles"])
@pytest.mark.parametrize("inside", [False, True])
def test_both_published_forms_hold_the_same_images(form, inside, pixels, request, tmp_path):
    folder = request.getfixturevalue(form)
    data = tmp_path if inside else folder
    assert cifar_of(data) is cifar.CIFAR10
    for split, files in (("train", slice(0, 5)), ("eval", slice(5, 6))):
        images = open_images(data, split=split)
        assert images.class_names == CLASSES and len(images) == (20 if split == "train" else 4)
        assert images.labels.tolist() == pixels[1][files].flatten().tolist()
        for i, expected in enumerate(pixels[0][files].reshape(-1, 32, 32, 3)):
            assert (np.array(images.load(i)) == expected).all()
    assert open_images(data, split="train").fingerprint() != open_images(data).fingerprint()
    assert CIFAR10_PREPROCESS(images.load(0)).shape == (3, 32, 32)


def test_what_is_cut_off_or_not_cifar_10_is_refused(binaries, pickles):
    (binaries / "test_batch.bin").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"test_batch\.bin is cut off: 100 bytes"):
        open_images(binaries)
    (binaries / "test_batch.bin").write_bytes(b"\x63" * 3073)
    with pytest.raises(DataError, match="labels above 9"):
        open_images(binaries)
    (binaries / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: No such file"):
        open_images(binaries, split="train")
    (pickles / "test_batch").write_bytes(b"changed")
    with pytest.raises(DataError, match="is not whole"):
        open_images(pickles)
    with pytest.raises(DataError, match="CIFAR-10 has its 10 classes"):
        open_images(pickles, num_classes=100)


def test_other_folders_are_not_cifar(tmp_path):
    assert cifar_of(tmp_path) is None and cifar_of("digits") is None
    assert cifar_of("cifar10").classes == 10 and cifar_of("cifar100").classes == 100


FINE = [f"fine_{i:02d}" for i in range(100)]


@pytest.fixture
def hundred():
    """split -> (3 images, 32, 32, 3), coarse and fine labels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 3, 32, 32, 3)).astype(np.uint8)
    return {"train": (images[0], [3, 19, 0], [99, 7, 50]), "test": (images[1], [19, 1, 2], [0, 98, 31])}


@pytest.fixture
def hundred_binaries(tmp_path, hundred):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for split, (images, coarse, fine) in hundred.items():
        records = [
            bytes([c, f]) + image.transpose(2, 0, 1).tobytes() for image, c, f in zip(images, coarse, fine, strict=True)
        ]
        (folder / f"{split}.bin").write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    return folder


@pytest.fixture
def hundred_pickles(tmp_path, hundred, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    held = {
        split: {"data": images.transpose(0, 3, 1, 2).reshape(3, -1), "coarse_labels": coarse, "fine_labels": fine}
        for split, (images, coarse, fine) in hundred.items()
    }
    sums = {}
    for name, value in {**held, "meta": {"fine_label_names": FINE}}.items():
        (folder / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(PUBLISHED_100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(PUBLISHED_100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(PUBLISHED_100, "meta", {**PUBLISHED_100.meta, "md5": sums["meta"]})
    return folder


@pytest.mark.parametrize("form", ["hundred_binaries", "hundred_pickles"])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar_100_has_its_fine_labels(form, inside, hundred, request, tmp_path):
    folder = request.getfixturevalue(form)
    data = tmp_path if inside else folder
    assert cifar_of(data) is CIFAR100
    for split, name in (("train", "train"), ("eval", "test")):
        images = open_images(data, split=split, num_classes=100)
        expected, _, fine = hundred[name]
        assert images.class_names == tuple(FINE) and images.labels.tolist() == fine and images.source == "cifar100"
        assert images.names[0] == f"cifar100/{name}/fine_{fine[0]:02d}/00000"
        assert all((np.array(images.load(i)) == expected[i]).all() for i in range(3))
    assert CIFAR100_PREPROCESS(images.load(0)).shape == (3, 32, 32)


def test_cifar_100_that_is_cut_off_or_of_other_classes_is_refused(hundred_binaries):
    with pytest.raises(DataError, match=r"CIFAR-100 has its 100 classes, but .* say 10"):
        open_images(hundred_binaries, num_classes=10)
    (hundred_binaries / "fine_label_names.txt").write_text("apple\napple\n")
    with pytest.raises(DataError, match=r"fine_label_names\.txt names 2 classes, not 100"):
        open_images(hundred_binaries)
    (hundred_binaries / "fine_label_names.txt").unlink()
    with pytest.raises(DataError, match=r"fine_label_names\.txt: No such file .*unpack CIFAR-100 again"):
        open_images(hundred_binaries)
    (hundred_binaries / "test.bin").write_bytes(b"\x00\x64" + b"\0" * 3072)
    with pytest.raises(DataError, match="labels above 99; it is not CIFAR-100"):
        open_images(hundred_binaries)
    (hundred_binaries / "test.bin").write_bytes(b"\0" * 3073)
    with pytest.raises(DataError, match=r"test\.bin is cut off: 3073 bytes are not records of 3074"):
        open_images(hundred_binaries)


def test_the_name_alone_fetches_the_archive_once(hundred_binaries, tmp_path, monkeypatch):
    archive, fetched = io.BytesIO(), []
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(hundred_binaries, "cifar-100-binary")

    def download(url, root, filename=None, md5=None):
        fetched.append((url, md5))
        (Path(root) / filename).write_bytes(archive.getvalue())

    monkeypatch.setenv("ITD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    for _ in range(2):
        assert len(open_images("cifar100")) == 3
    address = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    assert fetched == [(address, "03b5dce01913d631647c71ecec9e9cb8")]


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("ITD_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    for name in ("CIFAR-10", "CIFAR-100"):
        with pytest.raises(DataError, match=rf"^{name} cannot be fetched .*no network.*unpack it"):
            open_images(name.replace("-", "").lower())
