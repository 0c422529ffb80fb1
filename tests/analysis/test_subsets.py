"""Subsets of sites in spaces with holes, by hand and from materialised resamples."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from itd.analysis import by_sites, oracle
from itd.analysis.sampling import proportion
from itd.errors import EmptyResultError, ResultError
from itd.space import Setting, SiteSpec, Space, SpaceList, build_space, listed_space
from itd.store import Result, open_result
from support import intervals, synthetic

OWN = Setting(stride=2, dilation=1, size=3)


def written(path: Path, space: Space, scores: dict[str, np.ndarray], missing: np.ndarray | None = None) -> Result:
    synthetic.write_units(synthetic.open_writer(path, len(scores["labels"]), space=space), scores, missing)
    return open_result(path)


def strides(low: int, high: int, values=(1, 2, 4), also=None) -> Space:
    """A space at sites A and B, less what the range rule removes."""
    sites = [SiteSpec(s, OWN, {"stride": values, **(also or {})}) for s in "AB"]
    return build_space(["stride", *(also or {})], sites, stem_stride=1, stride_range=(low, high))


def product_of(space: Space, sites: str, attributes: tuple[str, ...]) -> list[int]:
    """The numbers of the allowed configurations of a subset, from the product of its sites' options alone."""
    options = [
        list(itertools.product(*(space.options[s.name][a] for a in attributes)))
        if s.name in sites
        else [tuple(getattr(s.default, a) for a in attributes)]
        for s in space.sites
    ]
    wanted = set(itertools.product(*options))
    return [
        i
        for i, config in enumerate(space.configs)
        if tuple(tuple(getattr(setting, a) for a in attributes) for setting in config) in wanted
    ]


