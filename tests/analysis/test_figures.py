"""Figures show the answers' numbers, each point says what it is, and nothing tells lines apart by colour alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import rc_context

from itd.analysis import by_sites, compare, efficiency, greedy, oracle, preferences, unique
from itd.analysis._gain import gain_of
from itd.analysis.cascade import cascade
from itd.analysis.figures import (
    baselines_figure,
    compare_figure,
    efficiency_figure,
    gain_figure,
    greedy_figure,
    preferences_figure,
    selection_figure,
    series_of,
    sites_figure,
    unique_figure,
    variation_figure,
)
from itd.analysis.figures.drawing import COLOURS, MARKERS, NARROW_IN, STYLES
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


def narrow_figures(results):
    plain = results[:2]
    gained = [gain_of(r, greedy(r, resamples=20).held_out)[0] for r in plain]
    yield gain_figure(gained, narrow=True)
    yield gain_figure([gain_of(r, None)[0] for r in plain], narrow=True)
    yield greedy_figure([greedy(r, resamples=20) for r in plain], narrow=True)
    yield baselines_figure([oracle(r, resamples=20) for r in plain], narrow=True)
    yield sites_figure([by_sites(r) for r in plain], narrow=True)
    yield unique_figure([unique(r, resamples=20) for r in plain], narrow=True)
    yield preferences_figure([preferences(r) for r in plain], narrow=True)
    yield variation_figure([preferences(r) for r in results], narrow=True)
    yield efficiency_figure(efficiency(results[0], resamples=20), narrow=True)


def test_narrow_figures_keep_their_panels_below_one_another_and_inside(results):
    for drawing in narrow_figures(results):
        figure = drawing.figure
        figure.draw_without_rendering()
        width = figure.get_size_inches()[0]
        assert width == NARROW_IN, drawing.name
        boxes = [axes.get_window_extent() for axes in figure.axes]
        assert all(not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]), drawing.name
        assert all(box.width > 0.4 * width * figure.dpi for box in boxes), drawing.name
        whole = figure.bbox.padded(1)
        for legend in legends(figure):
            box = legend.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1, drawing.name


def test_one_drawing_gives_the_picture_and_the_places_of_its_marks(results):
    one, other, saved = (greedy_figure([greedy(results[0], resamples=20)]) for _ in range(3))
    svg, marks = one.drawn()
    assert svg == other.svg() and [said for *_, said in marks] == [mark.text for mark in one.marks]
    np.testing.assert_allclose([m[:2] for m in marks], [m[:2] for m in other.placed_marks()], atol=0.01)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "greedy"}):
        saved.figure.savefig(out, format="svg", metadata={"Date": None})
    assert out.getvalue().endswith(svg)


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


def legends(figure):
    return [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]


def panels_of(axes):
    """Preferences: the heat map, its cells by place, and the bars below it."""
    (mesh,) = axes[0].collections
    return mesh, {text.get_position(): text.get_text() for text in axes[0].texts}, axes[1].patches


def test_preferences_are_a_heat_map_of_option_by_site(results, drawings):
    answer = preferences(results[0])
    mesh, cells, _ = panels_of(drawings["preferences"].figure.axes[::2])
    shares = [[100 * answer.share(site, "dilation", value).value for site in "ABCD"] for value in (1, 2, 3)]
    np.testing.assert_allclose(mesh.get_array().reshape(3, 4), shares)
    assert cells == {(x, y): f"{shares[y][x]:.0f}" for x in range(4) for y in range(3)}
    assert mesh.get_clim() == (0, 100)


def test_below_it_are_the_ten_commonest_configurations_and_the_default_is_black(results, drawings):
    for number in (0, 1):
        answer = preferences(results[number])
        axes = drawings["preferences"].figure.axes[2 + number]
        shown = answer.configs[:10]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([100 * c.share.value for c in shown])
        black = [bar.get_facecolor() == (0, 0, 0, 1) for bar in axes.patches]
        assert black == [c.config == answer.default for c in shown]
        attribute = answer.attributes[0]
        paths = [", ".join(f"{c.settings[site][attribute]:g}" for site in "ABCD") for c in shown]
        assert [label.get_text() for label in axes.get_yticklabels()] == paths
    assert [text.get_text() for text in drawings["preferences"].figure.legends[0].get_texts()][1:3] == [
        "the default configuration", "another configuration"
    ]  # fmt: skip


def test_preferences_of_five_results_leave_no_empty_panel(results):
    drawing = preferences_figure([preferences(result) for result in [*results, results[0]]])
    assert len(drawing.figure.axes) == 10
    marked = {mark.axes for mark in drawing.marks}
    assert marked == set(range(10)) and all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())


def histograms(tmp_path, *classes):
    """A result for each number of classes, in which every number of distinct predictions may occur."""
    made = []
    for i, count in enumerate(classes):
        scores = synthetic.make_ties(4 * count, 40, seed=i, classes=count)
        made.append(unique(open_result(synthetic.make_result(tmp_path / f"{count}.parquet", scores))))
    return made


def test_few_distinct_predictions_have_a_bar_each_beside_many(tmp_path):
    few, many = histograms(tmp_path, 8, 200)
    drawing = unique_figure([many, few])
    wide, narrow = drawing.figure.axes
    assert len(narrow.patches) == len(few.histogram) <= 8 < 50 < len(many.histogram)
    assert [bar.get_height() for bar in narrow.patches] == pytest.approx([100 * h / 40 for h in few.histogram])
    middles = [bar.get_x() + bar.get_width() / 2 for bar in narrow.patches]
    assert middles == pytest.approx(range(1, len(few.histogram) + 1))
    assert narrow.get_xlim()[1] <= len(few.histogram) + 1
    assert len(wide.patches) <= 50 and sum(bar.get_height() for bar in wide.patches) == pytest.approx(100)
    assert wide.patches[-1].get_x() + wide.patches[-1].get_width() <= wide.get_xlim()[1]
    assert "in bins" in drawing.caption and "in bins" not in unique_figure([few]).caption


def test_histograms_that_are_alike_share_an_axis(drawings):
    first, second = drawings["unique"].figure.axes
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()


def percent_limits(figure):
    """The limits of every axis that says that it is in percent."""
    for axes in figure.axes:
        if "(%)" in axes.get_xlabel():
            yield axes.get_xlim()
        if "(%)" in axes.get_ylabel():
            yield axes.get_ylim()


@pytest.mark.parametrize("name", NAMES)
def test_no_axis_of_percentages_leaves_0_to_100(drawings, name):
    limits = list(percent_limits(drawings[name].figure))
    assert limits and all(0 <= low < high <= 100 for low, high in limits), limits


def test_percentages_stay_within_100_where_every_sample_is_alike(tmp_path):
    path = synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(4, 6, accuracy=1.0), default=0)
    result = open_result(path)
    for drawing in (
        unique_figure([unique(result)]),
        greedy_figure([greedy(result)]),
        preferences_figure([preferences(result)]),
        baselines_figure([oracle(result)]),
        sites_figure([by_sites(result)]),
    ):
        assert all(0 <= low < high <= 100 for low, high in percent_limits(drawing.figure)), drawing.name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unique"])
def test_every_figure_with_several_looks_has_a_legend_that_covers_no_panel(drawings, name):
    figure = drawings[name].figure
    figure.draw_without_rendering()
    assert legends(figure)
    for legend in legends(figure):
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_the_legend_of_the_baselines_says_what_each_marker_is(drawings):
    (legend,) = drawings["baselines"].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "picks with the label in hand: a bound", "picks without the label", "what guessing is worth", "95% interval"
    ]  # fmt: skip


def test_each_selector_has_a_row_of_its_own(results):
    selection = cascade(results[0], k=3)
    drawing = selection_figure(selection)
    accuracy, cost, curve = drawing.figure.axes
    labels = [label.get_text() for label in accuracy.get_yticklabels()]
    assert len(labels) == len(set(labels)) == 5 and labels[0].startswith("cascade")
    shown = {
        line.get_ydata()[0]: line.get_xdata()[0]
        for line in accuracy.lines
        if line.get_marker() in ("o", "s") and len(line.get_ydata())
    }
    assert sorted(shown) == [0, 1, 2, 3, 4]
    assert shown[0] == pytest.approx(100 * selection.selectors["cascade"].accuracy.value)
    assert shown[labels.index("static")] == pytest.approx(100 * selection.baselines["static"].accuracy.value)
    spent = {line.get_ydata()[0]: line.get_xdata()[0] for line in cost.lines if line.get_marker() in ("o", "s")}
    assert spent[labels.index("static")] == pytest.approx(selection.baselines["static"].macs.value / 1e9)
    line = next(line for line in curve.lines if line.get_label().startswith("cascade"))
    assert list(line.get_ydata()) == pytest.approx([100 * p.accuracy.value for p in selection.curve])
    drawing.figure.draw_without_rendering()
    (legend,) = drawing.figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in drawing.figure.axes)
    assert all(0 <= low < high <= 100 for low, high in percent_limits(drawing.figure))
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in drawing.placed_marks())


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
