"""What one run does between two steps of another: nothing that is whole is taken for damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from itd.errors import ResultError
from itd.store import ResultWriter, _verify, open_result, opening, verify, whole
from itd.store import manifest as manifests
from itd.store import writer as store_writer
from support import synthetic
from support.rows import part_names

SCORES = synthetic.make_scores(6, 10)


def writer(path: Path, images: int = 10, **how: object) -> object:
    return synthetic.open_writer(path, images, **how)  # type: ignore[arg-type]


def before_the_parts_are_read(monkeypatch: pytest.MonkeyPatch, other: object) -> None:
    """Calls `other` once a run has its manifest, and before it lists the parts."""
    parts = whole.list_parts

    def late(folder: Path) -> object:
        monkeypatch.setattr(whole, "list_parts", parts)
        other()  # type: ignore[operator]
        return parts(folder)

    monkeypatch.setattr(whole, "list_parts", late)


def test_parts_of_a_run_that_goes_on_to_more_images_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.parquet"
    synthetic.write_units(writer(path, 4), SCORES)
    before_the_parts_are_read(monkeypatch, lambda: synthetic.write_units(writer(path), SCORES))
    assert writer(path, 4).done_images == 4
    assert verify(path).complete and open_result(path).n == 10 and not (path / "_itd/bad").exists()


def test_parts_of_a_run_that_begins_anew_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.parquet"
    synthetic.write_units(writer(path, 4), SCORES)
    space = synthetic.make_space(5)

    def anew() -> None:
        shutil.rmtree(path)
        synthetic.write_units(writer(path, space=space), synthetic.make_scores(5, 10))

    before_the_parts_are_read(monkeypatch, anew)
    with pytest.raises(ResultError, match="was begun anew by another run"):
        writer(path, 4)
    assert verify(path).complete and open_result(path).configs == 5


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    """Ten images, the rows of one of which are null."""
    path = tmp_path / "m.parquet"
    synthetic.write_units(writer(path), SCORES, np.arange(10) == 5)
    return path


def retry(path: Path) -> None:
    """Computes the part with null rows again."""
    space = synthetic.make_space(6)
    again = ResultWriter.open(
        path, identity={"model": "resnet50", "space": space.identity()}, space=space,
        macs=[1000 + i for i in range(6)], samples=np.arange(10), images_per_unit=4, provenance={"tool": "tests"},
        retry_missing=True,
    )  # fmt: skip
    synthetic.write_units(again, SCORES)


@pytest.mark.parametrize("where", [opening, _verify])
def test_a_part_that_is_made_again_while_it_is_read_is_whole(
    where: object, missing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = opening.list_parts

    def late(folder: Path) -> object:
        found = parts(folder)
        monkeypatch.setattr(where, "list_parts", parts)
        retry(missing)
        return found

    monkeypatch.setattr(where, "list_parts", late)
    assert open_result(missing).nulls == 0 if where is opening else verify(missing).complete


def test_a_part_that_was_made_again_since_is_not_called_damaged(missing: Path) -> None:
    opened = open_result(missing)
    assert opened.nulls == 1
    retry(missing)
    with pytest.raises(ResultError, match=r"was made again by another run since .* was opened; open it again"):
        opened.matrix("quality")
    assert open_result(missing).matrix("quality").shape == (6, 10)


def test_an_image_that_another_run_scored_since_the_parts_were_listed_is_not_missing(
    missing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought_up = store_writer.as_parts_say

    def late(*given: object) -> None:
        monkeypatch.setattr(store_writer, "as_parts_say", brought_up)
        retry(missing)
        brought_up(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(store_writer, "as_parts_say", late)
    assert writer(missing).null_images == []  # type: ignore[attr-defined]
    assert open_result(missing).nulls == 0


def test_a_run_that_ends_while_it_begins_a_result_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.parquet"
    monkeypatch.setattr(manifests, "save", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer(path)
    monkeypatch.undo()
    assert verify(path).ok and (path / "_itd/configs.parquet").exists()
    synthetic.write_units(writer(path), SCORES)
    assert verify(path).complete


@pytest.mark.parametrize("name", ["two\nlines", "x" * 5000, "\udce9"])
def test_what_no_manifest_can_hold_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"no result can be of this run: identity.data is .*, not a text of one line"):
        writer(tmp_path / "r.parquet", identity={"model": "resnet50", "data": name})
    assert not (tmp_path / "r.parquet/_itd/configs.parquet").exists()


def test_a_part_that_comes_after_the_one_that_takes_its_place_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs with other limits the one with the smaller limit may be the later one at the unit that they share."""
    path = tmp_path / "r.parquet"
    small, large = writer(path, 6), writer(path)
    put = store_writer.put_part

    def late(temp: Path, target: Path, *args: object, **how: object) -> bool:
        if target.name == "part-00000004-00000005.parquet":
            monkeypatch.setattr(store_writer, "put_part", put)
            synthetic.write_units(large, SCORES)
        return put(temp, target, *args, **how)

    monkeypatch.setattr(store_writer, "put_part", late)
    synthetic.write_units(small, SCORES)
    assert part_names(path) == ["0-3", "4-7", "8-9"], "whoever reads the folder without us has no row twice"
    assert verify(path).complete and len(list((path / "_itd").glob("part-*.json"))) == 3
