"""Tar shards with WebDataset's keys: which images there are, reading them, and one clear line for each refusal."""

from __future__ import annotations

import gzip
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from itd.data.classes import imagenet_wnids
from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.data.shards import expanded
from itd.errors import DataError, ImageReadError
from support.sources import encoded, pixels_of, write_folder, write_tar

Members = list[tuple[str, "bytes | str"]]


def shard(*keys: int, kind: str = "png") -> Members:
    """An image, a label (the key's last digit) and a file that is neither, for each key."""
    files: Members = []
    for key in keys:
        files += [(f"{key:05d}.{kind}", encoded(key)), (f"{key:05d}.json", "{}"), (f"{key:05d}.cls", f"{key % 10}\n")]
    return files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_tar(tmp_path / "s-08.tar", shard(3, 1))
    write_tar(tmp_path / "s-09.tar", [*shard(7, kind="JPEG"), ("README", "none of ours"), ("._00007.png", b"no image")])
    write_tar(tmp_path / "s-10.tar", [(f"./b/{name}", content) for name, content in shard(0)])
    return tmp_path / "s-{08..10}.tar"


def refused(pattern: str, *args: object, **options: object) -> None:
    with pytest.raises(DataError, match=pattern) as error:
        open_images(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_images_are_in_the_order_of_shards_then_keys(shards: Path) -> None:
    images = open_images(shards, num_classes=10)
    assert images.names == ["s-08.tar/00001.png", "s-08.tar/00003.png", "s-09.tar/00007.JPEG", "s-10.tar/b/00000.png"]
    assert images.labels.tolist() == [1, 3, 7, 0] and images.labels.dtype == np.int16
    assert images.sizes_bytes.tolist() == [len(encoded(key)) for key in (1, 3, 7, 0)]
    assert images.class_names == tuple("0123456789") and images.source == str(shards)
    copy = pickle.loads(pickle.dumps(images))
    for place, key in enumerate((1, 3, 7, 0)):
        assert (np.asarray(copy.load(place)) == pixels_of(encoded(key))).all()


def test_one_tar_alone_and_the_classes_of_a_list(shards: Path, tmp_path: Path) -> None:
    one = shards.parent / "s-08.tar"
    assert open_images(one, num_classes=10).names == ["s-08.tar/00001.png", "s-08.tar/00003.png"]
    assert open_images(one, weights_classes=1000).class_names == imagenet_wnids()
    assert open_images(one, own_classes=True).num_classes == 4
    (tmp_path / "classes.txt").write_text("\n".join("abcd"))
    assert open_images(one, classes_file=tmp_path / "classes.txt").class_names == tuple("abcd")


def test_worker_processes_read_the_same_pixels(shards: Path) -> None:
    images, how = open_images(shards, num_classes=10), Preprocess(None, 40)
    alone, together = (
        next(iter(batches(images, np.arange(4), how, batch_size=4, workers=workers))) for workers in (0, 2)
    )
    assert (alone.pixels == together.pixels).all() and alone.labels.tolist() == together.labels.tolist()


def test_the_fingerprint_goes_by_names_labels_and_sizes(shards: Path, tmp_path: Path) -> None:
    first = open_images(shards, num_classes=10).fingerprint()
    assert open_images(shards, num_classes=10).fingerprint() == first
    changed = [(name, "5" if name == "00001.cls" else content) for name, content in shard(3, 1)]
    write_tar(tmp_path / "s-08.tar", changed)
    assert open_images(shards, num_classes=10).fingerprint() != first
    assert open_images(shards, num_classes=11).fingerprint() != first


def test_ranges_are_as_wide_as_their_numbers() -> None:
    assert expanded("s-{8..11}.tar") == ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]
    assert expanded("s-{098..101}.tar") == ["s-098.tar", "s-099.tar", "s-100.tar", "s-101.tar"]
    assert expanded("{0..1}/s{5..6}.tar") == ["0/s5.tar", "0/s6.tar", "1/s5.tar", "1/s6.tar"]
    assert expanded("one.tar") == ["one.tar"]
    for text, said in (("s-{3..1}.tar", "empty range"), ("s-{a,b}.tar", "a brace that is no range")):
        refused(said, text)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.png", b"x")], r"s\.tar, key 1: there is no label \(\.cls\)"),
        ([("1.cls", "1"), ("1.webp", b"x")], r"key 1: there is no image \(\.jpg"),
        ([("1.cls", "1"), ("1.png", b"x"), ("1.JPG", b"x")], r"key 1: there are two images, \.png and \.JPG"),
        ([("1.cls", "1"), ("1.png", b"x"), ("1.cls", "2")], r"key 1: there are two labels"),
        ([("d/1.cls", "1.5"), ("d/1.png", b"x")], r"key d/1: the label \(\.cls\) is '1\.5'; it has to be a whole"),
        ([("1.cls", "cat"), ("1.png", b"x")], r"key 1: the label \(\.cls\) is 'cat'"),
        ([("1.cls", "10"), ("1.png", b"x")], r"s\.tar/1\.png, has the label 10; allowed are 0 to 9"),
        ([("1.cls", "-1"), ("1.png", b"x")], r"s\.tar/1\.png, has the label -1; allowed are 0 to 9"),
        ([("notes.txt", "none")], r"s\.tar has no image: expected files KEY\.cls"),
    ],
)
def test_what_a_shard_lacks_or_has_twice_is_refused_by_key(members: Members, said: str, tmp_path: Path) -> None:
    refused(said, write_tar(tmp_path / "s.tar", members), num_classes=10)


