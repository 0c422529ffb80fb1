"""Selectors: learners against scikit-learn, no sample measured on what it taught, nothing gained from noise."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from itd import SweepRequest, sweep
from itd.analysis import Resamples
from itd.analysis.selection import CrossValidation
from itd.data.digits import digits_images
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.errors import ItdError, ResultError
from itd.runner.sites import sites_text
from itd.selectors import evaluate
from itd.selectors.evaluate import Inputs, SelectorStudy, SelectRequest, learnt, thumbnail
from itd.selectors.learners import LEARNERS, Learned, fit
from itd.selectors.predict import PredictRequest, predict
from itd.selectors.selector import METHODS, Selector, load_selector
from itd.selectors.source import open_source
from itd.store import open_result
from itd.weights.files import PREPROCESS_KEY
from itd_cli.main import cli
from support import synthetic


@pytest.fixture(scope="module")
def weights(tmp_path_factory, random_network) -> str:
    """Random weights, of which every configuration predicts something else."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    header = {PREPROCESS_KEY: json.dumps(DIGITS_PREPROCESS.identity())}
    save_file(random_network("resnet18").state_dict(), path, metadata=header)
    return str(path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, weights) -> Path:
    """24 digits, the dilation of sites C and D: nine configurations."""
    out = tmp_path_factory.mktemp("select") / "r.parquet"
    sweep(SweepRequest("resnet18", "dilation", sites="CD", options=("1,2,4",), data="digits", weights=weights,
                       limit=24, out=str(out)), quiet=True)  # fmt: skip
    return out


def select_request(weights: str) -> SelectRequest:
    return SelectRequest(k=3, folds=3, resamples=20, data="digits", weights=weights)


@pytest.fixture(scope="module")
def measured(swept, weights):
    """The study of that result, and what it found."""
    selecting = SelectorStudy(open_result(swept), select_request(weights))
    return selecting, selecting.measure()


def synthetic_result(tmp_path: Path, right: np.ndarray):
    """A result in which configuration c is right on sample i where right[c, i]."""
    configs, n = right.shape
    made = synthetic.make_scores(configs, n)
    made["quality"] = (0.4 + right).astype(np.float32)
    made["pred"] = np.where(right, made["labels"], (made["labels"] + 1) % 1000).astype(np.int16)
    return open_result(synthetic.make_result(tmp_path / "r", made, images_per_unit=500))


# -- learners ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    inputs = rng.normal(3, 5, (400, 12)).astype(np.float32)
    inputs[:, 11] = 7  # constant
    right = np.stack([inputs[:, 0] > 3, inputs[:, 1] + inputs[:, 2] > 6, np.ones(400, bool), np.zeros(400, bool)])
    return inputs, right


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_learner_learns_what_can_be_told(problem, kind):
    inputs, right = problem
    learned = fit(kind, inputs[:300], right[:, :300])
    scores = learned.scores(inputs[300:])
    assert scores.shape == (100, 4) and (scores[:, 2] > 0).all() and (scores[:, 3] < 0).all()
    for c in (0, 1):
        assert ((scores[:, c] > 0) == right[c, 300:]).mean() > 0.8
    assert (learned.choose(inputs[300:]) == scores.round(6).argmax(1)).all()
    again = fit(kind, inputs[:300], right[:, :300])
    assert all((again.arrays[name] == learned.arrays[name]).all() for name in learned.arrays)


def test_the_kept_arrays_are_scikit_learns_models(problem):
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, right = problem
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(inputs, right[0])
    assert np.allclose(
        logistic.decision_function(inputs), fit("logistic", inputs, right).scores(inputs)[:, 0], atol=1e-4
    )
    boosting = GradientBoostingClassifier(
        n_estimators=60, max_depth=3, subsample=0.5, max_features="sqrt", random_state=5
    ).fit(inputs, right[1])
    assert np.allclose(boosting.decision_function(inputs), fit("boosting", inputs, right, 5).scores(inputs)[:, 1])


