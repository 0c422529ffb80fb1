"""Every file of a result is under a hash; what is lost or damaged is said, and mended as far as the others know it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itd.errors import ItdWarning, ResultError
from itd.store import open_result, repair, verify
from itd.store.files import sealed, to_json
from support import synthetic
from support.commands import run

DEFAULT = 2


@pytest.fixture
def scores() -> dict[str, np.ndarray]:
    return synthetic.make_scores(6, 10)


@pytest.fixture
def folder(tmp_path: Path, scores: dict[str, np.ndarray]) -> Path:
    """Ten images in three parts, with names."""
    return make(tmp_path / "r.parquet", scores)


def make(path: Path, scores: dict[str, np.ndarray]) -> Path:
    synthetic.write_units(writer(path), scores)
    return path


def writer(path: Path, **how: object) -> object:
    return synthetic.open_writer(path, 10, space=synthetic.make_space(6, default=DEFAULT), **how)  # type: ignore[arg-type]


def rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["config", "sample"], ignore_index=True)


def go_on(path: Path, scores: dict[str, np.ndarray]) -> None:
    synthetic.write_units(writer(path), scores)


def test_a_manifest_carries_its_own_hash(folder: Path) -> None:
    path = folder / "_itd/manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["format"] == 2 and len(manifest["sha256"]) == 64
    path.write_text(path.read_text().replace('"default": 2', '"default": 3'))
    for read in (lambda: open_result(folder), lambda: writer(folder)):
        with pytest.raises(ResultError, match=r"manifest\.json is damaged: its fields do not match the hash"):
            read()
    assert [one.file for one in verify(folder).damaged] == ["_itd/manifest.json"]
    path.write_text(json.dumps(manifest))  # another layout of the same fields
    assert verify(folder).complete
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match="it has no sha256"):
        open_result(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default": 3}, "its default is not configuration 3"),
        ({"default": None}, "its default is not configuration None"),
        ({"attributes": ["dilation", "size"]}, "it has no column size_A"),
        ({"sites": ["A", "B"]}, "its sites are A, B, C, D, and A, B are said to be"),
    ],
)
def test_a_manifest_that_contradicts_the_configurations_is_refused(changes: dict, words: str, folder: Path) -> None:
    synthetic.changed(folder / "_itd/manifest.json", **changes)
    with pytest.raises(ResultError, match=rf"configs\.parquet is damaged: {words}"):
        open_result(folder)
    assert not verify(folder).ok


def test_an_older_manifest_is_read_with_a_note_and_gets_its_hash(folder: Path, scores: dict[str, np.ndarray]) -> None:
    before = rows(folder)
    synthetic.without(folder, "order")
    assert open_result(folder).unprotected and open_result(folder).n == 10
    report = verify(folder)
    assert report.ok and report.unprotected == ("_itd/manifest.json",)
    answer = run("oracle", folder)
    assert answer.exit_code == 0 and answer.stderr.count("is older than the hash of its manifest") == 1
    answer = run("verify", folder)
    assert answer.exit_code == 0 and "unprotected: _itd/manifest.json" in answer.stdout
    answer = run("verify", "--repair", folder)
    assert answer.exit_code == 0 and "has a hash of its own now" in answer.stderr and "unprotected" not in answer.stdout
    assert verify(folder).unprotected == () and not open_result(folder).unprotected
    assert "order" not in open_result(folder).manifest
    go_on(folder, scores)
    pd.testing.assert_frame_equal(rows(folder), before)


def test_damage_is_put_aside_and_computed_again(folder: Path, scores: dict[str, np.ndarray]) -> None:
    before = rows(folder)
    parts = sorted(folder.glob("part-*"))
    for number, spoil in enumerate(
        (
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(flipped(path.read_bytes(), 200)),
            lambda path: [one.unlink() for one in records(path)],
            lambda path: [one.write_text("{") for one in records(path)],
            lambda path: shutil.copy(parts[1], path),
        )
    ):
        spoil(parts[0])
        assert [one.file for one in verify(folder).damaged] == [parts[0].name]
        with pytest.raises(ResultError, match=parts[0].name):
            open_result(folder).matrix("quality")
        with pytest.warns(ItdWarning, match=rf"{parts[0].name} is damaged: .*; it was moved to _itd/bad/"):
            again = writer(folder)
        assert [(unit.first, unit.last) for unit in again.todo()] == [(0, 3)]
        synthetic.write_units(again, scores)
        assert verify(folder).complete
        assert len(list((folder / "_itd/bad").glob("*.parquet*"))) == number + 1
        pd.testing.assert_frame_equal(rows(folder), before)


def records(part: Path) -> list[Path]:
    return list((part.parent / "_itd").glob(f"{part.stem}*.json"))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def test_a_part_without_its_record_is_damage_and_a_record_without_its_part_is_not(folder: Path) -> None:
    part = sorted(folder.glob("part-*"))[1]
    part.unlink()
    report = verify(folder)
    assert report.ok and report.missing == ((4, 7),) and report.parts == 2
    assert open_result(folder).n == 6


def test_a_lost_record_is_made_anew_from_its_part(folder: Path) -> None:
    before, part = rows(folder), sorted(folder.glob("part-*"))[1]
    (record,) = records(part)
    kept = json.loads(record.read_text())
    record.unlink()
    (note,) = repair(folder)
    assert "was made anew" in note and verify(folder).complete
    made = json.loads(record.read_text())
    assert {**made, "run": None, "sha256": 0} == {**kept, "run": None, "sha256": 0}
    pd.testing.assert_frame_equal(rows(folder), before)
    assert repair(folder) == ()


def test_a_record_is_not_made_anew_for_a_part_of_something_else(folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "o.parquet", synthetic.make_scores(6, 10, seed=3))
    part = sorted(folder.glob("part-*"))[1]
    table = pq.read_table(other / part.name)
    settings = pa.array(np.full(len(table), 4, np.int8))
    pq.write_table(table.set_column(table.column_names.index("dilation_C"), "dilation_C", settings), part)
    records(part)[0].unlink()
    (note,) = repair(folder)
    assert part.name in note and "moved to _itd/bad" in note
    assert verify(folder).missing == ((4, 7),)


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_lost_manifest_is_made_anew_and_its_sweep_goes_on(
    how: str, folder: Path, scores: dict[str, np.ndarray]
) -> None:
    before, path = rows(folder), folder / "_itd/manifest.json"
    kept = json.loads(path.read_text())
    sorted(folder.glob("part-*"))[1].unlink()
    path.unlink() if how == "gone" else path.write_bytes(flipped(path.read_bytes(), 40))
    assert [one.file for one in verify(folder).damaged] == ["_itd/manifest.json"]
    if how == "gone":
        with pytest.raises(ResultError, match="mend it with `itd verify --repair"):
            writer(folder)
    write_names(folder)
    notes = repair(folder)
    assert "manifest.json was made anew, of 10 images" in notes[-1] and len(notes) == (1 if how == "gone" else 2)
    made = json.loads(path.read_text())
    assert {n: v for n, v in made.items() if n not in ("sha256", "samples_sha256")} == {
        n: v for n, v in kept.items() if n != "sha256"
    }
    report = verify(folder)
    assert report.ok and report.missing == ((4, 7),)
    go_on(folder, scores)
    pd.testing.assert_frame_equal(rows(folder), before)


def write_names(folder: Path) -> None:
    """The names of the images, as a sweep writes them."""
    from itd.store.samples import ImageNames, write_samples

    names = ImageNames([f"{i}.png" for i in range(10)], np.zeros(10, np.int16), ("a",))
    write_samples(folder, names.rows(np.arange(10)))


def test_images_are_read_off_the_parts_where_nothing_else_says_them(folder: Path) -> None:
    (folder / "_itd/manifest.json").unlink()
    repair(folder)
    assert verify(folder).complete and open_result(folder).samples.tolist() == list(range(10))
    sorted(folder.glob("part-*"))[1].unlink()
    (folder / "_itd/manifest.json").unlink()
    (note,) = repair(folder)
    assert "cannot be made anew: neither _itd/samples.parquet nor the parts say which images" in note
    answer = run("verify", "--repair", "--json", folder)
    assert answer.exit_code == 1 and json.loads(answer.stdout)[0]["ok"] is False


def test_configurations_of_an_older_version_say_the_figures_and_not_what_they_are_of(folder: Path) -> None:
    before = open_result(folder)
    path = folder / "_itd/configs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(None), path)
    (folder / "_itd/manifest.json").unlink()
    notes = repair(folder)
    assert "no sweep can go on with it" in notes[0] and verify(folder).complete
    after = open_result(folder)
    assert (after.default, after.sites, after.settings) == (before.default, before.sites, before.settings)
    assert np.array_equal(after.matrix("nll"), before.matrix("nll"))
    with pytest.raises(ResultError, match="holds another run: model is"):
        writer(folder)


@pytest.mark.parametrize(("old", "new"), [(b'"format": 2', b'"format": 3'), (b'"format"', b'"formav"')])
def test_a_format_that_a_flipped_bit_made_is_damage_and_no_other_version(folder: Path, old: bytes, new: bytes) -> None:
    before, path = open_result(folder), folder / "_itd/manifest.json"
    data = path.read_bytes()
    assert data.count(old) == 1 and sum((a ^ b).bit_count() for a, b in zip(old, new, strict=True)) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(ResultError, match=r"manifest\.json is damaged: it has format"):
        open_result(folder)
    assert any("has format" in note for note in repair(folder))
    after = open_result(folder)
    assert np.array_equal(after.matrix("nll"), before.matrix("nll")) and after.default == before.default


def test_what_cannot_be_mended_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "_itd/configs.parquet").write_bytes(b"")
    (note,) = repair(folder)
    assert "nothing else holds the multiply-accumulates" in note
    assert [one.file for one in verify(folder).damaged] == ["_itd/configs.parquet"]
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ResultError, match="has no folder _itd to mend it from"):
            repair(path)
    synthetic.changed(folder / "_itd/manifest.json", format=3)
    with pytest.raises(ResultError, match="has format 3; this version reads formats 1 and 2"):
        repair(folder)
    assert (folder / "_itd/manifest.json").exists()


def test_of_two_that_write_the_same_images_the_first_stays(folder: Path, scores: dict[str, np.ndarray]) -> None:
    part = sorted(folder.glob("part-*"))[1]
    whole, kept = part.read_bytes(), records(part)
    part.unlink()
    first, second = writer(folder), writer(folder)
    (unit,) = second.todo()
    second._may_write = lambda unit: True  # as where the first puts its part between the look and the link
    synthetic.write_units(first, scores)
    other = synthetic.make_scores(6, 10, seed=9)
    here = slice(unit.first, unit.last + 1)
    second.write(unit, missing=np.zeros(4, bool), **{name: values[..., here] for name, values in other.items()})
    assert part.read_bytes() == whole and set(kept) < set(records(part)) and verify(folder).complete


def test_a_record_that_another_run_left_does_not_hide_the_parts_own(folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "o.parquet", synthetic.make_scores(6, 10, seed=9))
    part = sorted(folder.glob("part-*"))[1]
    for record in records(other / part.name):
        shutil.copy(record, folder / "_itd")
    assert len(records(part)) == 2 and verify(folder).complete


def test_the_command_says_all_as_json(folder: Path, tmp_path: Path) -> None:
    part = sorted(folder.glob("part-*"))[0]
    lone = tmp_path / "lone.parquet"
    pq.write_table(pq.read_table(part), lone)
    part.write_bytes(b"")
    answer = run("verify", "--json", folder, lone)
    first, second = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert first == {
        "path": str(folder), "ok": False, "parts": 2, "rows": 36, "images": 10,
        "damaged": [{"file": part.name, "reason": first["damaged"][0]["reason"]}], "missing": [], "unprotected": [],
    }  # fmt: skip
    assert second == {
        "path": str(lone), "ok": True, "parts": 1, "rows": 24, "images": 4, "damaged": [], "missing": [],
        "unprotected": ["lone.parquet"],
    }  # fmt: skip
    answer = run("verify", "--repair", folder)
    assert (
        answer.exit_code == 0 and "moved to _itd/bad/" in answer.stderr and "not there yet: 4 images" in answer.stdout
    )
    for first, second in ((tmp_path / "nowhere", folder), (folder, tmp_path / "nowhere")):
        answer = run("verify", first, second)  # what is no result keeps nothing from being said
        assert (
            answer.exit_code == 1 and "nowhere is not a result" in answer.stdout and ": whole, 2 parts" in answer.stdout
        )


def test_a_hash_is_of_fields_and_not_of_their_order() -> None:
    assert sealed({"a": 1, "b": [2.5, None]})["sha256"] == sealed({"b": [2.5, None], "a": 1})["sha256"]
    assert b'"sha256"' in to_json(sealed({}))


def strays(folder: Path, scores: dict[str, np.ndarray], limit: int, images_per_unit: int = 4) -> Path:
    """A result of the same scores, of which a test takes parts that are not of the folder's partition."""
    space = synthetic.make_space(6, default=DEFAULT)
    short = synthetic.open_writer(folder.with_name("s"), limit, space=space, images_per_unit=images_per_unit)
    synthetic.write_units(short, {name: array[..., :limit] for name, array in scores.items()})
    return folder.with_name("s")


