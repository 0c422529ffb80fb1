"""The report is one page with everything in it, holds the functions' numbers, and says what it leaves out."""

from __future__ import annotations

import base64
import csv
import gzip
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from itd.analysis import Resamples, oracle
from itd.analysis._summary import summary
from itd.analysis.figures import short_names
from itd.analysis.report import check_page_path, render, report, write_page
from itd.analysis.report.elements import _shown_marks
from itd.analysis.report.provenance import _space
from itd.errors import ResultError
from itd.store import open_result
from itd_cli.main import cli
from support import synthetic

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Tags that are open, ids, addresses, texts of cells, and the data of the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.data: list[dict] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        self.in_data = tag == "script" and given.get("type") == "application/json"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script" and self.in_data:
            self.data.append(json.loads(text))
        elif self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(text)


def table_of(figure: dict) -> list[dict]:
    """The rows of a figure's CSV, which the page holds as gzip in base64."""
    return list(csv.DictReader(io.StringIO(gzip.decompress(base64.b64decode(figure["csv"])).decode())))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made = []
    for i, (name, variation) in enumerate((("stride", None), ("size", None), ("size-scale2", {"scale": 2.0}))):
        attribute = name.partition("-")[0]
        identity = {"model": "resnet50", "weights_sha256": "feed" * 16, "data": "d", "variation": variation}
        space = synthetic.make_space(16, attribute=attribute, default=0)
        runs = {"time": f"2026-11-2{i}T01:02:03+00:00", "weights": "own.safetensors", "data": "some images"}
        path = folder / f"resnet50-{name}.parquet"
        writer = synthetic.open_writer(path, 20, space=space, identity=identity, provenance=runs)
        synthetic.write_units(writer, synthetic.make_scores(16, 20, seed=i))
        made.append(open_result(folder / f"resnet50-{name}.parquet"))
    return made


@pytest.fixture(scope="module")
def text(results):
    return report(results, resamples=40).html


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_is_well_formed_and_every_id_is_its_own(page):
    assert not page.open and len(page.ids) == len(set(page.ids)) and len(page.ids) > 20


def test_what_a_picture_refers_to_is_in_the_same_picture(text):
    pictures = re.findall(r"<svg.*?</svg>", text, re.S)
    for picture in pictures:
        ids = set(re.findall(r' id="([^"]*)"', picture))
        assert ids and ids == set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', picture))
    assert len(pictures) >= 7


def test_what_a_point_says_stands_where_the_point_is_drawn(text):
    """The baselines' figure draws each point as a marker of its own, at the place its text is shown."""
    figure = next(f for f in re.findall(r"<figure.*?</figure>", text, re.S) if '"baselines.csv"' in f)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', figure).groups())
    drawn = np.array([[float(v) for v in at] for at in re.findall(r'<use [^>]*?x="([\d.]+)" y="([\d.]+)"', figure)])
    for x, y, said in Page(figure).data[0]["marks"]:
        assert np.hypot(*(drawn - (x * width, y * height)).T).min() < 0.5, said


def test_nothing_is_fetched_from_anywhere(text, page):
    assert all(a.startswith(("#", "data:")) for a in page.addresses)
    assert all(f"#{a[1:]}" in {f"#{i}" for i in page.ids} for a in page.addresses if a.startswith("#") and a != "#")
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?://|@import|url\((?!#)", without_names)


def test_the_numbers_are_those_of_the_functions(results, page):
    for result in results:
        answer = oracle(result, vote_ks=(3,), resamples=Resamples(20, 40))
        for value in (*answer.intervals.values(), answer.baselines.matched_topk, answer.baselines.vote_greedy[3]):
            assert f"{100 * value.value:.1f}" in page.texts
            assert f"{100 * value.low:.1f}-{100 * value.high:.1f}" in page.texts


def test_every_figure_carries_its_numbers_and_its_marks(page):
    names = [figure["file"] for figure in page.data]
    assert set(names) == {
        f"{n}.csv" for n in ("baselines", "gain", "greedy", "sites", "unique", "preferences", "variation", "efficiency")
    }
    for figure in page.data:
        rows = table_of(figure)
        assert rows and figure["marks"], figure["file"]
        assert all(0 <= x <= 1 and 0 <= y <= 1 and said for x, y, said in figure["marks"])
    greedy = next(f for f in page.data if f["file"] == "greedy.csv")
    assert len(table_of(greedy)) == 2 * 3 * 16