def test_the_head_is_two_layers_and_says_what_it_costs(problem):
    inputs, right = problem
    learned = fit("head", inputs, right)
    a = learned.arrays
    by_hand = torch.relu(torch.tensor(inputs) @ torch.tensor(a["weight"]).float().T + torch.tensor(a["bias"]).float())
    by_hand = by_hand @ torch.tensor(a["weight2"]).float().T + torch.tensor(a["bias2"]).float()
    assert np.allclose(by_hand.numpy(), learned.scores(inputs), atol=1e-3)
    assert learned.macs() == 12 * 64 + 64 * 4
    assert fit("logistic", inputs, right).macs() == 12 * 4 and fit("boosting", inputs, right).macs() == 3 * 60 * 4


def test_fitting_leaves_torchs_random_numbers_alone(problem):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fit("head", *problem)
    assert (torch.get_rng_state() == before).all()


# -- cross-validation -------------------------------------------------------------------------------------------------


def test_random_inputs_and_labels_gain_nothing(tmp_path):
    rng = np.random.default_rng(1)
    right = rng.random((12, 1500)) < 0.5
    course = CrossValidation(synthetic_result(tmp_path, right), 4, 5, Resamples(1500, 200))
    assert course.best.mean() > 0.9  # four coins
    found = learnt(course, "noise", Inputs(rng.normal(size=(1500, 30)).astype(np.float32), 0))
    assert set(found) == {f"noise-{kind}" for kind in LEARNERS}
    for outcome in found.values():
        assert outcome.accuracy.low < 0.5 < outcome.accuracy.high


def test_inputs_that_tell_which_is_right_close_the_gap(tmp_path):
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, 600)
    right = np.stack([kind == 0, kind == 1])
    course = CrossValidation(synthetic_result(tmp_path, right), 2, 3, Resamples(600, 20))
    inputs = np.stack([kind + rng.normal(0, 0.05, 600), rng.normal(size=600)], 1)
    for outcome in learnt(course, "told", Inputs(inputs, 10)).values():
        assert outcome.accuracy.value > 0.98 and outcome.gap_closed.value > 0.96


