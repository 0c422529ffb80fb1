"""`import itd.analysis` stays light, and figures are written as what their name says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from itd.analysis import greedy
from itd.analysis.figures import greedy_figure, short_names
from itd.errors import ResultError
from itd.store import open_result
from support import synthetic


@pytest.mark.parametrize("module", ["itd.analysis", "itd.store", "itd.analysis.figures"])
def test_reading_results_imports_neither_torch_nor_pandas(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def curves(tmp_path):
    paths = [tmp_path / f"resnet50-{name}.parquet" for name in ("dilation", "size")]
    for i, path in enumerate(paths):
        synthetic.make_result(path, synthetic.make_scores(16, 20, seed=i), default=None if i else 3)
    return [greedy(open_result(path)) for path in paths]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_what_its_suffix_says(curves, tmp_path, suffix, start):
    path = tmp_path / f"greedy{suffix}"
    greedy_figure(curves).save(path)
    assert path.read_bytes().startswith(start)


def test_the_figure_shows_each_curve_with_its_n_and_static_line(curves):
    (axes,) = greedy_figure(curves).figure.axes
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.lines}
    first = lines["resnet50-dilation (n = 20)"]
    assert list(first.get_xdata()) == list(range(1, 17))
    assert list(first.get_ydata()) == [100 * step.accuracy for step in curves[0].held_out.steps]
    dotted = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == ":"]
    assert [100 * step.accuracy for step in curves[0].steps] in dotted
    assert axes.get_legend() is None, "it stands outside, where it hides no curve"
    assert lines["resnet50-size (n = 20)"].get_marker() != first.get_marker()
    static = [line for line in axes.lines if list(line.get_ydata()) == [100 * curves[0].static] * 2]
    assert [line.get_color() for line in static] == [first.get_color()]


def test_a_figure_that_cannot_be_written_is_one_line(curves, tmp_path):
    with pytest.raises(ResultError, match="must end in"):
        greedy_figure(curves).save(tmp_path / "greedy.docx")
    with pytest.raises(ResultError, match="cannot write the figure"):
        greedy_figure(curves).save(tmp_path / "absent" / "greedy.png")


def test_results_of_the_same_name_keep_their_folders():
    assert short_names(["a/r.parquet", "b/r.parquet"]) == ["a/r.parquet", "b/r.parquet"]
