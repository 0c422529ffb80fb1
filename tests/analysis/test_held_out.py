"""The held-out greedy curve: against loops, against what it estimates, and what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.analysis import _held_out
from itd.analysis._greedy import accumulate
from itd.analysis._held_out import Scores, held_out
from itd.analysis.sampling import Resamples, paired_counts, wilson
from itd.errors import ResultError

N, C = 23, 7


@pytest.fixture(scope="module")
def scores() -> Scores:
    rng = np.random.default_rng(4)
    right = rng.random((C, N)) < 0.45
    labels = rng.integers(0, 6, N)
    pred = np.where(right, labels, 6 + rng.integers(0, 3, (C, N))).astype(np.int16)
    quality = np.where(right, 1.0, 0.0) + rng.random((C, N)).round(2) * 0.9
    return Scores(right, quality.astype(np.float32), pred, rng.integers(0, 5, N), default=2)


def chosen_on(scores, weights):
    """The greedy list of images that count as often as their weights, each copy written out."""
    at = np.repeat(np.arange(N), weights)
    quality = scores.quality[:, at].mean(1, dtype=np.float64).round(9)
    priority = np.lexsort((np.arange(C), np.arange(C) != scores.default, -quality))
    return accumulate(scores.correct[:, at], priority)[0]


def by_loops(scores, weights, division, k):
    """(N,) right, as many guesses right, guesses: of the first k configurations of each image's list."""
    lists = {fold: chosen_on(scores, weights * (division != fold)) for fold in np.unique(division)}
    right, matched, guesses = [], [], []
    for i, fold in enumerate(division):
        rows = lists[fold][:k]
        right.append(any(scores.correct[c, i] for c in rows))
        guesses.append(len({scores.pred[c, i] for c in rows}))
        matched.append(scores.rank[i] < guesses[-1])
    return np.array(right), np.array(matched), np.array(guesses)


@pytest.mark.parametrize("cells", [1, 10**9])
def test_the_curve_is_that_of_loops_over_divisions_folds_and_images(scores, cells, monkeypatch):
    monkeypatch.setattr(_held_out, "_CELLS", cells)
    found = held_out(scores, 5, 3, Resamples(N, 0, 9))
    divisions = _held_out.divisions_into(5, N, 3, np.random.default_rng((9, N, 5)))
    for k in range(1, C + 1):
        loops = [by_loops(scores, np.ones(N, int), division, k) for division in divisions]
        expected = [float(np.mean([one[i] for one in loops])) for i in range(3)]
        step = found.steps[k - 1]
        assert [step.accuracy, step.matched_topk, step.guesses] == pytest.approx(expected, abs=1e-12)
        assert (step.k, step.low, step.over_static) == (k, None, None)


@pytest.mark.parametrize("cells", [1, 10**9])
def test_the_interval_is_as_wide_as_resamples_spread_and_never_narrower_than_wilsons(scores, cells, monkeypatch):
    monkeypatch.setattr(_held_out, "_CELLS", cells)
    drawn = Resamples(N, 12, 9)
    found = held_out(scores, 5, 3, drawn)
    divisions = _held_out.divisions_into(5, N, 12, np.random.default_rng((9, N, 5, 12)))
    static = scores.correct[scores.default]
    for k in (1, 3, C):
        figures = []
        for weights, division in zip(drawn.weights.astype(int), divisions, strict=True):
            right, matched, _ = by_loops(scores, weights, division, k)
            figures.append([(weights * (right.astype(int) - other)).sum() / N for other in (0, static, matched)])
        own, against_static, against_matched = 1.959963984540054 * np.std(figures, axis=0, ddof=1)
        step = found.steps[k - 1]
        share = wilson(step.accuracy * N, N)
        assert step.low == pytest.approx(min(share.low, max(0, step.accuracy - own)), abs=1e-9)
        assert step.high == pytest.approx(max(share.high, min(1, step.accuracy + own)), abs=1e-9)
        for over, spread in ((step.over_static, against_static), (step.over_matched, against_matched)):
            assert over.high - over.value >= spread - 1e-9 and over.value - over.low >= spread - 1e-9
        assert step.over_static.value == pytest.approx(step.accuracy - static.mean())
        assert step.over_matched.value == pytest.approx(step.accuracy - step.matched_topk)
        narrow = paired_counts(0, 0, N)
        assert step.over_static.high - step.over_static.low >= narrow.high - narrow.low


def test_all_copies_of_an_image_are_in_one_fold(scores):
    """So that no list is measured on an image that it was chosen on: here a list of k = C is right wherever any is."""
    drawn = Resamples(N, 5, 1)
    spread = _held_out._spread(scores, 5, drawn, 5, C)
    anywhere = drawn.weights @ scores.correct.any(0).astype(float) / N
    assert spread[C - 1, 0] == pytest.approx(np.std(anywhere, ddof=1))


def test_without_a_default_there_is_nothing_to_guess_with(scores):
    bare = Scores(scores.correct, scores.quality, scores.pred, None, None)
    step = held_out(bare, 5, 3, Resamples(N, 10)).steps[2]
    assert step.matched_topk is None and step.over_static is None and step.over_matched is None and step.low is not None


def test_a_single_image_or_no_folds_give_no_curve_and_few_images_are_folds_of_one(scores):
    one = Scores(scores.correct[:, :1], scores.quality[:, :1], scores.pred[:, :1], scores.rank[:1], 2)
    assert held_out(one, 10, 2, Resamples(1, 5)) is None
    assert held_out(scores, 0, 2, Resamples(N, 5)) is None
    few = Scores(scores.correct[:, :4], scores.quality[:, :4], scores.pred[:, :4], scores.rank[:4], 2)
    assert held_out(few, 10, 2, Resamples(4, 5)).folds == 4
    for folds, repeats, words in ((1, 2, "folds is 1"), (-1, 2, "folds is -1"), (3, 0, "repeats is 0")):
        with pytest.raises(ResultError, match=words):
            held_out(scores, folds, repeats, Resamples(N, 5))


