"""Batches come in the order asked for; a damaged image stops with its name, or is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from itd.data.digits import digits_images
from itd.data.images import ImageSet
from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import DataError


@pytest.fixture
def damaged(tmp_path: Path) -> ImageSet:
    """Six JPEGs, of which 2 and 4 are cut short."""
    (tmp_path / "a").mkdir()
    for i in range(6):
        path = tmp_path / "a" / f"{i}.jpg"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        if i in (2, 4):
            path.write_bytes(path.read_bytes()[:-400])
    return open_images(tmp_path, num_classes=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_in_order(workers: int) -> None:
    images = digits_images("eval")
    samples = np.array([7, 300, 2, 2, 359], dtype=np.int32)
    found = list(batches(images, samples, DIGITS_PREPROCESS, batch_size=2, workers=workers))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert np.concatenate([batch.samples for batch in found]).tolist() == samples.tolist()
    assert np.concatenate([batch.labels for batch in found]).tolist() == images.labels[samples].tolist()
    expected = torch.stack([DIGITS_PREPROCESS(images.load(int(i))) for i in samples])
    assert torch.equal(torch.cat([batch.pixels for batch in found]), expected)
    assert not np.concatenate([batch.missing for batch in found]).any()
    assert {(b.samples.dtype, b.labels.dtype, b.missing.dtype) for b in found} == {
        (np.dtype("int32"), np.dtype("int16"), np.dtype("bool"))
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_with_its_name(damaged: ImageSet, workers: int) -> None:
    with pytest.raises(DataError, match=r"^cannot decode image 2, .*2\.jpg[^\n]*$"):
        list(batches(damaged, np.arange(6), Preprocess(32, 32), batch_size=6, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_keep_going_marks_and_keeps_the_others(damaged: ImageSet, workers: int) -> None:
    chosen = Preprocess(32, 32)
    found = list(batches(damaged, np.arange(6), chosen, batch_size=4, workers=workers, keep_going=True))
    assert np.concatenate([batch.missing for batch in found]).tolist() == [False, False, True, False, True, False]
    problems = [problem for batch in found for problem in batch.problems if problem is not None]
    assert [problem.kind for problem in problems] == ["undecodable"] * 2
    pixels = torch.cat([batch.pixels for batch in found])
    assert not pixels[[2, 4]].any()
    assert torch.equal(pixels[5], chosen(damaged.load(5)))


def test_unfit_numbers_are_refused() -> None:
    images = digits_images("eval")
    with pytest.raises(DataError, match="`batch_size=0`"):
        next(batches(images, np.arange(2), DIGITS_PREPROCESS, batch_size=0))
    with pytest.raises(DataError, match="`workers=-1`"):
        next(batches(images, np.arange(2), DIGITS_PREPROCESS, batch_size=1, workers=-1))


@pytest.mark.gpu
def test_pinned_batches_copy_to_the_gpu(cuda: str) -> None:
    batch = next(batches(digits_images(), np.arange(3), DIGITS_PREPROCESS, batch_size=3, pin_memory=True))
    assert batch.pixels.is_pinned()
    assert torch.equal(batch.pixels.to(cuda, non_blocking=True).cpu(), batch.pixels)
