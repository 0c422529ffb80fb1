"""JSON from elsewhere, in spaces and selectors: malformed, deep, huge or of other types, it is one line."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from itd import checked
from itd.checked import BadJson, parse_json, read_json
from itd.data.preprocess import Preprocess
from itd.errors import ItdError, SpaceError
from itd.selectors.learners import LEARNERS, fit
from itd.selectors.selector import Selector, load_selector
from itd.space import Conventions, Setting
from itd.space.listed import SpaceList, read_space, write_space
from support.strange import mutated, only_lines


@pytest.fixture
def space(tmp_path: Path) -> Path:
    listed = SpaceList(
        ("stride", "size"), ({"A": Setting(stride=2, size=3)}, {"A": Setting(stride=0.5), "D": Setting()})
    )
    write_space(tmp_path / "s.json", listed)
    assert read_space(tmp_path / "s.json").configs == listed.configs
    return tmp_path / "s.json"


no_hash = pytest.mark.filterwarnings("ignore:.* has no (hash|sha256)")


@no_hash
def test_spaces_are_read_or_refused(space: Path) -> None:
    whole, choose = json.loads(space.read_text()), random.Random(0)
    del whole["sha256"]
    read = 0
    for _ in range(600):
        space.write_text(json.dumps(mutated(whole, choose)))
        read += only_lines(lambda: read_space(space))
    assert 0 < read < 500
    good = json.dumps(whole).encode()
    for _ in range(300):
        data = bytearray(good)
        data[choose.randrange(len(data))] = choose.randrange(256)
        space.write_bytes(data)
        only_lines(lambda: read_space(space))


@no_hash
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": "itd-space-1", "attributes": ' + "[" * 100_000, "32 levels deep"),
        ('{"a":' * 40 + "1" + "}" * 40, "32 levels deep"),
        ("", "not JSON"),
        ("\xff\xfe", "not JSON"),
        ('{"format": ' + "9" * 5000 + "}", "not JSON|a number of about"),
        ('{"format": "itd-space-1", "attributes": ["stride"], "configs": []}', "a list of 1 to 32767"),
        ('{"format": "itd-space-1", "attributes": ["stride"], "configs": [{"A": {"stride": true}}]}', "no such stride"),
        ('{"format": "itd-space-1", "attributes": ["stride"], "configs": [{"A": {"size": 3}}]}', "names size"),
    ],
)
def test_malformed_spaces_are_one_line(text: str, words: str, space: Path) -> None:
    space.write_text(text)
    with pytest.raises(SpaceError, match=words) as error:
        read_space(space)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_what_is_no_file_or_too_long_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SpaceError, match="it is no file"):
        read_space(tmp_path / "pipe.json")
    with open(tmp_path / "long.json", "wb") as file:
        file.truncate(10**12)  # a hole: it takes no space
    with pytest.raises(SpaceError, match=r"1,000,000,000,000 bytes; allowed are 67,108,864"):
        read_space(tmp_path / "long.json")
    with pytest.raises(BadJson, match="more than 10 bytes"):
        parse_json("[1, 2, 3, 4]", checked.anything, most_bytes=10)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", checked.anything)


def selector(kind: str | None) -> Selector:
    inputs = np.random.default_rng(0).normal(size=(40, 5))
    right = np.stack([inputs[:, 0] > 0, inputs[:, 1] > 0, np.ones(40, bool)])
    return Selector(
        method="cascade" if kind is None else f"features-{kind}",
        model="resnet18",
        weights_sha256="0" * 64,
        sites={"A": ["layer1.0.conv1"], "B": ["layer2.0.conv1", "layer2.0.downsample.0"]},
        swept=("A", "B"),
        attributes=("stride",),
        choices=Conventions().identity(),
        configs=({"A": {"stride": 1}}, {"A": {"stride": 2}}, {"B": {"stride": 0.5}}),
        preprocess=Preprocess().identity(),
        threshold=0.5 if kind is None else None,
        learned=None if kind is None else fit(kind, inputs, right),
        made_from={"result": "r.parquet", "n": 40, "variation": None},
    )


@no_hash
@pytest.mark.parametrize("kind", [None, *LEARNERS])
def test_selectors_are_read_or_refused(kind: str | None, tmp_path: Path) -> None:
    path, choose = tmp_path / "s.safetensors", random.Random(0)
    own = selector(kind)
    own.save(path)
    back = load_selector(path)
    assert {**back.__dict__, "learned": None} == {**own.__dict__, "learned": None}
    header = {name: value for name, value in own.__dict__.items() if name != "learned"} | {"format": 1, "kind": kind}
    arrays = {"none": np.zeros(1)} if own.learned is None else dict(own.learned.arrays)
    read = 0
    for _ in range(250):
        save_file(arrays, path, metadata={"itd.selector": json.dumps(mutated(json.loads(json.dumps(header)), choose))})
        read += only_lines(lambda: load_selector(path))
    assert 0 < read < 150


@no_hash
@pytest.mark.parametrize("kind", LEARNERS)
def test_arrays_that_do_not_fit_are_refused(kind: str, tmp_path: Path) -> None:
    path, own = tmp_path / "s.safetensors", selector(kind)
    assert own.learned is not None
    header = {name: value for name, value in own.__dict__.items() if name != "learned"} | {"format": 1, "kind": kind}
    for name, array in own.learned.arrays.items():
        for other in (None, array[:2], array[None], array.astype(np.complex64 if array.dtype.kind == "f" else bool),
                      np.full_like(array, -1 if array.dtype.kind == "i" else np.nan)):  # fmt: skip
            arrays = {**own.learned.arrays, name: other}
            if other is None:
                del arrays[name]
            try:
                save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, path,
                          metadata={"itd.selector": json.dumps(header)})  # fmt: skip
            except Exception:  # a kind of numbers that the file format lacks
                continue
            with pytest.raises(ItdError, match=r"is damaged: its (array|learner has no array) ?\w+"):
                load_selector(path)
    own.save(path)
    learned = load_selector(path).learned
    assert learned is not None
    with pytest.raises(ItdError, match="fitted on other inputs than the 1 of this network"):
        learned.scores(np.zeros((2, 1), np.float32))


@no_hash
@pytest.mark.parametrize("header", ["", "null", "[]", "{}", "{", "[" * 100_000, '{"format": 2}', '{"format": [1]}'])
def test_malformed_selectors_are_one_line(header: str, tmp_path: Path) -> None:
    save_file({"none": np.zeros(1)}, tmp_path / "s.safetensors", metadata={"itd.selector": header})
    assert not only_lines(lambda: load_selector(tmp_path / "s.safetensors"))


@no_hash
def test_selectors_of_damaged_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path, choose = tmp_path / "s.safetensors", random.Random(0)
    selector("logistic").save(path)
    whole = path.read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(choose.choice([1, 3])):
            data[choose.randrange(len(data))] = choose.randrange(256)
        path.write_bytes(data)
        only_lines(lambda: load_selector(path))
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert not only_lines(lambda: load_selector(tmp_path / "pipe.safetensors"))
