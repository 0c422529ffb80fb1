"""The sentence that ends an answer: its figures are those of the other verbs, and its words follow their signs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

from itd.analysis import gain, greedy, oracle
from itd.analysis._summary import Summary, summary
from itd.analysis.sampling import Estimate
from itd.analysis.tables import sentences
from itd.store import open_result
from itd_cli.main import cli
from support import synthetic


@pytest.fixture(scope="module")
def path(repository):
    return str(repository / "results" / "resnet50-stride-val1300.parquet")


def test_the_figures_are_those_of_the_other_verbs(path):
    result = open_result(path)
    found, whole, curve = summary(result, resamples=50), gain([result], resamples=50)[0], greedy(result, resamples=50)
    assert (found.over_static, found.over_matched) == (whole.over_static, whole.over_matched)
    assert found.first.as_dict() == curve.held_out.steps[4].as_dict()
    text = found.sentence("r")
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d", text)]
    static, matched, first = found.over_static, found.over_matched, found.first
    expected = [static.value, static.low, static.high, -matched.value, -matched.high, -matched.low]
    over = first.over_static
    expected += [over.value, over.low, over.high, first.matched_topk - whole.static.value]
    assert numbers == [round(100 * value, 1) for value in expected]
    assert text.startswith("r: the oracle is 14.6 points above the network as it is (")
    assert "as many guesses of that network are 4.6 points above the oracle" in text
    assert "held out, its first 5 configurations gain" in text


def points(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.02, 50)


@pytest.mark.parametrize(("value", "words"), [
    (0.05, "5.0 points above the network as it is (4.0 to 7.0)"),
    (-0.05, "5.0 points below the network as it is (3.0 to 6.0)"),
    (0.0004, "level with the network as it is (-1.0 to 2.0)"),
])  # fmt: skip
def test_the_words_follow_the_sign(value, words):
    text = Summary("r", 50, points(0.9), points(0.8), points(value), points(-0.02)).sentence()
    assert words in text and text.endswith("that network are 2.0 points above the oracle (0.0 to 3.0).")


def test_without_a_default_it_says_why_there_is_no_comparison(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 9), default=None)
    result = open_result(folder)
    found = summary(result)
    assert found.over_static is None and found.best == oracle(result).intervals["best"]
    assert "does not hold the network as it is" in found.sentence()


def test_a_single_image_or_configuration_still_has_a_sentence(tmp_path):
    one = summary(open_result(synthetic.make_result(tmp_path / "a", synthetic.make_scores(4, 1))))
    assert one.first is None and "held out" not in one.sentence()
    alone = summary(open_result(synthetic.make_result(tmp_path / "b", synthetic.make_scores(1, 9))), resamples=20)
    assert "its first configuration gain 0.0 points" in alone.sentence()


def test_sentences_are_wrapped_at_100_columns(path):
    lines = sentences([summary(open_result(path), resamples=20)]).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 100 and lines[0].startswith("resnet50-stride-val1300: ")


def test_the_command_ends_with_it_and_json_holds_only_figures(path):
    done = CliRunner().invoke(cli, ["oracle", path, "--resamples", "20"])
    assert done.exit_code == 0 and "held out, its first 5" in " ".join(done.output.split())
    assert "sentence" not in CliRunner().invoke(cli, ["oracle", path, "--resamples", "20", "--json"]).output


def test_a_frame_has_one_row(path):
    frame = summary(open_result(path), resamples=20).to_pandas()
    assert len(frame) == 1 and np.isclose(frame["over_static"][0], 19 / 130) and frame["first"][0] == 5
