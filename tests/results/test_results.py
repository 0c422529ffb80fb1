"""The results in the repository: whole, as large as promised, and told of as they are."""

from __future__ import annotations

import pytest

from itd.analysis import Estimate, Resamples, baselines, compare, efficiency, gain, greedy, oracle, preferences
from itd.analysis.cascade import cascade
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
FINE_TUNED = [before + after for before, afters in ROF.items() for after in ("", *afters) if before + after not in PLAIN]
NETWORKS = ["cifar-resnet18", *(f"cifar-resnet18+{op}" for op in ("involution", "condconv", "weightnet", "se"))]
LEARNED = [f"{name}-stride-cifar10" for name in NETWORKS]
NAMES = [*FINE_TUNED, *LEARNED, *PLAIN, *(f"resnet50-combined-{c}-val1300" for c in COMBINED), *VARIED, EFFICIENCY]
CONFIGS = {"resnet50-stride-val1300": 361, "mobilenet_v2-stride-val1300": 370, EFFICIENCY: 4096}


def opened(repository, name):
    return open_result(repository / "results" / f"{name}.parquet")


def cell(value: Estimate) -> str:
    """As the tables of the READMEs have it."""
    return f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"


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
    assert all(f"{name}" in text for name in [*PLAIN, EFFICIENCY, *ROF, *LEARNED])


def test_table_1_of_the_readme_is_what_the_results_say(repository):
    text = (repository / "README.md").read_text()
    for name in PLAIN:
        model, attribute, _ = name.split("-")
        answer = oracle(opened(repository, name))
        cells = [cell(answer.intervals[rule]) for rule in ("static", "worst", "median", "best")]
        paper = ", ".join(f"{value:g}" for value in (STATIC[model], *TABLE_1[model][attribute]))
        row = [name, f"{answer.n}", *cells, cell(answer.baselines.matched_topk), paper]
        assert f"| {' | '.join(row)} |" in text, row


def test_the_table_of_baselines_is_what_the_results_say(repository):
    text = (repository / "README.md").read_text()
    for name in PLAIN:
        found = baselines(opened(repository, name), vote_ks=(5,))
        values = (found.chance, found.single_best, found.most_confident, found.vote_greedy[5], found.vote_all)
        assert f"| {name} | {' | '.join(map(cell, values))} |" in text, name


def test_table_3_of_the_readme_is_what_the_results_say(repository):
    text = (repository / "README.md").read_text()
    for attributes, (m, paper) in TABLE_3.items():
        answer = oracle(opened(repository, f"resnet50-combined-{'+'.join(attributes)}-val1300"))
        cells = [cell(answer.intervals[rule]) for rule in ("worst", "median", "best")]
        published = f"{paper.worst:g}, {paper.median:g}, {paper.best:g}"
        counts = f"{m}^{len(attributes)} = {answer.configs}"
        row = ["+".join(attributes), counts, f"{answer.n}", *cells, cell(answer.baselines.matched_topk), published]
        assert f"| {' | '.join(row)} |" in text, row


def test_what_the_readme_says_of_efficiency_is_what_the_result_says(repository):
    text = " ".join((repository / "README.md").read_text().split())
    found = efficiency(opened(repository, EFFICIENCY))
    for point in (found.cheapest_as_static, found.cheapest_as_best):
        factor = point.factor
        assert f"{point.macs.value / 1e9:.2f} GMAC" in text
        assert f"{factor.value:.1f} times fewer ({factor.low:.1f} to {factor.high:.1f})" in text
    assert f"n = {found.n}" in text


def test_what_the_readme_says_of_preferences_is_what_the_results_say(repository):
    text = " ".join((repository / "README.md").read_text().split())
    for ends, words in (
        ((0, 3), "from {}% of the images at scale 0.25 to {}% at scale 2"),
        ((5, 9), "from {}% at 50 px of context to {}% at 250 px"),
    ):
        shares = [preferences(opened(repository, VARIED[i])).share("A", "dilation", 1) for i in ends]
        assert words.format(*(f"{100 * s.value:.0f}" for s in shares)) in text
        between = " and ".join(f"{100 * s.low:.0f} to {100 * s.high:.0f}" for s in shares)
        assert f"({between})" in text or f"(intervals {between})" in text


def test_the_greedy_figures_of_the_readme_are_those_of_the_result(repository):
    text = " ".join((repository / "README.md").read_text().split())
    step = greedy(opened(repository, "resnet50-stride-val1300"), resamples=Resamples(130, 0)).steps[4]
    found = f"first five strides reach {100 * step.accuracy:.1f}, the static network with as many guesses "
    assert f"{found}{100 * step.matched_topk:.1f}" in text


@pytest.mark.parametrize("before", ROF)
def test_the_table_of_fine_tuning_is_what_the_results_say(repository, before):
    text = (repository / "README.md").read_text()
    for after in ROF[before]:
        found = compare(opened(repository, before), opened(repository, before + after))
        for name, side in ((before, found.before), (before + after, found.after)):
            figures = (side.static, side.worst, side.median, side.best, side.matched_topk)
            assert f"| {name} | {found.n} | {' | '.join(map(cell, figures))} |" in text, name


def test_the_table_of_selectors_is_what_the_results_say(repository):
    """What can be told without the network: the baselines and the cascade."""
    text = (repository / "README.md").read_text()
    sides = [cascade(opened(repository, f"resnet18-stride-digits{after}")) for after in ("", "-rof")]
    for key, name in (("static", "static"), ("single_best", "single best"), ("majority_vote", "majority vote of 5")):
        cells = [f"{cell(s.baselines[key].accuracy)} | {s.baselines[key].macs.value / 1e9:.3f}" for s in sides]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |") and line.count("|") == 8]
        assert all(one in line for one in cells), name
    cells = [f"{cell(s.selectors['cascade'].accuracy)} | {s.selectors['cascade'].macs.value / 1e9:.3f}" for s in sides]
    (line,) = [line for line in text.splitlines() if line.startswith("| cascade |")]
    assert all(one in line for one in cells)


def difference(value: Estimate | None) -> str:
    return "-" if value is None else f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def test_the_table_of_gains_is_what_the_results_say(repository):
    text = (repository / "README.md").read_text()
    for name, found in zip(LEARNED, gain([opened(repository, name) for name in LEARNED]), strict=True):
        cells = [*map(cell, (found.static, found.best, found.matched_topk)), difference(found.over_matched)]
        assert f"| {name} | {found.n} | {' | '.join(cells)} | {difference(found.against_first)} |" in text, name


@pytest.mark.parametrize("name", NETWORKS)
def test_the_curve_ends_where_the_swept_network_stands(repository, name):
    """The same weights on the same images, once by the trainer and once by the sweep."""
    points = Curve(repository / "results" / "curves" / f"{name}.epochs.csv").points()
    result = opened(repository, f"{name}-stride-cifar10")
    assert [p.epoch for p in points] == list(range(1, 17)) and points[-1].images == 16 * 6400
    assert (points[-1].n, points[-1].top1) == (result.n, pytest.approx(oracle(result).static, abs=0.0021))
