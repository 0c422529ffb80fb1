"""A unit that cannot be computed is set aside and the others go on; a file that cannot be read is never a null row."""

from __future__ import annotations

import errno
import json
import re
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from itd import SweepRequest, plan, sweep
from itd.data.loader import DecoderDiedError
from itd.device import memory_shortage
from itd.errors import (
    DataError,
    ImageReadError,
    ItdError,
    ItdWarning,
    MemoryShortageError,
    NotFiniteError,
    ResultError,
    SetAsideWarning,
)
from itd.runner.executors import make_executor, way_of
from itd.runner.options import RunOptions, missing_limit
from itd.runner.run import run_job
from itd.runner.worker import Retries, Worker
from itd.store import open_result, verify
from support.commands import run
from support.small import two_classes

SIZES = [(40, 50), (44, 36), (60, 33), (38, 38)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itd.runner.worker.time.sleep", lambda seconds: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, size in enumerate(SIZES):
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def request_(tmp_path: Path, folder: Path) -> SweepRequest:
    """Eight images in four units, by path: cat/0 .. cat/3, dog/0 .. dog/3."""
    return SweepRequest(
        "support.small:two_classes", "dilation", sites="D=body", options=("1,2",), data=str(folder), num_classes=2,
        order="path", crop_px=32, resize_px=32, batch_size=2, device="cpu", out=str(tmp_path / "r.parquet"),
        images_per_unit=2,
    )  # fmt: skip


def damage(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    return whole


def rows(path: str) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["config", "sample"], ignore_index=True)


def failed_files(out: str) -> list[str]:
    return sorted(path.name for path in Path(out, "_itd/failed").glob("*"))


def set_aside(request: SweepRequest, words: str, **how: object) -> object:
    with pytest.warns(SetAsideWarning) as noted:
        report = sweep(request, quiet=True, **how)
    lines = [str(one.message) for one in noted]
    assert any(re.search(words, line) for line in lines), lines
    return report


def test_the_others_finish_and_the_same_command_tries_again(request_: SweepRequest, folder: Path) -> None:
    whole = damage(folder / "cat/3.png")
    report = set_aside(request_, r"images 2 to 3 .*cannot decode image 3, .*cat/3\.png")
    assert (report.done, report.left, report.nulls, report.stopped) == (6, 2, 0, None)
    assert [(one.first, one.last, one.kind, one.attempts) for one in report.failed] == [(2, 3, "undecodable", 1)]
    assert failed_files(request_.out) == ["part-00000002-00000003.json"]
    kept = json.loads(Path(request_.out, "_itd/failed/part-00000002-00000003.json").read_text())
    assert "cat/3.png" in kept["reason"] and kept["run"] and kept["time"]
    assert open_result(request_.out).n == 6 and verify(request_.out).missing == ((2, 3),) and verify(request_.out).ok
    again = set_aside(request_, "images 2 to 3")
    assert (again.done, again.already) == (0, 6)
    (folder / "cat/3.png").write_bytes(whole)
    assert sweep(request_, quiet=True).done == 2 and failed_files(request_.out) == []
    assert verify(request_.out).complete


def test_all_that_is_bad_in_a_unit_is_known_and_may_be_replaced(request_: SweepRequest, folder: Path) -> None:
    wholes = {name: damage(folder / name) for name in ("cat/2.png", "cat/3.png", "dog/2.png")}
    report = set_aside(replace(request_, batch_size=1), r"images 2 to 3 .*cat/2\.png")
    assert [[image.name for image in unit.images] for unit in report.failed] == [
        ["cat/2.png", "cat/3.png"],
        ["dog/2.png"],
    ]
    for name, whole in wholes.items():
        (folder / name).write_bytes(whole)
    assert plan(request_).already == 4
    assert sweep(request_, quiet=True).done == 4 and verify(request_.out).complete


def test_fail_fast_ends_at_the_first(request_: SweepRequest, folder: Path) -> None:
    damage(folder / "cat/3.png")
    with pytest.raises(DataError, match=r"cat/3\.png"):
        sweep(request_, quiet=True, fail_fast=True)
    assert open_result(request_.out).n == 2 and failed_files(request_.out) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_never_a_null_row(request_: SweepRequest, folder: Path, workers: int) -> None:
    whole = (folder / "dog/0.png").read_bytes()

    def remove(begun: object) -> None:
        (folder / "dog/0.png").unlink(missing_ok=True)

    request = replace(request_, allow_missing=8, workers=workers)
    report = set_aside(request, r"images 4 to 5 .*cannot read image 4, .*dog/0\.png: no such file", on_start=remove)
    assert (report.done, report.nulls) == (6, 0) and report.failed[0].kind == "io"
    assert not Path(request.out, "_itd/missing.json").exists() and rows(request.out).pred.notna().all()
    (folder / "dog/0.png").write_bytes(whole)
    assert sweep(request, quiet=True).done == 2 and verify(request.out).complete


def test_a_read_that_fails_for_a_moment_is_tried_again(request_: SweepRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from itd.data import folder as folders

    read, failures = folders.decoded, {"dog/1.png": 3, "cat/2.png": 1}

    def sometimes(path: str, index: int, where: str) -> Image.Image:
        name = "/".join(Path(path).parts[-2:])
        if failures.get(name, 0) > 0:
            failures[name] -= 1
            raise ImageReadError(f"cannot read image {index}, {where}: input/output error")
        return read(path, index, where)

    monkeypatch.setattr(folders, "decoded", sometimes)
    assert sweep(request_, quiet=True).done == 8 and failures == {"dog/1.png": 0, "cat/2.png": 0}


def test_retries_end_with_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [0.0], []
    monkeypatch.setattr("itd.runner.worker.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr("itd.runner.worker.time.monotonic", lambda: now[0])

    class Away:
        def __getitem__(self, sample: int) -> None:
            reads.append(sample)
            raise ImageReadError("away")

    from itd.data.loader import Problem

    retries = Retries()
    for sample in range(20):
        assert retries.read(Away(), sample, Problem("io", "away")).kind == "io"  # type: ignore[arg-type]
    assert reads[:3] == [0, 0, 0] and reads.count(3) == 3 and now[0] <= 30 and len(reads) < 20


def test_a_lost_data_folder_stops_the_sweep(request_: SweepRequest, folder: Path) -> None:
    away = folder.with_name("away")
    report = set_aside(request_, "is gone or empty", on_start=lambda begun: folder.rename(away))
    assert (report.done, report.left) == (0, 8) and len(report.failed) == 1 and "is gone" in report.stopped
    away.rename(folder)
    assert sweep(request_, quiet=True).done == 8 and verify(request_.out).complete


def test_a_limit_of_missing_images_holds_for_the_whole_result(request_: SweepRequest, folder: Path) -> None:
    for name in ("cat/0.png", "cat/1.png", "dog/2.png"):
        damage(folder / name)
    report = set_aside(
        replace(request_, allow_missing=2), r"images 6 to 7 .*dog/2\.png.* 3 of 8 images would be missing"
    )
    assert (report.done, report.nulls, len(report.failed)) == (6, 2, 1)
    noted = json.loads(Path(request_.out, "_itd/missing.json").read_text())["missing"]
    assert [(one["image"], one["sample"], one["name"]) for one in noted] == [(0, 0, "cat/0.png"), (1, 1, "cat/1.png")]
    assert all("cannot decode" in one["reason"] and one["bytes"] == 200 for one in noted)
    table = rows(request_.out)
    assert table[table["sample"] < 2].pred.isna().all() and table[table["sample"] >= 2].pred.notna().all()
    assert set_aside(replace(request_, allow_missing=2), "3 of 8").done == 0
    report = sweep(replace(request_, allow_missing="38%"), quiet=True)
    assert (report.done, report.nulls) == (2, 3) and verify(request_.out).complete


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "101%", "%", -3, "1%%", ""])
def test_a_limit_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(ItdError, match=r"`allow_missing=.* is not allowed; give a number of images, or a share"):
        missing_limit(given, 100)


def test_shares_are_of_the_selected_images_and_at_least_one() -> None:
    assert [missing_limit(share, 130) for share in (True, "1%", "5%", "0.1%", 0, "3", False)] == [1, 1, 6, 1, 0, 3, 0]
    assert missing_limit("0%", 130) == 0


def test_missing_images_are_computed_again_once_their_files_are_replaced(
    request_: SweepRequest, folder: Path, tmp_path: Path
) -> None:
    fresh = replace(request_, out=str(tmp_path / "fresh.parquet"))
    sweep(fresh, quiet=True)
    wholes = {name: damage(folder / name) for name in ("cat/1.png", "dog/3.png")}
    sweep(replace(request_, allow_missing=2), quiet=True)
    (folder / "cat/1.png").write_bytes(wholes["cat/1.png"])
    assert plan(request_).already == 8
    with pytest.warns(ItdWarning, match=r"null rows of 2 images, and files were replaced since; `retry_missing`"):
        assert sweep(request_, quiet=True).nulls == 2
    (folder / "cat/1.png").write_bytes(wholes["cat/1.png"][:150])  # and once more
    report = sweep(replace(request_, allow_missing=2, retry_missing=True), quiet=True)
    assert (report.already, report.done, report.nulls) == (4, 4, 2)
    (folder / "cat/1.png").write_bytes(wholes["cat/1.png"])
    report = sweep(replace(request_, allow_missing=2, retry_missing=True), quiet=True)
    assert (report.already, report.done, report.nulls) == (4, 4, 1)
    (folder / "dog/3.png").write_bytes(wholes["dog/3.png"])
    report = sweep(replace(request_, retry_missing=True), quiet=True)
    assert (report.already, report.done, report.nulls) == (6, 2, 0)
    pd.testing.assert_frame_equal(rows(request_.out), rows(fresh.out))
    assert (
        verify(request_.out).complete
        and json.loads(Path(request_.out, "_itd/missing.json").read_text())["missing"] == []
    )
    assert sweep(request_, quiet=True).already == 8
    assert open_result(request_.out).identity["data"] == open_result(fresh.out).identity["data"]


def test_another_file_that_changed_is_another_data_set(request_: SweepRequest, folder: Path) -> None:
    whole = damage(folder / "cat/1.png")
    sweep(replace(request_, allow_missing=1), quiet=True)
    (folder / "cat/1.png").write_bytes(whole)
    (folder / "dog/0.png").write_bytes((folder / "dog/1.png").read_bytes())
    with pytest.raises(ResultError, match=r"data is .*, given"):
        sweep(replace(request_, retry_missing=True), quiet=True)


def test_a_retry_that_fails_keeps_what_is_there(request_: SweepRequest, folder: Path) -> None:
    damage(folder / "cat/1.png")
    sweep(replace(request_, allow_missing=1), quiet=True)
    before = rows(request_.out)
    report = set_aside(replace(request_, retry_missing=True), r"images 0 to 1 .*cat/1\.png")
    assert (report.done, report.nulls, report.already, report.kept, report.left) == (0, 1, 6, 2, 0)
    pd.testing.assert_frame_equal(rows(request_.out), before)
    assert verify(request_.out).complete


class Failing:
    """An executor that raises, or gives a logit that is not a number, at some of its calls."""

    def __init__(self, inner: object, calls: dict[int, object]) -> None:
        self.inner, self.calls, self.call = inner, calls, 0
        self.device = inner.device  # type: ignore[attr-defined]

    def run(self, pixels: object, add: object) -> None:
        self.call += 1
        failure = self.calls.get(self.call)
        if isinstance(failure, Exception):
            raise failure

        def spoiled(configs: np.ndarray, images: np.ndarray, logits: object) -> None:
            if failure == "nan":
                logits = logits.clone().fill_(float("nan"))  # type: ignore[attr-defined]
            add(configs, images, logits)  # type: ignore[operator]

        self.inner.run(pixels, spoiled)  # type: ignore[attr-defined]


def failing(request: SweepRequest, calls: dict[int, object], **how: object) -> object:
    job, options = request.job(), RunOptions.of(request, **how)
    return run_job(job, options, lambda: Failing(make_executor(job, options, way_of(job, options)), calls))


def test_memory_is_tried_three_times_after_the_others(request_: SweepRequest) -> None:
    short = MemoryError("x")
    report = failing(request_, {2: short, 5: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")})
    assert report.done == 8 and not report.failed
    other = replace(request_, out=request_.out + "2")
    with pytest.warns(SetAsideWarning, match="images 2 to 3"):
        report = failing(other, {2: short, 5: short, 6: short})
    assert report.done == 6 and [(one.kind, one.attempts) for one in report.failed] == [("memory", 3)]
    pd.testing.assert_frame_equal(
        rows(other.out), rows(request_.out)[lambda t: ~t["sample"].isin([2, 3])].reset_index(drop=True)
    )


def test_a_unit_that_lacked_memory_holds_none_while_the_others_go_on(request_: SweepRequest) -> None:
    class Filled:
        """What an executor has in memory."""

    held: list[weakref.ref[Filled]] = []
    kept: list[int] = []

    def full() -> None:
        filled = Filled()
        held.append(weakref.ref(filled))
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as error:
            raise memory_shortage(error, "cuda") from error

    class Full(Failing):
        def run(self, pixels: object, add: object) -> None:
            kept.append(sum(one() is not None for one in held))
            if len(kept) in (2, 3):
                full()
            super().run(pixels, add)

    job, options = request_.job(), RunOptions.of(request_)
    run_job(job, options, lambda: Full(make_executor(job, options, way_of(job, options)), {}))
    assert len(held) == 2 and len(kept) == 6 and not any(kept)


def test_logits_that_are_not_finite_set_their_unit_aside_at_once(request_: SweepRequest) -> None:
    with pytest.warns(SetAsideWarning, match=r"images 4 to 5 .*not finite: configuration 0, .*dog/0\.png"):
        report = failing(request_, {3: "nan"})
    assert report.done == 6 and [(one.kind, one.attempts) for one in report.failed] == [("not-finite", 1)]
    with pytest.raises(NotFiniteError):
        failing(replace(request_, out=request_.out + "2"), {3: "nan"}, fail_fast=True)


def test_three_failures_at_the_very_start_stop_the_run(request_: SweepRequest) -> None:
    with pytest.warns(SetAsideWarning) as noted:
        report = failing(request_, dict.fromkeys(range(1, 9), "nan"))
    assert "the first 3 units all failed" in str(noted[-1].message)
    assert len(report.failed) == 3 and report.done == 0 and report.stopped
    report = failing(request_, {})  # what no run has tried comes first, then the others
    assert report.done == 8 and not report.failed


def test_a_run_that_lacks_memory_from_the_start_stops(request_: SweepRequest) -> None:
    with pytest.warns(SetAsideWarning) as noted:
        report = failing(request_, dict.fromkeys(range(1, 99), MemoryError("x")))
    assert "the first 3 units all failed" in str(noted[-1].message) and report.stopped
    assert [(one.kind, one.attempts) for one in report.failed] == [("memory", 1)] * 3


@pytest.mark.parametrize("name", ["a\nb.png", "a\tb.png", "a\x1b[2Jb.png", "a\r\nb\u2028.png", "\udce9.png"])
def test_any_name_can_be_noted(name: str, request_: SweepRequest, folder: Path) -> None:
    (folder / "cat/0.png").unlink()
    (folder / "cat" / name).write_bytes(b"no image")
    report = set_aside(request_, r"image \d, .*cat/.*\.png: it is none of JPEG")
    assert [one.images[0].name.isprintable() for one in report.failed] == [True]
    assert sweep(replace(request_, allow_missing=1), quiet=True).nulls == 1
    assert sweep(request_, quiet=True).nulls == 1 and verify(request_.out).complete


def test_a_bug_is_no_failure_of_a_unit(request_: SweepRequest) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        failing(request_, {2: RuntimeError("mat1 and mat2 shapes cannot be multiplied")})
    assert open_result(request_.out).n == 2


def test_decoders_that_die_are_started_again(request_: SweepRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, deaths = Worker.attempts, [2]

    def dying(self: Worker, units: object) -> object:
        for number, outcome in enumerate(attempts(self, units)):  # type: ignore[arg-type]
            if number == 1 and deaths[0]:
                deaths[0] -= 1
                raise DecoderDiedError("one of the processes that decode images died")
            yield outcome

    monkeypatch.setattr(Worker, "attempts", dying)
    assert sweep(request_, quiet=True).done == 8 and deaths == [0]
    deaths[0] = 99
    with pytest.raises(DecoderDiedError):
        sweep(replace(request_, out=request_.out + "2"), quiet=True)


def test_contents_of_files_can_be_part_of_what_a_result_is_of(request_: SweepRequest, folder: Path) -> None:
    request = replace(request_, hash_data=True, limit=4)
    sweep(request, quiet=True)
    assert len(open_result(request.out).identity["contents_sha256"]) == 64
    with pytest.raises(ResultError, match=r"contents_sha256 is .*, given null"):
        sweep(replace(request, hash_data=False, limit=8), quiet=True)
    path = folder / "dog/3.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)  # of the same size
    with pytest.raises(ResultError, match="contents_sha256 is"):
        sweep(request, quiet=True)


def test_a_hashed_file_that_was_missing_can_be_replaced(request_: SweepRequest, folder: Path) -> None:
    request = replace(request_, hash_data=True, allow_missing=1)
    whole = damage(folder / "cat/1.png")
    sweep(request, quiet=True)
    (folder / "cat/1.png").write_bytes(whole)
    assert sweep(replace(request, retry_missing=True), quiet=True).done == 2
    assert sweep(request, quiet=True).already == 8


def test_check_data_names_all_that_is_bad_before_anything_is_computed(request_: SweepRequest, folder: Path) -> None:
    for name in ("cat/0.png", "dog/3.png"):
        damage(folder / name)
    with pytest.warns(ItdWarning) as noted, pytest.raises(DataError, match="2 of 8 images cannot be used, and 1 may"):
        sweep(replace(request_, check_data=True, allow_missing=1), quiet=True)
    assert [word in str(one.message) for one, word in zip(noted, ("cat/0.png", "dog/3.png"), strict=True)] == [
        True,
        True,
    ]
    assert not Path(request_.out).exists()
    with pytest.warns(ItdWarning):
        assert sweep(replace(request_, check_data=True, allow_missing=2), quiet=True).nulls == 2


def arguments(request: SweepRequest, *more: str) -> list[str]:
    return [
        "sweep", "--model", "resnet18", "--attr", "dilation", "--sites", "D", "--options", "1,2", "--data",
        str(request.data), "--weights", "none", "--num-classes", "2", "--order", "path", "--crop", "32",
        "--resize", "32", "--out", request.out, *more,
    ]  # fmt: skip


def test_the_command_ends_with_3_and_names_what_was_set_aside(request_: SweepRequest, folder: Path) -> None:
    damage(folder / "cat/3.png")
    done = run(*arguments(request_))
    assert done.exit_code == 3 and "Traceback" not in done.output
    assert "itd: note: images 0 to 7 of the selection were set aside: cannot decode image 3" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("rows/s); 1 unit set aside: the same command tries again") and done.stdout == ""
    done = run(*arguments(request_, "--fail-fast"))
    assert done.exit_code == 1 and "itd: error: cannot decode image 3" in done.stderr
    done = run(*arguments(request_, "--allow-missing"))
    last = done.stderr.strip().splitlines()[-1]
    assert done.exit_code == 0 and last.endswith("rows/s); 1 of them with null rows, as _itd/missing.json says"), last
    done = run(*arguments(request_, "--allow-missing", "lots"))
    assert done.exit_code == 1 and "--allow-missing lots is not allowed" in done.stderr


def test_each_part_says_which_run_wrote_it(request_: SweepRequest) -> None:
    sweep(replace(request_, limit=4), quiet=True)
    sweep(request_, quiet=True)
    runs = open_result(request_.out).manifest["provenance"]
    assert len(runs) == 2 and len({run["run"] for run in runs}) == 2
    assert {"pillow", "cuda", "cudnn", "host", "torch", "torchvision"} <= set(runs[0])
    records = [json.loads(path.read_text()) for path in sorted(Path(request_.out, "_itd").glob("part-*.json"))]
    assert [record["run"] for record in records] == [runs[0]["run"]] * 2 + [runs[1]["run"]] * 2


class Photos:
    """A data set of a user's own, which raises at one of its images, or reads it from a file."""

    def __init__(self, error: Exception | Path) -> None:
        self.error, self.targets = error, [0, 1, 0, 1]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 3 and isinstance(self.error, Exception):
            raise self.error
        if index == 3 and self.error is not None:
            with Image.open(self.error) as image:
                image.load()
        return Image.new("RGB", (32, 32), (index * 40, 9, 9)), self.targets[index]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Path("cut.png"), "undecodable"),
        (OSError(errno.EIO, "Input/output error"), "io"),
        (OSError("Can't synchronously read data (file read failed: errno = 5)"), "io"),  # as h5py's
        (ImageReadError("cannot read image 3"), "io"),  # as an ImageSet's
        (UnidentifiedImageError("cannot identify image file"), "undecodable"),
        (ConnectionError("reset"), "io"),
        (ValueError("no such thing"), "refused"),
    ],
)
def test_a_data_set_of_objects_says_by_its_error_whether_bytes_were_read(
    error: Exception | Path, kind: str, tmp_path: Path
) -> None:
    from torchvision.transforms.functional import to_tensor

    import itd

    net = itd.patch(two_classes().eval(), {"A": "body"})
    space = itd.model_space(net, ["dilation"], options={("A", "dilation"): (1, 2)}, input_shape=(3, 32, 32))
    if isinstance(error, Path):
        error = tmp_path / error
        Image.effect_noise((64, 64), 99).save(error)
        damage(error)
    photos = Photos(error)
    job = itd.SweepJob(net, space, photos, name="mine", preprocess=to_tensor, fingerprint="photos")
    with pytest.warns(SetAsideWarning, match="sample 3 cannot be read"):
        report = sweep(job, out=str(tmp_path / "r.parquet"), images_per_unit=2, quiet=True)
    assert [one.kind for one in report.failed] == [kind] and report.done == 2
    photos.error = None  # type: ignore[assignment]
    assert sweep(job, out=str(tmp_path / "r.parquet"), quiet=True).done == 2


def test_rows_of_a_unit_that_failed_do_not_count_as_progress(request_: SweepRequest, folder: Path) -> None:
    damage(folder / "cat/3.png")
    counted: list[int] = []
    report = set_aside(replace(request_, batch_size=1), "images 2 to 3", on_start=lambda begun: counted.append)
    assert sum(counted) == report.done * report.configs and min(counted) < 0


@pytest.mark.parametrize(
    "shortage", [MemoryShortageError("out of memory on cpu with a single image"), OSError(errno.ENOMEM, "x")]
)
def test_a_shortage_that_halving_does_not_mend_sets_its_unit_aside(request_: SweepRequest, shortage: Exception) -> None:
    """What the executors raise once a single image does not fit: three attempts, and the others finish."""
    report = failing(request_, {2: shortage, 5: shortage})
    assert report.done == 8 and not report.failed
    with pytest.warns(SetAsideWarning, match="images 2 to 3"):
        report = failing(replace(request_, out=request_.out + "2"), {2: shortage, 5: shortage, 6: shortage})
    assert report.done == 6 and [(one.kind, one.attempts) for one in report.failed] == [("memory", 3)]
