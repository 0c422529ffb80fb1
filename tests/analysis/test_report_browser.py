"""The report in a real browser without a network: it sorts, says values, saves CSV, and looks like something."""

from __future__ import annotations

import csv

import pytest

from itd.analysis.report import report, write_page
from itd.store import open_result
from support import synthetic

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    results = []
    for i, name in enumerate(("stride", "dilation", "size")):
        scores = synthetic.make_scores(16, 30 - i, seed=i, accuracy=0.2 + 0.2 * i)
        result = synthetic.make_result(folder / f"resnet50_{name}_val1300_context150_rof", scores, attribute=name)
        results.append(open_result(result))
    write_page(report(results, resamples=40).html, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def page(browser, path):
    """The page, offline; anything that it asks for or complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, accept_downloads=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(path.as_uri())
    yield page
    context.close()
    assert not wrong


def column(page, index: int) -> list[str]:
    cells = page.locator("#at-a-glance tbody tr").all()
    return [row.locator("td").nth(index).evaluate("cell => cell.dataset.key") for row in cells]


def test_a_click_on_a_head_sorts_and_another_turns_it_round(page):
    heads = page.locator("#at-a-glance thead th")
    index = heads.all_inner_texts().index(next(t for t in heads.all_inner_texts() if t.startswith("best")))
    before = [float(v) for v in column(page, index)]
    heads.nth(index).locator("button").click()
    assert [float(v) for v in column(page, index)] == sorted(before)
    assert heads.nth(index).get_attribute("aria-sort") == "ascending"
    heads.nth(index).locator("button").click()
    assert [float(v) for v in column(page, index)] == sorted(before, reverse=True)
    heads.nth(0).locator("button").click()
    names = column(page, 0)
    assert names == sorted(names) and heads.nth(index).get_attribute("aria-sort") == "none"


def test_a_point_of_a_figure_says_its_value(page):
    figure = page.locator("figure", has=page.locator("figcaption", has_text="Best case of the first k")).first
    picture = figure.locator("svg")
    picture.scroll_into_view_if_needed()
    mark = figure.evaluate("f => JSON.parse(f.querySelector('script.data').textContent).marks[3]")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + mark[0] * box["width"], box["y"] + mark[1] * box["height"])
    assert page.locator("#tip").is_visible()
    shown = page.locator("#tip").inner_text()
    assert "k = " in shown and "%" in shown
    page.mouse.move(2, 2)
    assert not page.locator("#tip").is_visible()
    figure.locator(".picture").focus()
    page.keyboard.press("ArrowRight")
    assert "k = 1," in page.locator("#tip").inner_text()


def test_what_is_said_stands_beside_its_point_in_every_figure(page):
    """No picture is stretched or letterboxed, so that fractions of it are fractions of its box."""
    shapes = page.locator("figure svg").evaluate_all(
        "all => all.map(svg => [svg.viewBox.baseVal, svg.getBoundingClientRect()])"
        ".map(([view, box]) => (view.width / view.height) / (box.width / box.height))"
    )
    assert len(shapes) >= 6 and all(abs(shape - 1) < 0.01 for shape in shapes)
    picture = page.locator("#baselines svg").first
    picture.evaluate("svg => svg.scrollIntoView()")
    blue = picture.locator("use").evaluate_all(
        "all => all.filter(u => getComputedStyle(u).fill === 'rgb(0, 114, 178)').map(u => u.getBoundingClientRect())"
        ".map(box => [box.y + box.height / 2, box.x + box.width / 2])"
    )
    y, x = min(blue)  # the topmost is the oracle's best
    page.mouse.move(x, y)
    assert "oracle best" in page.locator("#tip").inner_text()
    ring = page.locator("#ring").bounding_box()
    assert abs(ring["x"] + ring["width"] / 2 - x) < 1.5 and abs(ring["y"] + ring["height"] / 2 - y) < 1.5


def test_the_numbers_of_a_figure_are_saved_as_csv(page, tmp_path):
    with page.expect_download() as saving:
        page.locator("#greedy-accumulation button.csv").first.click()
    assert saving.value.suggested_filename == "greedy.csv"
    saving.value.save_as(tmp_path / "greedy.csv")
    with open(tmp_path / "greedy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 96 and {"k", "accuracy", "upper_bound"} <= set(rows[0])


@pytest.mark.parametrize("width", [1280, 400])
def test_the_first_screen_has_a_sentence_and_on_a_wide_one_the_figure(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    card = page.locator("#results .cards li").first
    assert "the oracle is" in card.inner_text() and "weights" in card.inner_text()
    box = card.bounding_box()
    assert box["y"] + box["height"] < 500
    figure = page.locator("#results figure svg").bounding_box()
    assert figure["width"] > 0.8 * min(width - 40, 432)
    assert width == 400 or figure["y"] + figure["height"] < 900


def test_on_a_phone_the_answer_comes_first_and_nothing_is_cut(page):
    page.set_viewport_size({"width": 400, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    heads = page.locator("#at-a-glance thead th").all()[:5]
    assert [head.inner_text().replace("\n", " ") for head in heads][2:] == ["static", "best", "matched top-k"]
    assert all(head.bounding_box()["x"] + head.bounding_box()["width"] <= 400 for head in heads)
    cut = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll') && !one.closest('svg')"
        " && one.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert cut == 0
    beyond = page.locator("figure svg").evaluate_all(
        "all => all.flatMap(svg => { const box = svg.getBoundingClientRect(); return [...svg.querySelectorAll('text')]"
        ".filter(text => text.getBoundingClientRect().right > Math.min(box.right, innerWidth) + 3)"
        ".map(text => text.textContent); })"
    )
    assert beyond == []
    heights_px = page.locator("figure svg text").evaluate_all(
        "all => all.map(t => [t.getBBox().height, t.getScreenCTM()]).map(([y, m]) => y * Math.hypot(m.a, m.b))"
    )
    assert len(heights_px) > 100 and min(heights_px) > 7.5


def test_figures_follow_the_dark_scheme(page):
    def colours() -> list[str]:
        return page.locator("#greedy-accumulation svg").first.evaluate(
            "svg => [getComputedStyle(svg.querySelector('text')).fill,"
            " getComputedStyle(svg.querySelector('path')).fill, getComputedStyle(document.body).color]"
        )

    text, ground, own = colours()
    assert text == "rgb(0, 0, 0)" and ground == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    text, ground, own = colours()
    assert text == own == "rgb(230, 237, 243)" and ground == "rgb(22, 27, 34)"
    paper = page.locator("#greedy-accumulation").evaluate("section => getComputedStyle(section).backgroundColor")
    assert ground == paper


def test_definitions_fold(page):
    fold = page.locator("#at-a-glance details", has=page.get_by_text("What the rules are"))
    words = fold.locator("p")
    assert not words.is_visible()
    fold.locator("summary").click()
    assert words.is_visible() and "nobody has achieved it" in words.inner_text()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_and_is_not_blank(page, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000
    drawn = page.locator("figure svg").evaluate_all("all => all.map(svg => svg.getBoundingClientRect().height)")
    assert len(drawn) >= 6 and min(drawn) > 60