def test_the_first_section_says_of_each_result_what_it_comes_to_and_what_it_is_of(results, text):
    first = re.search(r'<section id="results">.*?</section>', text, re.S)[0]
    cards = re.findall(r"<li>(.*?)</li>", first, re.S)
    assert text.index('<section id="results">') == text.index("<section") and len(cards) == 3
    for i, (result, name, card) in enumerate(zip(results, short_names([r.path for r in results]), cards, strict=True)):
        said = " ".join(Page(card).texts)
        sentence = summary(result, resamples=40).sentence(name)
        assert "".join(Page(card.partition("<dl>")[0]).texts) == sentence and "held out, its first 5" in sentence
        assert all(fact in said for fact in ("20 of 20", "resnet50", "own.safetensors, feedfeed", f"2026-11-2{i}"))
        assert ("some images, scale 2.0" if i == 2 else "some images") in said
    assert first.count("<svg") == 1 and '"gain.csv"' in first and text.count('"gain.csv"') == 1


def test_it_says_of_how_many_resamples_what_is_held_out_is(results, page):
    assert any("held out are of 40 resamples" in t for t in page.texts)
    more = report(results[:1], resamples=130)
    assert any("held out are of 100 resamples" in t for t in Page(more.html).texts)


def test_the_answer_comes_first_in_the_table_at_a_glance(text):
    heads = re.findall(r"<button[^>]*>([^<]*)</button>", text[text.index('id="at-a-glance"') :])
    assert heads[:5] == ["result", "n", "static", "best", "matched top-k"]


def test_definitions_fold_and_every_head_is_explained_without_a_pointer(text):
    folds = re.findall(r"<details[^>]*><summary>(.*?)</summary>(.*?)</details>", text, re.S)
    folded = dict(folds)
    for what in ("What the sentences mean", "What the rules are", "What the baselines are"):
        assert len(folded[what]) > 150 and folded[what] not in re.sub(r"<details.*?</details>", "", text)
    glance = re.search(r'id="at-a-glance".*?</section>', text, re.S)[0]
    titles = re.findall(r'<button type="button" title="([^"]+)">([^<]+)</button>', glance)
    explained = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", glance)
    assert explained == [(name, meaning) for meaning, name in titles] and len(titles) == 12


def test_no_picture_has_black_white_or_grey_of_its_own(text):
    pictures = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert not re.findall(r"#([0-9a-f]{2})\1\1\b", pictures) and "#0072b2" not in pictures
    style = re.search(r"<style>.*?</style>", text, re.S)[0]
    for name in {"--grey-00", *re.findall(r"var\((--[^)]*)\)", pictures)}:
        light, dark = re.findall(rf"{name}: (#\w+);", style)
        assert light != dark


def test_parameters_in_messages_are_shown_as_code(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 8)
    writer.write(writer.todo()[0], missing=np.zeros(4, bool), **synthetic.make_scores(6, 4))
    text = report([open_result(tmp_path / "r")], resamples=20).html
    assert "<code>partial</code> draws it all the same" in text and "`partial`" not in text


def test_it_says_how_far_the_drawing_is(results):
    found, drawn = report(results[:2], resamples=20), []
    text = found.to_html(drawn.append)
    assert len(drawn) == found.figures == text.count("<figure ") and drawn[0] == "Results" and "Efficiency" in drawn


def test_a_crowd_of_points_says_what_can_be_pointed_at_apart():
    crowd = [(0.5, 0.5, f"{i}") for i in range(500)] + [(0.7, 0.5, "apart")]
    assert [said for *_, said in _shown_marks(crowd)] == ["0", "apart"]
    assert len(list(_shown_marks(crowd[:300]))) == 300


def test_the_provenance_of_every_result_is_there(results, page):
    for result in results:
        assert result.path in page.texts
    assert any("feed" * 16 in t for t in page.texts) and "scale 2.0" in page.texts


def test_a_site_without_a_value_is_passed_over_in_the_provenance():
    space = {"configurations": 2, "options": {"A": {"stride": [None], "size": [3]}, "B": {"stride": [0.5, 1]}}}
    assert _space(space) == "2 configurations: A size 3; B stride 1/2, 1"


