"""Two results on the samples that both have, wherever those lie, with paired intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.analysis import Comparison, Resamples, compare
from itd.errors import EmptyResultError, ResultError
from itd.store import Result, open_result
from support import intervals, synthetic

IDENTITY = {
    "model": "resnet50", "weights_sha256": "w", "sites": {}, "choices": {}, "data": "d", "preprocess": {},
    "variation": None,
}  # fmt: skip
FIGURES = ("static", "worst", "median", "best", "volatility", "matched_topk", "agree")


def made(path: Path, samples, configs: int = 6, *, seed: int = 0, default: int | None = 0, missing=None, **changed):
    """A result of these samples, of which sample i has label i % 4 (plus `plus`); and its scores by sample."""
    samples = np.array(samples, np.int32)
    plus = changed.pop("plus", 0)
    pred = np.random.default_rng(seed).integers(0, 4, (configs, len(samples)))
    labels = (samples + plus) % 4
    scores = synthetic.make_ties(configs, len(samples), seed)
    scores |= {"pred": pred.astype(np.int16), "labels": labels.astype(np.int16)}
    scores["quality"] = (scores["quality"] % 1 + (pred == labels)).astype(np.float32)
    scores["rank"] = np.where(pred == labels, 0, 1 + np.arange(len(samples)) % 3).astype(np.int16)
    space = synthetic.make_space(configs, default=default)
    identity = {**IDENTITY, **changed}
    writer = synthetic.open_writer(path, len(samples), space=space, samples=samples, identity=identity)
    synthetic.write_units(writer, scores, missing)
    return open_result(path)


def by_sample(result: Result, default: int | None) -> dict[int, dict[str, float]]:
    """What each figure is the mean of: sample -> figure -> number, from the table's rows."""
    found = {}
    for sample, rows in pd.read_parquet(result.path).dropna().groupby("sample"):
        quality = sorted(rows["quality"].tolist())
        classes = len(set(rows["pred"].tolist()))
        of = {
            "worst": quality[0] >= 1,
            "median": quality[(len(quality) - 1) // 2] >= 1,
            "best": quality[-1] >= 1,
            "volatility": int(quality[-1] >= 1) - int(quality[0] >= 1),
            "agree": classes == 1,
        }
        if default is not None:
            own = rows[rows["config"] == default].iloc[0]
            of |= {"static": own["quality"] >= 1, "matched_topk": own["rank"] < classes}
        found[int(sample)] = {name: float(value) for name, value in of.items()}
    return found


def check(found: Comparison, before: Result, after: Result, drawn: Resamples) -> None:
    """Every figure of both sides and every change, from each materialised resample of the common samples."""
    one, two = by_sample(before, before.default), by_sample(after, after.default)
    both = sorted(set(one) & set(two))
    assert found.n == len(both) and found.total == (before.n, after.n)

    def of(name: str, values: list[float], estimate) -> None:
        share = intervals.of_mean(values, drawn.weights) if name == "volatility" else intervals.of_share(values)
        assert (estimate.value, estimate.n) == (pytest.approx(np.mean(values)), len(both))
        assert (estimate.low, estimate.high) == pytest.approx(share, abs=1e-9)

    def changed(name: str, values: list[float], earlier: list[float], estimate) -> None:
        assert (estimate.value, estimate.n) == (pytest.approx(np.mean(values) - np.mean(earlier)), len(both))
        if name == "volatility":
            differences = [one - other for one, other in zip(values, earlier, strict=True)]
            assert (estimate.low, estimate.high) == pytest.approx(intervals.of_mean(differences, drawn.weights))
            return
        expected = intervals.of_difference(values, earlier)
        assert (estimate.low, estimate.high, estimate.p) == pytest.approx(expected, abs=1e-9)

    for name in FIGURES:
        for table, side in ((one, found.before), (two, found.after)):
            if name in table[both[0]]:
                of(name, [table[i][name] for i in both], getattr(side, name))
            else:
                assert getattr(side, name) is None
        if name in one[both[0]] and name in two[both[0]]:
            changed(name, [two[i][name] for i in both], [one[i][name] for i in both], found.change[name])
        else:
            assert found.change[name] is None


@pytest.mark.parametrize(("ours", "theirs"), [
    (range(12), range(12)), (range(12), range(3, 9)), ([1, 4, 5, 8, 9], [0, 4, 6, 8, 9, 30]), ([7], [7]), ([3, 5], [5]),
])  # fmt: skip
@pytest.mark.parametrize("defaults", [(0, 3), (None, 0), (1, None), (None, None)])
def test_figures_and_changes_on_the_common_samples(tmp_path, ours, theirs, defaults):
    before = made(tmp_path / "a", ours, 5, seed=1, default=defaults[0])
    after = made(tmp_path / "b", theirs, 8, seed=2, default=defaults[1])
    found = compare(before, after, resamples=30, seed=6)
    check(found, before, after, Resamples(found.n, 30, 6))
    assert (found.before.configs, found.after.configs) == (5, 8)
    assert (found.before.result, found.after.result) == (before.path, after.path)


@pytest.mark.parametrize("configs", [1, 2])
def test_one_configuration_has_no_volatility(tmp_path, configs):
    before, after = made(tmp_path / "a", range(9), 1), made(tmp_path / "b", range(9), configs, seed=1)
    found = compare(before, after, resamples=30)
    check(found, before, after, Resamples(9, 30))
    assert found.before.volatility.value == 0 and found.before.agree.value == 1


def test_a_sample_with_null_rows_in_either_is_in_neither(tmp_path):
    at = np.arange(12)
    before = made(tmp_path / "a", at, missing=at % 5 == 0)
    after = made(tmp_path / "b", at, seed=1, missing=at % 4 == 1)
    found = compare(before, after, resamples=30)
    assert found.n == sum(i % 5 != 0 and i % 4 != 1 for i in range(12)) and found.total == (9, 9)
    kept = at[(at % 5 != 0) & (at % 4 != 1)]
    place = {int(s): i for i, s in enumerate(before.samples)}
    right = (before.matrix("quality") >= 1).any(0)[[place[int(i)] for i in kept]]
    assert (found.before.best.low, found.before.best.high) == pytest.approx(intervals.of_share(right))


def test_a_table_in_another_order_is_the_same(tmp_path):
    before, after = made(tmp_path / "a", range(10)), made(tmp_path / "b", range(4, 14), seed=1, default=None)
    found = compare(before, after, resamples=30)
    pd.read_parquet(tmp_path / "b").iloc[::-1].to_parquet(tmp_path / "one.parquet")
    other = compare(before, open_result(tmp_path / "one.parquet"), resamples=30)
    assert (other.n, other.change, other.before) == (found.n, found.change, found.before)
    assert other.after.best == found.after.best and other.after.agree == found.after.agree


def test_a_result_against_itself_has_not_changed(tmp_path):
    result = made(tmp_path / "a", range(15))
    found = compare(result, result, resamples=30)
    none = found.change.pop("volatility")
    assert (none.value, none.low, none.high) == (0, 0, 0)
    assert {c.value for c in found.change.values()} == {0} and {c.p for c in found.change.values()} == {1}
    assert all(c.low < 0 < c.high for c in found.change.values()), "of 15 images none changed: that is no certainty"
    assert found.spaces_differ is None
    assert found.before == found.after and found.before.best.low < found.before.best.high


def test_turned_round_the_change_turns_round(tmp_path):
    one, two = made(tmp_path / "a", range(15)), made(tmp_path / "b", range(15), seed=1)
    there, back = compare(one, two, resamples=30), compare(two, one, resamples=30)
    for name in FIGURES:
        change, other = there.change[name], back.change[name]
        assert (change.value, change.low, change.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_a_gain_on_every_wrong_sample_is_narrower_than_the_figures(tmp_path):
    scores = [synthetic.from_quality(np.tile(np.arange(40) % 8 < many, (1, 1)) * 1.0) for many in (4, 5)]
    results = [open_result(synthetic.make_result(tmp_path / str(i), s)) for i, s in enumerate(scores)]
    found = compare(*results, seed=1)
    change, figure = found.change["best"], found.after.best
    assert change.value == pytest.approx(1 / 8) and change.low >= 0  # nothing became worse in any resample
    assert change.high - change.low < figure.high - figure.low


def test_the_seed_and_the_number_of_resamples_count(tmp_path):
    one, two = made(tmp_path / "a", range(15)), made(tmp_path / "b", range(15), seed=1)
    assert compare(one, two, seed=1).change == compare(one, two, seed=1, resamples=1000).change
    first, other = (compare(one, two, seed=seed, resamples=30).change for seed in (1, 2))
    assert first["volatility"] != other["volatility"] and first["best"] == other["best"]


def test_other_images_or_labels_are_refused(tmp_path):
    first = made(tmp_path / "a", range(8))
    with pytest.raises(ResultError, match=r"cannot compare .*they differ in data \(d and e\).*the same images"):
        compare(first, made(tmp_path / "b", range(8), data="e"))
    with pytest.raises(ResultError, match=r"cannot compare .*sample 0 has label 0 in one and 1 in the other"):
        compare(first, made(tmp_path / "c", range(8), plus=1))
    network = {"model": "resnet18", "weights_sha256": "v", "preprocess": {"crop": 9}, "variation": {"scale": 2.0}}
    assert compare(first, made(tmp_path / "d", range(8), **network), resamples=5).n == 8


def test_no_common_sample_is_refused_and_an_empty_result_is_named(tmp_path):
    first, gone = made(tmp_path / "a", range(4)), np.ones(4, bool)
    with pytest.raises(ResultError, match=r"a and .*b share no sample; sweep both on the same images"):
        compare(first, made(tmp_path / "b", range(4, 8)))
    with pytest.raises(EmptyResultError, match="c has no images"):
        compare(first, made(tmp_path / "c", range(4), missing=gone))
    with pytest.raises(EmptyResultError, match="d has no images"):
        compare(made(tmp_path / "d", range(4), missing=gone), first)


def test_a_comparison_as_json(tmp_path):
    found = compare(made(tmp_path / "a", range(9)), made(tmp_path / "b", range(9), default=None), resamples=5)
    told = found.as_dict()
    assert told["n"] == 9 and list(told["change"]) == list(FIGURES)
    assert told["after"]["static"] is None and told["change"]["static"] is None
    assert told["before"]["static"] == found.before.static.as_dict()
    assert told["change"]["worst"] == found.change["worst"].as_dict()
    assert (told["after"]["result"], told["after"]["configs"]) == (str(tmp_path / "b"), 6)
