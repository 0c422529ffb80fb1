"""Decoded images kept on disk: the same pixels as decoding gives, whatever became of the files in between."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from itd import SweepRequest, sweep
from itd.data import crops
from itd.data.crops import CropCache
from itd.data.images import ImageSet
from itd.data.loader import Pixels, batches, stream
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.errors import DataError, ItdWarning
from support.commands import run

PREPROCESS = Preprocess(resize_px=40, crop_px=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.jpg")
    return tmp_path / "data"


@pytest.fixture
def images(folder: Path) -> ImageSet:
    return open_images(str(folder), num_classes=2)


class Counting:
    """Decodes, and counts."""

    def __init__(self, images: ImageSet) -> None:
        self.read, self.decoded = images.read, []

    def __call__(self, index: int, name: str) -> Image.Image:
        self.decoded.append(index)
        return self.read(index, name)

    def stamp(self, index: int, name: str) -> tuple[int, int]:
        return self.read.stamp(index, name)


def pixels(images: ImageSet, folder: Path, preprocess: Preprocess = PREPROCESS) -> tuple[Pixels, Counting]:
    counting = Counting(images)
    held = replace(images, read=counting)
    cache = CropCache.open(folder, held, preprocess)
    return Pixels(held, preprocess, preprocess.shape, crops=cache), counting


def plain(images: ImageSet, preprocess: Preprocess = PREPROCESS) -> torch.Tensor:
    return torch.cat([batch.pixels for batch in batches(images, np.arange(6), preprocess, batch_size=4)])


def all_of(read: Pixels) -> torch.Tensor:
    return torch.stack([read[i] for i in range(6)])


def test_each_image_is_decoded_once_and_its_pixels_are_the_same(images: ImageSet, tmp_path: Path) -> None:
    first, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(first), plain(images)) and counting.decoded == list(range(6))
    second, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(second), plain(images)) and counting.decoded == []
    other = replace(PREPROCESS, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 1.0))
    third, counting = pixels(images, tmp_path / "c", other)
    assert torch.equal(all_of(third), plain(images, other)) and counting.decoded == []  # of the same crops


@pytest.mark.parametrize(
    "change", [{"resize_px": 36}, {"crop_px": 30}, {"interpolation": "bicubic"}, {"scale": 0.5}, {"context_px": 20}]
)
def test_another_crop_is_kept_apart(change: dict, images: ImageSet, tmp_path: Path) -> None:
    all_of(pixels(images, tmp_path / "c")[0])
    other = replace(PREPROCESS, **change)
    read, counting = pixels(images, tmp_path / "c", other)
    assert torch.equal(all_of(read), plain(images, other)) and len(counting.decoded) == 6
    assert len(list((tmp_path / "c").glob("*.bin"))) == 2


def test_a_file_whose_size_or_time_changed_is_decoded_again(images: ImageSet, folder: Path, tmp_path: Path) -> None:
    all_of(pixels(images, tmp_path / "c")[0])
    path = folder / "dog/1.jpg"
    before = path.stat()
    Image.new("RGB", (50, 60), (200, 10, 10)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of another size
    read, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(read), plain(images)) and counting.decoded == [4]
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    read, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(read), plain(images)) and counting.decoded == [4]


@pytest.mark.parametrize("ending", ["bin", "stamps"])
def test_a_flipped_bit_or_a_cut_file_is_decoded_again(ending: str, images: ImageSet, tmp_path: Path) -> None:
    all_of(pixels(images, tmp_path / "c")[0])
    (path,) = (tmp_path / "c").glob(f"*.{ending}")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        spoiled = bytearray(data)
        spoiled[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        assert torch.equal(all_of(pixels(images, tmp_path / "c")[0]), plain(images))
    path.write_bytes(data[: len(data) // 2])
    read, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(read), plain(images)) and len(counting.decoded) == 3
    assert path.read_bytes() == data


def test_what_cannot_be_decoded_is_not_kept(images: ImageSet, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "cat/2.jpg").read_bytes()
    (folder / "cat/2.jpg").write_bytes(whole[:300])
    read, _ = pixels(images, tmp_path / "c")
    for _ in range(2):
        with pytest.raises(DataError, match=r"cannot decode image 2, .*cat/2\.jpg"):
            read[2]
    (folder / "cat/2.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read image 2, .*cat/2\.jpg"):
        read[2]


def test_worker_processes_share_it(images: ImageSet, tmp_path: Path) -> None:
    cache = CropCache.open(tmp_path / "c", images, PREPROCESS)
    read = Pixels(images, PREPROCESS, PREPROCESS.shape, crops=cache)
    for _ in range(2):
        found = list(stream(read, [np.arange(6, dtype=np.int32)], batch_size=1, workers=2))
        assert torch.equal(torch.cat([batch.pixels for batch in found]), plain(images))
    again, counting = pixels(images, tmp_path / "c")
    assert torch.equal(all_of(again), plain(images)) and counting.decoded == []


def test_a_full_disk_is_a_note_and_the_work_goes_on(images: ImageSet, tmp_path: Path, monkeypatch) -> None:
    read, _ = pixels(images, tmp_path / "c")
    writes = []

    def full(path: str, data: bytes, index: int) -> None:
        writes.append(index)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(crops, "_write_at", full)
    with pytest.warns(ItdWarning, match="`cache` cannot be written any more .no space left on device"):
        assert torch.equal(all_of(read), plain(images))
    assert writes == [0]


def test_a_folder_that_cannot_be_is_one_line(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"`cache=.*file/c` cannot be written: not a directory"):
        CropCache.open(tmp_path / "file/c", images, PREPROCESS)


def test_digits_need_none(tmp_path: Path) -> None:
    assert CropCache.open(tmp_path / "c", open_images("digits"), PREPROCESS) is None and not (tmp_path / "c").exists()


def test_sweeps_of_one_cache_have_the_rows_of_one_without(folder: Path, tmp_path: Path) -> None:
    arguments = [
        "sweep", "--model", "resnet18", "--sites", "D", "--options", "1,2", "--data", folder, "--weights", "none",
        "--num-classes", "2", "--crop", "32", "--resize", "40",
    ]  # fmt: skip
    request = SweepRequest(
        "resnet18", "dilation", sites="D", options=("1,2",), data=str(folder), weights="none", num_classes=2,
        crop_px=32, resize_px=40, out=str(tmp_path / "a.parquet"),
    )  # fmt: skip
    sweep(request, quiet=True)
    for name in ("b", "c"):
        done = run(
            *arguments, "--attr", "dilation", "--cache", tmp_path / "cache", "--out", tmp_path / f"{name}.parquet"
        )
        assert done.exit_code == 0, done.output
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), pd.read_parquet(request.out))
    assert len(list((tmp_path / "cache").glob("*"))) == 3
