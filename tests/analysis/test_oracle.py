"""The oracle's figures against a reference that sorts, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from itd.analysis import Baselines, Estimate, oracle
from itd.analysis._oracle import OracleAccuracy
from itd.analysis.tables import oracle_table
from itd.errors import ResultError
from itd.store import open_result
from support import synthetic


def reference(quality: np.ndarray) -> dict[str, float]:
    """Each sample's qualities sorted; the first, the element (C - 1) // 2 and the last are worst, median, best."""
    picks: dict[str, list[bool]] = {"worst": [], "median": [], "best": []}
    for sample in quality.T.tolist():
        ascending = sorted(sample)
        for rule, at in (("worst", 0), ("median", (len(ascending) - 1) // 2), ("best", -1)):
            picks[rule].append(ascending[at] >= 1)
    return {rule: sum(right) / len(right) for rule, right in picks.items()}


@pytest.mark.parametrize(("configs", "images"), [(1, 1), (1, 9), (2, 9), (5, 1), (5, 30), (6, 30), (16, 40), (17, 40)])
def test_oracle_equals_sorting_each_sample(tmp_path, configs, images):
    quality = synthetic.make_scores(configs, images, seed=configs, accuracy=0.5)["quality"]
    folder = synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality), default=configs // 2)
    answer = oracle(open_result(folder))
    assert {rule: getattr(answer, rule) for rule in ("worst", "median", "best")} == reference(quality)
    assert answer.static == np.mean(quality[configs // 2] >= 1)
    assert (answer.n, answer.configs, answer.nulls, answer.requested) == (images, configs, 0, images)


def test_the_median_of_an_even_number_is_the_lower_one(tmp_path):
    quality = np.array([[0.4, 0.4, 1.9], [0.3, 1.5, 1.8], [1.2, 1.4, 0.1], [1.1, 1.3, 1.6]])
    answer = oracle(open_result(synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality))))
    # ascending, element 1: 0.4 (wrong), 1.3 (right), 1.6 (right)
    assert answer.median == 2 / 3 and answer.best == 1 and answer.worst == 0


def test_quality_of_exactly_one_is_right(tmp_path):
    quality = np.array([[1.0, np.nextafter(np.float32(1), np.float32(0))]])
    assert oracle(open_result(synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality)))).best == 0.5


def test_without_a_default_static_is_none(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 4), default=None)
    answer = oracle(open_result(folder))
    assert answer.static is None
    assert oracle_table([answer]).splitlines()[1].split()[3] == "-"


def test_null_rows_are_in_no_figure(tmp_path):
    scores = synthetic.make_scores(5, 20)
    gone = np.arange(20) % 3 == 0
    answer = oracle(open_result(synthetic.make_result(tmp_path / "r", scores, missing=gone)))
    assert (answer.n, answer.nulls) == (13, 7) and not answer.partial
    assert {r: getattr(answer, r) for r in ("worst", "median", "best")} == reference(scores["quality"][:, ~gone])


def test_a_partial_result_says_how_far_it_is(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 8)
    unit = writer.todo()[0]
    writer.write(unit, missing=np.zeros(4, bool), **synthetic.make_scores(6, 4))
    answer = oracle(open_result(tmp_path / "r"))
    assert answer.partial and (answer.n, answer.requested) == (4, 8)


def test_nothing_to_measure_is_one_line(tmp_path):
    synthetic.open_writer(tmp_path / "empty", 8)
    folder = synthetic.make_result(tmp_path / "null", synthetic.make_scores(3, 4), missing=np.ones(4, bool))
    for path in (tmp_path / "empty", folder):
        with pytest.raises(ResultError, match="no images"):
            oracle(open_result(path))


def test_the_table_is_in_percent_with_one_decimal(tmp_path):
    quality = np.array([[1.5, 0.5, 0.5], [1.5, 1.5, 0.5]])
    answer = oracle(open_result(synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality))))
    header, row, between = oracle_table([answer]).splitlines()
    assert header.split() == ["result", "n", "configs", "static", "best", "top-k", "median", "worst"]
    assert row.split() == ["r", "3", "2", "33.3", "66.7", "100.0", "33.3", "33.3"]
    best = answer.intervals["best"]
    assert between.split()[3] == f"{100 * best.low:.1f}-{100 * best.high:.1f}"
    wide = oracle_table([answer], wide=True).splitlines()[0].split()
    assert wide == [*header.split(), "single", "confident", "vote", "chance"]


def test_the_widest_figures_fit_100_columns():
    sure = Estimate(0.95, 0.893, 1.0, 50_000)
    rules = dict.fromkeys(("static", "worst", "median", "best"), sure)
    beside = Baselines(sure, sure, 0.1, sure, sure, sure, {}, ())
    for name in ("n" * 24, "n" * 25):
        row = OracleAccuracy(f"{name}.parquet", 50_000, 4096, 1.0, 1.0, 1.0, 1.0, intervals=rules, baselines=beside)
        assert max(map(len, oracle_table([row]).splitlines())) <= 100


def test_a_table_of_stored_results_fits_100_columns(repository):
    paths = [p for p in (repository / "results").glob("*.parquet") if "combined" in p.name or "stride" in p.name]
    table = oracle_table([oracle(open_result(p), resamples=20) for p in sorted(paths)])
    assert len(paths) > 10 and max(map(len, table.splitlines())) <= 100