def put(part: Path, folder: Path) -> None:
    for file in (part, *records(part)):
        shutil.copy(file, folder / file.relative_to(part.parent))


def test_a_part_whose_images_a_longer_one_has_is_removed(folder: Path, scores: dict[str, np.ndarray]) -> None:
    """As of two runs at the same time with two limits."""
    before, name = open_result(folder).to_pandas(), "part-00000004-00000005.parquet"
    put(strays(folder, scores, 6) / name, folder)
    assert verify(folder).complete and (folder / name).exists()
    pd.testing.assert_frame_equal(open_result(folder).to_pandas(), before)
    assert writer(folder).todo() == [] and not (folder / name).exists() and not records(folder / name)


def test_a_part_whose_place_a_damaged_one_took_is_there_again(folder: Path, scores: dict[str, np.ndarray]) -> None:
    put(strays(folder, scores, 6) / "part-00000004-00000005.parquet", folder)
    damaged = folder / "part-00000004-00000007.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.warns(ItdWarning, match=r"part-00000004-00000007\.parquet is damaged.*moved to _itd/bad/"):
        again = writer(folder)
    assert [(unit.first, unit.last) for unit in again.todo()] == [(6, 7)]


def test_a_part_that_overlaps_another_is_put_aside(folder: Path, scores: dict[str, np.ndarray]) -> None:
    """As three runs with three limits can leave it."""
    before = rows(folder)
    put(strays(folder, scores, 10, images_per_unit=6) / "part-00000006-00000009.parquet", folder)
    report = verify(folder)
    assert [(one.file, one.reason) for one in report.damaged] == [
        ("part-00000006-00000009.parquet", "it overlaps part-00000004-00000007.parquet; delete one of them")
    ]
    with pytest.warns(
        ItdWarning, match=r"part-00000006-00000009\.parquet is damaged: it overlaps .*moved to _itd/bad/"
    ):
        again = writer(folder)
    assert again.todo() == [], "the part whose place it took is seen again"
    assert verify(folder).complete
    pd.testing.assert_frame_equal(rows(folder), before)


