"""What is computed once, seldom or some at a time gives what its plain definition gives."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from itd.analysis import Resamples, _baselines, _held_out, bootstrap_greedy
from itd.analysis.bootstrap_greedy import GreedyLists
from itd.analysis.scores import correctness
from itd.analysis.threads import side_by_side
from itd.store import compact, open_result
from support import synthetic


def plain_list(right: np.ndarray, quality: np.ndarray, weight: np.ndarray, default: int | None, k: int) -> list[int]:
    """Greedy accumulation of one weighting, sample by sample, its ties by mean quality, the default, the row."""
    mean = [round(float(sum(w * q for w, q in zip(weight, row, strict=True))) / max(1, weight.sum()), 9)
            for row in quality.astype(float).tolist()]  # fmt: skip
    chosen: list[int] = []
    for _ in range(min(k, len(right))):
        left = [c for c in range(len(right)) if c not in chosen]
        gain = {c: sum(w for i, w in enumerate(weight) if right[c, i] and not right[chosen, i].any()) for c in left}
        chosen.append(min(left, key=lambda c: (-gain[c], -mean[c], c != default, c)))
    return chosen


@pytest.mark.parametrize("cost", [0, 10**9], ids=["one by one", "all at once"])
@pytest.mark.parametrize(("configs", "images"), [(9, 30), (1, 12), (6, 1), (40, 8)])
@pytest.mark.parametrize("default", [None, 0])
def test_lists_of_some_images_are_those_of_each_weighting(configs, images, default, cost, monkeypatch):
    monkeypatch.setattr(bootstrap_greedy, "_PAIR_COST", cost)
    monkeypatch.setattr(bootstrap_greedy, "_TIE_CELLS", 3 * images)
    rng = np.random.default_rng(configs)
    right = rng.random((configs, 2 * images)) < 0.3
    quality = (rng.integers(0, 3, right.shape) / 4 + right).astype(np.float32)
    samples = np.sort(rng.permutation(2 * images)[:images])
    weights = Resamples(images, 9, seed=1).weights
    chooser = GreedyLists(right, quality, default, samples)
    found = np.concatenate([chooser.of(part, configs)[0] for part in (weights[:4], weights[4:])])
    for weight, chosen in zip(weights.astype(int), found, strict=True):
        assert chosen.tolist() == plain_list(right[:, samples], quality[:, samples], weight, default, configs)


def test_lists_that_run_out_of_gains_at_different_steps_go_on_by_quality():
    right = np.zeros((5, 6), bool)
    right[3, :3], right[1, 3:] = True, True
    quality = np.array([0.1, 1.0, 0.3, 1.0, 0.2])[:, None] * np.ones((5, 6))
    weights = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]])
    found, covered = bootstrap_greedy.greedy_lists(right, quality, weights, 5)
    assert found.tolist() == [[3, 1, 2, 4, 0], [3, 1, 2, 4, 0], [1, 3, 2, 4, 0]]
    assert covered.tolist() == [[3, 3, 3, 3, 3], [3, 5, 5, 5, 5], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("most", [0, 99], ids=["marked", "compared"])
@pytest.mark.parametrize(("configs", "images"), [(7, 25), (1, 5), (4, 1)])
def test_guesses_are_the_distinct_predictions_of_the_first_of_a_list(configs, images, most, monkeypatch):
    monkeypatch.setattr(_held_out, "COMPARED_STEPS", most)
    rng = np.random.default_rng(images)
    pred = rng.integers(0, 4, (configs, images)).astype(np.int16)
    scores = _held_out.Scores(pred == 1, pred * 1.0, pred, rng.integers(0, 4, images), None)
    lists = np.array([[rng.permutation(configs) for _ in range(3)] for _ in range(2)])
    division = rng.integers(0, 3, (2, images))
    for k, (right, matched, guesses) in enumerate(_held_out._steps(scores, lists, division), start=1):
        for b, i in np.ndindex(2, images):
            said = pred[lists[b, division[b, i], :k], i].tolist()
            assert guesses[b, i] == len(set(said)) and right[b, i] == (1 in said)
            assert matched[b, i] == (scores.rank[i] < len(set(said)))


@pytest.mark.parametrize("cells", [1, 2_000_000])
@pytest.mark.parametrize(("configs", "images"), [(4, 12), (1, 6), (5, 1)])
def test_equal_lists_that_vote_once_count_for_each(configs, images, cells, monkeypatch):
    monkeypatch.setattr(bootstrap_greedy, "_VOTE_CELLS", cells)
    monkeypatch.setattr(_baselines, "_LISTS_AT_ONCE", 3)
    rng = np.random.default_rng(configs + images)
    pred, labels = rng.integers(0, 3, (configs, 2 * images)), rng.integers(0, 3, 2 * images)
    lists = np.array([rng.permutation(configs) for _ in range(40)])[rng.integers(0, 40, 60)]
    resampled = rng.integers(0, 4, (59, 2 * images)).astype(np.uint8)
    samples = np.sort(rng.permutation(2 * images)[:images])
    weights = np.vstack([np.ones((1, images), int), resampled[:, samples]])
    ks = sorted({1, configs})
    weightings = _baselines._Weightings(SimpleNamespace(weights=resampled), samples)
    found = _baselines._counted_votes(pred, pred == labels, lists, ks, weightings)
    for k in ks:
        for b, chosen in enumerate(lists[:, :k]):
            votes = [Counter(pred[chosen, i].tolist()) for i in samples]  # of equal counts the first seen is first
            right = [vote.most_common(1)[0][0] == labels[i] for vote, i in zip(votes, samples, strict=True)]
            assert found[k][b] == (weights[b] * np.array(right)).sum()


@pytest.mark.parametrize("compacted", [False, True], ids=["parts", "one file"])
@pytest.mark.parametrize("kept", [False, True])
def test_blocks_one_row_and_the_whole_of_a_score_are_the_same(kept, compacted, tmp_path, monkeypatch):
    monkeypatch.setattr("itd.store.reading._ROWS_PER_BATCH", 5)  # a row of the matrix begins in the middle of a batch
    writer = synthetic.open_writer(tmp_path / "r.parquet", 8)
    units = writer.todo()
    for unit in units:
        missing = np.arange(len(unit)) == (1 if unit.first else -1)  # of the second part one image is null
        scores = synthetic.make_scores(6, len(unit), seed=unit.first)
        half = np.random.default_rng(5 + unit.first).integers(1, 3, scores["quality"].shape)  # the largest are several
        scores["confidence"] = (half / 2).astype(np.float32)
        writer.write(unit, missing=missing, **scores)
    if compacted:
        monkeypatch.setattr("itd.store._rows.ROWS_PER_GROUP", 16)  # two configurations of the eight images
        monkeypatch.setattr("itd.store.blocks.ROWS_AT_ONCE", 1)
        assert compact(tmp_path / "r.parquet").compacted
    result = open_result(tmp_path / "r.parquet")
    result = result.kept() if kept else result
    read = pq.read_table(tmp_path / "r.parquet").to_pandas().sort_values(["config", "sample"])
    read = read[~read["sample"].isin(read.loc[read["quality"].isna(), "sample"])]
    assert len(units) == 2 and result.n == 7
    for column in ("rank", "confidence", "quality"):
        whole = read[column].to_numpy().reshape(6, 7)
        blocks: list[tuple[slice, slice, np.ndarray]] = []
        result.each_block(column, lambda *block, blocks=blocks: blocks.append(block))
        assert len(blocks) == (3 if compacted else 2)
        put = np.full((6, 7), -1.0)
        for configs, samples, scores in blocks:
            assert (put[configs, samples] == -1).all()
            put[configs, samples] = scores
        assert put.tolist() == whole.tolist()
        blocks.clear()
        result.each_block(column, lambda *block, blocks=blocks: blocks.append(block), config=3)
        assert len(blocks) == (1 if compacted else 2)
        if not (kept or compacted):
            assert all(configs == slice(3, 4) for configs, _, _ in blocks), "the others are not decoded"
        assert [result.row(column, c).tolist() for c in range(6)] == whole.tolist()
        assert result.matrix(column).tolist() == whole.tolist()
    right = correctness(result)
    assert right.tolist() == (result.matrix("quality") >= 1).tolist()
    assert (correctness(result) is right) == kept
    once = result.kept()
    assert once.kept() is once, "what is kept is not read again"
    confidence = result.matrix("confidence")
    best = [max(range(6), key=lambda c: (confidence[c, i], c == result.default_index, -c)) for i in range(7)]
    assert _baselines._most_confident(result, right).tolist() == [right[c, i] for i, c in enumerate(best)]


def test_what_is_computed_side_by_side_is_in_order_and_its_first_error_ends_it():
    assert side_by_side(lambda i: i * i, range(50)) == [i * i for i in range(50)]
    assert side_by_side(str, [3]) == ["3"] and side_by_side(str, []) == []
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda i: 1 / i, [1, 0, 2])


def test_reading_a_result_loads_no_pandas(repository):
    code = (
        "import sys, itd\nresult = itd.open_result(sys.argv[1])\nitd.oracle(result)\n"
        "sys.exit('pandas is loaded' if 'pandas' in sys.modules else 0)"
    )
    path = repository / "results" / "resnet50-stride-below4-val1300.parquet"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
