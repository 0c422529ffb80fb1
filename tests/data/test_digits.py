"""The embedded digits: real, deterministic, one scale for training and many for evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from itd.data.digits import digits_images, eval_px
from itd.data.open import open_images
from itd.errors import DataError


def ink_px(canvas: np.ndarray) -> int:
    """The larger side of the box around what is drawn."""
    rows, columns = (np.flatnonzero(canvas.any(axis)) for axis in (1, 0))
    return int(max(np.ptp(rows), np.ptp(columns))) + 1


def test_splits_are_the_first_1437_and_the_last_360() -> None:
    target = load_digits().target
    train, evaluation, same = (digits_images(split) for split in ("train", "eval", "train-scale-eval"))
    assert train.labels.tolist() == target[:1437].tolist()
    assert evaluation.labels.tolist() == same.labels.tolist() == target[1437:].tolist()
    assert len({train.fingerprint(), evaluation.fingerprint(), same.fingerprint()}) == 3
    assert train.num_classes == 10


def test_scale_is_fixed_in_training_and_varies_in_evaluation() -> None:
    train, evaluation = digits_images("train"), digits_images("eval")
    drawn = [ink_px(np.asarray(train.load(i))[:, :, 0]) for i in range(len(train))]
    assert 26 <= min(drawn) <= max(drawn) <= 32
    sizes = [eval_px(i) for i in range(360)]
    assert set(sizes) == set(range(12, 61))
    assert len(set(sizes[:40])) == 40
    for i, px in enumerate(sizes):
        assert 0.7 * px <= ink_px(np.asarray(evaluation.load(i))[:, :, 0]) <= px


def test_a_digit_is_scikit_learns_drawn_larger() -> None:
    digits = load_digits()
    canvas = np.asarray(digits_images("train").load(5).convert("L"), dtype=float)
    cells = canvas[16:48, 16:48].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(cells.ravel(), digits.images[5].ravel())[0, 1] > 0.95
    assert canvas[:16].max() == canvas[48:].max() == canvas[:, :16].max() == canvas[:, 48:].max() == 0


def test_digits_have_their_ten_classes_only() -> None:
    assert open_images("digits", weights_classes=10).num_classes == 10
    with pytest.raises(DataError, match=r"10 classes, but .* 1000"):
        open_images("digits", weights_classes=1000)
    with pytest.raises(DataError, match="`classes_file`"):
        open_images("digits", classes_file="classes.txt")
    with pytest.raises(DataError, match=r"no such split.*train-scale-eval"):
        digits_images("test")
