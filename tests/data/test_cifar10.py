"""CIFAR-10 as published, pickles and binaries, made here in small; and what is not it."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from itd.data.cifar10 import CIFAR10_PREPROCESS, CLASSES, is_cifar10
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
    assert is_cifar10(data)
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
    with pytest.raises(DataError, match="CIFAR-10 has its ten classes"):
        open_images(pickles, num_classes=100)


def test_other_folders_are_not_cifar_10(tmp_path):
    assert not is_cifar10(tmp_path) and is_cifar10("cifar10") and not is_cifar10("digits")
