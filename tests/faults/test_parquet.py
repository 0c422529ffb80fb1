"""Parquet that others made or damaged: nothing ends the process, and what is lost is not lost without a word."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from itd.errors import ResultError
from itd.store import open_result
from itd.store.schema import SCORES
from support import synthetic
from support.commands import run
from support.forked import forked

FLIPS = """
import sys
import numpy as np
from itd.errors import ItdError
from itd.store import open_result
from itd.store.schema import SCORES
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = open(path, "rb").read()
length = int.from_bytes(data[-8:-4], "little") + 8
rng = np.random.default_rng(first)
found = 0
for number in range(count):
    low = len(data) - length if number % 3 else 0
    flipped = bytearray(data)
    flipped[rng.integers(low, len(data))] ^= 1 << int(rng.integers(8))
    with open(path, "wb") as file:
        file.write(flipped)
    try:
        result = open_result(path)
        for name in SCORES:
            result.matrix(name)
    except ItdError as error:
        assert "\\n" not in str(error)
        found += 1
print(found)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(6, 10), default=2)


@pytest.fixture
def alone(folder: Path, tmp_path: Path) -> Path:
    """The rows in one file, as pandas writes them."""
    pd.read_parquet(folder).to_parquet(tmp_path / "alone.parquet")
    return tmp_path / "alone.parquet"


def test_no_flip_in_a_file_by_itself_ends_the_process(alone: Path) -> None:
    done = forked(FLIPS, alone, 0, 600, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr[-800:])
    assert int(done.stdout) > 200


def test_chunks_of_a_file_without_record_are_never_looked_at(alone: Path, monkeypatch) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("the metadata of chunks were looked at")

    monkeypatch.setattr("itd.store.index._null_count", looked)
    monkeypatch.setattr("itd.store.record._spans", looked)
    result = open_result(alone)
    assert result.n == 10 and [result.matrix(name).shape for name in SCORES] == [(6, 10)] * len(SCORES)


def test_nulls_of_a_file_without_record_are_found_in_each_score(folder: Path, tmp_path: Path) -> None:
    for name in SCORES:
        frame = pd.read_parquet(folder).astype({"pred": "Int16", "rank": "Int16"})
        frame.loc[frame["sample"] == 3, name] = None
        frame.to_parquet(tmp_path / "nulls.parquet")
        result = open_result(tmp_path / "nulls.parquet")
        assert result.nulls == 1 and 3 not in result.samples and result.n == 9


def test_a_file_by_itself_says_once_that_nothing_carries_its_hashes(alone: Path, folder: Path) -> None:
    answer = run("oracle", alone)
    assert answer.exit_code == 0
    assert (
        answer.stderr
        == f"itd: note: {alone} is a file by itself: nothing says whether it is whole and as it was written\n"
    )
    assert run("oracle", folder).stderr == ""


def test_a_default_that_is_lost_is_not_lost_without_a_word(alone: Path, folder: Path) -> None:
    table = pq.read_table(alone)
    assert open_result(alone).default == 2
    pq.write_table(table.replace_schema_metadata({}), alone)
    assert open_result(alone).default is None
    assert "does not say which configuration is the network's default" in run("oracle", alone).stderr
    for text in ('{"itd": {"default": 2', '{"itd": {"default": "2"}}', '{"itd": {"defaulu": 2}}', '{"itd": 2}',
                 "[" * 9999, '{"itd": {"default": -2}}'):  # fmt: skip
        pq.write_table(table.replace_schema_metadata({"PANDAS_ATTRS": text}), alone)
        with pytest.raises(ResultError, match="its metadata do not say its default configuration") as error:
            open_result(alone)
        assert "\n" not in str(error.value) and np.all([c.isprintable() for c in str(error.value)])
    pq.write_table(table.replace_schema_metadata({"PANDAS_ATTRS": '{"mine": 1}'}), alone)
    assert open_result(alone).default is None
    pq.write_table(table.replace_schema_metadata({"PANDAS_ATTRS": '{"itd": {"default": 77}}'}), alone)
    assert "or it is not among its own" in run("oracle", alone).stderr


def test_what_is_no_file_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(ResultError, match=r"pipe\.parquet cannot be read as Parquet: it is no file"):
        open_result(tmp_path / "pipe.parquet")
    part = sorted(folder.glob("part-*.parquet"))[0]
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ResultError, match="is damaged"):
        open_result(folder).matrix("pred")
