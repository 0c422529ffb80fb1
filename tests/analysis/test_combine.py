"""The crossing of greedy lists, written to a file and read back; and which results are not crossed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.analysis import combine
from itd.analysis._combine import per_attribute
from itd.errors import EmptyResultError, ResultError
from itd.space import Setting, SiteSpec, Space, build_space, listed_space, read_space, write_space
from itd.store import Result, open_result
from support import synthetic

IDENTITY = {
    "model": "resnet50", "weights_sha256": "w", "sites": {"A": "a"}, "choices": {"pool": "x"}, "data": "d",
    "preprocess": {"crop": 8}, "variation": None,
}  # fmt: skip
SITES = [
    SiteSpec(s, Setting(stride=2, dilation=1, size=3), {"stride": (0.5, 1, 2), "dilation": (1, 2), "size": (1, 3)})
    for s in "AB"
]


def space_of(*attributes: str) -> Space:
    return build_space(attributes, SITES, stem_stride=1, stride_range=(1, 4))


def made(path: Path, *attributes: str, n: int = 8, seed: int = 0, finished: bool = True, **changed) -> Result:
    space = space_of(*attributes)
    scores = synthetic.make_ties(len(space), n, seed)
    scores["labels"] = changed.pop("labels", np.arange(n) % 4).astype(np.int16)
    writer = synthetic.open_writer(path, n, space=space, identity={**IDENTITY, **changed})
    if finished:
        synthetic.write_units(writer, scores)
    else:
        writer.write(writer.todo()[0], missing=np.zeros(4, bool), **{k: v[..., :4] for k, v in scores.items()})
    return open_result(path)


def first_of(result: Result, m: int) -> list[int]:
    """The first m numbers of greedy accumulation, from the table's rows."""
    table = pd.read_parquet(result.path)
    quality = {c: rows.set_index("sample")["quality"].to_dict() for c, rows in table.groupby("config")}
    chosen, seen = [], set()
    while len(chosen) < min(m, len(quality)):
        left = {c: {i for i, q in of.items() if q >= 1} - seen for c, of in quality.items() if c not in chosen}
        best = min(left, key=lambda c, of=left: (-len(of[c]), -sum(quality[c].values()), c != result.default, c))
        chosen.append(int(best))
        seen |= left[best]
    return chosen


def crossed(results: list[Result], m: int) -> set:
    """Every way to take one of the first m configurations of each result, as sorted (site, attribute, value)."""
    parts = [
        [[(s, a, v) for s, of in r.setting(c).items() for a, v in of.items()] for c in first_of(r, m)] for r in results
    ]
    return {tuple(sorted(itertools.chain(*some))) for some in itertools.product(*parts)}


def told(configs) -> list:
    return [tuple(sorted((s, a, v) for s, of in c.items() for a, v in of.values().items())) for c in configs]


def test_m_by_trying_every_number():
    for attributes in (1, 2, 3, 4):
        for budget in range(1, 300):
            assert per_attribute(attributes, budget) == max(m for m in range(budget + 1) if m**attributes <= budget)


def test_m_just_below_and_at_a_power():
    for attributes, m in itertools.product((2, 3, 5), (2, 25, 1000, 99_999)):
        power = m**attributes
        assert [per_attribute(attributes, power + d) for d in (-1, 0, 1)] == [m - 1, m, m]


OTHER = {"model": "another", "weights_sha256": "ff", "data": "ff", "sites": {"A": ["another"]}}
"""Another value of a field whose kind is checked."""


@pytest.mark.parametrize(("groups", "budget", "m"), [
    ((("size",), ("dilation",)), 625, 25),  # more than there are
    ((("size",), ("dilation",)), 11, 3),
    ((("stride",), ("size",)), 4, 2),
    ((("dilation",), ("stride",), ("size",)), 8, 2),
    ((("stride", "size"), ("dilation",)), 9, 3),
    ((("size",), ("stride",)), 1, 1),
])  # fmt: skip
def test_the_first_m_of_each_list_are_crossed_and_read_back(tmp_path, groups, budget, m):
    results = [made(tmp_path / "-".join(of), *of, seed=i) for i, of in enumerate(groups)]
    found = combine(results, budget=budget)
    assert found.per_attribute == m and found.budget == budget
    assert found.chosen == tuple(tuple(first_of(r, m)) for r in results)
    assert set(told(found.space.configs)) == crossed(results, m)
    assert len(found.space.configs) == np.prod([min(m, r.configs) for r in results]) <= budget
    write_space(tmp_path / "space.json", found.space)
    read = read_space(tmp_path / "space.json")
    assert set(told(read.configs)) == crossed(results, m) and len(read.configs) == len(found.space.configs)
    assert set(read.attributes) == {a for of in groups for a in of}
    space = listed_space(read, SITES)
    assert len(space) == len(read.configs) and space.listed and not space.removed
    assert set(told({"A": a, "B": b} for a, b in space.configs)) == crossed(results, m)
    has_default = all(r.default in c for r, c in zip(results, found.chosen, strict=True))
    assert (space.default is not None) == has_default


