"""What the images of a result are called: written with it, extended with it, checked when it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from itd.analysis import union
from itd.errors import ResultError
from itd.store import ImageNames, ResultWriter, open_result, samples, verify
from support import synthetic

ALL = 12
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 0], np.int16)
NAMES = ImageNames([f"c{label}/{i}.png" for i, label in enumerate(LABELS)], LABELS, ("zero", "one", "two"))
ORDER = np.array([0, 3, 6, 1, 4, 7, 2, 5, 8, 11, 10, 9], np.int32)


def make(path: Path, images: int, names: ImageNames | None = NAMES, write: bool = True, **how) -> ResultWriter:
    """A result of the first images of ORDER, with names where they are given."""
    space = synthetic.make_space(6)
    writer = ResultWriter.open(path, identity={"model": "m", "data": "d"}, space=space, macs=[1] * 6,
                               samples=ORDER[:images], images_per_unit=4, provenance={"tool": "tests"}, names=names,
                               **how)  # fmt: skip
    if write:
        scores = synthetic.make_scores(6, ALL) | {"labels": LABELS[ORDER]}
        synthetic.write_units(writer, scores)
    return writer


def table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "_itd" / "samples.parquet")


def expected(images: int) -> pd.DataFrame:
    """The rows by a plain loop."""
    rows = []
    for sample in ORDER[:images].tolist():
        label = int(LABELS[sample])
        rows.append((sample, f"c{label}/{sample}.png", label, ("zero", "one", "two")[label]))
    frame = pd.DataFrame(rows, columns=["sample", "name", "label", "class_name"])
    return frame.astype({"sample": "int32", "label": "int16"})


def test_a_row_for_each_selected_image_in_the_order_of_the_selection(tmp_path):
    make(tmp_path / "r", 7)
    pd.testing.assert_frame_equal(table(tmp_path / "r"), expected(7))
    schema = pq.read_schema(tmp_path / "r/_itd/samples.parquet")
    assert [str(schema.field(n).type) for n in schema.names] == ["int32", "string", "int16", "string"]
    result = open_result(tmp_path / "r")
    assert result.names() == tuple(expected(7)["name"]) and result.class_names() == {0: "zero", 1: "one", 2: "two"}
    assert len(pd.read_parquet(tmp_path / "r")) == 6 * 7, "whoever reads the table never sees it"


def test_it_is_there_before_an_image_is_and_grows_with_the_limit(tmp_path):
    make(tmp_path / "r", 4, write=False)
    pd.testing.assert_frame_equal(table(tmp_path / "r"), expected(4))
    make(tmp_path / "r", 10)
    pd.testing.assert_frame_equal(table(tmp_path / "r"), expected(10))
    make(tmp_path / "r", 5)
    pd.testing.assert_frame_equal(table(tmp_path / "r"), expected(10))
    assert verify(tmp_path / "r").ok


def test_an_older_result_opens_without_and_gets_it_for_all_its_images(tmp_path):
    make(tmp_path / "r", 8, names=None)
    result = open_result(tmp_path / "r")
    assert result.names() is None and result.class_names() == {} and verify(tmp_path / "r").ok
    assert not (tmp_path / "r/_itd/samples.parquet").exists()
    make(tmp_path / "r", 5)
    pd.testing.assert_frame_equal(table(tmp_path / "r"), expected(8))
    assert open_result(tmp_path / "r").names() == tuple(expected(8)["name"]) and verify(tmp_path / "r").ok


def test_a_version_without_it_may_go_on_and_the_names_that_are_known_stay(tmp_path):
    make(tmp_path / "r", 4)
    make(tmp_path / "r", 8, names=None)
    assert open_result(tmp_path / "r").names() == (*expected(4)["name"], "", "", "", "")
    assert verify(tmp_path / "r").ok
    make(tmp_path / "r", 8)
    assert open_result(tmp_path / "r").names() == tuple(expected(8)["name"])


def test_a_run_that_ends_between_the_names_and_the_manifest_leaves_a_result_that_reads(tmp_path):
    make(tmp_path / "r", 4)
    before = (tmp_path / "r/_itd/manifest.json").read_bytes()
    make(tmp_path / "r", 8, write=False)
    (tmp_path / "r/_itd/manifest.json").write_bytes(before)
    assert open_result(tmp_path / "r").names() == tuple(expected(4)["name"]) and verify(tmp_path / "r").ok
    make(tmp_path / "r", 8)
    assert open_result(tmp_path / "r").names() == tuple(expected(8)["name"]) and verify(tmp_path / "r").ok


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "other"])
def test_what_is_damaged_is_found_and_the_same_command_mends_it(tmp_path, damage):
    make(tmp_path / "r", 8)
    path = tmp_path / "r/_itd/samples.parquet"
    data = path.read_bytes()
    if damage == "other":
        make(tmp_path / "o", 8, names=ImageNames([f"x{i}" for i in range(ALL)], LABELS, ("zero", "one", "two")))
        data = (tmp_path / "o/_itd/samples.parquet").read_bytes()
    elif damage == "flip":
        data = bytes([*data[:40], data[40] ^ 1, *data[41:]])
    elif damage == "cut":
        data = data[:-3]
    path.unlink() if damage == "gone" else path.write_bytes(data)
    result = open_result(tmp_path / "r")
    assert result.matrix("quality").shape == (6, 8), "nothing else needs the names"
    with pytest.raises(ResultError, match=r"samples\.parquet is damaged: .*same `itd sweep`"):
        result.names()
    assert [d.file for d in verify(tmp_path / "r").damaged] == ["_itd/samples.parquet"]
    make(tmp_path / "r", 8)
    assert verify(tmp_path / "r").ok and open_result(tmp_path / "r").names() == tuple(expected(8)["name"])


def test_every_bit_of_it_is_covered(tmp_path):
    make(tmp_path / "r", 8)
    path = tmp_path / "r/_itd/samples.parquet"
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(data), 60).tolist():
        path.write_bytes(bytes([*data[:at], data[at] ^ 4, *data[at + 1 :]]))
        assert not verify(tmp_path / "r").ok, at


def test_names_that_are_no_text_and_images_without_names(tmp_path):
    odd = os.fsdecode(b"a/caf\xe9.png")
    make(tmp_path / "r", 3, names=ImageNames([odd] * ALL, LABELS, (os.fsdecode(b"\xff"), "one")))
    assert open_result(tmp_path / "r").names() == (r"a/caf\udce9.png",) * 3
    assert open_result(tmp_path / "r").class_names() == {0: r"\udcff", 1: "one"}
    make(tmp_path / "n", 3, names=ImageNames((), LABELS))
    assert open_result(tmp_path / "n").names() == ("", "", "") and open_result(tmp_path / "n").class_names() == {}


def test_samples_with_null_rows_are_left_out_of_the_names_too(tmp_path):
    writer = make(tmp_path / "r", 8, write=False)
    missing = np.arange(8) == 2
    scores = synthetic.make_scores(6, 8) | {"labels": LABELS[ORDER][:8]}
    synthetic.write_units(writer, scores, missing)
    assert open_result(tmp_path / "r").names() == tuple(expected(8)["name"][~missing])


def test_a_union_has_those_of_the_first_source_that_has_any(tmp_path):
    make(tmp_path / "a", 8, names=None)
    make(tmp_path / "b", 8)
    union([open_result(tmp_path / "a"), open_result(tmp_path / "b")], tmp_path / "ab")
    pd.testing.assert_frame_equal(table(tmp_path / "ab"), expected(8))
    assert open_result(tmp_path / "ab").names() == tuple(expected(8)["name"]) and verify(tmp_path / "ab").ok
    make(tmp_path / "c", 8, names=None)
    union([open_result(tmp_path / "a"), open_result(tmp_path / "c")], tmp_path / "ac")
    assert open_result(tmp_path / "ac").names() is None and verify(tmp_path / "ac").ok


def test_a_sweep_knows_the_names_of_its_images_and_a_data_set_of_objects_has_none(tmp_path):
    from itd import SweepRequest, sweep
    from itd.data.images import select
    from itd.data.open import open_images

    request = SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=12)
    sweep(request, out=str(tmp_path / "r"), quiet=True)
    images = open_images("digits")
    chosen = select(images.labels, limit=12)
    assert open_result(tmp_path / "r").names() == tuple(images.names[i] for i in chosen)
    rows = table(tmp_path / "r")
    assert rows["class_name"].tolist() == [images.class_names[i] for i in rows["label"]]
    assert rows["label"].tolist() == images.labels[chosen].tolist()
    sweep(_objects(list(images)), out=str(tmp_path / "o"), quiet=True)
    assert open_result(tmp_path / "o").names() == ("",) * 4
    sweep(_objects(images), out=str(tmp_path / "s"), quiet=True)
    assert open_result(tmp_path / "s").names() == tuple(images.names[i] for i in select(images.labels, limit=4))


def _objects(images):
    import itd
    from itd.data.preprocess import DIGITS_PREPROCESS
    from itd.patcher import build_model

    net = itd.patch(build_model("resnet18", 10).eval(), {"A": "layer4.0.conv2"})
    space = itd.model_space(net, ["dilation"], options={("A", "dilation"): (1, 2)}, input_shape=(3, 64, 64))
    return itd.SweepJob(net, space, images, name="mine", preprocess=DIGITS_PREPROCESS, limit=4)


def test_the_manifest_names_its_hash(tmp_path):
    import hashlib

    make(tmp_path / "r", 8)
    manifest = json.loads((tmp_path / "r/_itd/manifest.json").read_text())
    data = (tmp_path / "r/_itd/samples.parquet").read_bytes()
    assert manifest[samples.HASH] == manifest["samples_sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["format"] == 2
