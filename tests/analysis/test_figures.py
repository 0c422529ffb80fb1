"""Figures show the answers' numbers, each point says what it is, and nothing tells lines apart by colour alone."""

from __future__ import annotations

import numpy as np
import pytest

from itd.analysis import by_sites, compare, efficiency, greedy, oracle, preferences, unique
from itd.analysis.figures import (
    baselines_figure,
    compare_figure,
    efficiency_figure,
    greedy_figure,
    preferences_figure,
    series_of,
    sites_figure,
    unique_figure,
    variation_figure,
)
from itd.analysis.figures.drawing import COLOURS, MARKERS, STYLES
from itd.errors import ResultError
from itd.store import open_result
from support import synthetic


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    made = []
    for i, name in enumerate(("dilation", "size", "dilation-scale0.5", "dilation-scale2")):
        attribute, _, scale = name.partition("-scale")
        space = synthetic.make_space(81, attribute=attribute, default=0)
        identity = {"model": "resnet50", "variation": {"scale": float(scale)} if scale else None}
        writer = synthetic.open_writer(folder / f"resnet50-{name}.parquet", 24, space=space, identity=identity)
        synthetic.write_units(writer, synthetic.make_scores(81, 24, seed=i))
        made.append(open_result(folder / f"resnet50-{name}.parquet"))
    return made


@pytest.fixture(scope="module")
def better(tmp_path_factory):
    """The images of the first result, more often right."""
    path = tmp_path_factory.mktemp("better") / "resnet50-dilation-rof.parquet"
    writer = synthetic.open_writer(
        path, 24, space=synthetic.make_space(81), identity={"model": "resnet50", "variation": None}
    )
    synthetic.write_units(writer, synthetic.make_scores(81, 24, seed=0, accuracy=0.8))
    return open_result(path)


@pytest.fixture(scope="module")
def drawings(results, better):
    plain = results[:2]
    return {
        "greedy": greedy_figure([greedy(r) for r in plain]),
        "baselines": baselines_figure([oracle(r, vote_ks=(3,)) for r in plain]),
        "sites": sites_figure([by_sites(r) for r in plain]),
        "unique": unique_figure([unique(r) for r in plain]),
        "preferences": preferences_figure([preferences(r) for r in plain]),
        "variation": variation_figure([preferences(r) for r in results]),
        "efficiency": efficiency_figure(efficiency(results[0])),
        "compare": compare_figure(compare(results[0], better, resamples=1000)),
    }


NAMES = ("greedy", "baselines", "sites", "unique", "preferences", "variation", "efficiency", "compare")


@pytest.mark.parametrize("name", NAMES)
def test_every_mark_lies_in_its_panel_and_says_something(drawings, name):
    drawing = drawings[name]
    assert drawing.name == name and drawing.caption and drawing.title
    for x, y, text in drawing.placed_marks():
        assert 0 <= x <= 1 and 0 <= y <= 1 and text, (x, y, text)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_known_columns_and_n_is_shown(drawings, name):
    drawing = drawings[name]
    assert drawing.rows and all(set(row) <= set(drawing.columns) for row in drawing.rows)
    assert "n = 24" in drawing.svg() or "n = 24" in drawing.caption


@pytest.mark.parametrize("name", NAMES)
def test_png_svg_and_pdf(drawings, name, tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        drawings[name].save(tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").read_bytes().startswith(start)
    assert drawings[name].svg().startswith("<svg") and drawings[name]._repr_png_().startswith(b"\x89PNG")


def test_the_same_answers_give_the_same_svg(results):
    one, two = (greedy_figure([greedy(results[0])]).svg() for _ in range(2))
    assert one == two


def test_baselines_show_each_rule_at_its_value(results, drawings):
    answer = oracle(results[0], vote_ks=(3,))
    shown = {row["rule"]: row for row in drawings["baselines"].rows if row["result"] == results[0].path}
    named = {**answer.intervals, **answer.baselines.named()}
    assert set(shown) == {name for name, value in named.items() if value is not None}
    for name, row in shown.items():
        assert (row["accuracy"], row["low"], row["high"]) == (named[name].value, named[name].low, named[name].high)
    axes = drawings["baselines"].figure.axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() not in ("None", "")]
    assert sorted(dots) == pytest.approx(sorted(100 * row["accuracy"] for row in shown.values()))


def test_unique_bars_hold_every_sample(results, drawings):
    axes = drawings["unique"].figure.axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)
    rows = [row for row in drawings["unique"].rows if row["result"] == results[0].path]
    assert sum(row["samples"] for row in rows) == 24


