"""Files of weights that lie about sizes: refused in one line, and what they promise is never taken from memory."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from itd.errors import ModelError
from itd.weights.files import read_file
from support.children import in_child

SPARE_BYTES = 2**28
"""What a refusal may take beyond what loading torch took."""


def records(state: Mapping[str, object]) -> dict[str, bytes]:
    """What torch writes, by name."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, held: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    return path.read_bytes()


def refused(path: Path, words: str) -> None:
    """In a child, within limits of time and memory."""
    code = (
        "from pathlib import Path\nfrom itd.errors import ModelError\nfrom itd.weights.files import read_file\n"
        "limit()\n"
        "try: read_file(Path(sys.argv[1]))\n"
        "except ModelError as error: print(error)\n"
    )
    done = in_child(code, path, spare_bytes=SPARE_BYTES, seconds=60)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and words in done.stdout, (done.stdout, done.stderr)


def test_a_bomb_of_compressed_records_is_refused(tmp_path: Path) -> None:
    held = records({"w": torch.zeros(2**16)})
    data = next(name for name in held if name.endswith("data/0"))
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in held.items():
            if name != data:
                archive.writestr(name, content)
        with archive.open(data, "w", force_zip64=True) as record:
            for _ in range(40):
                record.write(bytes(2**24))  # 0.7 GB in all
    assert (tmp_path / "w.pth").stat().st_size < 2**24
    refused(tmp_path / "w.pth", "is compressed, as torch never writes it")


def test_sizes_in_the_list_of_records_that_are_not_true_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    whole = write(path, records({"w": torch.zeros(64)}))
    place, count = whole.rindex(b"PK\x01\x02"), 0
    entry = whole.index(b"PK\x01\x02")
    while entry >= 0 and entry <= place:
        for at in (entry + 20, entry + 24):  # the compressed size, and the other
            for size in (2**31, 2**32 - 2, 0):
                data = bytearray(whole)
                data[at : at + 4] = struct.pack("<I", size)
                if at == entry + 24 and size:
                    data[entry + 20 : entry + 24] = struct.pack("<I", size)
                if data != whole:
                    path.write_bytes(data)
                    with pytest.raises(ModelError) as error:
                        read_file(path)
                    assert "\n" not in str(error.value)
                    count += 1
        entry = whole.find(b"PK\x01\x02", entry + 4)
    assert count > 20


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Each entry of the list as long as the file: a small file that would be read a thousand times over."""
    held = records({f"w{i}": torch.zeros(2**14) for i in range(64)})
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            if "data/" not in name or name.endswith("data/0"):
                archive.writestr(name, data)
        first = next(entry for entry in archive.filelist if entry.filename.endswith("data/0"))
        for name in held:
            if name not in archive.NameToInfo:
                entry = zipfile.ZipInfo(name)
                entry.file_size = entry.compress_size = first.file_size
                entry.CRC, entry.header_offset = first.CRC, first.header_offset
                archive.filelist.append(entry)
                archive.NameToInfo[name] = entry
        archive._didModify = True
    with pytest.raises(ModelError, match="are said to have more than the"):
        read_file(path)


def test_a_second_list_of_records_that_another_reader_would_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    whole = write(path, records({"w": torch.zeros(64)}))
    path.write_bytes(whole[: whole.index(b"PK\x01\x02")] + bytes(7) + whole[whole.index(b"PK\x01\x02") :])
    with pytest.raises(ModelError, match=r"is not where it says|is truncated or no"):
        read_file(path)
    path.write_bytes(whole + b"x" * 9)
    with pytest.raises(ModelError):
        read_file(path)


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TUPLES = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
"""A tuple of two of a tuple of two ... 60 deep, each of them one object."""
PICKLES = {
    "bytes of any size": (
        pickled(b"cbuiltins\nbytearray\n", b"\x8a\x05" + struct.pack("<Q", 2**38)[:5], b"\x85R"),
        "builtins.bytearray",
    ),
    "text encoded again and again": (
        pickled(
            b"c_codecs\nencode\nq\x00", b"U\x04aaaa",
            b"".join(b"q\x01h\x00h\x01" + text("hex") + b"\x86R" for _ in range(40)),
        ),
        "_codecs.encode",
    ),
    "a key that takes for ever to hash": (pickled(b"}", TUPLES, b"K\x01s"), "tuples in tuples"),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_would_grow_are_refused(kind: str, legacy: bool, tmp_path: Path) -> None:
    data, words = PICKLES[kind]
    if legacy:
        heads = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": sys.byteorder == "little"})
        (tmp_path / "w.pth").write_bytes(b"".join(pickle.dumps(head, 2) for head in heads) + data)
    else:
        held = records({"w": torch.zeros(4)})
        write(tmp_path / "w.pth", {name: data if name.endswith("data.pkl") else held[name] for name in held})
    refused(tmp_path / "w.pth", words)


def test_a_tensor_that_is_larger_than_its_record_is_refused(tmp_path: Path) -> None:
    """Or what lies behind it in memory would be read as its values, or the process end."""
    held = records({"w": torch.zeros(100)})
    name = next(name for name in held if name.endswith("data.pkl"))
    count = b"K\x64"  # BININT1 100: of the storage, and of the shape
    assert held[name].count(count) == 2
    for larger in (b"K\x65", b"J" + struct.pack("<i", 2**31 - 1), b"J" + struct.pack("<i", -1)):
        write(tmp_path / "w.pth", {**held, name: held[name].replace(count, larger)})
        with pytest.raises(ModelError, match=r"has 400 bytes in the record data/0") as error:
            read_file(tmp_path / "w.pth")
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated")
def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    shared = torch.arange(12.0)
    state = {
        "float": torch.randn(3, 4), "half": torch.randn(5).half(), "empty": torch.zeros(0, 3), "view": shared[2:7],
        "tied": shared, "strided": torch.randn(4, 6).t(), "counter": torch.tensor(7),
        "bfloat": torch.randn(3).bfloat16(), "parameter": torch.nn.Parameter(torch.randn(2)),
        "bool": torch.tensor([True]), "byte": torch.ones(3).byte(),
    }  # fmt: skip
    for legacy in (False, True):
        for held in (state, {"state_dict": state, "epoch": 3, "best": 0.5, "note": "é" * 100, "shape": (1, (2, 3))}):
            torch.save(held, path, _use_new_zipfile_serialization=not legacy)
            back = read_file(path)[0]
            assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_every_byte_of_a_tensor_is_under_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(300), "v": torch.zeros(9)}, path)
    whole = path.read_bytes()
    begins = whole.index(torch.ones(300).numpy().tobytes())
    for bit in range(0, 8 * 1200, 97):
        data = bytearray(whole)
        data[begins + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"truncated or no \.pth file"):
            read_file(path)


def test_a_file_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(300)}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_file(tmp_path / "w.pth")[0]["w"], torch.ones(300))