def test_no_sample_is_measured_by_what_it_taught(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    course = CrossValidation(synthetic_result(tmp_path, rng.random((6, 40)) < 0.5), 3, 4, Resamples(40, 20))
    inputs = np.arange(40.0)[:, None]  # each sample's input is its own number
    seen = []

    class Watch(Learned):
        def choose(self, given):
            seen[-1]["measured"] = given[:, 0].astype(int).tolist()
            return np.arange(len(given)) % 3

    def spy(kind, given, right, seed=0):
        seen.append({"taught": given[:, 0].astype(int).tolist(), "right": right})
        return Watch(kind, fit(kind, given, right, seed).arrays)

    monkeypatch.setattr(evaluate, "fit", spy)
    found = learnt(course, "x", Inputs(inputs, 100))
    assert len(seen) == 4 * len(LEARNERS)
    for number, one in enumerate(seen):
        fold = course.folds[number % 4]
        assert not set(one["taught"]) & set(one["measured"]) and sorted(one["taught"] + one["measured"]) == list(
            range(40)
        )
        listed = CrossValidation(course.result, 3, 4, course.drawn).rows(np.array(one["taught"]))
        assert fold.rows.tolist() == listed.tolist()
        assert (one["right"] == course.correct[listed][:, one["taught"]]).all()
    # what choosing in turns gives, by hand
    hits, spent = [], []
    for fold in course.folds:
        for place, sample in enumerate(fold.held):
            row = fold.rows[place % 3]
            hits.append(course.correct[row, sample])
            spent.append(course.macs[row] + 100 + 3)  # 1 input x 3 configurations
    assert found["x-logistic"].accuracy.value == pytest.approx(np.mean(hits))
    assert found["x-logistic"].macs.value == pytest.approx(np.mean(spent))


# -- with the network -------------------------------------------------------------------------------------------------


def test_averaging_is_the_mean_of_plain_probabilities(measured):
    selecting, found = measured
    result = selecting.result
    model, images = selecting.source.model, digits_images("eval")
    pixels = torch.stack([selecting.source.preprocess(images.load(int(i))) for i in result.samples])
    right = np.zeros(24, bool)
    for fold in selecting.course.folds:
        total = 0
        for row in fold.rows:
            config = {site: evaluate_setting(values) for site, values in result.setting(int(row)).items()}
            with torch.inference_mode(), model.configured(config):
                total = total + model(pixels[fold.held]).softmax(1)
        right[fold.held] = total.argmax(1).numpy() == result.labels[fold.held]
    assert found.selectors["averaging"].accuracy.value == pytest.approx(right.mean())
    spent = [result.macs[fold.rows].sum() for fold in selecting.course.folds for _ in fold.held]
    assert found.selectors["averaging"].macs.value == pytest.approx(np.mean(spent))
    firsts = [result.matrix("quality")[fold.rows[0], fold.held] >= 1 for fold in selecting.course.folds]
    assert np.concatenate(firsts).mean() != right.mean()  # or the mean would not be seen
    assert set(found.selectors) == set(METHODS)
    small = selecting.inputs["thumbnail"].values.reshape(24, 3, 16, 16)
    assert np.allclose(small, pixels.reshape(24, 3, 16, 4, 16, 4).mean((3, 5)), atol=1e-5)
    assert selecting.inputs["thumbnail"].macs == 3 * 64 * 64
    assert thumbnail(pixels).shape == (24, 768)


def evaluate_setting(values):
    from itd.space import Setting

    return Setting(**values)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_selector_classifies_as_its_parts_say(measured, weights, tmp_path, method):
    selecting, _ = measured
    result = selecting.result
    made = selecting.make(method)
    if method == "cascade":  # so that some stop at the first, some later
        made = replace(made, threshold=float(np.median(result.matrix("confidence"))))
    made.save(tmp_path / "s.safetensors")
    back = load_selector(tmp_path / "s.safetensors")
    assert {**back.__dict__, "learned": None, "configs": list(back.configs)} == json.loads(
        json.dumps({**made.__dict__, "learned": None})
    ) | {"swept": back.swept, "attributes": back.attributes}
    request = PredictRequest(("digits",), weights=weights, selector=str(tmp_path / "s.safetensors"), top=10)
    first = list(itertools.islice(predict(request), int(result.samples.max()) + 1))
    found = [first[sample] for sample in result.samples]
    rows = [next(r for r in range(result.configs) if result.setting(r) == config) for config in made.configs]
    pred, confidence = result.matrix("pred")[rows], result.matrix("confidence")[rows]
    stops: set[int] = set()
    for i, one in enumerate(found):
        assert sum(p for _, _, p in one.top) == pytest.approx(1)
        if method == "averaging":
            assert one.config is None and one.macs == result.macs[rows].sum()
            continue
        if method == "cascade":
            place = next((p for p in range(2) if confidence[p, i] >= made.threshold), 2)
            stops.add(place)
            assert one.macs == result.macs[rows[: place + 1]].sum()
        else:
            source = selecting.inputs[back.source]
            place = int(made.learned.choose(source.values[i : i + 1])[0])
            assert one.macs == result.macs[rows[place]] + source.macs + made.learned.macs()
        assert one.config == made.configs[place]
        assert one.top[0][0] == pred[place, i]
        assert one.top[0][2] == pytest.approx(float(confidence[place, i]), abs=1e-5)
    assert len(stops) > 1 or method != "cascade"


def test_predicting_without_a_selector_is_the_network_itself(tmp_path):
    from itd.patcher import build_model

    digits_images("eval").load(3).save(tmp_path / "b.png")
    (tmp_path / "inside").mkdir()
    digits_images("eval").load(5).save(tmp_path / "inside" / "a.png")
    torch.manual_seed(0)
    model = build_model("resnet18", 10)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class{i}" for i in range(10)))
    given = ["predict", "--model", "resnet18", "--weights", str(tmp_path / "w.pth"), "--classes", str(names)]
    answer = CliRunner().invoke(cli, [*given, str(tmp_path / "b.png"), str(tmp_path / "inside"), "--json"])
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    for line, digit in zip(lines, (3, 5), strict=True):
        with torch.inference_mode():
            p = model(Preprocess()(digits_images("eval").load(digit))[None]).softmax(1)[0]
        assert line["top"][0]["class"] == int(p.argmax()) and line["top"][0]["name"] == f"class{int(p.argmax())}"
        assert line["top"][0]["probability"] == pytest.approx(float(p.max()), abs=1e-5)
    assert [line["image"] for line in lines] == [str(tmp_path / "b.png"), str(tmp_path / "inside" / "a.png")]
    text = CliRunner().invoke(cli, [*given, str(tmp_path / "b.png")]).stdout
    assert text.startswith(f"{tmp_path / 'b.png'}  class")


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_other_weights_images_and_results_are_refused(swept, weights, tmp_path):
    result = open_result(swept)
    with pytest.raises(ResultError, match=r"images of .* are not those"):
        (tmp_path / "0").mkdir()
        for c in range(10):
            (tmp_path / "d" / str(c)).mkdir(parents=True)
            digits_images("eval").load(c).save(tmp_path / "d" / str(c) / "x.png")
        open_source(result, str(tmp_path / "d"), weights)
    from itd.patcher import build_model

    torch.save(build_model("resnet18", 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ResultError, match=r"weights w\.pth are not those that .* was swept with"):
        open_source(result, "digits", str(tmp_path / "w.pth"))
    with pytest.raises(ItdError, match="needs the network: give `data` and `weights`"):
        SelectorStudy(result, SelectRequest(k=2, resamples=20)).make("cascade")
    with pytest.raises(ItdError, match="no such method: 'magic'"):
        SelectorStudy(result, select_request(weights)).make("magic")
    saved = swept / next(p.name for p in swept.glob("part-*"))
    with pytest.raises(ResultError, match="does not say which network"):
        open_source(open_result(saved), "digits", weights)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "resnet18", "nothing.jpg"], "the image nothing.jpg is not there"),
        (["digits"], "nothing says which network"),
        (["--selector", "nothing.safetensors", "digits"], "cannot read the selector nothing.safetensors"),
        (["--model", "resnet18", "--weights", "none", "--classes", "nothing", "digits"], "cannot read --classes"),
        (["--model", "resnet181", "--weights", "none", "digits"], "did you mean resnet18"),
    ],
)
def test_a_mistake_is_one_line(args, said):
    answer = CliRunner().invoke(cli, ["predict", *args])
    assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1


