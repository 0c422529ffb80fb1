"""What one run does between two steps of another: nothing that is whole is taken for damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from itd.errors import ResultError
from itd.store import open_result, verify, whole
from support import synthetic

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
