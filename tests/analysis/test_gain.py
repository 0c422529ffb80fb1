"""What the oracle gains beyond guessing, against its definition sample by sample."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from itd.analysis import Resamples, gain, greedy
from itd.analysis.figures import gain_figure
from itd.analysis.frames import rows_of
from itd.analysis.tables import GAIN_STEPS, gain_table
from itd.errors import EmptyResultError, ResultError
from support import intervals

beside = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_compare.py"))))


def spelled_out(result, default: int) -> dict[int, dict[str, float]]:
    """sample -> what each gain is the mean of."""
    found = {}
    for sample, of in beside.by_sample(result, default).items():
        found[sample] = {
            "static": of["static"],
            "best": of["best"],
            "matched_topk": of["matched_topk"],
            "over_static": of["best"] - of["static"],
            "over_matched": of["best"] - of["matched_topk"],
        }
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gain")
    plain = beside.made(folder / "plain.parquet", range(20), seed=1)
    dynamic = beside.made(folder / "dynamic.parquet", range(5, 28), 9, seed=2, default=3, model="other")
    elsewhere = beside.made(folder / "elsewhere.parquet", range(12), seed=3, data="e")
    return plain, dynamic, elsewhere


def test_every_gain_is_the_mean_of_what_its_samples_say(three):
    for result, found, default in zip(three, gain(three, seed=4, resamples=200), (0, 3, 0), strict=True):
        told = spelled_out(result, default)
        assert (found.n, found.configs, found.result) == (len(told), result.configs, result.path)
        for name in ("static", "best", "matched_topk", "over_static", "over_matched"):
            values = [told[sample][name] for sample in sorted(told)]
            estimate = getattr(found, name)
            assert estimate.value == pytest.approx(np.mean(values)), name
            if name.startswith("over"):
                other = [told[sample][name.replace("over_matched", "over_matched_topk")[5:]] for sample in sorted(told)]
                expected = intervals.of_difference([told[sample]["best"] for sample in sorted(told)], other)
                assert (estimate.low, estimate.high, estimate.p) == pytest.approx(expected, abs=1e-9), name
                continue
            assert (estimate.low, estimate.high) == pytest.approx(intervals.of_share(values), abs=1e-9), name
    assert any(found.over_matched.value != found.over_static.value for found in gain(three, resamples=20))


def test_against_the_first_is_paired_on_the_samples_that_both_have(three):
    first, second, third = gain(three, resamples=200)
    assert first.against_first is None and third.against_first is None  # itself, and other images
    ours, theirs = spelled_out(three[0], 0), spelled_out(three[1], 3)
    values = [theirs[s]["over_matched"] - ours[s]["over_matched"] for s in range(5, 20)]
    assert second.against_first is not None and second.against_first.n == 15
    assert second.against_first.value == pytest.approx(np.mean(values))
    ends = (second.against_first.low, second.against_first.high)
    assert ends == pytest.approx(intervals.of_mean(values, Resamples(15, 200).weights))


def test_the_table_and_the_rows_hold_every_figure(three):
    found = gain(three, resamples=20)
    table, rows = gain_table(found), rows_of(found)
    whole, _, held = table.partition("\n\n")
    assert whole.splitlines()[0].split()[:3] == ["result", "n", "configs"] and len(whole.splitlines()) == 10
    assert f"{100 * found[1].against_first.value:+.1f}" in whole.splitlines()[4]
    assert len(held.splitlines()) == 1 + sum(len([k for k in GAIN_STEPS if k <= row.configs]) for row in found)
    of_space = [row for row in rows if row["k"] is None]
    assert [row["over_matched"] for row in of_space] == [row.over_matched.value for row in found]
    assert {"against_first_low", "static_high"} <= set(rows[1])
    steps = [step for row in found for step in row.held_out.steps]
    assert [row["best"] for row in rows if row["k"]] == [step.accuracy for step in steps]
    assert [row["guesses"] for row in rows if row["k"]] == [step.guesses for step in steps]


def test_the_held_out_curve_is_that_of_greedy_and_may_be_left_out(three):
    (found,) = gain(three[:1], resamples=20, seed=3, folds=4, repeats=2)
    assert found.held_out == greedy(three[0], resamples=20, seed=3, folds=4, repeats=2).held_out
    assert gain(three[:1], folds=0)[0].held_out is None and gain(three[:1], folds=0)[0].as_dict()["held_out"] == []


def test_the_figure_shows_both_gains_of_each_result(three):
    found = gain(three, resamples=20)
    drawing = gain_figure(found)
    expected = [100 * getattr(row, kind).value for row in found for kind in ("over_static", "over_matched")]
    assert [mark.x for mark in drawing.marks if mark.axes == 1] == pytest.approx(expected)
    steps = [step for row in found for step in row.held_out.steps]
    curve = [(mark.x, mark.y) for mark in drawing.marks if mark.axes == 0]
    assert curve == [(step.guesses, 100 * step.accuracy) for step in steps]
    alone = gain_figure(gain(three, folds=0, resamples=20))
    assert [mark.x for mark in alone.marks] == pytest.approx(expected) and len(alone.figure.axes) == 1
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())


def test_a_result_without_a_default_or_images_is_refused(tmp_path):
    with pytest.raises(ResultError, match="default configuration, which the gain over guessing needs"):
        gain([beside.made(tmp_path / "a.parquet", range(4), default=None)])
    missing = np.ones(4, bool)
    with pytest.raises(EmptyResultError):
        gain([beside.made(tmp_path / "b.parquet", range(4), missing=missing)])
