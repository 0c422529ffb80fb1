"""Subsets of sites, preferences, efficiency, combination and comparison, against their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.analysis import Resamples, by_sites, combine, compare, efficiency, greedy, preferences
from itd.analysis._combine import per_attribute
from itd.analysis.sampling import paired, proportion
from itd.analysis.scores import preferred, require_same_data
from itd.errors import ResultError
from itd.space import Setting, SiteSpec, build_space, listed_space, read_space, write_space
from itd.store import open_result
from support import plain, synthetic

IDENTITY = {
    "model": "resnet50", "weights_sha256": "w", "sites": {}, "choices": {}, "data": "d", "preprocess": {},
    "variation": None,
}  # fmt: skip
OWN = Setting(stride=2, dilation=1, size=3)


def make(path: Path, attributes: str, n: int = 20, seed: int = 0, options=None, macs=None, labels=None, **changed):
    """A result of several attributes at sites A to D, coarse in quality so that it ties."""
    lists = options or {"stride": (1, 2, 4), "dilation": (1, 2), "size": (1, 3)}
    sites = [SiteSpec(s, OWN, {a: lists[a] for a in lists}) for s in "ABCD"]
    space = build_space(attributes.split("+"), sites, stem_stride=1, stride_range=(2, 64))
    writer = synthetic.open_writer(path, n, space=space, identity={**IDENTITY, **changed})
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, 5, n) if labels is None else labels
    pred = rng.integers(0, 5, (len(space), n))
    p = rng.integers(1, 3, pred.shape) / 4
    scores = {
        "labels": labels.astype(np.int16),
        "pred": pred.astype(np.int16),
        "quality": (p + (pred == labels)).astype(np.float32),
        "nll": rng.integers(0, 2, pred.shape).astype(np.float32),
        "rank": np.where(pred == labels, 0, rng.integers(1, 5, pred.shape)).astype(np.int16),
        "confidence": p.astype(np.float32),
    }
    synthetic.write_units(writer, scores)
    return open_result(path), scores


@pytest.mark.parametrize("attributes", ["dilation", "stride", "stride+size"])
def test_a_subsets_configurations_hold_the_default_at_every_other_site(tmp_path, attributes):
    few = {"stride": (1, 2, 4), "dilation": (1, 2, 3), "size": (3, 5)}
    result, scores = make(tmp_path / "r", attributes, options=few if attributes != "stride+size" else {
        "stride": (1, 2), "size": (3, 5)})  # fmt: skip
    right, default = scores["quality"] >= 1, result.default_index
    found = by_sites(result)
    assert [s.sites for s in found.subsets] == [
        "A", "B", "C", "D", "AB", "AC", "AD", "BC", "BD", "CD", "ABC", "ABD", "ACD", "BCD", "ABCD"
    ]  # fmt: skip
    own = {s: OWN.only(attributes.split("+")).values() for s in "ABCD"}
    for subset in found.subsets:
        rows = [
            i
            for i in range(result.configs)
            if all(result.setting(i)[s] == own[s] for s in "ABCD" if s not in subset.sites)
        ]
        assert subset.configs == len(rows)
        ascending = np.sort(scores["quality"][rows], axis=0)
        assert subset.best == proportion(ascending[-1] >= 1) and subset.worst == proportion(ascending[0] >= 1)
        assert subset.median == proportion(ascending[(len(rows) - 1) // 2] >= 1)
        said = np.array([len(set(scores["pred"][rows, i].tolist())) for i in range(20)])
        assert subset.matched_topk == proportion(scores["rank"][default] < said)
    assert found.static == proportion(right[default]) and found.subsets[-1].configs == result.configs


def test_a_site_that_was_not_swept_is_in_no_subset(tmp_path):
    sites = [SiteSpec(s, OWN, {"size": (1, 3)}) for s in "ABCD"]
    space = build_space(["size"], sites, swept=["B", "D"])
    writer = synthetic.open_writer(tmp_path / "r", 8, space=space)
    synthetic.write_units(writer, synthetic.make_scores(4, 8))
    assert [s.sites for s in by_sites(open_result(tmp_path / "r")).subsets] == ["B", "D", "BD"]


@pytest.mark.parametrize(("configs", "n"), [(1, 1), (1, 7), (6, 1), (9, 200)])
@pytest.mark.parametrize("default", [None, 0, 4])
def test_preferred_by_quality_then_nll_then_default_then_number(configs, n, default):
    default = None if default is None else min(default, configs - 1)
    rng = np.random.default_rng(n)
    quality, nll = rng.integers(0, 3, (configs, n)) / 2, rng.integers(0, 2, (configs, n)) / 2
    assert preferred(quality, nll, default).tolist() == plain.preferred(quality, nll, default)


def test_preferred_by_hand():
    quality, nll = np.full((3, 4), 2.0), np.zeros((3, 4))
    quality[0, 0], nll[1, 1], nll[:2, 2] = 1.5, -1e-9, 1.0
    assert preferred(quality, nll, 2).tolist() == [2, 1, 2, 2]
    assert preferred(quality, nll, None).tolist() == [1, 1, 2, 0]


def test_shares_of_configurations_and_options_with_intervals(tmp_path):
    result, scores = make(tmp_path / "r", "dilation", seed=3, variation={"scale": 0.5})
    found = preferences(result)
    rows = plain.preferred(scores["quality"], scores["nll"], result.default_index)
    assert {c.config: c.share for c in found.configs} == {r: proportion(np.array(rows) == r) for r in set(rows)}
    shares = [c.share.value for c in found.configs]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    for site in "ABCD":
        for value in (1, 2):
            has = np.array([result.setting(r)[site]["dilation"] == value for r in rows])
            assert found.share(site, "dilation", value) == proportion(has)
        assert found.share(site, "dilation", 5) is None
    assert (found.model, found.variation, found.default) == ("resnet50", {"scale": 0.5}, 0)


def test_the_cheapest_configuration_with_the_same_prediction(tmp_path):
    result, scores = make(tmp_path / "r", "stride", seed=5)
    rng = np.random.default_rng(0)
    result.macs = rng.integers(1, 30, result.configs) * 10**9  # many of equal cost
    drawn = Resamples(20, 15)
    found = efficiency(result, resamples=drawn)
    default, pred, right = result.default_index, scores["pred"], scores["quality"] >= 1
    best = plain.preferred(scores["quality"], scores["nll"], default)

    def cheapest(wanted: list[int]) -> list[int]:
        same = [[c for c in range(result.configs) if pred[c, i] == pred[wanted[i], i]] for i in range(20)]
        return [min(rows, key=lambda c: (result.macs[c], c)) for rows in same]

    for point, rows, than in (
        (found.static, [default] * 20, None),
        (found.best, best, None),
        (found.cheapest_as_static, cheapest([default] * 20), [default] * 20),
        (found.cheapest_as_best, cheapest(best), best),
    ):
        assert point.accuracy == proportion(right[rows, range(20)])
        assert point.macs == drawn.mean(result.macs[rows])
        if than is None:
            assert point.factor is None
            continue
        ratios = [result.macs[than][w].sum() / result.macs[rows][w].sum() for w in
                  (np.repeat(np.arange(20), w) for w in drawn.weights)]  # fmt: skip
        assert point.factor.value == pytest.approx(result.macs[than].mean() / result.macs[rows].mean())
        assert (point.factor.low, point.factor.high) == pytest.approx(plain.interval(ratios))
    assert found.cheapest_as_static.accuracy.value == found.static.accuracy.value
    for p in found.points:
        others = [o for o in found.points if o.config != p.config]
        beaten = any(
            o.macs <= p.macs
            and o.accuracy >= p.accuracy
            and (o.macs, -o.accuracy, o.config) < (p.macs, -p.accuracy, p.config)
            for o in others
        )
        assert p.pareto is not beaten, p
        assert p.accuracy == right[p.config].mean() and p.macs == result.macs[p.config]


@pytest.mark.parametrize("attributes", [1, 2, 3])
def test_m_is_the_largest_whose_power_is_within_the_budget(attributes):
    for budget in [*range(1, 700), 2**20, 10**6, 999_999]:
        m = per_attribute(attributes, budget)
        assert m**attributes <= budget < (m + 1) ** attributes


def test_the_combination_crosses_the_first_of_each_greedy_list(tmp_path):
    results = [make(tmp_path / a, a, seed=i)[0] for i, a in enumerate(("size", "stride", "dilation"))]
    found = combine(results, budget=30)
    assert found.per_attribute == 3 and len(found.space.configs) == 27
    lists = [[s.config for s in greedy(r, resamples=Resamples(r.n, 0)).steps[:3]] for r in results]
    assert [list(c) for c in found.chosen] == lists
    expected = set()
    for i in lists[0]:
        for j in lists[1]:
            for k in lists[2]:
                parts = [r.setting(c) for r, c in zip(results, (i, j, k), strict=True)]
                expected.add(json.dumps({s: parts[0][s] | parts[1][s] | parts[2][s] for s in "ABCD"}, sort_keys=True))
    made = {json.dumps({s: v.values() for s, v in c.items()}, sort_keys=True) for c in found.space.configs}
    assert made == expected
    write_space(tmp_path / "s.json", found.space)
    read = read_space(tmp_path / "s.json")
    assert set(read.attributes) == {"stride", "dilation", "size"} and read.origin["per_attribute"] == 3
    sites = [SiteSpec(s, OWN, {}) for s in "ABCD"]
    assert len(listed_space(read, sites)) == 27


def test_fewer_configurations_than_m_are_all_taken(tmp_path):
    one = make(tmp_path / "a", "size", options={"size": (3, 5)})[0]
    two = make(tmp_path / "b", "dilation")[0]
    assert len(combine([one, two], budget=625).space.configs) == 16 * 16


def test_only_results_of_one_network_on_the_same_images_are_combined(tmp_path):
    size = make(tmp_path / "size", "size")[0]
    for i, (changed, words) in enumerate(
        [
            ({"data": "e"}, r"data \(d and e\)"),
            ({"weights_sha256": "v", "model": "resnet18"}, "model .*weights_sha256"),
            ({"variation": {"scale": 2.0}}, "variation"),
            ({"labels": np.zeros(20)}, "sample 0 has label 4 in one and 0 in the other|sample . has label"),
        ]
    ):
        other = make(tmp_path / f"o{i}", "dilation", **changed)[0]
        with pytest.raises(ResultError, match=words):
            combine([size, other])
    with pytest.raises(ResultError, match="same attribute"):
        combine([size, make(tmp_path / "again", "size", seed=1)[0]])
    with pytest.raises(ResultError, match="nothing to combine"):
        combine([size])
    with pytest.raises(ResultError, match="budget is 0; give a whole number"):
        combine([size, make(tmp_path / "d", "dilation")[0]], budget=0)


def test_a_comparison_is_on_the_common_samples_with_paired_change(tmp_path):
    before, first = make(tmp_path / "a", "size", n=20, seed=1)
    after, second = make(
        tmp_path / "b", "dilation", n=14, seed=2, labels=np.random.default_rng(99).integers(0, 5, 20)[:14]
    )
    found = compare(before, after, resamples=25, seed=3)
    assert found.n == 14 and found.total == (20, 14)
    drawn = Resamples(14, 25, seed=3)
    vectors = []
    for scores, side, result in ((first, found.before, before), (second, found.after, after)):
        right = scores["quality"][:, :14] >= 1
        middle = np.sort(scores["quality"][:, :14], 0)[(len(right) - 1) // 2] >= 1
        said = np.array([len(set(scores["pred"][:, i].tolist())) for i in range(14)])
        vectors.append(
            {
                "static": right[result.default_index],
                "worst": right.all(0),
                "median": middle,
                "best": right.any(0),
                "volatility": right.any(0) * 1.0 - right.all(0),
                "agree": said == 1,
                "matched_topk": scores["rank"][result.default_index, :14] < said,
            }
        )
        for name, vector in vectors[-1].items():
            expected = drawn.mean(vector) if name == "volatility" else proportion(vector)
            assert getattr(side, name) == expected, name
    for name, change in found.change.items():
        one, two = vectors[0][name], vectors[1][name]
        assert change == (drawn.mean(two - one) if name == "volatility" else paired(two, one)), name
    assert "configurations of size at ABCD and" in found.spaces_differ


def test_results_of_other_images_or_labels_are_not_compared(tmp_path):
    first = make(tmp_path / "a", "size")[0]
    with pytest.raises(ResultError, match=r"data \(d and e\).*same images"):
        compare(first, make(tmp_path / "b", "size", data="e")[0])
    with pytest.raises(ResultError, match=r"sample . has label"):
        compare(first, make(tmp_path / "c", "size", labels=np.full(20, 4))[0])
    assert compare(first, make(tmp_path / "d", "size", variation={"scale": 2.0})[0], resamples=20).n == 20
    writer = synthetic.open_writer(tmp_path / "e", 4, identity=IDENTITY, samples=np.arange(100, 104))
    synthetic.write_units(writer, synthetic.make_scores(6, 4))
    with pytest.raises(ResultError, match="share no sample"):
        compare(first, open_result(tmp_path / "e"))


def test_single_files_are_held_against_each_other_by_their_labels(tmp_path):
    whole = make(tmp_path / "a", "size")[0]
    pd.read_parquet(tmp_path / "a").to_parquet(tmp_path / "one.parquet")
    require_same_data([whole, open_result(tmp_path / "one.parquet")], "compare")
    other = pd.read_parquet(tmp_path / "a")
    other["label"] = (other["label"] + 1).astype("int16")
    other.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ResultError, match="same images and class map"):
        require_same_data([whole, open_result(tmp_path / "other.parquet")], "compare")


def test_scores_that_are_kept_are_read_once_and_cannot_be_changed(tmp_path, monkeypatch):
    result = make(tmp_path / "a", "size")[0].kept()
    first = result.matrix("quality")
    assert result.matrix("quality") is first and not first.flags.writeable
    assert make(tmp_path / "b", "size")[0].matrix("quality").flags.writeable