def test_a_selector_of_other_weights_or_models_is_refused(tmp_path):
    about = {"choices": {"size_scale": "area", "align_corners": False, "shortcut": "zero", "pool_half": "nearest"}}
    made = Selector("averaging", "resnet18", "0" * 64, {s: [f"layer{i}.0.conv1"] for i, s in enumerate("ABCD", 1)},
                    ("D",), ("dilation",), about["choices"], ({"D": {"dilation": 2}},),
                    DIGITS_PREPROCESS.identity())  # fmt: skip
    made.save(tmp_path / "s.safetensors")
    for args, said in (
        (["--weights", "none"], "not those that the selector was made for"),
        (["--model", "resnet50"], "is for resnet18, not for resnet50"),
    ):
        answer = CliRunner().invoke(cli, ["predict", "--selector", str(tmp_path / "s.safetensors"), *args, "digits"])
        assert answer.exit_code == 1 and said in answer.stderr
    with pytest.raises(ItdError, match=r"must end in \.safetensors"):
        made.save(tmp_path / "s.pkl")


def test_sites_go_through_text_unless_registered():
    assert sites_text("resnet18", {"A": ["layer2.0.conv1", "layer3.0.conv1"]}) == "A=layer2.0.conv1+layer3.0.conv1"
    from itd.patcher import MODELS

    assert sites_text("resnet50", {s: [m.path for m in ms] for s, ms in MODELS["resnet50"].sites.items()}) is None


def test_the_command_measures_prints_and_saves(swept, weights, tmp_path):
    args = ["select", str(swept), "--k", "3", "--folds", "3", "--resamples", "20", "--data", "digits"]
    args += ["--weights", weights, "--save", str(tmp_path / "s.safetensors"), "--method", "features-boosting"]
    answer = CliRunner().invoke(cli, [*args, "--plot", str(tmp_path / "s.png"), "--csv", str(tmp_path / "s.csv")])
    assert answer.exit_code == 0, answer.stderr
    assert all(name in answer.stdout for name in (*METHODS, "oracle over the same 3", "majority vote of 3"))
    assert (tmp_path / "s.png").stat().st_size > 10_000
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 1 + 5 + len(METHODS)
    assert load_selector(tmp_path / "s.safetensors").method == "features-boosting"
    refused = CliRunner().invoke(cli, [*args[:-1], "magic"])
    assert refused.exit_code == 1 and "no such method: 'magic'" in refused.stderr
