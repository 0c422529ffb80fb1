"""Costs at equal predictions: by hand, by brute force, and in a space of two attributes with holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itd.analysis import Efficiency, Resamples, baselines, efficiency
from itd.analysis._efficiency import cheapest
from itd.errors import EmptyResultError, ResultError
from itd.space import Setting, SiteSpec, Space, build_space
from itd.store import Result, open_result
from support import intervals, synthetic


def written(
    path: Path, scores: dict[str, np.ndarray], macs: list[int], space: Space | None = None, missing=None
) -> Result:
    space = space or synthetic.make_space(len(macs))
    writer = synthetic.open_writer(path, len(scores["labels"]), space=space, macs=macs)
    synthetic.write_units(writer, scores, missing)
    return open_result(path)


def three_costs(path: Path) -> Result:
    """The default costs 400 and predicts 0, 1, 2, 3; others cost 100 and 200. Labels are 0, 0, 2, 2."""
    pred = np.array([[0, 1, 2, 3], [0, 0, 1, 3], [5, 0, 2, 2]], np.int16)
    labels = np.array([0, 0, 2, 2], np.int16)
    right = pred == labels
    scores = synthetic.from_quality(right + np.array([[0.25], [0.5], [0.375]]))
    scores |= {"pred": pred, "labels": labels, "rank": np.where(right, 0, 1).astype(np.int16)}
    return written(path, scores, [400, 100, 200])


def test_the_cheapest_with_the_same_prediction_by_hand(tmp_path):
    found = efficiency(three_costs(tmp_path / "r"), resamples=Resamples(4, 5))
    assert (found.static.accuracy.value, found.static.macs.value) == (0.5, 400)
    # as the default: 1, 0 (nobody else says 1), 2, 1: 100 + 400 + 200 + 100
    assert (found.cheapest_as_static.accuracy.value, found.cheapest_as_static.macs.value) == (0.5, 200)
    assert found.cheapest_as_static.factor.value == 2
    # preferred: 1, 1, 2, 2 (highest quality); nobody cheaper says the same
    assert (found.best.accuracy.value, found.best.macs.value) == (1, 150)
    assert (found.cheapest_as_best.accuracy.value, found.cheapest_as_best.macs.value) == (1, 150)
    assert found.cheapest_as_best.factor.value == 1
    assert [(p.config, p.macs, p.accuracy, p.pareto) for p in found.points] == [
        (0, 400, 0.5, False),
        (1, 100, 0.5, True),
        (2, 200, 0.75, True),
    ]
    assert found.matched_topk.value == 1  # every sample has two predictions or more, and the label is second at most


def preferred(scores: dict[str, np.ndarray], i: int, default: int) -> int:
    rows = range(len(scores["quality"]))
    return min(rows, key=lambda c: (-scores["quality"][c, i], scores["nll"][c, i], c != default, c))


SPACE = build_space(
    ["stride", "size"],
    [SiteSpec(s, Setting(stride=2, dilation=1, size=3), {"stride": (1, 2), "size": (3, 5)}) for s in "AB"],
    stem_stride=1,
    stride_range=(2, 4),
)
"""12 of 16 configurations: not both sites at stride 1."""


@pytest.mark.parametrize(("space", "n"), [
    (synthetic.make_space(1), 1), (synthetic.make_space(1), 5), (synthetic.make_space(4, default=3), 1),
    (synthetic.make_space(9, default=4), 17), (SPACE, 12),
])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_every_point_by_brute_force(tmp_path, space, n, seed):
    scores, drawn, default = synthetic.make_ties(len(space), n, seed), Resamples(n, 30), space.default
    macs = (np.random.default_rng(seed).integers(1, 6, len(space)) * 10**9).tolist()  # many of equal cost
    found = efficiency(written(tmp_path / "r", scores, macs, space), resamples=drawn)
    pred, labels = scores["pred"].tolist(), scores["labels"].tolist()
    best = [preferred(scores, i, default) for i in range(n)]

    def least(rows: list[int]) -> list[int]:
        return [min(m for m, said in zip(macs, pred, strict=True) if said[i] == pred[r][i]) for i, r in enumerate(rows)]

    def check(estimate, of) -> None:
        assert estimate.value == pytest.approx(of(np.ones(n)))
        resampled = [of(w) for w in drawn.weights]
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))

    for rows, point, cheaper in (
        ([default] * n, found.static, found.cheapest_as_static),
        (best, found.best, found.cheapest_as_best),
    ):
        right = [pred[r][i] == labels[i] for i, r in enumerate(rows)]
        cost, low = [macs[r] for r in rows], least(rows)
        for at, costs in ((point, cost), (cheaper, low)):
            assert at.accuracy.value == pytest.approx(np.mean(right))
            assert (at.accuracy.low, at.accuracy.high) == pytest.approx(intervals.of_share(right), abs=1e-9)
            check(at.macs, lambda w, v=costs: np.dot(w, v) / n)
        check(cheaper.factor, lambda w, v=cost, u=low: np.dot(w, v) / np.dot(w, u))
        assert point.factor is None and cheaper.factor.value >= 1
    check_points(found, macs, [[p == y for p, y in zip(row, labels, strict=True)] for row in pred])
    assert found.matched_topk == baselines(open_result(tmp_path / "r"), resamples=drawn).matched_topk


def check_points(found: Efficiency, macs: list[int], right: list[list[bool]]) -> None:
    """Every configuration, with its own accuracy; on the front, the first of equals, are those that none beats."""
    points = [(m, sum(r) / len(r)) for m, r in zip(macs, right, strict=True)]
    assert [(p.config, p.macs, p.accuracy) for p in found.points] == [(c, *p) for c, p in enumerate(points)]
    for c, (m, a) in enumerate(points):
        beaten = any((n <= m and b > a) or (n < m and b >= a) for n, b in points)
        assert found.points[c].pareto == (not beaten and points.index((m, a)) == c)


def test_the_front_by_hand(tmp_path):
    right = np.zeros((6, 4))
    for c, hits in enumerate((2, 3, 3, 1, 4, 2)):
        right[c, :hits] = 1
    found = efficiency(written(tmp_path / "r", synthetic.from_quality(right), [20, 30, 30, 10, 50, 40]))
    # 2 costs and knows the same as 1; 5 costs more than 0 and knows as much
    assert [p.pareto for p in found.points] == [True, True, False, True, True, False]


def test_of_equal_cost_the_lower_row():
    pred = np.array([[1, 1, 1], [2, 1, 1], [1, 2, 1]])
    assert cheapest(pred, np.array([1, 1, 1]), np.array([7, 7, 7])).tolist() == [0, 0, 0]
    assert cheapest(pred, np.array([1, 1, 1]), np.array([7, 5, 5])).tolist() == [2, 1, 1]
    assert cheapest(pred, np.array([2, 2, 1]), np.array([1, 9, 9])).tolist() == [1, 2, 0]


def test_costs_of_billions_are_exact(tmp_path):
    macs = [2**50 + 1, 2**50 + 3]
    found = efficiency(written(tmp_path / "r", synthetic.from_quality([[0.25], [1.5]]), macs))
    assert [p.macs for p in found.points] == macs
    assert (found.static.macs.value, found.best.macs.value) == (macs[0], macs[1])


def test_null_rows_cost_nothing(tmp_path):
    scores, gone, drawn = synthetic.make_ties(6, 15), np.arange(15) % 4 == 2, Resamples(11, 10)
    macs = [60, 50, 40, 30, 20, 10]
    found = efficiency(written(tmp_path / "a", scores, macs, missing=gone), resamples=drawn)
    kept = {name: values[..., ~gone] for name, values in scores.items()}
    other = efficiency(written(tmp_path / "b", kept, macs), resamples=drawn)
    assert {**found.__dict__, "result": 0} == {**other.__dict__, "result": 0}


def test_what_efficiency_needs_is_told(tmp_path):
    synthetic.make_result(tmp_path / "none", synthetic.make_ties(4, 4), default=None)
    with pytest.raises(ResultError, match="default configuration, which itd efficiency needs"):
        efficiency(open_result(tmp_path / "none"))
    synthetic.open_writer(tmp_path / "empty", 4)
    with pytest.raises(EmptyResultError, match="no images"):
        efficiency(open_result(tmp_path / "empty"))


def test_a_single_part_says_its_default_but_not_its_costs(tmp_path):
    three_costs(tmp_path / "r")
    next((tmp_path / "r").glob("part-*.parquet")).rename(tmp_path / "part.parquet")
    result = open_result(tmp_path / "part.parquet")
    assert result.default_index == 0
    with pytest.raises(ResultError, match="does not say what its configurations cost"):
        efficiency(result)


def test_efficiency_as_json(tmp_path):
    found = efficiency(three_costs(tmp_path / "r"), resamples=Resamples(4, 5))
    told = found.as_dict()
    assert (told["result"], told["n"]) == (str(tmp_path / "r"), 4)
    assert told["static"]["factor"] is None and told["best"]["factor"] is None
    assert told["cheapest_as_static"] == found.cheapest_as_static.as_dict()
    assert told["cheapest_as_static"]["factor"]["value"] == 2
    default = {site: {"dilation": 1} for site in "ABCD"}
    assert told["points"][0] == {"config": 0, "settings": default, "macs": 400, "accuracy": 0.5, "pareto": False}
