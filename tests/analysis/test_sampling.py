"""Resamples in blocks, their percentiles counted by hand, and halves that favour no sample."""

from __future__ import annotations

import numpy as np
import pytest

from itd.analysis import Estimate, Resamples
from itd.analysis.sampling import estimate, halves


def percentile(values: list[float], share: float) -> float:
    """The value at a share of the way from the smallest to the largest, between neighbours in proportion."""
    ascending = sorted(values)
    at = share * (len(ascending) - 1)
    below = int(at)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (at - below) * (ascending[above] - ascending[below])


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 1000])
def test_the_interval_is_the_middle_95_percent(count):
    values = np.random.default_rng(count).random(count)
    found = estimate(0.5, values, 7)
    assert found.low == pytest.approx(percentile(values.tolist(), 0.025), abs=1e-12)
    assert found.high == pytest.approx(percentile(values.tolist(), 0.975), abs=1e-12)
    assert (found.value, found.n) == (0.5, 7)


def test_the_interval_of_41_values_leaves_one_out_at_each_end():
    found = estimate(20, np.arange(41)[::-1], 41)
    assert (found.low, found.high) == pytest.approx((1, 39), abs=1e-12)


def test_an_estimate_as_json():
    assert Estimate(0.5, 0.25, 0.75, 8).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}


@pytest.mark.parametrize("block", [1, 6, 7, 20, 10**6])
def test_blocks_of_any_size_hold_each_resample_once(monkeypatch, block):
    monkeypatch.setattr("itd.analysis.sampling._BLOCK", block)
    drawn = Resamples(6, 11, seed=1)
    parts, blocks = zip(*drawn.blocks(), strict=True)
    assert [b for part in parts for b in range(part.start, part.stop)] == list(range(11))
    assert np.concatenate(blocks).tolist() == drawn.weights.tolist()
    assert all(len(b) <= max(1, block // 6) for b in blocks)
    few = np.array([4, 1])
    assert np.concatenate([b for _, b in drawn.blocks(np.float32, few)]).tolist() == drawn.weights[:, few].tolist()


@pytest.mark.parametrize("block", [1, 20, 10**6])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_sums_are_those_of_the_materialised_resamples(monkeypatch, block, shape):
    monkeypatch.setattr("itd.analysis.sampling._BLOCK", block)
    values = np.random.default_rng(2).integers(-8, 8, shape) / 4  # exact in binary
    drawn = Resamples(6, 11, seed=1)
    expected = [values[np.repeat(np.arange(6), w)].sum(0).tolist() for w in drawn.weights]
    assert drawn.sums(values).tolist() == expected
    np.testing.assert_allclose(drawn.means(values), np.array(expected) / 6)


def test_sums_of_costs_beyond_what_single_precision_holds():
    values = np.array([2**53 - 9, 3, 5], np.int64)
    drawn = Resamples(3, 5)
    expected = [int(sum(int(v) * int(w) for v, w in zip(values, ws, strict=True))) for ws in drawn.weights]
    assert drawn.sums(values) == pytest.approx(expected, rel=1e-15)


def test_the_only_sample_is_drawn_once_in_every_resample():
    assert Resamples(1, 400).weights.tolist() == [[1]] * 400


def test_every_sample_is_as_likely_to_be_drawn():
    often = Resamples(20, 4000).weights.mean(0)
    assert np.abs(often - 1).max() < 5 / np.sqrt(4000)


def test_two_samples_are_drawn_as_two_coins():
    share = np.bincount(Resamples(2, 4000).weights[:, 0], minlength=3) / 4000
    assert share == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_the_resamples_of_figures_of_the_same_samples_are_the_same():
    values = np.random.default_rng(0).random(30)
    alone, paired = Resamples(30, 50).means(values), Resamples(30, 50).means(np.stack([values, values + 1], 1))
    np.testing.assert_allclose(paired, np.stack([alone, alone + 1], 1))


@pytest.mark.parametrize("n", [2, 3, 9, 10])
def test_the_odd_sample_is_in_the_second_half_and_the_halves_repeat_by_seed(n):
    first, second = halves(n, 3)
    assert (len(first), len(second)) == (n // 2, n - n // 2)
    again = halves(n, 3)
    assert first.tolist() == again[0].tolist() and second.tolist() == again[1].tolist()


def test_over_the_seeds_every_sample_is_as_often_in_the_first_half():
    often = np.zeros(8)
    for seed in range(400):
        often[halves(8, seed)[0]] += 1
    assert np.abs(often / 400 - 0.5).max() < 0.12