def test_preference_lines_are_as_wide_as_their_share_and_the_default_is_black(results, drawings):
    found = preferences(results[0])
    axes = drawings["preferences"].figure.axes[0]
    widths = sorted((line.get_linewidth() for line in axes.lines), reverse=True)
    shares = [c.share.value for c in found.configs]
    assert len(widths) == len(shares)
    assert widths == pytest.approx([max(0.4, 7 * share / shares[0]) for share in shares])
    black = [line for line in axes.lines if line.get_color() == "black"]
    assert len(black) == sum(c.config == found.default for c in found.configs)


def test_series_group_by_model_attribute_and_variation(results):
    (series,) = series_of([preferences(r) for r in results])
    assert (series.model, series.attribute, series.kind) == ("resnet50", "dilation", "scale")
    assert [series.at(one) for one in series.members] == [0.5, 2.0]
    with pytest.raises(ResultError, match="`itd sweep --scale` or `itd sweep --context`"):
        variation_figure([preferences(results[0])])


def test_variation_lines_are_the_shares(results, drawings):
    found = [preferences(r) for r in results[2:]]
    axes = drawings["variation"].figure.axes[0]
    assert axes.get_title() == "site A" and axes.get_xscale() == "log"
    for line, value in zip(axes.lines, (1, 2, 3), strict=True):
        shares = [one.share("A", "dilation", value).value for one in found]
        assert list(line.get_ydata()) == pytest.approx([100 * s for s in shares])
        assert list(line.get_xdata()) == [0.5, 2.0]


def test_efficiency_shows_every_configuration_and_the_four_points(results, drawings):
    found = efficiency(results[0])
    axes = drawings["efficiency"].figure.axes[0]
    (cloud,) = axes.collections
    np.testing.assert_allclose(cloud.get_offsets(), [(p.macs / 1e9, 100 * p.accuracy) for p in found.points])
    lines = {line.get_label(): line for line in axes.lines}
    star = lines["cheapest with the default's prediction"]
    assert star.get_xdata()[0] == pytest.approx(found.cheapest_as_static.macs.value / 1e9)
    assert star.get_ydata()[0] == pytest.approx(100 * found.cheapest_as_static.accuracy.value)


def test_lines_differ_in_more_than_colour():
    looks = {(str(STYLES[i % len(STYLES)]), MARKERS[i % len(MARKERS)]) for i in range(len(COLOURS))}
    assert len(looks) == len(COLOURS)


def test_more_than_two_curves_have_a_bar_instead_of_bands(results):
    two, three = (greedy_figure([greedy(r) for r in results[:k]]) for k in (2, 3))
    assert len(two.figure.axes[0].collections) == 2 and not three.figure.axes[0].collections


def test_marks_are_where_the_picture_has_their_points(results):
    first = greedy_figure([greedy(results[0])])
    before_drawing = first.placed_marks()
    first.svg()
    after = first.placed_marks()
    found = [[(x, y) for x, y, _ in marks] for marks in (before_drawing, after)]
    np.testing.assert_allclose(*found, atol=0.01)


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    path = synthetic.make_result(tmp_path / r"a$\frac{$.parquet", synthetic.make_scores(4, 6))
    drawing = greedy_figure([greedy(open_result(path))])
    assert r"a$\frac{$ (n = 6)" in drawing.svg().replace("&#36;", "$")


def test_before_and_after_stand_at_their_values(results, better, drawings):
    found = compare(results[0], better, resamples=1000)
    assert found.change["median"].value > 0
    rows = {(row["result"], row["what"]): row["value"] for row in drawings["compare"].rows}
    for side in (found.before, found.after):
        for name in ("static", "worst", "median", "best", "matched_topk"):
            assert rows[side.result, name] == getattr(side, name).value
    heights = [mark.y for mark in drawings["compare"].marks]
    assert heights == [100 * row["value"] for row in drawings["compare"].rows]