def test_the_crossing_takes_the_first_results_list_slowest(tmp_path):
    results = [made(tmp_path / "a", "size"), made(tmp_path / "b", "dilation", seed=1)]
    found = combine(results, budget=4)
    expected = [
        tuple(sorted((s, a, v) for r, c in pair for s, of in r.setting(c).items() for a, v in of.items()))
        for pair in itertools.product(*([(r, c) for c in first_of(r, 2)] for r in results))
    ]
    assert told(found.space.configs) == expected


def test_the_file_says_how_it_was_made(tmp_path):
    results = [made(tmp_path / "size.parquet", "size"), made(tmp_path / "dil.parquet", "dilation", n=12)]
    found = combine(results, budget=5)
    write_space(tmp_path / "space.json", found.space)
    origin = dict(read_space(tmp_path / "space.json").origin)
    assert origin == {
        "model": "resnet50",
        "budget": 5,
        "per_attribute": 2,
        "made_from": [
            {"result": "size.parquet", "n": 8, "configs": list(found.chosen[0])},
            {"result": "dil.parquet", "n": 12, "configs": list(found.chosen[1])},
        ],
    }
    assert found.as_dict() == {
        "results": [str(tmp_path / "size.parquet"), str(tmp_path / "dil.parquet")],
        "attributes": ["dilation", "size"],
        "n": [8, 12],
        "budget": 5,
        "per_attribute": 2,
        "chosen": [list(c) for c in found.chosen],
        "configs": 4,
        "in_sample": list(found.in_sample),
        "held_out": [step.as_dict() for step in found.held_out],
    }


def test_results_without_a_default_are_crossed(tmp_path):
    sites = [SiteSpec(s, Setting(stride=2, dilation=1, size=3), {"size": (1, 5)}) for s in "AB"]
    writer = synthetic.open_writer(tmp_path / "size", 8, space=build_space(["size"], sites), identity=IDENTITY)
    scores = synthetic.make_ties(4, 8) | {"labels": (np.arange(8) % 4).astype(np.int16)}
    synthetic.write_units(writer, scores)
    found = combine([open_result(tmp_path / "size"), made(tmp_path / "dilation", "dilation")])
    assert len(found.space.configs) == 16 and listed_space(found.space, SITES).default is None


@pytest.mark.parametrize("field", ["model", "weights_sha256", "sites", "choices", "data", "preprocess", "variation"])
def test_another_network_or_other_images_are_refused(tmp_path, field):
    results = [
        made(tmp_path / "a", "size"),
        made(tmp_path / "b", "dilation", **{field: OTHER.get(field, {"other": 1})}),
    ]
    with pytest.raises(ResultError, match=rf"cannot combine .*differ in {field} \(.*same network on the same images"):
        combine(results)


def test_other_labels_are_refused(tmp_path):
    results = [made(tmp_path / "a", "size"), made(tmp_path / "b", "dilation", labels=(np.arange(8) + 1) % 4)]
    with pytest.raises(ResultError, match=r"cannot combine .*sample 0 has label 0 in one and 1 in the other"):
        combine(results)


@pytest.mark.parametrize("groups", [(("size",), ("size",)), (("stride", "size"), ("size",))])
def test_the_same_attribute_twice_is_refused(tmp_path, groups):
    results = [made(tmp_path / str(i), *of, seed=i) for i, of in enumerate(groups)]
    with pytest.raises(ResultError, match=r"vary the same attribute \(.*size.*one result for each"):
        combine(results)


def test_fewer_than_two_results_are_refused(tmp_path):
    for results in ([], [made(tmp_path / "a", "size")]):
        with pytest.raises(ResultError, match=r"nothing to combine.*two or more"):
            combine(results)


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_nothing_is_refused(tmp_path, budget):
    with pytest.raises(ResultError, match=f"budget is {budget}; give a whole number, at least 1"):
        combine([made(tmp_path / "a", "size"), made(tmp_path / "b", "dilation")], budget=budget)


def test_an_unfinished_result_is_refused_unless_asked_for(tmp_path):
    results = [made(tmp_path / "a", "size"), made(tmp_path / "b", "dilation", finished=False)]
    with pytest.raises(ResultError, match=r"b is not finished: 4 of 8 images are there.*`partial`"):
        combine(results, budget=4)
    found = combine(results, budget=4, partial=True)
    assert found.n == (8, 4) and found.chosen == tuple(tuple(first_of(r, 2)) for r in results)


def test_an_empty_result_is_refused(tmp_path):
    synthetic.open_writer(tmp_path / "b", 8, space=space_of("dilation"), identity=IDENTITY)
    with pytest.raises(EmptyResultError, match="b has no images"):
        combine([made(tmp_path / "a", "size"), open_result(tmp_path / "b")], partial=True)


def test_single_files_are_combined_by_their_labels(tmp_path):
    results = []
    for i, attribute in enumerate(("size", "dilation")):
        made(tmp_path / attribute, attribute, seed=i)
        pd.read_parquet(tmp_path / attribute).to_parquet(tmp_path / f"{attribute}.parquet")
        results.append(open_result(tmp_path / f"{attribute}.parquet"))
    found = combine(results, budget=4)
    assert set(told(found.space.configs)) == crossed(results, 2)
    assert found.space.origin["model"] is None