@pytest.mark.parametrize(("space", "counts"), [
    (strides(4, 8), {"A": 2, "B": 2, "AB": 5}),  # (1, 4) (2, 2) (2, 4) (4, 1) (4, 2)
    (strides(4, 4), {"A": 1, "B": 1, "AB": 3}),  # a site alone can only keep its default
    (strides(1, 16), {"A": 3, "B": 3, "AB": 9}),
    (strides(4, 8, also={"size": (1, 3)}), {"A": 4, "B": 4, "AB": 20}),
    (strides(4, 4, (2,), also={"dilation": (1, 2, 3)}), {"A": 3, "B": 3, "AB": 9}),
])  # fmt: skip
@pytest.mark.parametrize("n", [1, 8])
def test_what_the_range_rule_removed_is_in_no_subset(tmp_path, space, counts, n):
    scores = synthetic.make_ties(len(space), n, seed=n)
    found = by_sites(written(tmp_path / "r", space, scores))
    assert {s.sites: s.configs for s in found.subsets} == counts
    own = scores["rank"][space.default]
    assert found.static == proportion(scores["quality"][space.default] >= 1)
    for subset in found.subsets:
        rows = product_of(space, subset.sites, space.attributes)
        assert len(rows) == subset.configs and space.default in rows
        values: dict[str, list[bool]] = {"worst": [], "median": [], "best": [], "matched_topk": []}
        for i in range(n):
            ascending = sorted(float(scores["quality"][r, i]) for r in rows)
            for rule, at in (("worst", 0), ("median", (len(rows) - 1) // 2), ("best", -1)):
                values[rule].append(ascending[at] >= 1)
            values["matched_topk"].append(own[i] < len({int(scores["pred"][r, i]) for r in rows}))
        for name, value in values.items():
            estimate = getattr(subset, name)
            assert estimate.value == pytest.approx(np.mean(value)), (subset.sites, name)
            assert (estimate.low, estimate.high) == pytest.approx(intervals.of_share(value), abs=1e-9)


def test_one_site_at_a_time_by_hand(tmp_path):
    space = strides(1, 16, (2, 4))  # (2, 2) the default, (2, 4), (4, 2), (4, 4)
    right = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    found = by_sites(written(tmp_path / "r", space, synthetic.from_quality(right + 0.25)))
    assert found.static.value == 1 / 5
    assert [(s.sites, s.configs, s.best.value) for s in found.subsets] == [
        ("A", 2, 3 / 5),
        ("B", 2, 2 / 5),
        ("AB", 4, 1),
    ]
    assert all(s.worst.value == s.median.value == 0 for s in found.subsets)  # of 2 the lower, of 4 the second


def test_more_sites_are_never_worse_at_best_nor_better_at_worst(tmp_path):
    space = synthetic.make_space(81, default=40)
    found = by_sites(written(tmp_path / "r", space, synthetic.make_ties(81, 12, classes=30)))
    assert len(found.subsets) == 15
    for one, other in itertools.permutations(found.subsets, 2):
        if set(one.sites) < set(other.sites):
            assert one.configs < other.configs
            assert one.best.value <= other.best.value and one.matched_topk.value <= other.matched_topk.value
            assert one.worst.value >= other.worst.value


def test_all_sites_together_are_the_oracle(tmp_path):
    result = written(tmp_path / "r", synthetic.make_space(16, default=5), synthetic.make_ties(16, 12))
    last, whole = by_sites(result).subsets[-1], oracle(result, resamples=20)
    assert {rule: getattr(last, rule) for rule in ("worst", "median", "best")} == {
        rule: whole.intervals[rule] for rule in ("worst", "median", "best")
    }
    assert last.matched_topk == whole.baselines.matched_topk and last.sites == "ABCD"


def test_one_configuration_has_no_dynamic_site(tmp_path):
    found = by_sites(written(tmp_path / "r", synthetic.make_space(1), synthetic.make_ties(1, 5)))
    assert found.subsets == () and found.n == 5


def test_a_listed_space_has_the_subsets_that_its_list_holds(tmp_path):
    four, one = Setting(stride=4), Setting(stride=1)
    listed = SpaceList(("stride",), ({}, {"A": four, "C": four}, {"A": one}))
    space = listed_space(listed, [SiteSpec(s, OWN, {"stride": (1, 2, 4)}) for s in "ABC"])
    found = by_sites(written(tmp_path / "r", space, synthetic.make_ties(3, 5)))
    assert [(s.sites, s.configs) for s in found.subsets] == [("A", 2), ("C", 1), ("AC", 3)]


def test_null_rows_are_in_no_subset(tmp_path):
    scores, gone = synthetic.make_ties(16, 15), np.arange(15) % 4 == 2
    found = by_sites(written(tmp_path / "r", synthetic.make_space(16), scores, gone))
    kept = {name: values[..., ~gone] for name, values in scores.items()}
    other = by_sites(written(tmp_path / "s", synthetic.make_space(16), kept))
    assert (found.n, found.static, found.subsets) == (11, other.static, other.subsets)


def test_without_the_default_or_images_there_are_no_subsets(tmp_path):
    with pytest.raises(ResultError, match=r"default configuration, which `by_sites` needs"):
        by_sites(written(tmp_path / "r", synthetic.make_space(4, default=None), synthetic.make_ties(4, 3)))
    synthetic.open_writer(tmp_path / "empty", 4)
    with pytest.raises(EmptyResultError, match="no images"):
        by_sites(open_result(tmp_path / "empty"))


def test_subsets_as_json(tmp_path):
    found = by_sites(written(tmp_path / "r", strides(4, 4), synthetic.make_ties(3, 4)))
    told = found.as_dict()
    assert (told["result"], told["n"], told["static"]) == (str(tmp_path / "r"), 4, found.static.as_dict())
    assert [s["sites"] for s in told["subsets"]] == ["A", "B", "AB"]
    assert list(told["subsets"][2]) == ["sites", "configs", "worst", "median", "best", "matched_topk"]
    assert told["subsets"][2]["best"] == found.subsets[2].best.as_dict()
