"""A folder whose classes are in a CSV file: order, numbering, and one clear line for each refusal."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from itd.data.classes import imagenet_wnids
from itd.data.open import open_images
from itd.errors import DataError
from support.sources import encoded, pixels_of, write_folder, write_labels


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Four images side by side, one in a folder, and one that no file lists."""
    names = ("b.png", "a.png", "c d.png", 'quo"te, comma.png', "in/e.png", "extra.png")
    return write_folder(tmp_path / "flat", [(name, encoded(seed)) for seed, name in enumerate(names)])


ROWS = [("in/e.png", 3), ("b.png", 0), ('quo"te, comma.png', 1), ("a.png", 2), ("./c d.png", 0)]


def refused(pattern: str, *args: object, **options: object) -> None:
    with pytest.raises(DataError, match=pattern) as error:
        open_images(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_images_are_those_that_are_listed_in_the_order_of_their_paths(flat: Path, tmp_path: Path) -> None:
    images = open_images(flat, labels_file=write_labels(tmp_path / "l.csv", ROWS), num_classes=5)
    assert images.names == ["a.png", "b.png", "c d.png", "in/e.png", 'quo"te, comma.png']
    assert images.labels.tolist() == [2, 0, 0, 3, 1] and images.labels.dtype == np.int16
    assert images.class_names == ("0", "1", "2", "3", "4") and images.source == str(flat)
    assert images.sizes_bytes.tolist() == [(flat / name).stat().st_size for name in images.names]
    copy = pickle.loads(pickle.dumps(images))
    assert all((np.asarray(copy.load(i)) == pixels_of((flat / n).read_bytes())).all() for i, n in enumerate(copy.names))


def test_a_folder_per_class_and_the_list_of_the_same_images_are_the_same_data(tmp_path: Path) -> None:
    """Also where a folder's name sorts otherwise as the beginning of a path: a space comes before a slash."""
    names = ["a/2.png", "a/10.png", "a b/1.png", "a-b/sub/0.png"]
    root = write_folder(tmp_path / "data", [(name, encoded(seed)) for seed, name in enumerate(names)])
    rows = [(name, name.split("/")[0]) for name in names]
    folder, listed = open_images(root, num_classes=3), None
    for order in (rows, rows[::-1]):
        listed = open_images(root, num_classes=3, labels_file=write_labels(tmp_path / "l.csv", order))
        assert listed.names == folder.names and listed.labels.tolist() == folder.labels.tolist()
        assert listed.class_names == folder.class_names and listed.fingerprint() == folder.fingerprint()


def test_names_are_numbered_in_sorted_order_or_by_the_list_of_classes(flat: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", [("a.png", "dog"), ("b.png", " ant "), ("extra.png", "cat")])
    images = open_images(flat, labels_file=labels, num_classes=3)
    assert images.class_names == ("ant", "cat", "dog") and images.labels.tolist() == [2, 0, 1]
    classes = tmp_path / "classes.txt"
    classes.write_text("\ufeffdog\nowl\ncat\nant\n", "utf-8")
    images = open_images(flat, labels_file=labels, classes_file=classes, weights_classes=4)
    assert images.class_names == ("dog", "owl", "cat", "ant") and images.labels.tolist() == [0, 3, 2]
    refused("names 4 classes.* say 3", flat, labels_file=labels, classes_file=classes, num_classes=3)
    classes.write_text("dog\ncat\n")
    refused(r"'ant' in `labels_file=.* is not among the 2 classes of", flat, labels_file=labels, classes_file=classes)
    refused(r"3 class names .*there are 5 classes; pass `num_classes=3`", flat, labels_file=labels, num_classes=5)


def test_numbers_are_indices_unless_the_list_of_classes_has_them_as_names(flat: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", [("a.png", 10), ("b.png", 2)])
    classes = tmp_path / "classes.txt"
    classes.write_text("10\n9\n2\n")
    assert open_images(flat, labels_file=labels, classes_file=classes).labels.tolist() == [0, 2]
    classes.write_text("\n".join("abcdefghijkl"))
    images = open_images(flat, labels_file=labels, classes_file=classes)
    assert images.labels.tolist() == [10, 2] and images.class_names == tuple("abcdefghijkl")


def test_of_a_thousand_classes_names_are_wordnet_ids_and_numbers_their_places(flat: Path, tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    for rows in ([("a.png", wnids[999]), ("b.png", wnids[7])], [("a.png", 999), ("b.png", 7)]):
        images = open_images(flat, labels_file=write_labels(tmp_path / "l.csv", rows), weights_classes=1000)
        assert images.labels.tolist() == [999, 7] and images.class_names == wnids
    labels = write_labels(tmp_path / "l.csv", [("a.png", "tench")])
    refused(r"'tench' .*not among the 1000 WordNet ids .*1 of 1 names", flat, labels_file=labels)


def test_where_nobody_says_how_many_classes_there_are_the_list_may(flat: Path, tmp_path: Path) -> None:
    numbers = write_labels(tmp_path / "n.csv", [("a.png", 4), ("b.png", 0)])
    assert open_images(flat, labels_file=numbers, own_classes=True).num_classes == 5
    names = write_labels(tmp_path / "l.csv", [("a.png", "x"), ("b.png", "y")])
    assert open_images(flat, labels_file=names, own_classes=True).class_names == ("x", "y")


def test_a_byte_order_mark_other_columns_and_empty_lines_are_taken(flat: Path, tmp_path: Path) -> None:
    labels = tmp_path / "l.csv"
    labels.write_bytes('\ufefflabel, wnid ,path\r\n1,n0,a.png\r\n\r\n0,n1,"c d.png"\r\n'.encode())
    assert open_images(flat, labels_file=labels, num_classes=2).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; expected a CSV file with the header path,label"),
        ("path,label\n", "lists no images; expected"),
        ("a.png,1\n", "has the header 'a.png,1'; expected"),
        ("path;label\na.png;1\n", "has the header 'path;label'"),
        ("path,label\na.png\n", "line 2: 'a.png' has no path and label"),
        ("path,label\na.png,\n", "line 2: the label is empty"),
        ("path,label\n ,1\n", "line 2: the path is empty"),
        ("path,label\na.png,1\n/etc/passwd,1\n", "line 3: '/etc/passwd' is not inside the folder"),
        ("path,label\nin/../../x.png,1\n", "line 2: 'in/../../x.png' is not inside the folder"),
        ("path,label\na.png,1\n./a.png,2\n", "'a.png' has two labels, '1' on line 2 and '2' on line 3"),
        ("path,label\na.png,1\nzz.png,1\nin,1\n", "2 of 3 images that are not in `data=.*: in .line 4., zz.png"),
        ("path,label\na.png,1\nb.png,5\n", "line 3, b.png, has the label 5; allowed are 0 to 4"),
        ("path,label\na.png,-1\n", "line 2, a.png, has the label -1; allowed are 0 to 4"),
        ("path,label\na.png,1\nb.png,dog\n", "the number 1 on line 2 and the name 'dog' on line 3"),
        ('path,label\n"a.png,1\n', "cannot read `labels_file="),
        (b"path,label\n\xff.png,1\n", "cannot read `labels_file=.*utf-8"),
    ],
)  # fmt: skip
def test_what_a_list_cannot_say_is_refused_by_name(text: str | bytes, said: str, flat: Path, tmp_path: Path) -> None:
    labels = tmp_path / "l.csv"
    labels.write_bytes(text.encode() if isinstance(text, str) else text)
    refused(said, flat, labels_file=labels, num_classes=5)


def test_a_list_needs_a_folder_and_a_file(flat: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", ROWS)
    refused("cannot read `labels_file=.*nowhere.csv`: no such file", flat, labels_file=tmp_path / "nowhere.csv")
    refused("no such data folder", tmp_path / "nowhere", labels_file=labels)
    (tmp_path / "cifar-100-binary").mkdir()
    for data, why in (
        ("digits", "the embedded digits have their labels"),
        ("cifar10", "CIFAR-10 has its labels"),
        (tmp_path / "cifar-100-binary", "CIFAR-100 has its labels"),
        ("x-{0..3}.tar", "has a .cls for each image"),
        ("hf:mnist", "has a column of labels"),
    ):
        refused(f"`labels_file=.* is for a folder of images, and .*{why}; leave", data, labels_file=labels)
    refused("holds 1 files and no class folders.*or `labels_file=FILE.csv`", write_folder(tmp_path / "f", [("a", b"")]))
