"""Which results may be held against each other, and what is refused before anything is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.analysis.scores import common, correctness, require_default, require_same_data, require_whole
from itd.errors import EmptyResultError, ResultError
from itd.store import Result, open_result
from support import synthetic

IDENTITY = {
    "model": "resnet50", "weights_sha256": "w", "sites": {"A": "a"}, "choices": {"pool": "x"}, "data": "d",
    "preprocess": {"crop": 8}, "variation": None,
}  # fmt: skip


def made(path: Path, n: int = 6, *, samples: list[int] | None = None, labels: list[int] | None = None, **changed):
    """A result whose sample i has label i % 5 unless told otherwise."""
    at = np.arange(n, dtype=np.int32) if samples is None else np.array(samples, np.int32)
    scores = synthetic.make_ties(6, len(at))
    scores["labels"] = np.array([i % 5 for i in at] if labels is None else labels, np.int16)
    writer = synthetic.open_writer(path, len(at), samples=at, identity={**IDENTITY, **changed})
    synthetic.write_units(writer, scores)
    return open_result(path)


def single(folder: Path, *, order: int = 1, plus: int = 0) -> Result:
    """The same rows as one Parquet file, forwards or backwards, with other labels."""
    table = pd.read_parquet(folder).iloc[::order]
    table["label"] = (table["label"] + plus).astype("int16")
    path = folder.with_name(f"{folder.name}{order}{plus}.parquet")
    table.to_parquet(path)
    return open_result(path)


OTHER = {"model": "another", "weights_sha256": "ff", "data": "ff", "sites": {"A": ["another"]}}
"""Another value of a field whose kind is checked."""


@pytest.mark.parametrize("field", ["model", "weights_sha256", "sites", "choices", "preprocess", "variation"])
def test_every_part_of_a_networks_identity_counts_only_where_the_network_must_be_one(tmp_path, field):
    results = [made(tmp_path / "a"), made(tmp_path / "b", **{field: OTHER.get(field, {"other": 1})})]
    require_same_data(results, "compare")
    with pytest.raises(ResultError, match=rf"cannot combine .*a and .*b: they differ in {field} \(.*same network"):
        require_same_data(results, "combine", model=True)


def test_a_field_that_only_one_manifest_has_differs(tmp_path):
    here, there = made(tmp_path / "a"), made(tmp_path / "b", variation={"scale": 2.0})
    del here.manifest["identity"]["variation"]  # as before there were variations: none
    require_same_data([here, made(tmp_path / "c")], "combine", model=True)
    with pytest.raises(ResultError, match=r"variation \(None and \{'scale': 2.0\}\)"):
        require_same_data([here, there], "combine", model=True)


def test_other_images_are_refused_and_every_difference_is_named(tmp_path):
    results = [made(tmp_path / "a"), made(tmp_path / "b", data="f" * 64, model="resnet18")]
    with pytest.raises(ResultError, match=r"data \(d and f{37}\.\.\.\); give results of the same images"):
        require_same_data(results, "compare")
    with pytest.raises(ResultError, match=r"data \(d and f.*; model \(resnet50 and resnet18\)"):
        require_same_data(results, "combine", model=True)


def test_the_third_result_is_checked_too(tmp_path):
    results = [made(tmp_path / name) for name in "ab"] + [made(tmp_path / "c", data="e")]
    with pytest.raises(ResultError, match=r"a and .*c: they differ in data"):
        require_same_data(results, "compare")


def test_only_the_labels_of_shared_samples_count(tmp_path):
    first = made(tmp_path / "a", samples=[1, 2, 3, 4], labels=[0, 1, 2, 3])
    require_same_data([first, made(tmp_path / "b", samples=[3, 4, 9], labels=[2, 3, 4])], "compare")
    with pytest.raises(ResultError, match="sample 4 has label 3 in one and 0 in the other"):
        require_same_data([first, made(tmp_path / "c", samples=[3, 4, 9], labels=[2, 0, 4])], "compare")


def test_single_files_in_any_order_are_compared_by_labels(tmp_path):
    folder = made(tmp_path / "a")
    backwards = single(tmp_path / "a", order=-1)
    assert backwards.manifest is None
    require_same_data([folder, backwards, single(tmp_path / "a")], "combine", model=True)
    for pair in ([folder, single(tmp_path / "a", plus=1)], [single(tmp_path / "a", order=-1, plus=1), folder]):
        with pytest.raises(ResultError, match=r"sample 0 has label . in one and . in the other.*class map"):
            require_same_data(pair, "compare")


def test_common_samples_wherever_they_are(tmp_path):
    first = made(tmp_path / "a", samples=[2, 3, 5, 8, 9])
    other = made(tmp_path / "b", samples=[1, 3, 4, 5, 9, 11])
    ours, theirs = common(first, other)
    assert first.samples[ours].tolist() == other.samples[theirs].tolist() == [3, 5, 9]
    assert [a.tolist() for a in common(first, made(tmp_path / "c", samples=[0, 1]))] == [[], []]


def test_a_prediction_is_right_from_quality_one(tmp_path):
    scores = synthetic.from_quality([[1.0, 0.75], [1.25, 0.0]])
    result = open_result(synthetic.make_result(tmp_path / "r", scores))
    assert correctness(result).tolist() == [[True, False], [True, False]]
    assert correctness(result, np.array([[0.0, 1.0]])).tolist() == [[False, True]]


def test_what_is_missing_is_told_with_what_to_do(tmp_path):
    synthetic.open_writer(tmp_path / "empty", 4)
    with pytest.raises(EmptyResultError, match=r"empty has no images yet.*`itd sweep`"):
        correctness(open_result(tmp_path / "empty"))
    synthetic.make_result(tmp_path / "none", synthetic.make_ties(4, 4), default=None)
    with pytest.raises(ResultError, match=r"none does not hold .*default configuration, which --this needs.*`options`"):
        require_default(open_result(tmp_path / "none"), "--this")
    synthetic.make_result(tmp_path / "two", synthetic.make_ties(4, 4), default=2)
    assert require_default(open_result(tmp_path / "two"), "--this") == 2


def test_an_unfinished_result_is_refused_unless_it_may_be(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 8)
    writer.write(writer.todo()[0], missing=np.arange(4) == 1, **synthetic.make_ties(6, 4))
    result = open_result(tmp_path / "r")
    with pytest.raises(ResultError, match=r"r is not finished: 4 of 8 images.*`partial`"):
        require_whole(result, partial=False)
    require_whole(result, partial=True)
    require_whole(open_result(synthetic.make_result(tmp_path / "all", synthetic.make_ties(6, 4))), partial=False)


def test_every_pair_of_results_is_held_against_each_other(tmp_path):
    first, other = made(tmp_path / "a"), made(tmp_path / "b", data="e")
    alone = single(tmp_path / "a")  # says nothing of its data, so it cannot vouch for the others
    for order in ([alone, first, other], [first, alone, other]):
        with pytest.raises(ResultError, match=r"data \(d and e\)"):
            require_same_data(order, "combine")
