"""Manifests, records and configurations from elsewhere: reading a result is an answer, or one line."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itd.analysis import oracle
from itd.errors import ItdError, ResultError
from itd.store import open_result, verify
from itd.store.files import sha256
from support import synthetic
from support.strange import mutated, only_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(6, 10), default=2)


def answers(folder: Path) -> object:
    result = open_result(folder)
    return oracle(result), result.num_classes, result.names()


def test_manifests_are_read_or_refused(folder: Path) -> None:
    path, choose = folder / "_itd" / "manifest.json", random.Random(0)
    whole = json.loads(path.read_text())
    read = 0
    for number in range(400):
        path.write_text(json.dumps(mutated(whole, choose)))
        read += only_lines(lambda: answers(folder)) if number % 10 == 0 else only_lines(lambda: open_result(folder))
        if number % 20 == 0:
            only_lines(lambda: verify(folder))
    assert 0 < read < 300
    good = json.dumps(whole).encode()
    for _ in range(150):
        data = bytearray(good)
        data[choose.randrange(len(data))] = choose.randrange(256)
        path.write_bytes(data)
        only_lines(lambda: open_result(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": None}, "identity is null, not an object"),
        ({"attributes": ["colour"]}, 'attributes.0. is "colour", not one of stride, dilation, size'),
        ({"attributes": []}, "attributes is a list of 0"),
        ({"images": -1}, "images is -1"),
        ({"configs": -6}, "configs is -6"),
        ({"configs": 10**30}, "configs is a number of about 30 digits"),
        ({"images_per_unit": 0}, "images_per_unit is 0"),
        ({"default": 6}, "default is 6, and there are 6 configurations"),
        ({"samples": [[0, 1, 11]]}, "samples are 11, and images is 10"),
        ({"samples": [[0, 1, 10**9]], "images": 10**9}, "images is 1000000000"),
        ({"samples": [[-1, 1, 10]]}, "samples.0. goes beyond"),
        ({"samples": [[5, 0, 10]]}, "samples.0. is no run"),
        ({"samples": [[2**31 - 5, 1, 10]]}, "samples.0. goes beyond"),
        ({"provenance": []}, "provenance is a list of 0"),
        ({"provenance": [3]}, "provenance.0. is 3"),
        ({"format": [1] * 1000}, "has format"),
    ],
)
def test_fields_without_sense_are_named(changes: dict, words: str, folder: Path) -> None:
    path = folder / "_itd" / "manifest.json"
    synthetic.changed(path, **changes)
    with pytest.raises(ResultError, match=words) as error:
        open_result(folder)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a":' * 100_000, "null", "3", "9" * 5000, "\x00"])
def test_malformed_manifests_and_records_are_one_line(text: str, folder: Path) -> None:
    record = next(path for path in (folder / "_itd").glob("part-*.json"))
    kept = record.read_text()
    record.write_text(text)
    assert not only_lines(lambda: open_result(folder))
    record.write_text(kept)
    (folder / "_itd" / "manifest.json").write_text(text)
    assert not only_lines(lambda: open_result(folder))


def test_a_pipe_and_a_file_without_end_are_not_read(folder: Path) -> None:
    path = folder / "_itd" / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ResultError, match="it is no file"):
        open_result(folder)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(10**11)
    with pytest.raises(ResultError, match="100,000,000,000 bytes"):
        open_result(folder)


def test_records_are_read_or_refused(folder: Path) -> None:
    path, choose = next((folder / "_itd").glob("part-*.json")), random.Random(0)
    whole = json.loads(path.read_text())
    for _ in range(300):
        path.write_text(json.dumps(mutated(whole, choose)))
        only_lines(lambda: open_result(folder).matrix("nll"))


def forged(folder: Path, table: pa.Table) -> None:
    """Other configurations, under the hash that the manifest names."""
    pq.write_table(table, folder / "_itd" / "configs.parquet")
    path = folder / "_itd" / "manifest.json"
    digest = sha256((folder / "_itd" / "configs.parquet").read_bytes())
    synthetic.changed(path, configs_sha256=digest)


def test_configurations_that_are_none_are_refused(folder: Path) -> None:
    own = pq.read_table(folder / "_itd" / "configs.parquet")
    texts = pa.array(["x"] * own.num_rows)
    for table, words in (
        (own.drop(["macs"]), "it has no column macs"),
        (own.slice(0, 3), "it has 3 rows, and there are 6"),
        (own.set_column(own.column_names.index("config"), "config", texts), "its columns are of other types"),
        (own.set_column(own.column_names.index("macs"), "macs", pa.nulls(6, pa.int64())), "of other types"),
    ):
        forged(folder, table)
        with pytest.raises(ItdError, match=words):
            open_result(folder)
    (folder / "_itd" / "configs.parquet").write_bytes(b"PAR1")
    path = folder / "_itd" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "configs_sha256": sha256(b"PAR1")}))
    assert not only_lines(lambda: open_result(folder))
