"""Data sets of the library `datasets`: columns, splits, classes, pixels as of a folder, one line for each refusal."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itd.data import hf
from itd.data.classes import imagenet_wnids
from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.errors import DataError
from support.sources import encoded, pixels_of, write_folder

pytestmark = pytest.mark.hf
datasets = pytest.importorskip("datasets", reason="datasets is not there: pip install 'itd-oracle[hf]'")


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


NAMES = ("ant", "bee", "cat")


def made(labels=(2, 0, 1), kind=None, column="image", label="label", **more):
    """A split with an image of noise for each label."""
    kind = datasets.ClassLabel(names=list(NAMES)) if kind is None else kind
    held = {column: [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(len(labels))], label: list(labels)}
    features = {column: datasets.Image(), label: kind} | {name: feature for name, (_, feature) in more.items()}
    held |= {name: values for name, (values, _) in more.items()}
    return datasets.Dataset.from_dict(held, features=datasets.Features(features))


def saved(dataset, path: Path) -> Path:
    dataset.save_to_disk(path)
    return path


def refused(pattern: str, *args: object, **options: object) -> None:
    with pytest.raises(DataError, match=pattern) as error:
        open_images(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_saved_split_has_its_order_classes_and_pixels(tmp_path: Path) -> None:
    folder = saved(made(), tmp_path / "set")
    for data in (folder, f"hf:{folder}"):
        images = open_images(data, num_classes=3)
        assert images.names == ["data/000000/0.png", "data/000001/1.png", "data/000002/2.png"]
        assert images.labels.tolist() == [2, 0, 1] and images.labels.dtype == np.int16
        assert images.class_names == NAMES and images.source == str(data)
        assert images.sizes_bytes.tolist() == [len(encoded(i)) for i in range(3)]
    copy = pickle.loads(pickle.dumps(images))
    assert all((np.asarray(copy.load(i)) == pixels_of(encoded(i))).all() for i in range(3))


def test_an_image_is_decoded_as_a_folders_file_is(tmp_path: Path) -> None:
    """The library turns an image by its EXIF tag; a folder's file is taken as it lies."""
    turned, held = Image.open(io.BytesIO(encoded(0, kind="JPEG"))).crop((0, 0, 30, 20)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(held, "JPEG", exif=exif)
    content = held.getvalue()
    dataset = datasets.Dataset.from_dict(
        {"image": [{"bytes": content, "path": None}], "label": [0]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])}),
    )
    read = open_images(saved(dataset, tmp_path / "set"), num_classes=1)
    folder = open_images(write_folder(tmp_path / "folder", [("a/0.jpg", content)]), num_classes=1)
    assert read.names == ["data/000000"] and dataset[0]["image"].size == (20, 30)
    assert np.array_equal(np.asarray(read.load(0)), np.asarray(folder.load(0))) and read.load(0).size == (30, 20)


def test_worker_processes_read_the_same_pixels(tmp_path: Path) -> None:
    images, how = open_images(saved(made(), tmp_path / "set"), num_classes=3), Preprocess(None, 40)
    alone, together = (
        next(iter(batches(images, np.arange(3), how, batch_size=3, workers=workers))) for workers in (0, 2)
    )
    assert (alone.pixels == together.pixels).all()


def test_the_split_is_validation_else_test_else_the_only_one(tmp_path: Path) -> None:
    one, two = made([0]), made([1, 2])
    every = {"train": one, "test": one, "validation": two}
    for splits, args, chosen, n in (
        (every, "", "validation", 2), ({"train": two, "test": one}, "", "test", 1), ({"odd": two}, "", "odd", 2),
        (every, ":train", "train", 1),
    ):  # fmt: skip
        folder = saved(datasets.DatasetDict(splits), tmp_path / f"{'-'.join(splits)}{args.strip(':')}")
        images = open_images(f"hf:{folder}{args}", num_classes=3)
        assert len(images) == n and images.names[0].startswith(f"{chosen}/000000")
    assert len(open_images(folder, num_classes=3)) == 2
    assert len(open_images(folder, num_classes=3, split="train")) == 1
    refused(r"has no split 'dev'; its splits are train, test, validation: give one, as in hf:", f"hf:{folder}:dev")
    several = saved(datasets.DatasetDict({"a": one, "b": two}), tmp_path / "several")
    refused("has several splits and none called validation or test; its splits are a, b: .*:a$", several)
    refused("none called train; its splits are a, b", several, split="train")


def test_the_hub_is_asked_for_one_split_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train", "validation"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or made())
    assert open_images("hf:some/one", num_classes=3).names[0] == "validation/000000/0.png"
    assert open_images("hf:some/one:train[:50%]", num_classes=3).source == "hf:some/one:train[:50%]"
    assert asked == [("some/one", "validation"), ("some/one", "train[:50%]")]

    def absent(name: str) -> None:
        raise FileNotFoundError(f"Dataset {name}\ncannot be reached")

    monkeypatch.setattr(datasets, "get_dataset_split_names", absent)
    refused("`data=hf:none` cannot be loaded: FileNotFoundError, Dataset none cannot be reached; give", "hf:none")


