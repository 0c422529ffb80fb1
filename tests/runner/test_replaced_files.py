"""Files that were replaced since a result was begun: it goes on where they had no scores, and only there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itd import SweepRequest, sweep
from itd.errors import ItdWarning, ResultError, SetAsideWarning
from itd.runner import run as runner
from itd.store import manifest as manifests
from itd.store import open_result, repair, verify
from support import synthetic

SIDES = [(40, 50), (44, 36), (60, 33), (38, 38)]
OTHER = "holds another run: data is"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, sides in enumerate(SIDES):
            Image.fromarray(rng.integers(0, 255, (*sides, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def request_(tmp_path: Path, data: Path) -> SweepRequest:
    """Eight images in four units, by path: cat/0 .. cat/3, dog/0 .. dog/3."""
    return SweepRequest(
        "support.small:two_classes", "dilation", sites="D=body", options=("1,2",), data=str(data), num_classes=2,
        order="path", crop_px=32, resize_px=32, batch_size=2, device="cpu", out=str(tmp_path / "r.parquet"),
        images_per_unit=2,
    )  # fmt: skip


def cut(path: Path) -> bytes:
    """Damages a file, which then has another size; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    return whole


def missing(out: str) -> list[str]:
    return [one["name"] for one in json.loads(Path(out, "_itd/missing.json").read_text())["missing"]]


def test_an_image_that_was_missing_and_has_scores_now_may_not_be_replaced(request_: SweepRequest, data: Path) -> None:
    whole = cut(data / "cat/1.png")
    sweep(replace(request_, allow_missing=1), quiet=True)
    Path(request_.out, "part-00000000-00000001.parquet").write_bytes(b"")
    (data / "cat/1.png").write_bytes(whole)
    with pytest.warns(ItdWarning, match="is damaged"):
        assert sweep(request_, quiet=True).nulls == 0
    assert missing(request_.out) == []
    cut(data / "cat/1.png")
    with pytest.raises(ResultError, match=OTHER):
        sweep(request_, quiet=True)


def test_an_image_that_failed_and_has_scores_now_may_not_be_replaced(request_: SweepRequest, data: Path) -> None:
    whole = (data / "cat/2.png").read_bytes()
    (data / "cat/2.png").write_bytes(whole[:60] + bytes(60) + whole[120:])  # of the same size
    with pytest.warns(SetAsideWarning):
        sweep(replace(request_, limit=3), quiet=True)
    (data / "cat/2.png").write_bytes(whole)
    assert sweep(request_, quiet=True).left == 0  # in a unit of other images
    assert not list(Path(request_.out, "_itd/failed").iterdir())
    cut(data / "cat/2.png")
    with pytest.raises(ResultError, match=OTHER):
        sweep(request_, quiet=True)


def test_a_note_that_a_crash_left_is_not_believed(request_: SweepRequest, data: Path) -> None:
    whole = cut(data / "cat/1.png")
    sweep(replace(request_, allow_missing=1), quiet=True)
    noted = Path(request_.out, "_itd/missing.json").read_bytes()
    (data / "cat/1.png").write_bytes(whole)
    sweep(replace(request_, retry_missing=True), quiet=True)
    Path(request_.out, "_itd/missing.json").write_bytes(noted)  # as before the last step
    assert sweep(request_, quiet=True).nulls == 0 and missing(request_.out) == []


def test_a_file_may_be_replaced_again_before_its_unit_is_tried(request_: SweepRequest, data: Path) -> None:
    cut(data / "cat/3.png")
    sweep(replace(request_, allow_missing=1), quiet=True)
    with pytest.warns(SetAsideWarning):
        sweep(replace(request_, retry_missing=True), quiet=True)  # which leaves a note of the unit, too
    for content in (b"abc", b"abcdef"):
        (data / "cat/3.png").write_bytes(content)
        with pytest.warns(ItdWarning, match="null rows of 1 images, and files were replaced"):
            assert sweep(request_, quiet=True).nulls == 1


def test_a_manifest_made_anew_goes_on_with_the_files_that_were_replaced(request_: SweepRequest, data: Path) -> None:
    whole = cut(data / "cat/3.png")
    with pytest.warns(SetAsideWarning):
        sweep(request_, quiet=True)
    (data / "cat/3.png").write_bytes(whole)
    sweep(request_, quiet=True)
    manifests.manifest_path(Path(request_.out)).unlink()
    assert repair(request_.out) and sweep(request_, quiet=True).already == 8
    kept = Path(request_.out, "_itd/replaced.json")
    kept.write_bytes(b"{")
    assert [one.file for one in verify(request_.out).damaged] == ["_itd/replaced.json"]
    assert "made anew from the manifest" in repair(request_.out)[0] and verify(request_.out).complete


def test_two_runs_go_on_with_a_replaced_file_at_once(
    request_: SweepRequest, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cut(data / "cat/3.png")
    with pytest.warns(SetAsideWarning):
        sweep(request_, quiet=True)
    (data / "cat/3.png").write_bytes(whole)
    opened = runner.open_writer

    def late(*given: object, **named: object) -> object:
        monkeypatch.setattr(runner, "open_writer", opened)
        assert sweep(request_, quiet=True).done == 2
        return opened(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "open_writer", late)
    assert sweep(request_, quiet=True).already == 8 and open_result(request_.out).n == 8


def test_nothing_is_noted_of_a_run_that_another_replaced(request_: SweepRequest, data: Path) -> None:
    for path in data.glob("*/*"):
        cut(path)
    with pytest.warns(SetAsideWarning):
        sweep(request_, quiet=True)
    synthetic.open_writer(Path(request_.out), 4)
    assert not Path(request_.out, "_itd/failed").exists()
