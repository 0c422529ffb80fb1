"""How many classes are predicted for a sample, by hand and from materialised resamples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itd.analysis import Resamples, unique
from itd.store import Result, open_result
from support import intervals, synthetic


def predicted(path: Path, pred: list[list[int]], missing: np.ndarray | None = None) -> Result:
    scores = synthetic.from_quality(np.zeros(np.shape(pred))) | {"pred": np.array(pred, np.int16)}
    return open_result(synthetic.make_result(path, scores, missing=missing))


def test_the_histogram_by_hand_and_as_json(tmp_path):
    result = predicted(tmp_path / "r", [[1, 1, 0, 7], [1, 2, 0, 8], [1, 3, 0, 9], [1, 2, 0, 6]])
    found = unique(result, resamples=Resamples(4, 9))
    assert found.histogram == (2, 0, 1, 1)
    assert (found.agree.value, found.mean.value, found.median) == (0.5, 2.25, 2.0)
    assert found.as_dict() == {
        "result": str(tmp_path / "r"),
        "n": 4,
        "configs": 4,
        "agree": found.agree.as_dict(),
        "mean": found.mean.as_dict(),
        "median": 2.0,
        "most": 4,
        "histogram": {1: 2, 3: 1, 4: 1},
    }


@pytest.mark.parametrize(("configs", "n"), [(1, 1), (1, 5), (3, 8), (8, 15)])
def test_intervals_of_unique_predictions(tmp_path, configs, n):
    scores, drawn = synthetic.make_ties(configs, n, seed=n), Resamples(n, 30)
    found = unique(open_result(synthetic.make_result(tmp_path / "r", scores)), resamples=drawn)
    said = np.array([len(set(scores["pred"][:, i].tolist())) for i in range(n)])
    expected = (intervals.of_share(said == 1), intervals.of_mean(said, drawn.weights))
    for estimate, values, ends in zip((found.agree, found.mean), (said == 1, said), expected, strict=True):
        assert estimate.value == pytest.approx(values.mean())
        assert (estimate.low, estimate.high) == pytest.approx(ends, abs=1e-9)
    assert sum(found.histogram) == n and found.histogram[-1] > 0


def test_null_rows_count_for_no_class(tmp_path):
    found = unique(predicted(tmp_path / "r", [[1, 1, 1], [1, 2, 2]], np.array([False, True, False])))
    assert (found.n, found.histogram, found.agree.value) == (2, (1, 1), 0.5)
