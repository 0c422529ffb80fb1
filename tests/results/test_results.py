"""The results in the repository: whole, as large as promised, and told of as they are."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from itd.analysis import compare, efficiency, gain, oracle, preferences
from itd.analysis.paper import STATIC, TABLE_1, TABLE_3
from itd.store import open_result, verify
from itd.training.curve import Curve

PLAIN = [f"{m}-{a}-val1300" for m in ("resnet50", "mobilenet_v2") for a in ("stride", "dilation", "size")]
COMBINED = ["+".join(attributes) for attributes in TABLE_3]
VARIED = [f"resnet50-dilation-val1300-scale{s}" for s in ("0.25", "0.5", "1", "2", "4")]
VARIED += [f"resnet50-dilation-val1300-context{px}" for px in (50, 100, 150, 200, 250)]
EFFICIENCY = "resnet50-stride+size-val1300"
ROF = {
    "resnet18-dilation-digits-one-scale": ("-rof",),
    "resnet18-stride-digits-one-scale": ("-rof",),
    "resnet18-dilation-digits": ("-recalibrated", "-rof"),
    "resnet18-stride-digits": ("-recalibrated", "-rof"),
    "resnet18-dilation-val1300": ("-rof",),
    "mobilenet_v2-dilation-val1300": ("-rof",),
}
"""Before -> what was made of it."""
FINE_TUNED = [
    before + after for before, afters in ROF.items() for after in ("", *afters) if before + after not in PLAIN
]
NETWORKS = ["cifar-resnet18", *(f"cifar-resnet18+{op}" for op in ("involution", "condconv", "weightnet", "se"))]
LEARNED = [f"{name}-stride-cifar10" for name in NETWORKS]
OUTSIDE = ["resnet50-stride-above288-val1300", "resnet50-stride-below4-val1300"]
"""What the range of total output strides leaves out of ResNet-50's 400."""
MIRRORED = "resnet50-dilation-val1300-mirrored"
NAMES = [
    MIRRORED,
    *OUTSIDE,
    *FINE_TUNED,
    *LEARNED,
    *PLAIN,
    *(f"resnet50-combined-{c}-val1300" for c in COMBINED),
    *VARIED,
    EFFICIENCY,
]
CONFIGS = {"resnet50-stride-val1300": 361, "mobilenet_v2-stride-val1300": 370, EFFICIENCY: 4096,
           **dict(zip(OUTSIDE, (32, 7), strict=True))}  # fmt: skip


def opened(repository, name):
    return open_result(repository / "results" / f"{name}.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_whole_and_large_enough(repository, name):
    folder = repository / "results" / f"{name}.parquet"
    assert verify(folder).ok
    result = open_result(folder)
    assert not result.partial and result.nulls == 0 and result.n >= (100 if name in PLAIN else 32)
    strides = {"resnet18-stride": 95, "cifar-resnet18": 69}
    expected = next((count for begin, count in strides.items() if name.startswith(begin)), None)
    assert result.configs == (expected or CONFIGS.get(name, 512 if name.count("+") == 2 else 625))
    assert result.num_classes == (10 if "digits" in name or name in LEARNED else 1000)


def test_the_results_are_at_most_40_mb_and_all_are_told_of(repository):
    folders = sorted((repository / "results").glob("*.parquet"))
    assert {f.name for f in folders} == {f"{name}.parquet" for name in NAMES}
    assert sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file()) < 40e6
    text = (repository / "results" / "README.md").read_text()
    assert all(f"{name}" in text for name in [*PLAIN, EFFICIENCY, *ROF, *LEARNED, MIRRORED, *OUTSIDE])


@pytest.fixture(scope="module")
def tables(repository):
    """benchmarks/tables.py, which makes every table of the documents."""
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        import tables
    finally:
        sys.path.pop(0)
    return tables


@pytest.fixture(scope="module")
def texts(tables):
    return tables.written(list(tables.TABLES))


