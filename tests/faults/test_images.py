"""Images from elsewhere: no shape, format or name crashes, hangs, or takes more than 2 GB."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from itd.data import preprocess
from itd.data.decode import FORMATS, MAX_PIXELS, decoded
from itd.data.folder import EXTENSIONS
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.errors import DataError, ItdError, ItdWarning
from support.commands import one_line, run
from support.forked import forked

LIMIT_BYTES = 2 * 10**9


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def file_of(image: Image.Image, kind: str) -> BytesIO:
    file = BytesIO()
    image.save(file, kind)
    file.seek(0)
    return file


def png(width: int, height: int, rows: bytes = b"", *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG, chunk by chunk: what its header says need not be what follows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def in_child(code: str, *args: object, address_space: int | None = None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with a limit of time, and of address space beyond what loading torch takes."""
    limit = (
        "import resource, os\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE')\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {address_space},) * 2)\n"
    )
    load = "import sys\nfrom itd.data.decode import decoded\nfrom itd.data.preprocess import Preprocess\n"
    load += "Preprocess()(__import__('PIL.Image').Image.new('RGB', (300, 300)))\n"
    program = load + (limit if address_space else "") + code
    return forked(program, *args, timeout=120)


def test_no_shape_takes_more_than_two_gigabytes(tmp_path: Path) -> None:
    shapes = [(1, 65_000), (65_000, 1), (3, 3_000_000), (20_000_000, 1)]
    for number, (width, height) in enumerate(shapes):
        (tmp_path / f"{number}.png").write_bytes(png(width, height, bytes((1 + 3 * width) * height)))
    code = "for p in sys.argv[1:]: print(*Preprocess(384, 384)(decoded(p, 0, 'a')).shape)"
    done = in_child(code, *sorted(tmp_path.iterdir()), address_space=LIMIT_BYTES)
    assert done.stdout == "3 384 384\n" * len(shapes), done.stderr[-500:]


def test_the_largest_image_and_crop_stay_within_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(9_900, 9_000, bytes((1 + 3 * 9_900) * 9_000)))
    side = preprocess.MAX_SIDE_PX
    code = f"print(*Preprocess({side}, {side})(decoded(sys.argv[1], 0, 'a')).shape)"
    done = in_child(code, path, address_space=LIMIT_BYTES)
    assert done.stdout == f"3 {side} {side}\n", done.stderr[-500:]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(30, 400), (500, 20), (300, 200), (257, 258), (1, 90), (9, 70_000)])
def test_the_crop_made_alone_is_the_crop_of_the_whole(size, interpolation: str, monkeypatch) -> None:
    image = noise(*size)
    reference = transforms.Compose(
        [
            transforms.Resize(64, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(56),
            transforms.PILToTensor(),
        ]
    )(image)
    monkeypatch.setattr(preprocess, "MAX_RESIZED_PIXELS", 0)
    alone = Preprocess(64, 56, (0.0,) * 3, (1.0,) * 3, interpolation)(image) * 255
    other = alone.round() != reference
    if interpolation == "nearest":  # a place between two pixels may go to either
        assert other.float().mean() < 0.05
    else:
        assert (alone.round() - reference).abs().max() <= 1 and other.float().mean() < 0.01


def test_a_header_of_many_pixels_is_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for number, shape in enumerate([(60_000, 60_000), (9_500, 9_500), (2**31 - 1, 2**31 - 1)]):
        (tmp_path / f"{number}.png").write_bytes(png(*shape))
        with pytest.raises(DataError, match=r"cannot decode image 5, a\.png: it .*89,478,485 pixels"):
            decoded(str(tmp_path / f"{number}.png"), 5, "a.png")
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS, "or Pillow warns of what is read, or does not of what is refused"


def test_a_tiff_of_huge_tiles_is_refused() -> None:
    # 16 x 16, 8 bits, no compression, black is 0, in tiles of 60,000 x 60,000 of which one begins at byte 8.
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1), (322, 60_000), (323, 60_000), (324, 8),
            (325, 256)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(256)
    with pytest.raises(DataError, match="tiles are 60000 x 60000"):
        decoded(BytesIO(file), 0, "a.tif")


def test_the_formats_are_those_of_the_extensions() -> None:
    Image.init()
    assert {Image.EXTENSION[end] for end in EXTENSIONS} == set(FORMATS)