@pytest.mark.parametrize("name", ["configs.parquet", "samples.parquet", "missing.json", "manifest.json"])
def test_a_pipe_in_place_of_a_file_is_damage_and_holds_nothing_up(name: str, folder: Path) -> None:
    if name == "samples.parquet":
        write_names(folder)
        synthetic.changed(folder / "_itd/manifest.json", samples_sha256="0" * 64)
    path = folder / "_itd" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert [one.file for one in verify(folder).damaged] == [f"_itd/{name}"]
    repair(folder)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), r"cannot be read: input/output error; see that its disk is there"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot be read: too many open files"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: permission denied; make it readable"),
        (MemoryError("realloc failed"), "there is not enough memory to read"),
    ],
)
@pytest.mark.parametrize("file", ["part-00000004-00000007.parquet", "part-00000004-00000007.json", "manifest.json"])
def test_what_cannot_be_read_now_is_not_put_aside(
    error: Exception, words: str, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(path: object, *given: object, **more: object) -> object:
        if re.fullmatch(file.replace(".", r"(\.[0-9a-f]{16})?\."), str(path).rpartition("/")[2]):
            raise error
        return opened(path, *given, **more)  # type: ignore[arg-type]

    opened = open
    monkeypatch.setattr("builtins.open", away)
    for use in (writer, repair, open_result):
        with pytest.raises(ResultError, match=words):
            use(folder)
    report = verify(folder)
    named = "_itd/manifest.json" if file == "manifest.json" else "part-00000004-00000007.parquet"
    assert [one.file for one in report.damaged] == [named] and not report.ok
    monkeypatch.undo()
    assert verify(folder).complete and not (folder / "_itd/bad").exists()


def test_a_file_beside_the_parts_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "_itd/missing.json").write_bytes(to_json(sealed({"missing": []})))
    opened = open

    def away(path: object, *given: object, **more: object) -> object:
        if str(path).endswith("missing.json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("builtins.open", away)
    assert [one.file for one in verify(folder).damaged] == ["_itd/missing.json"]


def test_a_large_part_is_read_one_column_after_the_other(folder: Path, monkeypatch) -> None:
    from itd.store import whole

    read, asked = whole.read_columns, []

    def reading(part: object, names: list[str], **how: object) -> object:
        asked.append(len(names))
        return read(part, names, **how)

    monkeypatch.setattr(whole, "read_columns", reading)
    assert verify(folder).complete and set(asked) == {12}
    asked.clear()
    monkeypatch.setattr(whole, "ROWS_AT_ONCE", 12)
    assert verify(folder).complete and asked.count(1) == 24 and asked.count(12) == 1
    part = sorted(folder.glob("part-*"))[0]
    part.write_bytes(flipped(part.read_bytes(), 300))
    assert [one.file for one in verify(folder).damaged] == [part.name]


def test_a_run_whose_files_another_found_replaced_is_told_to_go_on(folder: Path, scores: dict[str, np.ndarray]) -> None:
    sorted(folder.glob("part-*"))[1].unlink()
    first, second = writer(folder), writer(folder)
    second.go_on_with({**second.manifest["identity"], "data": "another"}, [])
    with pytest.raises(ResultError, match=r"files that were replaced while this run was at work; .*same command again"):
        synthetic.write_units(first, scores)
    second.go_on_with({**second.manifest["identity"], "model": "another"}, [])
    with pytest.raises(ResultError, match="was begun anew by another run"):
        synthetic.write_units(first, scores)