def test_every_table_of_the_documents_is_what_the_results_say(texts):
    stale = [str(path) for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `make tables`: {stale}"


def test_every_table_stands_in_a_document_and_no_other_is_asked_for(repository, tables):
    asked = [name for path in tables.documents() for name in re.findall(r"<!-- table: (\w+) -->", path.read_text())]
    assert sorted(asked) == sorted(tables.TABLES)
    assert {path.stem for path in (repository / "docs" / "tables").glob("*.md")} == set(tables.TABLES)


def test_a_table_says_what_the_paper_and_the_answers_say(repository, texts):
    """The makers of tables against figures read from the results here."""
    text = texts[repository / "docs" / "tables" / "oracle.md"]
    for name in PLAIN:
        model, attribute, _ = name.split("-")
        answer = oracle(opened(repository, name))
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for text_of, rule in zip(cells[2:6], ("static", "worst", "median", "best"), strict=True):
            value = answer.intervals[rule]
            assert text_of == f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"
        paper = TABLE_1[model][attribute]
        assert cells[7] == f"{STATIC[model]:g}, {paper.worst:g}, {paper.median:g}, {paper.best:g}"


def test_what_the_documents_say_in_words_is_what_the_results_say(repository):
    findings, tuning, layers, door = (
        " ".join((repository / name).read_text(encoding="utf-8").split())
        for name in ("docs/findings.md", "docs/fine-tuning.md", "docs/learned-layers.md", "README.md")
    )
    answers = [oracle(opened(repository, name)) for name in PLAIN]
    over = [100 * (answer.best - answer.static) for answer in answers]
    assert f"{min(over):.0f} to {max(over):.0f} points above the network as it is" in findings
    beyond = np.zeros(2, int)
    for name in PLAIN:
        result = opened(repository, name)
        best = (result.matrix("quality") >= 1).any(0)
        guessed = result.matrix("rank")[result.default_index] < [len(set(row)) for row in result.matrix("pred").T]
        beyond += [(best & ~guessed).sum(), (guessed & ~best).sum()]
    assert beyond[0] == 0 and f"and {beyond[1]} pairs are the other way round" in findings
    stride = preferences(opened(repository, PLAIN[0]))
    own = next(c for c in stride.configs if c.config == stride.default)
    assert f"for stride {round(own.share.value * stride.n)} of {stride.n} do" in findings
    solved = preferences(opened(repository, "resnet50-dilation-val1300-scale4"))
    assert f"At scale 4 only {solved.solved} of {solved.n} images are solved" in findings
    found = efficiency(opened(repository, EFFICIENCY)).cheapest_as_static.factor
    assert f"{found.value:.1f} times fewer multiply-accumulates suffice" in findings
    for attribute in ("dilation", "stride"):
        before, after = f"resnet18-{attribute}-digits-one-scale", f"resnet18-{attribute}-digits-one-scale-rof"
        change = compare(opened(repository, before), opened(repository, after)).change
        assert f"{100 * change['median'].value:.0f}" in tuning and f"{-100 * change['static'].value:.0f}" in tuning
    written = (repository / "results" / "controls" / "rof-stride.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    mean = {
        (name, figure): 100 * np.mean([row[figure] for row in rows if row["treatment"] == name])
        for name in ("rof", "default", "scale")
        for figure in ("best", "static", "first_5", "as_many_guesses")
    }
    assert len(rows) == 15 and f"adds {mean['rof', 'best'] - mean['default', 'best']:.1f} points to the best" in tuning
    for treatment in ("rof", "default"):
        said = f"{mean[treatment, 'first_5']:.1f} against {mean[treatment, 'as_many_guesses']:.1f}"
        assert said in tuning, said
    assert f"right on {mean['scale', 'static']:.0f}%" in tuning
    written = (repository / "results" / "controls" / "operators.jsonl").read_text()
    trained = {(row["operator"], row["seed"]): row for row in map(json.loads, written.splitlines())}
    assert len(trained) == 25
    less = {
        (name, key): 100 * np.mean([trained["conv", s][key] - trained[name, s][key] for s in range(5)])
        for name in ("involution", "condconv")
        for key in ("one_scale", "many_scales")
    }
    assert f"Involution is {less['involution', 'one_scale']:.1f} points below it" in layers
    assert f"CondConv is {less['condconv', 'many_scales']:.1f} points below, involution" in layers
    assert f"involution {less['involution', 'many_scales']:.1f}, and no operator" in layers
    gains = gain([opened(repository, name) for name in LEARNED], resamples=2)  # of whose intervals no word is said
    first = [100 * one.held_out.steps[4].over_static.value for one in gains]
    assert f"gain {min(first):.0f} to {max(first):.0f} points" in layers
    three = [answer for answer in answers if "resnet50" in answer.result]
    over = [100 * (answer.best - answer.static) for answer in three]
    under = [100 * (answer.baselines.matched_topk.value - answer.best) for answer in three]
    assert f"is {min(over):.0f} to {max(over):.0f} points above the network" in door
    assert f"as many guesses are {min(under):.0f} to {max(under):.0f} points above the oracle" in door


def test_the_readme_is_a_door(repository):
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    for path in re.findall(r"\]\(([\w./-]+)\)", "\n".join(lines)):
        assert (repository / path).exists(), path


@pytest.mark.parametrize("name", NETWORKS)
def test_the_curve_ends_where_the_swept_network_stands(repository, name):
    """The same weights on the same images, once by the trainer and once by the sweep."""
    points = Curve(repository / "results" / "curves" / f"{name}.epochs.csv").points()
    result = opened(repository, f"{name}-stride-cifar10")
    assert [p.epoch for p in points] == list(range(1, 17)) and points[-1].images == 16 * 6400
    assert (points[-1].n, points[-1].top1) == (result.n, pytest.approx(oracle(result).static, abs=0.0021))


def test_of_timms_files_at_least_63_run_by_the_tree_and_no_row_is_wrong(repository):
    rows = [json.loads(line) for line in (repository / "results" / "networks" / "zoo.jsonl").read_text().splitlines()]
    assert len({row["model"] for row in rows}) == len(rows) >= 67
    assert sum(row["executor"] == "tree" for row in rows) >= 63
    refused = [row for row in rows if row["executor"] == "refused"]
    assert {row["why"] for row in refused} == {"0 odd square convolutions compute as torch's do"}
    run = [row for row in rows if row not in refused]
    assert all(row["wrong"] == 0 and row["rows"] == 8 and row["apart"] < 1e-4 for row in run)
    assert sum(row["moved"] > 10 * row["apart"] for row in run) >= 72
