"""The page of a result's images in a real browser without a network: it opens fast, fits, and shows what it names."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest

from itd.analysis import images
from itd.analysis.report import images_page, write_page
from itd.data.open import open_images
from itd.store import ResultWriter, open_result
from support import synthetic
from support.sources import encoded, write_folder

pytestmark = pytest.mark.browser

MANY = 5000


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """A result of 12 images, some small and some large, with names that are as bad as names can be."""
    folder = tmp_path_factory.mktemp("gallery")
    labels = np.repeat(np.arange(3), 4).astype(np.int16)
    items = [
        (f"class{label}/<img src=x onerror=alert(1)> {'long' * 20} {i:02d}.png", encoded(i, 40 + 40 * i, "PNG"))
        for i, label in enumerate(labels)
    ]
    root = write_folder(folder / "data", items)
    opened = open_images(root, num_classes=3)
    scores = synthetic.make_ties(6, 12, seed=5, classes=3) | {"labels": labels}
    scores["quality"] = (scores["pred"] == labels) + np.float32(0.25)
    writer = ResultWriter.open(folder / "net.parquet", identity={"data": opened.fingerprint()}, macs=[1] * 6,
                               space=synthetic.make_space(6), samples=np.arange(12, dtype=np.int32),
                               images_per_unit=6, provenance={"classes": 3})  # fmt: skip
    synthetic.write_units(writer, scores)
    return images(open_result(folder / "net.parquet"), data=root)


def distinct() -> dict[int, tuple[str, tuple[int, int]]]:
    """A picture for each of many images, no two of the same bytes: a browser would load those once."""
    content = encoded(0, 160, "JPEG")
    texts = (base64.b64encode(content + i.to_bytes(4, "big")).decode() for i in range(MANY))
    return {i: (f"data:image/jpeg;base64,{text}", (160, 160)) for i, text in enumerate(texts)}


@pytest.fixture(scope="module")
def paths(answer, tmp_path_factory):
    """The page as it is, one without pictures, and one of 5,000 images."""
    folder = tmp_path_factory.mktemp("pages")
    group = answer.groups[0]
    rows = tuple(replace(group.images[i % len(group.images)], sample=i) for i in range(MANY))
    many = replace(group, images=rows, total=MANY)
    pages = {
        "small": images_page(answer),
        "bare": images_page(replace(answer, originals=None)),
        "many": images_page(replace(answer, groups=(many,)), thumbnails=distinct()),
    }
    for name, page in pages.items():
        write_page(page, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def open_page(browser, paths):
    """Opens a page offline; anything that it asks for or complains of fails the test."""
    contexts, wrong = [], []

    def opened(name: str, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url),
        )
        page.goto(paths[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def test_pictures_are_shown_and_names_are_text(open_page, answer):
    page = open_page("small")
    rows = [row for group in answer.groups for row in group.images]
    assert page.locator(".tiles li").count() == len(rows) == page.locator(".tiles img").count()
    first = page.locator(".tiles img").first
    assert first.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 0
    assert page.locator(".tiles .name").first.text_content() == f"{rows[0].name}, sample {rows[0].sample}"
    assert page.locator(".tiles img[onerror]").count() == 0


def test_the_configurations_unfold_with_their_settings(open_page, answer):
    page = open_page("small")
    row = answer.groups[0].images[0]
    fold = page.locator(".tiles details").first
    assert (
        fold.locator("summary").inner_text() == f"right: {row.right} of 6" and not fold.locator("p").first.is_visible()
    )
    fold.locator("summary").click()
    assert fold.locator("p").first.inner_text().startswith(f"{row.configs[0].config}: A(dilation=")


@pytest.mark.parametrize("name", ["small", "bare"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_its_window_and_fills_it(open_page, name, width):
    page = open_page(name, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.locator(".tiles *").evaluate_all(
        "all => all.filter(o => o.getBoundingClientRect().right > innerWidth).length"
    )
    assert cut == 0
    lefts = (
        page.locator(".tiles").first.locator("li").evaluate_all("all => all.map(o => o.getBoundingClientRect().left)")
    )
    beside = len(set(lefts))
    assert beside == {("small", 400): 2, ("bare", 400): 1}.get((name, width), beside) and (width == 400 or beside >= 3)


def test_it_follows_the_dark_scheme(open_page):
    ground = "() => [document.body, document.querySelector('section')].map(o => getComputedStyle(o).backgroundColor)"
    assert open_page("small").evaluate(ground) == ["rgb(246, 248, 250)", "rgb(255, 255, 255)"]
    assert open_page("small", scheme="dark").evaluate(ground) == ["rgb(13, 17, 23)", "rgb(22, 27, 34)"]


def test_of_five_thousand_images_only_those_in_sight_are_decoded_and_laid_out(open_page):
    page = open_page("many")
    assert page.locator(".tiles img").count() == MANY
    skipped = page.locator(".tiles li").evaluate_all(
        "all => all.filter(o => !o.querySelector('p').checkVisibility({contentVisibilityAuto: true})).length"
    )
    assert skipped > MANY - 500
    loaded = page.locator(".tiles img").evaluate_all("all => all.filter(o => o.complete && o.naturalWidth).length")
    assert 0 < loaded < MANY // 2
    last = page.locator(".tiles li").last
    last.scroll_into_view_if_needed()
    assert last.locator("img").evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 0
