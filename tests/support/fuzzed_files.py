"""Files that are fuzzed: manifests, records, selectors, spaces, headers of weights, pickles, lists, shards."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.numpy import save

from itd.analysis import oracle
from itd.data.classes import read_classes
from itd.data.labels import read_label_lines
from itd.data.preprocess import Preprocess
from itd.data.shards import shard_images
from itd.errors import ItdWarning
from itd.selectors import selector as selectors
from itd.selectors.learners import fit
from itd.selectors.selector import Selector, load_selector
from itd.space import Conventions, Setting, SiteSpec, listed
from itd.space.listed import SpaceList, listed_space, read_space, write_space
from itd.store import open_result, verify
from itd.store.files import OWN_HASH, sealed
from itd.training.curve import Curve
from itd.weights.files import PREPROCESS_KEY, read_file
from support import synthetic
from support.fuzzing import ODD_TEXT, Subject, accepted, bytes_changed, json_changed
from support.sources import encoded, write_tar


def subjects(folder: Path) -> tuple[Subject, ...]:
    """All of them."""
    warnings.simplefilter("ignore", ItdWarning)
    warnings.filterwarnings("ignore", module="torch")
    return (*_results(folder), *_selectors(folder), *_spaces(folder), *_weights(folder), *_lists(folder))


def _results(folder: Path) -> tuple[Subject, ...]:
    path = synthetic.make_result(folder / "r.parquet", synthetic.make_scores(6, 10), default=2)
    manifest = path / "_itd" / "manifest.json"
    record = sorted(path.glob("_itd/part-*.json"))[0]
    whole = {file: file.read_bytes() for file in (manifest, record)}
    plain = {name: value for name, value in json.loads(whole[manifest]).items() if name != OWN_HASH}

    def check(file: Path, data: bytes) -> None:
        file.write_bytes(data)
        try:
            accepted(lambda: oracle(open_result(path), resamples=20))
            accepted(lambda: verify(path))
        finally:
            file.write_bytes(whole[file])

    def written(value: Any) -> bytes:
        return json.dumps(sealed(value) if isinstance(value, dict) else value).encode("utf-8", "surrogatepass")

    return (
        Subject("manifests", json_changed(plain).map(written), lambda _, data: check(manifest, data), 120),
        Subject("bytes of manifests", bytes_changed(whole[manifest]), lambda _, data: check(manifest, data), 40),
        Subject(
            "records", json_changed(json.loads(whole[record])).map(lambda value: json.dumps(value).encode()),
            lambda _, data: check(record, data), 80,
        ),
        Subject("bytes of records", bytes_changed(whole[record]), lambda _, data: check(record, data), 25),
    )  # fmt: skip


def some_selector(kind: str | None, inputs: int = 5) -> Selector:
    """A selector of resnet18 among three configurations."""
    drawn = np.random.default_rng(0).normal(size=(40, inputs))
    right = np.stack([drawn[:, 0] > 0, drawn[:, 1] > 0, np.ones(40, bool)])
    return Selector(
        method="cascade" if kind is None else f"features-{kind}",
        model="resnet18", weights_sha256="0" * 64, sites={"A": ["layer1.0.conv1"]}, swept=("A",),
        attributes=("stride",),
        choices=Conventions().identity(), configs=({"A": {"stride": 1}}, {"A": {"stride": 2}}, {"B": {"stride": 0.5}}),
        preprocess=Preprocess().identity(), threshold=0.5 if kind is None else None,
        learned=None if kind is None else fit(kind, drawn, right), made_from={"n": 40},
    )  # fmt: skip


def _selectors(folder: Path) -> tuple[Subject, ...]:
    path = folder / "s.safetensors"
    made = []
    for kind in (None, "logistic", "boosting"):
        own = some_selector(kind)
        header = {name: value for name, value in own.__dict__.items() if name != "learned"}
        header = json.loads(json.dumps({**header, "format": 1, "kind": kind}))
        made.append((header, {"none": np.zeros(1)} if own.learned is None else dict(own.learned.arrays)))
    some_selector("logistic").save(path)
    whole = path.read_bytes()

    def of(header: Any, arrays: dict[str, np.ndarray]) -> bytes:
        text = json.dumps(header)
        return save(arrays, metadata={selectors._KEY: text, selectors._SEAL: selectors._sha256(text, arrays)})

    def check(_: Path, data: bytes) -> None:
        path.write_bytes(data)
        found: list[Selector] = []
        if accepted(lambda: found.append(load_selector(path))) and found[0].learned is not None:
            learned = found[0].learned
            accepted(lambda: learned.choose(np.zeros((3, 5), np.float32)))

    headers = st.sampled_from(made).flatmap(lambda one: json_changed(one[0]).map(lambda header: of(header, one[1])))
    arrays = st.sampled_from(made[1:]).flatmap(
        lambda one: _arrays_changed(one[1]).map(lambda changed: of(one[0], changed))
    )
    return (
        Subject("selectors", headers, check, 100),
        Subject("arrays of selectors", arrays, check, 60),
        Subject("bytes of selectors", bytes_changed(whole, 1500), check, 60),
        Subject("headers of selectors", safetensors_files(), check, 60),
    )


@st.composite
def _arrays_changed(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    changed = {name: np.array(array) for name, array in arrays.items()}
    name = draw(st.sampled_from(sorted(changed)))
    array = changed[name]
    how = draw(st.integers(0, 4))
    if how == 0:
        del changed[name]
    elif how == 1:
        changed[name] = array.astype(draw(st.sampled_from(["f2", "f4", "i8", "i1", "u1", "?"])))
    elif how == 2:
        changed[name] = array.reshape(-1)[: draw(st.integers(0, array.size))].copy()
    else:
        flat = array.reshape(-1)
        flat[draw(st.integers(0, flat.size - 1))] = draw(st.sampled_from([0, 1, -1, 2**30]))
    return changed or {"none": np.zeros(1)}


def _spaces(folder: Path) -> tuple[Subject, ...]:
    path = folder / "space.json"
    write_space(path, SpaceList(("stride", "size"), ({"A": Setting(stride=2, size=3)}, {"D": Setting(stride=0.5)}, {})))
    whole = path.read_bytes()
    sites = [SiteSpec(name, Setting(stride=1, dilation=1, size=3), {"stride": (1, 2)}) for name in "ABCD"]

    def check(_: Path, data: bytes) -> None:
        path.write_bytes(data)
        accepted(lambda: listed_space(read_space(path), sites))

    def written(value: Any) -> bytes:
        own = {"sha256": listed._sha256(value)} if isinstance(value, dict) else {}
        return json.dumps({**value, **own} if own else value).encode()

    changed = json_changed({n: v for n, v in json.loads(whole).items() if n != "sha256"}).map(written)
    return Subject("spaces", changed, check, 120), Subject("bytes of spaces", bytes_changed(whole), check, 80)


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """A header of the kind that .safetensors files have, with lengths, kinds, shapes and places of any sort."""
    number = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**63, 10**30, 1.5, None, "4"]))
    tensor = st.fixed_dictionaries({}, optional={
        "dtype": st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F99", "", 3]),
        "shape": st.lists(number, max_size=4),
        "data_offsets": st.lists(number, min_size=1, max_size=3),
    })  # fmt: skip
    whole = st.integers(0, 8).map(lambda n: {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]})
    names = st.one_of(st.sampled_from(["w", "none", "weight", "__metadata__"]), ODD_TEXT)
    header: Any = draw(st.dictionaries(names, st.one_of(tensor, whole), max_size=4))
    if draw(st.booleans()):
        key = draw(st.sampled_from([PREPROCESS_KEY, selectors._KEY, "x"]))
        header["__metadata__"] = {key: draw(st.one_of(ODD_TEXT, st.just(json.dumps(Preprocess().identity()))))}
    text = json.dumps(header).encode("utf-8", "replace")
    length = draw(st.one_of(st.just(len(text)), st.sampled_from([0, 1, 8, 2**31, 2**63, 2**64 - 1])))
    return struct.pack("<Q", length) + text + bytes(draw(st.integers(0, 64)))


def _weights(folder: Path) -> tuple[Subject, ...]:
    tensors, archive = folder / "w.safetensors", folder / "w.pth"
    torch.save({"a.weight": torch.ones(3, 4), "b": torch.ones(2).half(), "n": {"x": 1}}, archive)
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as held:
        records = {name: held.read(name) for name in held.namelist()}

    def check(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        found: list[dict[str, torch.Tensor]] = []
        if accepted(lambda: found.append(read_file(path)[0])):
            for tensor in found[0].values():  # its values can be read
                tensor.float().sum()

    def zipped(pickled: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            for name, data in records.items():
                made.writestr(name, pickled if name.endswith("data.pkl") else data)
        return file.getvalue()

    own = next(data for name, data in records.items() if name.endswith("data.pkl"))
    legacy = b"".join(pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return (
        Subject("headers of weights", safetensors_files(), lambda _, data: check(tensors, data), 150),
        Subject("archives of weights", bytes_changed(whole), lambda _, data: check(archive, data), 80),
        Subject("pickles of weights", bytes_changed(own).map(zipped), lambda _, data: check(archive, data), 120),
        Subject("older weights", bytes_changed(own).map(legacy.__add__), lambda _, data: check(archive, data), 60),
        Subject("any bytes as weights", st.binary(max_size=200), lambda _, data: check(archive, data), 40),
    )


def _lists(folder: Path) -> tuple[Subject, ...]:
    path, shard = folder / "list.csv", folder / "s.tar"
    write_tar(
        shard, [("a/1.png", encoded(1, 8)), ("a/1.cls", "1"), ("a/2.jpg", encoded(2, 8, "JPEG")), ("a/2.cls", "0")]
    )
    whole = shard.read_bytes()
    lines = st.lists(st.tuples(ODD_TEXT, ODD_TEXT).map(",".join), max_size=5).map(
        lambda rows: "\n".join(["path,label", *rows])
    )
    content = st.one_of(
        lines.map(lambda text: text.encode("utf-8", "surrogateescape")), bytes_changed(b"path,label\na/1.jpg,3\nb,x\n")
    )

    def lists(_: Path, data: bytes) -> None:
        path.write_bytes(data)
        accepted(lambda: read_label_lines(path))
        accepted(lambda: read_classes(path, None))
        accepted(lambda: Curve(path).points())

    def shards(_: Path, data: bytes) -> None:
        shard.write_bytes(data)

        def decode() -> None:
            images = shard_images(shard, num_classes=2)
            for index in range(len(images)):
                images.load(index)

        accepted(decode)

    return Subject("lists", content, lists, 100), Subject("shards", bytes_changed(whole, 600), shards, 80)
