"""Every answer as a DataFrame, resamples of one kind for every verb, and wrong types said in one line."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import itd
from itd.analysis import Resamples
from itd.analysis.cascade import cascade
from itd.errors import ItdError, ResultError
from itd.store import open_result
from itd_cli.main import cli

DIGITS = "resnet18-stride-digits"
OTHER = "resnet18-dilation-digits"
SINGLE = {
    "oracle": lambda r: itd.oracle(r, resamples=20),
    "oracle --by-sites": itd.by_sites,
    "oracle --by-class": itd.by_class,
    "greedy": lambda r: itd.greedy(r, resamples=20),
    "unique": lambda r: itd.unique(r, resamples=20),
    "preferences": itd.preferences,
    "efficiency": lambda r: itd.efficiency(r, resamples=20),
    "gain": lambda r: itd.gain([r], resamples=20)[0],
    "select": lambda r: cascade(r, resamples=20),
}


@pytest.fixture(scope="module")
def paths(repository):
    return [str(repository / "results" / f"{name}.parquet") for name in (DIGITS, OTHER)]


@pytest.mark.parametrize("command", SINGLE)
def test_an_answer_as_a_frame_is_its_csv(command, paths, tmp_path):
    frame = SINGLE[command](open_result(paths[0])).to_pandas()
    out = tmp_path / "a.csv"
    resamples = [] if command == "preferences" else ["--resamples", "20"]
    done = CliRunner().invoke(cli, [*command.split(), paths[0], *resamples, "--csv", str(out)])
    assert done.exit_code == 0, done.output
    with open(out, newline="") as file:
        written = list(csv.DictReader(file))
    assert list(frame.columns) == list(written[0]) and len(frame) == len(written) > 0
    text = io.StringIO()
    frame.to_csv(text, index=False)
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c])]
    for column in numbers:
        values = pd.to_numeric([row[column] for row in written])
        np.testing.assert_allclose(frame[column].astype(float), values, rtol=1e-12, equal_nan=True)


def test_answers_of_several_results_are_frames_too(paths):
    results = [open_result(path) for path in paths]
    combined = itd.combine(results, budget=9).to_pandas()
    assert list(combined.columns) == ["result", "place", "config"] and len(combined) == 6
    assert set(itd.compare(*results, resamples=20).to_pandas().columns) > {"n"}
    assert set(itd.baselines(results[0], resamples=20).to_pandas()["baseline"]) > {"chance", "single_best"}


def test_a_result_as_a_frame_is_the_folder_as_pandas_reads_it(paths):
    found = open_result(paths[0]).to_pandas()
    expected = pd.read_parquet(paths[0]).sort_values(["config", "sample"]).reset_index(drop=True)
    expected = expected.drop(columns=[c for c in expected.columns if c.startswith("_")])
    found = found.sort_values(["config", "sample"]).reset_index(drop=True)
    assert list(found.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


VERBS = ("oracle", "by_sites", "by_class", "baselines", "greedy", "unique", "preferences", "efficiency", "select")
LISTS = ("combine", "gain")


@pytest.mark.parametrize("value", [5, None, "results/x.parquet", [1], object()])
def test_a_wrong_type_is_one_line_that_says_what_to_give(value):
    calls = [(verb, (value,)) for verb in VERBS]
    calls += [(verb, ([value],)) for verb in LISTS] + [
        ("combine", (5,)),
        ("gain", ("a.parquet",)),
        ("report", ([value],)),
    ]
    calls += [("compare", (value, value))]
    for verb, args in calls:
        with pytest.raises(ItdError, match=rf"{verb} takes a (result|list of results)") as caught:
            getattr(itd, verb)(*args)
        assert "open_result" in str(caught.value) and "\n" not in str(caught.value)
    for verb in ("open_result", "verify"):
        if not isinstance(value, str):
            with pytest.raises(ResultError, match="given"):
                getattr(itd, verb)(value)


@pytest.mark.parametrize(
    "verb", ["rof", "recalibrate", "train", "evaluate", "compare_layers", "predict", "sweep", "plan"]
)
@pytest.mark.parametrize("value", [5, None, "resnet50", [1]])
def test_a_verb_that_takes_a_request_says_so(verb, value):
    with pytest.raises(ItdError, match="given"):
        made = getattr(itd, verb)(value)
        next(made)  # predict's is read as it goes


def test_select_takes_fields_or_a_request(paths):
    result = open_result(paths[0])
    by_fields, by_request = itd.select(result, k=3), itd.select(result, itd.SelectRequest(k=3))
    assert json.dumps(by_fields.as_dict()) == json.dumps(by_request.as_dict()) and by_fields.k == 3
    with pytest.raises(ItdError, match="select has no depth; its fields are k, folds"):
        itd.select(result, depth=3)
    with pytest.raises(ItdError, match="takes a SelectRequest, given int"):
        itd.select(result, 3)


def test_resamples_are_a_number_or_drawn_ones_for_every_verb(paths):
    result = open_result(paths[0])
    drawn = Resamples(result.n, 20, 3)
    for verb in ("oracle", "baselines", "unique", "efficiency", "greedy"):
        one = getattr(itd, verb)(result, resamples=drawn).to_pandas()
        other = getattr(itd, verb)(result, resamples=20, seed=3).to_pandas()
        pd.testing.assert_frame_equal(one, other)
    assert itd.gain([result], resamples=drawn)[0].as_dict() == itd.gain([result], resamples=20, seed=3)[0].as_dict()
    assert itd.compare(result, result, resamples=drawn).as_dict() == (
        itd.compare(result, result, resamples=20, seed=3).as_dict()
    )
    for wrong in (Resamples(3, 20), -1, "many", True):
        with pytest.raises(ResultError, match="resamples"):
            itd.oracle(result, resamples=wrong)


def test_an_answer_about_cost_says_what_is_not_counted(paths):
    result = open_result(paths[0])
    result.manifest["macs_unknown"] = ["Distance: _cdist_forward"]
    from itd.analysis.tables import efficiency_table, selection_table

    for answer, text in (
        (itd.efficiency(result, resamples=20), efficiency_table),
        (cascade(result, resamples=20), selection_table),
    ):
        assert answer.as_dict()["macs_unknown"] == ["Distance: _cdist_forward"]
        assert text(answer).splitlines()[-1].endswith("they do not count Distance: _cdist_forward")


@pytest.mark.parametrize(
    ("verb", "keywords"),
    [
        ("oracle", {"seed": "x"}),
        ("oracle", {"vote_ks": 5}),
        ("baselines", {"vote_ks": ["a"]}),
        ("baselines", {"num_classes": 1.5}),
        ("unique", {"resamples": [1]}),
        ("greedy", {"seed": -1}),
    ],
)
def test_a_wrong_keyword_is_named(paths, verb, keywords):
    with pytest.raises(ResultError, match=rf"^{next(iter(keywords))} is .*; give"):
        getattr(itd, verb)(open_result(paths[0]), **keywords)


def test_wrong_numbers_of_the_cascade_and_of_combine_are_named(paths):
    results = [open_result(path) for path in paths]
    for keywords in ({"k": "a"}, {"k": 0}, {"folds": None}, {"folds": 1}):
        with pytest.raises(ResultError, match=rf"^{next(iter(keywords))} is .*; give a whole number, at least"):
            cascade(results[0], **keywords)
    with pytest.raises(ResultError, match=r"^budget is 2\.5; give a whole number, at least 1"):
        itd.combine(results, budget=2.5)


def test_the_caption_of_a_figure_of_cost_says_what_is_not_counted(paths):
    from itd.analysis.figures import efficiency_figure, selection_figure

    result = open_result(paths[0])
    for answer, draw in ((itd.efficiency, efficiency_figure), (cascade, selection_figure)):
        assert "incomplete" not in draw(answer(result, resamples=20)).caption
    result.manifest["macs_unknown"] = ["einsum", "matmul"]
    for answer, draw in ((itd.efficiency, efficiency_figure), (cascade, selection_figure)):
        assert draw(answer(result, resamples=20)).caption.endswith("they do not count einsum, matmul.")
