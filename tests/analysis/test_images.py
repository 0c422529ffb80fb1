"""Which images are rescued, lost and never right, against plain loops over a pandas frame of the rows."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import itd
from itd.analysis import images, union
from itd.analysis.images_text import images_text
from itd.analysis.report import images_page
from itd.data.open import open_images
from itd.errors import ResultError
from itd.store import ImageNames, ResultWriter, open_result
from support import intervals, synthetic
from support.sources import encoded, write_folder

CONFIGS, N, CLASSES = 9, 40, 5
CLASS_NAMES = tuple(f"class <{i}> & co" for i in range(CLASSES))


def made(path: Path, seed: int = 0, default: int | None = 4, names: bool = True, configs: int = CONFIGS, n: int = N):
    """A result of few classes, in which everything ties often."""
    scores = synthetic.make_ties(configs, n, seed=seed, classes=CLASSES)
    labels = scores["labels"]
    known = ImageNames([f"c{label}/{i}.png" for i, label in enumerate(labels)], labels, CLASS_NAMES)
    space = synthetic.make_space(configs, default=default)
    writer = ResultWriter.open(path, identity={"model": "m", "data": "d"}, space=space, macs=[1] * configs,
                               samples=np.arange(n, dtype=np.int32), images_per_unit=7,
                               provenance={"tool": "tests", "classes": CLASSES},
                               names=known if names else None)  # fmt: skip
    synthetic.write_units(writer, scores)
    return open_result(path)


def expected(result, group: str, config: int | None = None) -> list[dict]:
    """The images of a group by loops over the rows, in the order of `sample`."""
    found = []
    for sample, rows in result.to_pandas().groupby("sample"):
        right = {row.config for row in rows.itertuples() if row.pred == row.label}
        static, label = rows[rows.config == result.default], int(rows.label.iloc[0])
        default_right = result.default in right
        wrong = [c for c in rows.config if c not in right and c != result.default]
        inside = {
            "rescued": not default_right and len(right) >= 1,
            "lost": default_right and len(wrong) > (result.configs - 1) / 2,
            "never": not right,
            "only_config": config in right and not default_right,
            "only_default": default_right and config not in right,
        }[group]
        if inside:
            others = rows[[c in right and c != result.default for c in rows.config]]
            others = others.sort_values(["quality", "nll", "config"], ascending=[False, True, True])
            found.append({"sample": sample, "label": label, "right": len(right),
                          "static": int(static.pred.iloc[0]) if len(static) else None,
                          "failing": round(len(wrong) / (result.configs - 1), 9) if len(static) else None,
                          "configs": others.config.tolist()[:5]})  # fmt: skip
    return found


def of(group) -> list[dict]:
    found = []
    for row in group.images:
        failing = None if row.failing is None else round(row.failing, 9)
        found.append({"sample": row.sample, "label": row.label, "right": row.right, "static": row.static,
                      "failing": failing, "configs": [c.config for c in row.configs]})  # fmt: skip
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("group", "few"), [("rescued", False), ("lost", True), ("never", False)])
def test_the_groups_are_those_of_plain_loops(tmp_path, seed, group, few):
    result = made(tmp_path / "r", seed)
    wanted = expected(result, group)
    assert group == "never" or len(wanted) > 3
    (found,) = images(result, group).groups
    wanted.sort(key=lambda row: row["right"] if few else -row["right"])  # a stable sort
    assert wanted == of(found)
    assert found.total == len(wanted) and found.sort == ("few" if few else "many")
    member = np.isin(result.samples, [row["sample"] for row in wanted])
    assert (found.share.low, found.share.high) == pytest.approx(intervals.of_share(member))
    if group == "lost":
        failing = [row.failing for row in found.images]
        assert failing == sorted(failing, reverse=True) and min(failing) > 0.5


def test_a_configuration_against_the_default_both_ways(tmp_path):
    result = made(tmp_path / "r", 3)
    found = images(result, config=7, sort="few", limit=3)
    assert [group.name for group in found.groups] == ["only_config", "only_default"] and found.config == 7
    for group in found.groups:
        wanted = sorted(expected(result, group.name, 7), key=lambda row: row["right"])
        assert wanted[:3] == of(group) and group.total == len(wanted) > 3
        assert "configuration 7 is" in group.meaning


def test_all_groups_names_and_settings(tmp_path):
    result = made(tmp_path / "r")
    found = images(result)
    assert [group.name for group in found.groups] == ["rescued", "lost", "never"]
    for row in (row for group in found.groups for row in group.images):
        assert row.name == f"c{row.label}/{row.sample}.png" and row.class_name == CLASS_NAMES[row.label]
        assert row.static_name == CLASS_NAMES[row.static]
        for one in row.configs:
            assert one.settings == result.setting(result.config_numbers.tolist().index(one.config))
            assert one.source is None
    frame = found.to_pandas()
    assert frame.groupby("group").size().to_dict() == {g.name: g.total for g in found.groups if g.total}
    first = found.groups[0].images[0]
    assert frame.loc[0, ["sample", "name", "config"]].tolist() == [first.sample, first.name, first.configs[0].config]
    assert frame.loc[0, "dilation_A"] == first.configs[0].settings["A"]["dilation"]
    assert pd.DataFrame(found.shares())["images"].tolist() == [g.total for g in found.groups]
    assert itd.images is images


def test_a_tie_of_half_of_the_others_is_not_lost(tmp_path):
    quality = np.array([[1.5], [1.5], [0.5]])  # one of the two others is wrong
    result = open_result(synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality)))
    assert images(result, "lost").groups[0].total == 0
    quality = np.array([[1.5], [0.5], [0.5], [1.5]])
    result = open_result(synthetic.make_result(tmp_path / "s", synthetic.from_quality(quality)))
    assert images(result, "lost").groups[0].total == 1


def test_without_a_default_only_never_can_be_asked(tmp_path):
    result = made(tmp_path / "r", default=None)
    found = images(result)
    assert [group.name for group in found.groups] == ["never"] and found.default is None
    assert of(found.groups[0]) == expected(result, "never")
    for how in ({"group": "rescued"}, {"group": "lost"}, {"config": 1}):
        with pytest.raises(ResultError, match="does not hold the network's default configuration"):
            images(result, **how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"group": "won"}, "no such group of images: 'won'; the groups are rescued, lost, never"),
        ({"group": "lost", "config": 3}, "`config=3` is a group of its own"),
        ({"config": 4}, "`config=4` is the default itself"),
        ({"config": 99}, "has no configuration 99; its numbers are 0 to 8"),
        ({"config": "a"}, "config is 'a'; give a whole number"),
        ({"sort": "most"}, "no such `sort`: 'most'; give few or many"),
        ({"limit": 0}, "limit is 0; give a whole number, at least 1"),
        ({"labels_file": "x.csv"}, "say how `data` is read; give `data` too"),
    ],
)
def test_what_cannot_be_asked_says_what_to_give(tmp_path, how, words):
    with pytest.raises(ResultError, match=re.escape(words)):
        images(made(tmp_path / "r", n=8), **how)


def test_the_text_fits_and_an_older_result_has_no_names(tmp_path):
    result = made(tmp_path / "r", n=30)
    text = images_text(images(result, "rescued"))
    assert max(map(len, text.splitlines())) <= 100 and "c1/" in text and "the default says" in text
    assert re.search(r"and \d+ more", text)
    older = images(made(tmp_path / "o", names=False, n=30), "rescued")
    assert {row.name for row in older.groups[0].images} == {None}
    assert "name" not in images_text(older).splitlines()[-4] and "sample" in images_text(older)
    long = ImageNames(["folder/" * 30 + f"{i}.png" for i in range(4)], np.zeros(4, np.int16), ("a" * 90,))
    writer = ResultWriter.open(tmp_path / "l", identity={}, space=synthetic.make_space(3), macs=[1] * 3,
                               samples=np.arange(4, dtype=np.int32), images_per_unit=4, provenance={},
                               names=long)  # fmt: skip
    synthetic.write_units(writer, synthetic.from_quality([[0.5] * 4, [1.5] * 4, [1.5] * 4]))
    lines = images_text(images(open_result(tmp_path / "l"), "rescued")).splitlines()
    assert max(map(len, lines)) <= 100 and any(line.endswith("3.png") and "..." in line for line in lines)


def test_a_name_of_several_lines_stays_in_its_row_and_everything_fits_the_page(tmp_path):
    odd = ImageNames(["a\nb\t\x1b[2J\u202e.png", os.fsdecode(b"caf\xe9.png")], np.zeros(2, np.int16), ("one\ntwo",))
    writer = ResultWriter.open(tmp_path / "r", identity={}, space=synthetic.make_space(2), macs=[1] * 2,
                               samples=np.arange(2, dtype=np.int32), images_per_unit=4, provenance={},
                               names=odd)  # fmt: skip
    synthetic.write_units(writer, synthetic.from_quality([[0.5] * 2, [1.5] * 2]))
    found = images(open_result(tmp_path / "r"), "rescued")
    first, second = (line for line in images_text(found).splitlines() if re.match(r" +[01]  ", line))
    assert first.endswith(r"a\nb\t\x1b[2J\u202e.png") and r"one\ntwo (0)" in first and second.endswith(r"caf\udce9.png")
    assert r"caf\udce9.png, sample 1" in images_page(found)
    assert found.to_pandas()["name"].tolist() == ["a\nb\t\x1b[2J\u202e.png", r"caf\udce9.png"]


def test_a_union_says_which_source_gets_an_image_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would not fit the table
    sources = [made(Path(name), default=default) for name, default in (("a", 4), ("b", 2))]
    union(sources, "u")
    result = open_result("u")
    (found,) = images(result, "rescued").groups
    assert {one.source for row in found.images for one in row.configs} == {s.path for s in sources}
    for one in (one for row in found.images for one in row.configs):
        assert (one.source == sources[1].path) == (one.config >= CONFIGS)
    assert f" of {sources[0].path}: A(dilation" in images_text(images(result, "rescued"))


@pytest.fixture
def folder(tmp_path):
    """A folder of 12 images with names that would end an element, and a result of its images."""
    labels = np.repeat(np.arange(3), 4)
    items = [(f"c{label}/<b>{i:02d} &amp;.png", encoded(i, 20 * (1 + i))) for i, label in enumerate(labels)]
    root = write_folder(tmp_path / "data", items)
    opened = open_images(root, num_classes=3)
    scores = synthetic.make_ties(6, 12, seed=5, classes=3) | {"labels": labels.astype(np.int16)}
    scores["quality"] = (scores["pred"] == labels) + np.float32(0.25)
    space = synthetic.make_space(6)
    writer = ResultWriter.open(tmp_path / "r", identity={"data": opened.fingerprint()}, space=space, macs=[1] * 6,
                               samples=np.arange(12, dtype=np.int32), images_per_unit=6,
                               provenance={"classes": 3})  # fmt: skip
    synthetic.write_units(writer, scores)
    return root, open_result(tmp_path / "r")


def test_the_images_themselves_give_the_names_and_others_are_refused(folder, tmp_path):
    root, result = folder
    found = images(result, data=root)
    opened = open_images(root, num_classes=3)
    rows = [row for group in found.groups for row in group.images]
    assert rows and all(row.name == opened.names[row.sample] for row in rows)
    assert all(row.class_name == f"c{row.label}" and row.static_name == f"c{row.static}" for row in rows)
    (root / "c0" / "more.png").write_bytes(encoded(99))
    with pytest.raises(ResultError, match=r"images of .*data are not those that .*give `data` what its `itd sweep`"):
        images(result, data=root)
    one = tmp_path / "one.parquet"
    pd.read_parquet(result.path).to_parquet(one)
    with pytest.raises(ResultError, match="does not say which images it is of"):
        images(open_result(one), data=root)


def test_a_page_has_a_thumbnail_of_each_image_and_nothing_of_the_network(folder):
    root, result = folder
    answer = images(result, data=root)
    seen: list[int] = []
    page = images_page(answer, lambda: seen.append(1))
    rows = [row for group in answer.groups for row in group.images]
    assert len(seen) == len(rows)
    pictures = re.findall(r'<img[^>]* src="data:image/jpeg;base64,([^"]+)" alt="([^"]*)" width="(\d+)"', page)
    assert len(pictures) == len(rows) > 5
    for (data, alt, width), row in zip(pictures, rows, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.size == (min(160, 20 * (1 + row.sample)),) * 2 and int(width) == picture.size[0]
        assert f"{row.sample:02d}" in alt
        source = open_images(root, num_classes=3).load(row.sample).resize(picture.size)
        difference = np.abs(np.asarray(picture, float).mean((0, 1)) - np.asarray(source, float).mean((0, 1)))
        assert difference.max() < 6, "it is that image"
    assert "<b>0" not in page and "&lt;b&gt;0" in page, "names are escaped"
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert 'loading="lazy"' in page and "content-visibility: auto" in page


def test_an_image_that_cannot_be_decoded_says_so_and_without_data_there_are_names(folder):
    root, result = folder
    gone = images(result, data=root)
    row = gone.groups[0].images[0]
    path = root / gone.originals.names[row.sample]
    path.write_bytes(b"x" * os.path.getsize(path))
    page = images_page(images(result, "rescued", data=root))
    assert page.count('<div class="none">cannot be decoded</div>') == 1
    bare = images_page(images(result, "rescued"))
    assert "<img" not in bare and f"sample {row.sample}" in bare and 'class="tiles bare"' in bare


def test_a_page_says_how_many_of_a_group_it_has(tmp_path):
    result = made(tmp_path / "r")
    page = images_page(images(result, "lost", limit=2))
    total = len(expected(result, "lost"))
    assert page.count("<li><p><b>") == 2 and f"{total} images, " in page and "Here are 2 of them." in page


@pytest.mark.data
def test_the_stored_result_gets_its_names_from_the_images(shared_data, repository):
    result = open_result(repository / "results" / "resnet50-stride-val1300.parquet")
    found = images(result, "never", data=shared_data / "images" / "val1300")
    (group,) = found.groups
    assert group.total == 9 == len(expected(result, "never"))
    for row in group.images:
        assert re.fullmatch(rf"{row.class_name}/ILSVRC2012_val_\d{{8}}\.JPEG", row.name)
        assert (shared_data / "images" / "val1300" / row.name).is_file()
