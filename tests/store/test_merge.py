"""Parts of one result from several folders, put together: every row against the sources' own files, read by pandas."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import itd
from itd.errors import ResultError
from itd.store import MissingImage, ResultWriter, open_result, verify
from itd.store import _merge as merging
from itd.store.existing import remove_other
from support import synthetic
from support.commands import run

IMAGES, CONFIGS = 22, 5
SCORES = synthetic.make_scores(CONFIGS, IMAGES, seed=3)
COLUMNS = ["pred", "quality", "nll", "rank", "confidence"]


def make(
    path: Path,
    units: list[int] | None = None,
    *,
    images: int = IMAGES,
    images_per_unit: int = 4,
    gone: tuple[int, ...] = (),
    scores: dict[str, np.ndarray] = SCORES,
    configs: int = CONFIGS,
    provenance: str | None = None,
    **identity: object,
) -> Path:
    """A result of which some units are written; `gone` are images with null rows."""
    writer = synthetic.open_writer(
        path,
        images,
        space=synthetic.make_space(configs),
        images_per_unit=images_per_unit,
        identity={"model": "net", "data": "d", **identity},
        provenance={"tool": "tests", "run": provenance or path.stem},
    )
    for unit in [unit for n, unit in enumerate(writer.todo()) if units is None or n in units]:
        here = slice(unit.first, unit.last + 1)
        missing = np.isin(np.arange(unit.first, unit.last + 1), gone)
        notes = [MissingImage(i, i, f"{i}.png", "torn") for i in gone if unit.first <= i <= unit.last]
        parts = {name: scores[name][:configs, here] for name in COLUMNS}
        labels = scores["labels"][here]
        writer.write(unit, labels=labels, missing=missing, missing_images=notes, **parts)
    return path


def rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["sample", "config"], ignore_index=True)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_shards_are_put_together_and_stay_as_they_are(tmp_path):
    whole = make(tmp_path / "whole.parquet", gone=(5,))
    shards = [make(tmp_path / f"{i}.parquet", [n for n in range(6) if n % 3 == i], gone=(5,)) for i in range(3)]
    before = [contents(shard) for shard in shards]
    merged = itd.merge(shards, tmp_path / "m.parquet")
    assert merged.as_dict() == {
        "out": str(tmp_path / "m.parquet"), "images": IMAGES, "of": IMAGES, "rows": IMAGES * CONFIGS, "duplicates": 0,
        "already": 0,
    }  # fmt: skip
    assert rows(tmp_path / "m.parquet").equals(rows(whole)) and [contents(shard) for shard in shards] == before
    report = verify(tmp_path / "m.parquet")
    assert report.complete and not report.unprotected
    result = open_result(tmp_path / "m.parquet")
    assert itd.oracle(result).best == itd.oracle(open_result(whole)).best
    assert {run["run"] for run in result.manifest["provenance"]} >= {"0", "1", "2"}
    notes = json.loads((tmp_path / "m.parquet" / "_itd" / "missing.json").read_text())["missing"]
    assert [(note["image"], note["reason"]) for note in notes] == [(5, "torn")]


def test_others_see_who_merges_and_leave_it_alone(tmp_path):
    a, b, out = make(tmp_path / "a.parquet", [0, 2]), make(tmp_path / "b.parquet", [1]), tmp_path / "m.parquet"
    seen = []

    def look(done, of):
        seen.append([one.pid for one in itd.status(out).writers])
        with pytest.raises(ResultError, match=f"process {os.getpid()} on .* works on .*m.parquet"):
            remove_other(out, {"model": "other"}, synthetic.make_space(CONFIGS))  # as `overwrite` does
        with pytest.raises(ResultError, match="works on"):
            itd.compact(out)

    itd.merge([a, b], out, progress=look)
    assert seen == [[os.getpid()]] * 3 and not itd.status(out).writers
    assert itd.merge([a, b], out).already == 12


def test_what_two_hold_is_taken_once_also_in_other_partitions(tmp_path):
    whole = make(tmp_path / "whole.parquet", gone=(9,))
    a = make(tmp_path / "a.parquet", [0, 2], gone=(9,))  # 0..3, 8..11
    b = make(tmp_path / "b.parquet", [0, 1], images_per_unit=7, gone=(9,))  # 0..6, 7..13
    c = make(tmp_path / "c.parquet", [3, 4], images_per_unit=5)  # 15..19, 20..21
    merged = itd.merge([a, b, c], tmp_path / "m.parquet")
    assert (merged.images, merged.of, merged.duplicates) == (21, 22, 8)
    there = rows(whole)
    assert rows(tmp_path / "m.parquet").equals(there[there["sample"] != 14].reset_index(drop=True))
    assert verify(tmp_path / "m.parquet").missing == ((14, 14),)
    finished = make(tmp_path / "m.parquet", gone=(9,))  # the same sweep goes on with it
    assert rows(finished).equals(there) and verify(finished).complete


def test_the_longer_selection_is_taken(tmp_path):
    short, long = make(tmp_path / "s.parquet", images=12), make(tmp_path / "l.parquet", [3, 4, 5])
    merged = itd.merge([short, long], tmp_path / "m.parquet")
    assert (merged.images, merged.of) == (22, 22)
    assert rows(tmp_path / "m.parquet").equals(rows(make(tmp_path / "whole.parquet")))


@pytest.mark.parametrize("stopped_after", [0, 1, 3])
def test_it_goes_on_where_it_was_stopped(tmp_path, stopped_after):
    shards = [make(tmp_path / f"{i}.parquet", [n for n in range(6) if n % 2 == i]) for i in range(2)]
    placed = []

    def stop(count, total):
        placed.append((count, total))
        if len(placed) > stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        itd.merge(shards, tmp_path / "m.parquet", progress=stop)
    assert verify(tmp_path / "m.parquet").ok and placed[0] == (4, IMAGES)
    merged = itd.merge(shards, tmp_path / "m.parquet")
    assert (merged.images, merged.already) == (IMAGES, 4 * len(placed))
    assert rows(tmp_path / "m.parquet").equals(rows(make(tmp_path / "whole.parquet")))


def test_other_rows_of_the_same_image_are_refused_before_anything_is_written(tmp_path):
    a = make(tmp_path / "a.parquet", [0, 1])
    for name in COLUMNS:
        scores = {key: values.copy() for key, values in SCORES.items()}
        scores[name][2, 6] += 1
        b = make(tmp_path / f"{name}.parquet", [1, 2], scores=scores)
        with pytest.raises(ResultError, match=rf"image 6 \(sample 6; column {name}\)"):
            itd.merge([a, b], tmp_path / "m.parquet")
    gone = make(tmp_path / "gone.parquet", [1, 2], gone=(6,))
    with pytest.raises(ResultError, match="other rows of image 6"):
        itd.merge([a, gone], tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"precision": "bf16"}, 'precision is (absent) and "bf16"'),
        ({"model": "other"}, 'model is "net" and "other"'),
        ({"configs": 4}, "configurations"),
    ],
)
def test_other_runs_are_refused_by_field(tmp_path, changed, said):
    a, b = make(tmp_path / "a.parquet", [0]), make(tmp_path / "b.parquet", [1], **changed)
    with pytest.raises(ResultError) as error:
        itd.merge([a, b], tmp_path / "m.parquet")
    assert said in str(error.value) and "same sweep" in str(error.value)


def test_what_cannot_be_merged_is_refused_in_one_line(tmp_path):
    a, b = make(tmp_path / "a.parquet", [0]), make(tmp_path / "b.parquet", [1])
    for given, out, said in (
        ([a], "m", "one result"),
        ([a, a], "m", "given twice"),
        ([a, b], "a.parquet", "another `out`"),
        ([a, tmp_path], "m", "no folder that `itd sweep` wrote"),
        ([a, 3], "m", "given int"),
    ):
        with pytest.raises(ResultError, match=said):
            itd.merge(given, tmp_path / out)
    make(tmp_path / "other.parquet", [0], model="else")
    with pytest.raises(ResultError, match="holds another result"):
        itd.merge([a, b], tmp_path / "other.parquet")
    part = next(b.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ResultError, match=r"part-00000004-00000007.*verify --repair"):
        itd.merge([a, b], tmp_path / "m.parquet")


def test_parts_of_an_older_version_get_the_records_of_today(tmp_path):
    stored = make(tmp_path / "old.parquet", range(IMAGES))
    synthetic.make_older(stored)
    copies = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for copy, parity in zip(copies, (0, 1), strict=True):
        shutil.copytree(stored, copy)
        for part in sorted(copy.glob("part-*"))[parity::2]:
            part.unlink()
    assert any("content_sha256" not in json.loads(p.read_text()) for p in (stored / "_itd").glob("part-*.json"))
    merged = itd.merge(copies, tmp_path / "m.parquet")
    assert merged.images == open_result(stored).images_done and merged.duplicates == 0
    assert rows(tmp_path / "m.parquet").equals(rows(stored))
    report = verify(tmp_path / "m.parquet")
    assert report.complete and not report.unprotected


def test_a_part_that_changes_between_reading_and_copying_is_refused(tmp_path, monkeypatch):
    a, b = make(tmp_path / "a.parquet", [0]), make(tmp_path / "b.parquet", [1])
    other = make(tmp_path / "other.parquet", [1], scores=synthetic.make_scores(CONFIGS, IMAGES, seed=4))
    own = merging._opened

    def change(out, sources):
        shutil.copy(next(other.glob("part-*")), next(b.glob("part-*")))
        return own(out, sources)

    monkeypatch.setattr(merging, "_opened", change)
    with pytest.raises(ResultError, match="has changed since it was read"):
        itd.merge([a, b], tmp_path / "m.parquet")


def test_the_command_says_what_is_there_and_what_is_not(tmp_path):
    a, b = make(tmp_path / "a.parquet", [0, 1]), make(tmp_path / "b.parquet", [1, 2])
    answer = run("merge", a, b, "-o", tmp_path / "m.parquet")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        f"12 images, 60 rows -> {tmp_path / 'm.parquet'}",
        "  4 images were in more than one, the same in every row",
        "  10 of 22 are in none; the sweep's command with this --out computes them",
    ]
    found = json.loads(run("merge", a, b, "-o", tmp_path / "m.parquet", "--json").stdout)
    assert found["images"] == found["already"] == 12 and found["duplicates"] == 4


def test_a_writer_that_was_first_keeps_its_part(tmp_path, monkeypatch):
    a, b = make(tmp_path / "a.parquet", [0]), make(tmp_path / "b.parquet", [1])
    own = ResultWriter.done_images.fget
    raced = []

    def race(writer):
        if not raced:
            raced.append(make(tmp_path / "m.parquet", [0, 1]))
        return own(writer)

    monkeypatch.setattr(ResultWriter, "done_images", property(race))
    assert itd.merge([a, b], tmp_path / "m.parquet").images == 8 and verify(tmp_path / "m.parquet").ok


def test_another_result_that_is_begun_there_meanwhile_gets_no_part(tmp_path, monkeypatch):
    a, b = make(tmp_path / "a.parquet", [0]), make(tmp_path / "b.parquet", [1])
    owners, out = merging._owners, tmp_path / "m.parquet"

    def late(*args):
        make(out, [], model="other")
        return owners(*args)

    monkeypatch.setattr(merging, "_owners", late)
    with pytest.raises(ResultError, match=r"m\.parquet holds another result \(.*model is .*; give another `out`"):
        itd.merge([a, b], out)
    assert (
        not list(out.glob("*.parquet")) and len(json.loads((out / "_itd/manifest.json").read_text())["provenance"]) == 1
    )
