"""The cascade against a loop over samples, folds and thresholds; and that nothing is measured on what chose it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from itd.analysis import Resamples
from itd.analysis.cascade import THRESHOLDS, cascade, fitted
from itd.analysis.figures import selection_figure
from itd.analysis.selection import CrossValidation, fold_samples
from itd.errors import ResultError
from itd.store import open_result
from itd_cli.main import cli
from support import plain, synthetic


def opened(tmp_path: Path, configs: int, n: int, seed: int = 0):
    made = synthetic.make_scores(configs, n, seed=seed)
    made["confidence"] = (np.random.default_rng(seed).integers(0, 9, (configs, n)) / 8).astype(np.float32)
    result = open_result(synthetic.make_result(tmp_path / f"{configs}-{n}-{seed}", made, default=0))
    result.macs = np.random.default_rng(seed).integers(1, 9, configs) * 10**9
    return made, result


def follow(made, rows, macs, sample: int, threshold: float) -> tuple[bool, float]:
    """One sample down the cascade: run, stop if sure enough or at the end."""
    spent = 0.0
    for place, row in enumerate(rows):
        spent += macs[row]
        if made["confidence"][row, sample] >= threshold or place == len(rows) - 1:
            return bool(made["quality"][row, sample] >= 1), spent
    raise AssertionError


@pytest.mark.parametrize(("configs", "n", "k", "folds"), [(1, 4, 1, 2), (6, 9, 3, 3), (16, 20, 5, 4)])
def test_every_sample_goes_down_the_cascade_of_the_other_folds(tmp_path, configs, n, k, folds):
    for seed in range(3):
        made, result = opened(tmp_path, configs, n, seed)
        right, macs = made["quality"] >= 1, result.macs
        found = cascade(result, k=k, folds=folds, resamples=Resamples(n, 10, seed=4))
        outcome = {t: [None] * n for t in THRESHOLDS}
        chosen, oracle, first = [None] * n, [False] * n, [False] * n
        voted, sure, together = [False] * n, [False] * n, [0.0] * n
        for fold, held in enumerate(fold_samples(n, folds, 4)):
            others = [i for i in range(n) if i not in held]
            listed = plain.greedy(right[:, others], made["quality"][:, others], 0)[:k]
            rows = sorted(listed, key=lambda c: macs[c])
            assert list(found.lists[fold]) == rows
            on_others = {t: [follow(made, rows, macs, i, t) for i in others] for t in THRESHOLDS}
            best = max(
                THRESHOLDS, key=lambda t: (sum(r for r, _ in on_others[t]), -sum(c for _, c in on_others[t]), -t)
            )
            assert found.thresholds[fold] == best
            for i in held:
                for t in THRESHOLDS:
                    outcome[t][i] = follow(made, rows, macs, i, t)
                chosen[i] = outcome[best][i]
                oracle[i], first[i] = bool(right[listed, i].any()), bool(right[listed[0], i])
                said = [made["pred"][c, i] for c in listed]
                voted[i] = max(said, key=lambda p: (said.count(p), -said.index(p))) == made["labels"][i]
                confidence = [made["confidence"][c, i] for c in listed]
                tied = [c for c in listed if made["confidence"][c, i] == max(confidence)]
                sure[i] = right[0 if 0 in tied else tied[0], i]
                together[i] = macs[listed].sum()
        for point in found.curve:
            assert point.accuracy.value == pytest.approx(np.mean([r for r, _ in outcome[point.threshold]]))
            assert point.macs.value == pytest.approx(np.mean([c for _, c in outcome[point.threshold]]))
        found_one, beside = found.selectors["cascade"], found.baselines
        assert found_one.accuracy.value == pytest.approx(np.mean([r for r, _ in chosen]))
        assert found_one.macs.value == pytest.approx(np.mean([c for _, c in chosen]))
        for name, expected in (
            ("static", right[0]), ("oracle", oracle), ("single_best", first), ("majority_vote", voted),
            ("most_confident", sure),
        ):  # fmt: skip
            assert beside[name].accuracy.value == pytest.approx(np.mean(expected)), name
        assert beside["static"].macs.value == macs[0]
        assert beside["majority_vote"].macs.value == beside["most_confident"].macs.value
        assert beside["majority_vote"].macs.value == pytest.approx(np.mean(together))
        gap = np.mean(oracle) - right[0].mean()
        if gap > 0:
            assert found_one.gap_closed.value == pytest.approx((found_one.accuracy.value - right[0].mean()) / gap)
        else:
            assert found_one.gap_closed is None


def test_the_cascade_for_other_images_is_made_from_all_samples(tmp_path):
    for seed in range(4):
        made, result = opened(tmp_path, 9, 20, seed)
        rows, threshold = fitted(CrossValidation(result, 4, 5, Resamples(20, 10)))
        listed = plain.greedy(made["quality"] >= 1, made["quality"], 0)[:4]
        assert rows.tolist() == sorted(listed, key=lambda c: result.macs[c])
        went = {t: [follow(made, rows, result.macs, i, t) for i in range(20)] for t in THRESHOLDS}
        assert threshold == max(THRESHOLDS, key=lambda t: (sum(r for r, _ in went[t]), -sum(c for _, c in went[t]), -t))


def test_folds_hold_every_sample_once():
    for n, folds in ((7, 2), (20, 5), (5, 5)):
        parts = fold_samples(n, folds)
        assert sorted(np.concatenate(parts)) == list(range(n)) and {len(p) for p in parts} <= {
            n // folds,
            n // folds + 1,
        }


def test_random_labels_and_confidences_gain_nothing(tmp_path):
    rng = np.random.default_rng(0)
    n, configs = 2000, 12
    labels, pred = rng.integers(0, 2, n), rng.integers(0, 2, (configs, n))
    made = synthetic.make_scores(configs, n) | {"labels": labels.astype(np.int16), "pred": pred.astype(np.int16)}
    made |= {
        "quality": (0.4 + (pred == labels)).astype(np.float32),
        "confidence": rng.random((configs, n)).astype("f4"),
    }
    result = open_result(synthetic.make_result(tmp_path / "r", made, images_per_unit=500))
    found = cascade(result, k=4)
    assert found.baselines["oracle"].accuracy.value > 0.9  # four coins
    assert found.selectors["cascade"].accuracy.low < 0.5 < found.selectors["cascade"].accuracy.high


def test_a_sure_and_right_cheap_configuration_closes_the_gap(tmp_path):
    made = synthetic.make_scores(2, 40)
    hard = np.arange(40) % 4 == 0  # the default is wrong and unsure there, the other right
    right = np.stack([~hard, hard])
    made |= {"quality": (0.4 + right).astype(np.float32), "confidence": np.where(right, 0.9, 0.2).astype(np.float32)}
    result = open_result(synthetic.make_result(tmp_path / "r", made))
    result.macs = np.array([10, 30])
    found = cascade(result, k=2, folds=4)
    achieved = found.selectors["cascade"]
    assert achieved.accuracy.value == 1.0 and achieved.gap_closed.value == 1.0
    assert achieved.macs.value == pytest.approx(0.75 * 10 + 0.25 * 40)


def test_where_the_most_confident_tie_the_default_speaks(tmp_path):
    made = synthetic.make_scores(2, 40)
    hard = np.arange(40) % 4 == 0
    right = np.stack([hard, ~hard])  # the list begins with the other, which is right more often
    made |= {"quality": (0.4 + right).astype(np.float32), "confidence": np.full((2, 40), 0.5, np.float32)}
    found = cascade(open_result(synthetic.make_result(tmp_path / "r", made, default=0)), k=2, folds=4)
    assert found.baselines["single_best"].accuracy.value == 0.75
    assert found.baselines["most_confident"].accuracy.value == 0.25


def test_what_cannot_be_validated_is_one_line(tmp_path):
    _, result = opened(tmp_path, 6, 4)
    with pytest.raises(ResultError, match=r"4 samples cannot be cross-validated in 5 folds; give 2 to 4"):
        cascade(result)
    with pytest.raises(ResultError, match=r"k = 7 is not allowed; give 1 to 6"):
        cascade(result, k=7, folds=2)
    result.macs = None
    with pytest.raises(ResultError, match="does not say what its configurations cost"):
        cascade(result, folds=2)


def test_the_command_prints_draws_and_documents(tmp_path):
    synthetic.make_result(tmp_path / "r", synthetic.make_scores(16, 20))
    args = ["select", str(tmp_path / "r"), "--k", "3", "--resamples", "20"]
    answer = CliRunner().invoke(
        cli, [*args, "--json", "--plot", str(tmp_path / "c.svg"), "--csv", str(tmp_path / "c.csv")]
    )
    found = json.loads(answer.stdout)
    help_text = CliRunner().invoke(cli, ["select", "--help"]).stdout
    assert all(key in help_text for key in found) and len(found["curve"]) == len(THRESHOLDS)
    assert (tmp_path / "c.svg").exists() and len((tmp_path / "c.csv").read_text().splitlines()) == 1 + 6
    assert "gap closed" in CliRunner().invoke(cli, args).stdout
    drawing = selection_figure(cascade(open_result(tmp_path / "r"), k=3))
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())
