"""Which images there are, and which class each has: the rules for folders, and one clear line for each refusal."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from itd.data.classes import imagenet_wnids
from itd.data.images import ORDERS, select
from itd.data.open import open_images
from itd.errors import DataError

MakeFolder = Callable[..., Path]


def jpeg(seed: int = 0, side: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    def make(*paths: str) -> Path:
        for seed, path in enumerate(paths):
            target = tmp_path / "data" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(jpeg(seed))
        return tmp_path / "data"

    return make


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_order_and_labels_are_image_folders(folder: MakeFolder) -> None:
    root = folder("b/2.jpg", "a/x.JPEG", "b/10.png", "a/sub/y.jpg", "c/1.webp")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "README").write_text("no class")
    images = open_images(root, num_classes=3)
    assert images.names == ["a/sub/y.jpg", "a/x.JPEG", "b/10.png", "b/2.jpg", "c/1.webp"]
    assert images.labels.tolist() == [0, 0, 1, 1, 2]
    assert images.labels.dtype == np.int16
    assert images.class_names == ("a", "b", "c")
    reference = {os.path.relpath(path, root): label for path, label in ImageFolder(str(root)).samples}
    assert dict(zip(images.names, images.labels.tolist(), strict=True)) == reference
    loaded = images.load(1)
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), np.asarray(Image.open(root / "a/x.JPEG").convert("RGB")))
    assert pickle.loads(pickle.dumps(images)).load(0).size == (40, 40)


def test_grey_and_palette_images_become_rgb(folder: MakeFolder) -> None:
    root = folder("a/0.jpg")
    Image.new("L", (8, 8), 77).save(root / "a" / "1.png")
    Image.new("P", (8, 8)).save(root / "a" / "2.png")
    Image.new("CMYK", (8, 8)).save(root / "a" / "3.jpg")
    images = open_images(root, num_classes=1)
    assert [images.load(i).mode for i in range(4)] == ["RGB"] * 4
    assert images.load(1).getpixel((0, 0)) == (77, 77, 77)


def test_partial_imagenet_folders_have_imagenets_own_indices(folder: MakeFolder) -> None:
    root = folder("n15075141/0.jpg", "n01440764/0.jpg", "n02110341/0.jpg")
    images = open_images(root)
    assert images.labels.tolist() == [0, 251, 999]
    assert images.num_classes == 1000
    assert open_images(root, weights_classes=1000).labels.tolist() == [0, 251, 999]


def test_wnids_are_a_thousand_and_sorted() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)


def test_a_folder_that_is_no_wordnet_id_is_named(folder: MakeFolder) -> None:
    root = folder("n01440764/0.jpg", "tench/0.jpg")
    with pytest.raises(DataError, match=r"'tench' .* WordNet ids .* 1 of 2 folders.*`num_classes=2`") as error:
        open_images(root)
    one_line(error)


def test_the_number_of_folders_must_be_the_number_of_classes(folder: MakeFolder) -> None:
    root = folder("a/0.jpg", "b/0.jpg")
    assert open_images(root, weights_classes=2).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"2 class folders.*10 classes.*`num_classes=2`"):
        open_images(root, num_classes=10)
    with pytest.raises(DataError, match=r"2 class folders.*3 classes"):
        open_images(root, weights_classes=3)


def test_a_list_of_classes_overrides_both_rules(folder: MakeFolder, tmp_path: Path) -> None:
    root = folder("cat/0.jpg", "ant/0.jpg")
    listed = tmp_path / "classes.txt"
    listed.write_text("dog\ncat\nant\n\n")
    images = open_images(root, classes_file=listed)
    assert images.class_names == ("dog", "cat", "ant")
    assert dict(zip(images.names, images.labels.tolist(), strict=True)) == {"ant/0.jpg": 2, "cat/0.jpg": 1}
    with pytest.raises(DataError, match=r"names 3 classes.*say 4"):
        open_images(root, classes_file=listed, num_classes=4)
    listed.write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"'ant' .*not among the 2 classes of"):
        open_images(root, classes_file=listed)
    listed.write_text("ant\ncat\nant\n")
    with pytest.raises(DataError, match=r"'ant' more than once"):
        open_images(root, classes_file=listed)
    with pytest.raises(DataError, match=r"cannot read `classes_file=.*nowhere`"):
        open_images(root, classes_file=tmp_path / "nowhere")


def test_absent_empty_and_flat_folders_are_refused(folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such data folder: .*nowhere"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds nothing; expected one folder of images per class"):
        open_images(tmp_path / "empty")
    root = folder("0.jpg", "1.jpg")
    with pytest.raises(DataError, match=r"holds 2 files and no class folders.*CLASS/IMAGE"):
        open_images(root)
    with pytest.raises(DataError, match="is a file"):
        open_images(root / "0.jpg")
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "b.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no images in the 1 class folders.*\.jpeg"):
        open_images(tmp_path / "texts", num_classes=1)


def test_a_truncated_jpeg_is_an_error_that_names_it(folder: MakeFolder) -> None:
    root = folder("a/good.jpg", "a/short.jpg")
    whole = (root / "a/short.jpg").read_bytes()
    (root / "a/short.jpg").write_bytes(whole[: len(whole) // 2])
    images = open_images(root, num_classes=1)
    images.load(0)
    with pytest.raises(
        DataError, match=r"cannot decode image 1, .*a/short\.jpg: .*truncated.*`allow_missing`"
    ) as error:
        images.load(1)
    one_line(error)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_a_file_that_is_no_image_is_an_error_that_names_it(folder: MakeFolder, content: bytes) -> None:
    root = folder("a/odd.png")
    (root / "a/odd.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a/odd\.png") as error:
        open_images(root, num_classes=1).load(0)
    one_line(error)


def test_a_dangling_link_is_listed_and_fails_by_name(folder: MakeFolder) -> None:
    root = folder("a/0.jpg")
    (root / "a/1.jpg").symlink_to(root / "gone.jpg")
    images = open_images(root, num_classes=1)
    assert len(images) == 2
    with pytest.raises(DataError, match=r"a/1\.jpg: no such file"):
        images.load(1)


def test_fingerprint_goes_by_paths_sizes_and_classes(folder: MakeFolder, tmp_path: Path) -> None:
    root = folder("a/0.jpg", "b/0.jpg")
    first = open_images(root, num_classes=2).fingerprint()
    assert len(first) == 64
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert open_images(root, num_classes=2).fingerprint() == first
    listed = tmp_path / "classes.txt"
    listed.write_text("b\na\n")
    assert open_images(root, classes_file=listed).fingerprint() != first
    (root / "a/0.jpg").write_bytes((root / "a/0.jpg").read_bytes() + b"\0")
    grown = open_images(root, num_classes=2).fingerprint()
    assert grown != first
    (root / "a/0.jpg").rename(root / "a/1.jpg")
    assert open_images(root, num_classes=2).fingerprint() not in (first, grown)


def test_fingerprint_is_the_documented_hash(folder: MakeFolder) -> None:
    root = folder("a/0.jpg", "b/1.jpg")
    sizes = [(root / name).stat().st_size for name in ("a/0.jpg", "b/1.jpg")]
    text = f"a/0.jpg\0{0}\0{sizes[0]}\nb/1.jpg\0{1}\0{sizes[1]}\n\0classes\0a\0b"
    assert open_images(root, num_classes=2).fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_data_defaults_to_the_environment_and_then_the_digits(
    folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_images(None).source == "digits"
    monkeypatch.setenv("ITD_DATA", str(folder("a/0.jpg")))
    assert len(open_images(None, num_classes=1)) == 1
    assert len(open_images("digits")) == 360


def test_select_takes_every_kth_before_the_limit() -> None:
    one = np.zeros(10, np.int16)
    for order in ORDERS:
        assert select(one, order=order).tolist() == list(range(10))
        assert select(one, 4, order=order).tolist() == [0, 4, 8]
        assert select(one, 4, 2, order).tolist() == [0, 4]
        assert select(one[:3], 1, 99, order).tolist() == [0, 1, 2]
        assert select(one, order=order).dtype == np.int32
    for wrong in ({"every": 0}, {"limit": 0}, {"order": "random"}):
        with pytest.raises(DataError, match=r"not allowed|no such `order`"):
            select(one, **wrong)


def test_the_class_spread_takes_each_class_once_before_any_twice() -> None:
    """Against a loop that takes the next image of every class in turns."""
    labels = np.random.default_rng(0).integers(0, 7, 60).astype(np.int16)
    for every in (1, 3):
        left = {c: [i for i in range(0, 60, every) if labels[i] == c] for c in range(9)}
        expected = []
        while any(left.values()):
            expected += [left[c].pop(0) for c in range(9) if left[c]]
        whole = select(labels, every)
        assert whole.tolist() == expected and select(labels, every, order="path").tolist() == sorted(expected)
        for limit in (1, 7, 11, 99):  # a larger limit goes on where a smaller one ended
            assert select(labels, every, limit).tolist() == expected[:limit]


@pytest.mark.data
def test_a_hundred_real_images_are_of_a_hundred_classes(shared_data: Path) -> None:
    images = open_images(shared_data / "images" / "sample1000")
    assert len(set(images.labels[select(images.labels, limit=100)].tolist())) == 100


@pytest.mark.data
@pytest.mark.parametrize(("name", "n"), [("val1300", 1300), ("sample1000", 1000)])
def test_labels_of_real_images_go_by_wordnet_id(shared_data: Path, name: str, n: int) -> None:
    images = open_images(shared_data / "images" / name)
    with open(shared_data / f"{name}.csv", newline="") as file:
        listed = {row["path"].removeprefix(f"images/{name}/"): int(row["label"]) for row in csv.DictReader(file)}
    assert len(images) == n
    assert dict(zip(images.names, images.labels.tolist(), strict=True)) == listed


def test_the_digits_at_one_scale_are_data_of_their_own():
    from itd.data.open import is_digits, open_images

    many, one = open_images("digits"), open_images("digits-one-scale")
    assert len(many) == len(one) == 360 and (many.labels == one.labels).all()
    assert many.fingerprint() != one.fingerprint() and all(name.endswith("-32px") for name in one.names)
    assert is_digits("digits-one-scale") and not is_digits("digits2")
