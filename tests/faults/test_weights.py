"""Files of weights from elsewhere: what no network can take is refused in one line that names file and tensor."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from itd.data.preprocess import Preprocess
from itd.errors import ItdError, ModelError
from itd.weights.content import content_sha256
from itd.weights.files import PREPROCESS_KEY, read_file
from itd.weights.load import apply_weights
from itd.weights.state import Weights


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)


UNUSABLE = {
    "meta": (lambda: torch.ones(3, device="meta"), "w.x has a shape and no values"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "w.x is sparse"),
    "quantised": (quantised, "w.x is quantised"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "w.x is complex"),
    "huge view": (lambda: torch.zeros(1).expand(10**6, 10**6), "w.x has the shape (1000000, 1000000)"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*deprecated", "ignore:TypedStorage")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_without_values_of_their_own_are_refused(kind: str, tmp_path: Path) -> None:
    make, words = UNUSABLE[kind]
    path = tmp_path / "w.pth"
    torch.save({"w.y": torch.ones(2), "w.x": make()}, path)
    with pytest.raises(ModelError) as error:
        read_file(path)
    text = str(error.value)
    assert text.startswith(f"weights file {path}: {words}") and "\n" not in text


@pytest.mark.parametrize("name", ["a\udc80.weight", "a\nb", "\x1b[31m", "a" * 5000])
def test_names_that_no_module_has_are_refused(name: str, tmp_path: Path) -> None:
    torch.save({name: torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="has a tensor of the name") as error:
        read_file(tmp_path / "w.pth")
    assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_many_views_of_one_storage_are_refused_and_tied_tensors_are_not(tmp_path: Path) -> None:
    shared = torch.zeros(2**20)
    torch.save({f"w{i}": shared for i in range(8)}, tmp_path / "tied.pth")
    assert len(read_file(tmp_path / "tied.pth")[0]) == 8
    torch.save({f"w{i}": shared for i in range(200)}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError, match="for more values than the file can hold"):
        read_file(tmp_path / "bomb.pth")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_whole_numbers_where_the_network_has_floats_are_refused(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(3, 2)
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2, dtype=dtype)}
    weights = Weights("linear", state, "", "w.pth", 2, Preprocess())
    with pytest.raises(ModelError, match=rf"w\.pth .*1 are of another kind \(first: bias, {dtype} for torch.float32"):
        apply_weights(model, weights)
    half = Weights("linear", {n: t.half() for n, t in state.items()}, "", "w.pth", 2, Preprocess())
    apply_weights(model, half)
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0, 1, 1]}, {"crop_px": 224.5}, {"resize_px": 10**9}, {"mean": None}, {"mean": ["0", "0", "0"]},
        {"interpolation": 3}, {"surprise": 1}, {"std": [1, 1]}, {"crop_px": 10**400}, {"mean": [float("nan"), 0, 0]},
        {"resize_px": 10}, {"scale": 2},
    ],
)  # fmt: skip
def test_preprocessing_without_sense_is_refused_by_name(changes: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({**Preprocess().identity(), **changes})
    save_file({"a": torch.ones(2)}, path, metadata={PREPROCESS_KEY: header})
    with pytest.raises(ModelError) as error:
        read_file(path)
    assert str(error.value).startswith(f"weights file {path} names a preprocessing") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, "{", '"x"', "1" * 70_000, "{}", '{"mean": NaN}'])
def test_preprocessing_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={PREPROCESS_KEY: text})
    with pytest.raises(ModelError, match="names a preprocessing that cannot be read"):
        read_file(path)


def test_what_the_program_writes_itself_is_read_back(tmp_path: Path) -> None:
    path, own = tmp_path / "w.safetensors", Preprocess(None, 64, (0.5, 0.25, 0.125), (1, 2, 3), "bicubic")
    save_file({"a": torch.ones(2)}, path, metadata={PREPROCESS_KEY: json.dumps(own.identity())})
    assert read_file(path)[1] == own


def test_malformed_headers_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(4), "b": torch.ones(2, 2).half()}, path, metadata={PREPROCESS_KEY: "{}"})
    whole = path.read_bytes()
    choose, refused = random.Random(0), 0
    heads = [b'{"a":{}}', b"[]", b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"{" * 50_000, b"\xff" * 9,
             b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', b'{"__metadata__":{"x":1}}',
             b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b""]  # fmt: skip
    files = [struct.pack("<Q", len(head)) + head + bytes(16) for head in heads]
    files += [struct.pack("<Q", 2**63) + b"{}", b"", b"\0" * 7]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(choose.choice([1, 2, 8])):
            data[choose.randrange(len(data) - 20)] = choose.randrange(256)
        files.append(bytes(data[: choose.randrange(len(data))] if choose.random() < 0.2 else data))
    for data in files:
        path.write_bytes(data)
        try:
            read_file(path)
        except ItdError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 250


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(4), "b": torch.ones(2, 2)}, path)
    whole, choose = path.read_bytes(), random.Random(0)
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(choose.choice([1, 2, 8])):
            data[choose.randrange(len(data))] = choose.randrange(256)
        path.write_bytes(bytes(data[: choose.randrange(len(data))] if choose.random() < 0.2 else data))
        try:
            read_file(path)
        except ItdError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("key", ["itd.train", "itd.rof", "itd.trained"])
def test_weights_that_a_training_wrote_are_known_by_the_hash_that_they_carry(key: str, tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(200.0).reshape(20, 10), "a.num_batches_tracked": torch.tensor(3)}
    record = {"sha256": content_sha256(state), "torch": "2"}
    path, choose = tmp_path / "w.safetensors", random.Random(0)
    save_file(state, path, metadata={key: json.dumps(record)})
    assert torch.equal(read_file(path)[0]["a.weight"], state["a.weight"])
    data = path.read_bytes()
    for _ in range(100):
        spoiled = bytearray(data)
        spoiled[-1 - choose.randrange(800)] ^= 1 << choose.randrange(8)
        path.write_bytes(spoiled)
        with pytest.raises(ModelError, match=r"w\.safetensors .*its tensors are not those that its header records"):
            read_file(path)
    save_file(state, path, metadata={key: "{"})
    with pytest.raises(ModelError, match="it is not JSON"):
        read_file(path)
    save_file(state, path, metadata={"somebody.else": "{"})
    assert read_file(path)[1] is None