def test_every_run_of_a_result_is_listed(tmp_path):
    for device in ("first device", "second device"):
        run = {"device": device, "git": "0ff1ce", "classes": 1000 if device[0] == "s" else None}
        writer = synthetic.open_writer(tmp_path / "r", 8, provenance=run)
        writer.write(writer.todo()[0], missing=np.zeros(4, bool), **synthetic.make_scores(6, 4))
    (tmp_path / "plain").mkdir()
    for part in (tmp_path / "r").glob("*.parquet"):
        shutil.copy(part, tmp_path / "plain")
    found = report([open_result(tmp_path / "r"), open_result(tmp_path / "plain")], resamples=20)
    texts = Page(found.html).texts
    assert "All runs (2)" in texts and texts.count("0ff1ce") == 2
    assert {"first device", "second device", "unknown: there is no manifest"} <= set(texts)


def test_names_cannot_write_into_the_page(tmp_path):
    name = "<script>alert(1)</script>&\"'.parquet".replace("/", "")
    path = synthetic.make_result(tmp_path / name, synthetic.make_scores(4, 6))
    text = report([open_result(path)], resamples=20).html
    assert "<script>alert" not in text and not Page(text).open


def test_an_unfinished_result_is_told_with_its_coverage_and_without_greedy(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 8)
    writer.write(writer.todo()[0], missing=np.array([1, 0, 0, 0], bool), **synthetic.make_scores(6, 4))
    result = open_result(tmp_path / "r")
    found = report([result], resamples=20)
    assert found.skipped == [
        f"{result.path}: the greedy curve, because 4 of 8 images are there; `partial` draws it all the same"
    ]
    texts = Page(found.html).texts
    assert "of 8, 1 not decoded" in texts and "Greedy accumulation" not in texts
    assert found.skipped[0].replace("`", "") in "".join(texts)
    assert "Greedy accumulation" in Page(report([result], partial=True, resamples=20).html).texts


def test_without_a_default_what_needs_it_is_left_out(tmp_path):
    result = open_result(synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 6), default=None))
    found = report([result], resamples=20)
    assert "no default configuration" in found.skipped[0] and "the space does not hold the network" in found.html
    titles = [s.title for s in found.sections]
    assert "Dynamic sites" not in titles and "Efficiency" not in titles and "Left out" in titles


def test_where_no_cost_varies_the_page_says_so(tmp_path):
    result = open_result(synthetic.make_result(tmp_path / "r", synthetic.make_scores(4, 6)))
    texts = Page(report([result], resamples=20).html).texts
    assert any(t.startswith("Efficiency: no result here varies the stride") for t in texts)


def test_a_result_without_images_is_left_out_beside_others(results, tmp_path):
    synthetic.open_writer(tmp_path / "empty", 8)
    empty = open_result(tmp_path / "empty")
    found = report([empty, results[0]], resamples=20)
    assert found.results == [(results[0].path, 20)] and "no images" in found.skipped[0]
    with pytest.raises(ResultError, match="nothing to report"):
        report([empty])


def test_the_command_writes_the_page_and_says_what_is_on_it(results, tmp_path):
    paths = [r.path for r in results[:2]]
    options = ["-o", str(tmp_path / "p.html"), "--resamples", "20", "--csv", str(tmp_path / "p.csv")]
    answer = CliRunner().invoke(cli, ["report", *paths, *options, "--json"])
    told = json.loads(answer.stdout)
    text = (tmp_path / "p.html").read_text()
    assert "itd: 2/2 results (100%)" in answer.stderr and "figures (100%)" in answer.stderr
    assert told["bytes"] == len(text.encode()) and told["report"] == str(tmp_path / "p.html")
    assert [r["result"] for r in told["results"]] == paths and "At a glance" in told["sections"]
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 3
    assert list(tmp_path.iterdir()) and not list(tmp_path.glob(".*tmp"))
    help_text = CliRunner().invoke(cli, ["report", "--help"]).stdout
    assert all(key in help_text for key in told)


@pytest.mark.parametrize("path", ["absent/p.html", "file/p.html", "folder", ".", "", "a\0b"])
@pytest.mark.parametrize("write", [check_page_path, lambda path: write_page("page", path)])
def test_a_page_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, path, write):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResultError, match=r"cannot write the report .*; give another `out`"):
        write(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_the_command_refuses_such_a_path_before_it_reads_a_result(tmp_path):
    answer = CliRunner().invoke(cli, ["report", str(tmp_path / "absent"), "-o", str(tmp_path)])
    assert answer.exit_code == 1 and "cannot write the report" in answer.stderr


def test_a_name_that_is_no_text_is_shown_as_well_as_can_be(results, tmp_path):
    page = render("a name with \udcff", "lead", [])
    write_page(page, tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text(encoding="utf-8").count("a name with ?") == 2