def test_a_folder_of_classes_may_be_called_as_a_tar(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos.tar", [("a/1.png", encoded(1))])
    assert open_images(root, num_classes=1).names == ["a/1.png"]


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards.parent / "s-09.tar").unlink()
    refused(r"no such shard: .*s-09\.tar \(1 of the 3 of `data=", shards, num_classes=10)


@pytest.mark.parametrize("cut", ["in the last body", "in a header", "at a header", "in the first header", "empty"])
def test_a_shard_that_is_cut_off_is_refused_naming_the_last_that_is_whole(cut: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", shard(1, 2))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    place = {"in the last body": members[3].offset_data + 10, "in a header": members[4].offset + 100,
             "at a header": members[4].offset, "in the first header": 100, "empty": 0}[cut]  # fmt: skip
    path.write_bytes(path.read_bytes()[:place])
    last = {"in the last body": r"00002\.png", "in the first header": "its beginning", "empty": "its beginning"}
    refused(rf"s\.tar cannot be read after {last.get(cut, members[3].name)}: .*cut off", path, num_classes=10)


def test_a_damaged_header_ends_nothing_in_silence(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", shard(1, 2))
    with tarfile.open(path) as tar:
        place = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    content[place : place + 5] = b"99999"
    path.write_bytes(content)
    refused(r"s\.tar cannot be read after 00001\.cls", path, num_classes=10)


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s-{0..3}.tar.xz", "s.TAR.GZ"])
def test_what_is_compressed_is_refused_with_what_to_do(name: str) -> None:
    refused("is compressed, .*unpack it to a .tar", name)


def test_a_compressed_file_of_another_name_is_no_plain_tar(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "z.tar").write_bytes(gzip.compress((tmp_path / "s-08.tar").read_bytes()))
    refused(r"z\.tar cannot be read .*no plain tar file", tmp_path / "z.tar", num_classes=10)


def test_an_image_that_is_damaged_or_gone_is_named(shards: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "s-08.tar", [("1.png", encoded(1)[:100]), ("1.cls", "1")])
    images = open_images(shards, num_classes=10)
    with pytest.raises(DataError, match=r"cannot decode image 0, s-08\.tar/1\.png in .*s-08\.tar: .*`allow_missing`"):
        images.load(0)
    (tmp_path / "s-09.tar").unlink()
    with pytest.raises(ImageReadError, match=r"cannot read image 1, s-09\.tar/00007\.JPEG in .*: no such file"):
        images.load(1)
    (tmp_path / "s-09.tar").write_bytes(b"")
    with pytest.raises(ImageReadError, match="the shard has become shorter"):
        images.load(1)