def test_without_the_library_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(hf.importlib, "import_module", absent)
    refused(r"library datasets, which is not there .*pip install 'itd-oracle\[hf\]'", "hf:mnist")


def test_columns_are_told_by_their_kind_then_by_their_name(tmp_path: Path) -> None:
    text = {"caption": (["x", "y", "z"], datasets.Value("string"))}
    images = open_images(saved(made(column="img", label="species", **text), tmp_path / "1"), num_classes=3)
    assert images.labels.tolist() == [2, 0, 1]
    plain = saved(made([4, 0, 1], datasets.Value("int64")), tmp_path / "2")
    images = open_images(plain, num_classes=5)
    assert images.labels.tolist() == [4, 0, 1] and images.class_names == tuple("01234")
    refused("row 0, has the label 4; allowed are 0 to 2", plain, num_classes=3)
    two = {"coarse": ([0, 0, 0], datasets.ClassLabel(names=["all"]))}
    assert open_images(saved(made(**two), tmp_path / "3"), num_classes=3).labels.tolist() == [2, 0, 1]
    refused(r"several columns of a class label: image \(Image\), fine \(ClassLabel\), coarse",
            saved(made(label="fine", **two), tmp_path / "4"))  # fmt: skip
    refused(r"no column of a class label: image \(Image\), n \(Value\)",
            saved(made([0], datasets.Value("int64"), label="n"), tmp_path / "5"))  # fmt: skip
    refused("no column of an image: label", saved(made().select_columns(["label"]), tmp_path / "6"))


def test_class_labels_have_an_order_of_their_own_unless_a_list_says_another(tmp_path: Path) -> None:
    folder = saved(made(kind=datasets.ClassLabel(names=["dog", "ant", "cat"])), tmp_path / "1")
    images = open_images(folder, num_classes=3)
    assert images.class_names == ("dog", "ant", "cat") and images.labels.tolist() == [2, 0, 1]
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    images = open_images(folder, classes_file=tmp_path / "classes.txt")
    assert images.class_names == ("ant", "bee", "cat", "dog") and images.labels.tolist() == [2, 3, 0]
    refused(r"has 3 classes .*say 10; pass `num_classes=3`", folder, weights_classes=10)
    refused(r"has 3 classes .*say 1000", folder)
    assert open_images(folder, own_classes=True).num_classes == 3
    wnids = imagenet_wnids()
    some = saved(made([1, 0], datasets.ClassLabel(names=[wnids[5], wnids[999]])), tmp_path / "2")
    assert open_images(some).labels.tolist() == [999, 5]
    unlabelled = saved(made([0, -1]), tmp_path / "3")
    refused("row 1, has the label -1", unlabelled, num_classes=3)
    refused("row 1: label is empty", saved(made([0, None]), tmp_path / "4"), num_classes=3)


def test_images_that_are_only_paths_are_read_from_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "files", [(f"{i}.png", encoded(i)) for i in range(2)])
    held = {"image": [str(root / f"{i}.png") for i in range(2)], "label": [0, 1]}
    dataset = datasets.Dataset.from_dict(held).cast_column("image", datasets.Image())
    columns = hf._rows(dataset, "image", "label", "x")
    assert columns.paths == ["0.png", "1.png"] and columns.sizes.tolist() == [len(encoded(i)) for i in range(2)]
    reader = hf.HfReader(hf._encoded(dataset, "image"), "image", "x")
    assert (np.asarray(reader(1, "1.png")) == pixels_of(encoded(1))).all()
    (root / "1.png").unlink()
    with pytest.raises(DataError, match=r"row 1: there are no bytes, and the file .*1\.png cannot be read: no such"):
        hf._rows(dataset, "image", "label", "x")
    os.mkfifo(root / "1.png")
    with pytest.raises(
        DataError, match=r"row 1: there are no bytes, and the file .*1\.png cannot be read: it is no file"
    ):
        hf._rows(dataset, "image", "label", "x")


def test_the_fingerprint_is_of_the_content_not_of_where_it_lies_nor_how_it_came(tmp_path: Path) -> None:
    first = open_images(saved(made(), tmp_path / "1"), num_classes=3).fingerprint()
    shuffled = made([1, 2, 0]).select([2, 0, 1])  # other images
    again = made().select([2, 1, 0]).select([2, 1, 0])
    assert open_images(saved(again, tmp_path / "2"), num_classes=3).fingerprint() == first
    assert open_images(saved(shuffled, tmp_path / "3"), num_classes=3).fingerprint() != first
    assert open_images(saved(made([2, 0, 2]), tmp_path / "4"), num_classes=3).fingerprint() != first


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": "x.png"}], "label": [0]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])}),
    )
    images = open_images(saved(dataset, tmp_path / "set"), num_classes=1)
    with pytest.raises(DataError, match=r"cannot decode image 0, data/000000/x\.png of .*set: .*`allow_missing`"):
        images.load(0)