def test_postscript_of_another_name_starts_no_program(tmp_path: Path, monkeypatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    path = tmp_path / "a.jpg"
    noise(8, 8).save(path, "EPS")
    with pytest.raises(DataError, match="cannot decode image 0"):
        decoded(str(path), 0, "a.jpg")


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_of_16_bit_grey_the_high_byte_is_taken(kind: str, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (9, 7), np.uint16)
    if kind == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        file = BytesIO(png(7, 9, rows, depth=16, colour=0))
    elif kind == "pgm":
        file = BytesIO(b"P5 7 9 65535\n" + values.astype(">u2").tobytes())
    else:
        mode = "I;16" if order == "<" else "I;16B"
        file = file_of(Image.frombytes(mode, (7, 9), values.astype(f"{order}u2").tobytes()), "TIFF")
    pixels = np.asarray(decoded(file, 0, "a"))
    assert np.array_equal(pixels, np.repeat((values // 256).astype(np.uint8)[:, :, None], 3, 2))


def test_values_of_no_known_range_are_refused() -> None:
    for kind, words in ((np.float32, "floats"), (np.int32, "32-bit integers")):
        file = file_of(Image.fromarray(np.full((4, 4), 300, kind)), "TIFF")
        with pytest.raises(DataError, match=f"its values are {words}"):
            decoded(file, 0, "a.tif")


def test_what_is_no_file_and_links_to_themselves_are_left_out_with_one_note(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data" / "a", tmp_path / "store"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    noise(8, 8).save(elsewhere / "1.png")
    (folder / "linked.png").symlink_to(elsewhere / "1.png")
    (tmp_path / "data" / "b").symlink_to(elsewhere)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    usual = open_images(tmp_path / "data", num_classes=2)
    assert usual.names == ["a/gone.png", "a/linked.png", "b/1.png"]
    os.mkfifo(folder / "pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.png"))
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..")
    (tmp_path / "data" / "round").symlink_to("round")
    with pytest.warns(ItdWarning) as notes:
        images = open_images(tmp_path / "data", num_classes=2)
    server.close()
    assert images.names == usual.names and len(notes) == 1
    text = str(notes[0].message)
    assert text.startswith(f"{tmp_path / 'data'}: left out") and "a/device.jpg, a/loop.png, a/pipe.jpg and 3" in text


def test_damaged_image_bytes_are_data_errors_or_images() -> None:
    choose = random.Random(0)
    files = [file_of(noise(12, 9), kind).getvalue() for kind in FORMATS]
    files.append(file_of(Image.new("I;16", (5, 5)), "TIFF").getvalue())
    read = refused = 0
    for number in range(400):
        data = bytearray(files[number % len(files)])
        for _ in range(choose.choice([1, 1, 3, 20])):
            data[choose.randrange(min(len(data), choose.choice([16, 64, 10_000])))] = choose.randrange(256)
        if choose.random() < 0.2:
            del data[choose.randrange(len(data)) :]
        try:
            Preprocess(16, 16)(decoded(BytesIO(bytes(data)), number, "fuzz"))
            read += 1
        except ItdError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 50 and refused > 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_px": 10**20}, {"crop_px": 2.5}, {"crop_px": "224"}, {"crop_px": True}, {"crop_px": None},
        {"resize_px": 10**9}, {"resize_px": 256.0}, {"resize_px": [256]}, {"std": (0.0, 1, 1)}, {"std": (1e-40, 1, 1)},
        {"std": (1, 1)}, {"std": 1.0}, {"mean": (float("nan"), 0, 0)}, {"mean": ("0", 0, 0)}, {"mean": (10**400, 0, 0)},
        {"mean": None}, {"interpolation": []}, {"interpolation": "lanczos"}, {"scale": "2"}, {"scale": 10**400},
        {"crop_px": 1000, "resize_px": None, "scale": 16}, {"context_px": 3.0},
    ],
)  # fmt: skip
def test_preprocessing_without_sense_is_refused_in_one_line(wrong: dict) -> None:
    with pytest.raises(DataError) as error:
        Preprocess(**wrong)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("option", ["--crop", "--resize", "--context", "--num-classes"])
def test_numbers_on_the_command_line_end_in_one_line(option: str) -> None:
    one_line(
        run("sweep", "--attr", "stride", "--model", "resnet18", "--plan=quick", "--weights", "none", option, "9" * 20)
    )