def test_too_much_work_is_done_with_fewer_resamples_and_the_answer_says_so(scores, monkeypatch):
    monkeypatch.setattr(_held_out, "INTERVAL_WORK", 5 * C * (N + _held_out.OVERHEAD) * 60)
    found = held_out(scores, 5, 2, Resamples(N, 100))
    assert (found.resamples, found.wanted) == (60, 100)
    monkeypatch.setattr(_held_out, "INTERVAL_WORK", 1)
    monkeypatch.setattr(_held_out, "CURVE_WORK", 1)
    monkeypatch.setattr(_held_out, "INTERVAL_STEPS", 3)
    found = held_out(scores, 5, 2, Resamples(N, 100))
    assert (found.resamples, len(found.steps)) == (_held_out.LEAST_RESAMPLES, 3)


def test_the_interval_holds_the_accuracy_on_other_images_of_the_list_that_is_printed(repository, monkeypatch):
    """A part of benchmarks/held_out.py, whose 200 draws and 1,000 resamples cover 95.5% to 98.5%."""
    monkeypatch.syspath_prepend(Path(repository) / "benchmarks")
    sys.modules.pop("held_out", None)
    from held_out import coverage

    path = str(Path(repository) / "results" / "cifar-resnet18-stride-cifar10.parquet")
    found = coverage(path, draws=50, images=130, resamples=100)
    for k in (3, 5, 10):
        assert found[k]["covered"] >= 0.9 and abs(found[k]["error"]) < 0.01
        assert found[k]["in_sample"] > 0.03, "measured on the images that chose the list, the figure is too high"


def test_the_verb_gives_the_curve_beside_the_in_sample_steps(repository):
    result = itd.open_result(Path(repository) / "results" / "resnet50-stride-val1300.parquet")
    curve = itd.greedy(result, resamples=100)
    answer = curve.as_dict()
    assert set(answer["held_out"][0]) == {"k", "accuracy", "low", "high", "matched_topk", "guesses"}
    assert len(answer["held_out"]) == len(answer["steps"]) == result.configs
    assert answer["held_out"][4]["accuracy"] < answer["steps"][4]["accuracy"], "chosen on other images"
    assert answer["held_out"][-1]["accuracy"] == answer["steps"][-1]["accuracy"], "all of them: nothing was chosen"
    assert [row["curve"] for row in curve.rows()] == ["held-out"] * result.configs + ["in-sample"] * result.configs
    assert itd.greedy(result, folds=0).held_out is None


def test_the_cheapest_fixed_configuration_by_loops(scores):
    from itd.analysis._fixed import cheapest_fixed

    macs, drawn = np.array([5, 3, 4, 9, 1, 3, 2]) * 10**9, Resamples(N, 9, 3)
    found = cheapest_fixed(scores.correct, macs, 2, drawn, folds=4, repeats=3)
    divisions = _held_out.divisions_into(4, N, 3, np.random.default_rng((3, N, 4)))
    again = _held_out.divisions_into(4, N, 9, np.random.default_rng((3, N, 4, 9)))

    def one(weights, division):
        right, cost, chosen = 0.0, 0.0, []
        for fold in range(4):
            count = [int((weights * (division != fold))[scores.correct[c]].sum()) for c in range(C)]
            chosen.append(min((c for c in range(C) if count[c] >= count[2]), key=lambda c: (macs[c], c)))
            held = weights * (division == fold)
            right += held[scores.correct[chosen[-1]]].sum()
            cost += held.sum() * macs[chosen[-1]]
        return right / N, cost / N, chosen

    plain = [one(np.ones(N, int), division) for division in divisions]
    assert found.accuracy.value == pytest.approx(np.mean([p[0] for p in plain]))
    assert found.macs.value == pytest.approx(np.mean([p[1] for p in plain]))
    assert set(found.choices) == {c for p in plain for c in p[2]}
    resampled = [one(w, d)[1] for w, d in zip(drawn.weights.astype(int), again, strict=True)]
    half = 1.959963984540054 * np.std(resampled, ddof=1)
    assert (found.macs.low, found.macs.high) == pytest.approx((found.macs.value - half, found.macs.value + half))
    assert found.factor.value == pytest.approx(macs[2] / found.macs.value)
    assert cheapest_fixed(scores.correct[:, :1], macs, 2, Resamples(1, 5)) is None


def test_combine_says_on_how_many_images_its_lists_were_chosen_and_what_they_achieve_on_others(repository):
    from itd.analysis.tables import combination_text

    results = [
        itd.open_result(repository / "results" / f"resnet50-{a}-val1300.parquet") for a in ("stride", "dilation")
    ]
    found = itd.combine(results, budget=144, resamples=50)
    for result, best, step in zip(results, found.in_sample, found.held_out, strict=True):
        curve = itd.greedy(result, resamples=50)
        assert best == curve.steps[11].accuracy and step.k == 12 and step.low is not None
        assert (step.accuracy, step.guesses) == (curve.held_out.steps[11].accuracy, curve.held_out.steps[11].guesses)
        assert step.accuracy < best
    assert "12 chosen on 130 images: best 93.1 in-sample, held out" in combination_text(found)
    assert set(found.as_dict()["held_out"][0]) == {"k", "accuracy", "low", "high", "matched_topk", "guesses"}
