"""Greedy accumulation against a reference that tries every configuration at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itd.analysis import Resamples, greedy
from itd.analysis._greedy import count_columns
from itd.errors import ResultError
from itd.store import open_result
from support import synthetic


def reference(quality: np.ndarray, default: int | None) -> list[tuple[int, float]]:
    """At each step, the accuracy of the chosen ones with each other one; the best of them by the rule for ties."""
    configs, images = quality.shape
    right = [{i for i in range(images) if quality[c, i] >= 1} for c in range(configs)]
    mean = [sum(float(q) for q in quality[c]) / images for c in range(configs)]
    covered: set[int] = set()
    left, steps = list(range(configs)), []
    while left:
        best = max(left, key=lambda c: (len(covered | right[c]), mean[c], c == default, -c))
        covered |= right[best]
        left.remove(best)
        steps.append((best, len(covered) / images))
    return steps


def curve_of(path: Path, quality: np.ndarray, default: int | None = 0) -> list[tuple[int, float]]:
    synthetic.make_result(path, synthetic.from_quality(quality), default=default)
    return [(step.config, step.accuracy) for step in greedy(open_result(path)).steps]


@pytest.mark.parametrize(("configs", "images"), [(1, 1), (1, 9), (7, 1), (2, 30), (16, 40), (81, 60), (20, 700)])
@pytest.mark.parametrize("default", [0, None])
def test_greedy_equals_trying_everything(tmp_path, configs, images, default):
    quality = synthetic.make_scores(configs, images, seed=images, accuracy=0.2)["quality"]
    assert curve_of(tmp_path / "r", quality, default) == reference(quality, default)


@pytest.mark.parametrize("default", [None, 0, 3, 7])
def test_ties_go_to_mean_quality_then_default_then_number(tmp_path, default):
    for seed in range(6):  # coarse and exact in binary, so that gains and means often tie
        quality = np.random.default_rng(seed).integers(0, 6, (8, 3)) / 4
        assert curve_of(tmp_path / f"{seed}", quality, default) == reference(quality, default)


def test_each_rule_for_ties_by_hand(tmp_path):
    same = [[1.5, 0.5], [1.5, 0.5], [1.5, 0.75], [1.5, 0.5]]
    assert [c for c, _ in curve_of(tmp_path / "a", np.array(same), default=1)] == [2, 1, 0, 3]
    assert [c for c, _ in curve_of(tmp_path / "b", np.array(same), default=None)] == [2, 0, 1, 3]


def test_configurations_that_add_nothing_are_steps_too(tmp_path):
    quality = np.array([[1.5, 1.5, 1.5], [0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    assert curve_of(tmp_path / "r", quality) == [(0, 1.0), (2, 1.0), (1, 1.0)]


def test_the_whole_curve_as_json(tmp_path):
    quality = np.array([[1.5, 0.5], [0.5, 1.75]])
    folder = synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality))
    settings = [{s: {"dilation": 1} for s in "ABCD"}, {**{s: {"dilation": 1} for s in "ABC"}, "D": {"dilation": 2}}]
    answer = greedy(open_result(folder), resamples=Resamples(2, 0)).as_dict(reach=[0.5, 0.9])
    told = {"upper_bound": 1.0, "matched_topk": 1.0}
    assert answer == {
        "result": str(folder),
        "n": 2,
        "static": 0.5,
        "reach": {"50": 1, "90": 2},
        "held_out": [
            {"k": 1, "accuracy": 0.0, "low": None, "high": None, "matched_topk": 1.0, "guesses": 1.0},
            {"k": 2, "accuracy": 1.0, "low": None, "high": None, "matched_topk": 1.0, "guesses": 1.0},
        ],
        "steps": [
            {"k": 1, "config": 1, "settings": settings[1], "accuracy": 0.5, **told, "upper_bound": 0.5},
            {"k": 2, "config": 0, "settings": settings[0], "accuracy": 1.0, **told},
        ],
    }


def test_null_rows_are_in_no_figure(tmp_path):
    scores = synthetic.make_scores(9, 30)
    gone = np.arange(30) % 4 == 0
    folder = synthetic.make_result(tmp_path / "r", scores, missing=gone)
    found = [(step.config, step.accuracy) for step in greedy(open_result(folder)).steps]
    assert found == reference(scores["quality"][:, ~gone], 0)


def test_a_partial_result_is_refused_unless_asked_for(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 8)
    writer.write(writer.todo()[0], missing=np.zeros(4, bool), **synthetic.make_scores(6, 4))
    with pytest.raises(ResultError, match=r"4 of 8 images.*`partial`"):
        greedy(open_result(tmp_path / "r"))
    assert greedy(open_result(tmp_path / "r"), partial=True).n == 4


def test_sums_in_bytes_do_not_overflow():
    rows = np.ones((1000, 3), np.uint8)
    rows[::2, 1] = 0
    which = np.arange(0, 1000)
    assert count_columns(rows, which).tolist() == [1000, 500, 1000]
    assert count_columns(rows, which[:0]).tolist() == [0, 0, 0]
