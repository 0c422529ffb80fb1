"""Reading: as any reader of Parquet sees a result, as `open_result` does, and all that it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from itd.analysis import baselines
from itd.errors import ResultError
from itd.space import SITES, Setting, SiteSpec, build_space
from itd.store import ResultWriter, index, open_result, reading, verify, whole
from itd.store.blocks import _Block
from itd.store.part import Part, single_part
from itd.store.reading import read_columns, read_rows
from itd.store.record import with_record
from support import synthetic

TYPES = {
    "sample": "int32",
    "label": "int16",
    "config": "int16",
    **{f"dilation_{s}": "int8" for s in SITES},
    "pred": "int16",
    "quality": "float",
    "nll": "float",
    "rank": "int16",
    "confidence": "float",
}


@pytest.fixture
def scores():
    return synthetic.make_scores(6, 10)


@pytest.fixture
def folder(tmp_path, scores):
    return synthetic.make_result(tmp_path / "resnet50-dilation.parquet", scores, default=2)


def check_frame(frame: pd.DataFrame, scores: dict[str, np.ndarray]) -> None:
    assert list(frame.columns) == list(TYPES) and len(frame) == 60
    frame = frame.sort_values(["config", "sample"])
    for name in ("pred", "quality", "nll", "rank", "confidence"):
        assert np.array_equal(frame[name].to_numpy().reshape(6, 10), scores[name])
    assert np.array_equal(frame["label"].to_numpy().reshape(6, 10)[0], scores["labels"])
    assert frame["dilation_D"].to_numpy().reshape(6, 10)[:, 0].tolist() == [1, 2, 1, 2, 1, 2]


def test_pandas_opens_the_folder_as_one_table(folder, scores):
    check_frame(pd.read_parquet(folder), scores)


def test_pyarrow_opens_the_folder_as_one_table_of_the_promised_types(folder, scores):
    table = ds.dataset(folder).to_table()
    assert {f.name: str(f.type) for f in table.schema} == TYPES
    check_frame(table.to_pandas(), scores)


def test_duckdb_opens_the_parts_as_one_table(folder, scores):
    duckdb = pytest.importorskip("duckdb")
    check_frame(duckdb.sql(f"select * from '{folder}/*.parquet'").df(), scores)


def test_polars_opens_the_parts_as_one_table(folder, scores):
    polars = pytest.importorskip("polars")
    check_frame(pd.DataFrame(polars.read_parquet(f"{folder}/*.parquet").to_dict(as_series=False)), scores)


def test_rows_of_a_part_are_ordered_by_config_then_sample(folder):
    table = pq.read_table(folder / "part-00000000-00000003.parquet")
    assert table.column("config").to_pylist() == [c for c in range(6) for _ in range(4)]
    assert table.column("sample").to_pylist() == [0, 1, 2, 3] * 6


def test_a_result_is_arrays(folder, scores):
    result = open_result(folder)
    assert result.path == str(folder) and result.attributes == ("dilation",) and result.sites == SITES
    assert result.config_numbers.tolist() == list(range(6)) and result.macs.tolist() == list(range(1000, 1006))
    assert result.default == 2 and result.default_index == 2 and result.images_requested == 10 and result.nulls == 0
    assert result.samples.dtype == np.int32 and result.samples.tolist() == list(range(10))
    assert result.labels.dtype == np.int16 and np.array_equal(result.labels, scores["labels"])
    assert result.setting(3) == {"A": {"dilation": 1}, "B": {"dilation": 1}, "C": {"dilation": 2}, "D": {"dilation": 2}}
    for name in ("pred", "quality", "nll", "rank", "confidence"):
        assert np.array_equal(result.matrix(name), scores[name]) and result.matrix(name).dtype == scores[name].dtype
    with pytest.raises(ResultError, match="no such score: 'label'"):
        result.matrix("label")


def test_half_strides_and_absent_sites_come_back(tmp_path):
    sites = [SiteSpec(n, Setting(stride=1), {"stride": (0.5, 1)}) for n in "AB"]
    space = build_space(["stride"], sites, stem_stride=4, stride_range=(1, 99))
    writer = synthetic.open_writer(tmp_path / "r", 2, space=space)
    synthetic.write_units(writer, synthetic.make_scores(4, 2))
    result = open_result(tmp_path / "r")
    assert result.setting(1) == {"A": {"stride": 0.5}, "B": {"stride": 1}}
    assert type(result.setting(1)["B"]["stride"]) is int
    frame = pd.read_parquet(tmp_path / "r")
    assert frame["stride_C"].isna().all() and frame["stride_A"].dtype == np.float32
    frame.to_parquet(tmp_path / "one.parquet")
    single = open_result(tmp_path / "one.parquet")
    assert single.sites == ("A", "B") and single.setting(1) == result.setting(1)


def by_pandas(folder: Path, path: Path) -> None:
    pd.read_parquet(folder).to_parquet(path)


def by_pyarrow(folder: Path, path: Path) -> None:
    pq.write_table(ds.dataset(folder).to_table(), path)


def shuffled(folder: Path, path: Path) -> None:
    pd.read_parquet(folder).sample(frac=1, random_state=0).to_parquet(path, index=False)


def turned_in_every_other_config(folder: Path, path: Path) -> None:
    frame = pd.read_parquet(folder)
    turn = frame["sample"].where(frame["config"] % 2 == 0, -frame["sample"])
    frame.assign(turn=turn).sort_values(["config", "turn"]).drop(columns="turn").to_parquet(path, index=False)


def wider_types(folder: Path, path: Path) -> None:
    frame = pd.read_parquet(folder)
    frame.astype(dict.fromkeys(("sample", "label", "config", "pred", "dilation_A"), "int64")).to_parquet(path)


@pytest.mark.parametrize("write", [by_pandas, by_pyarrow, shuffled, turned_in_every_other_config, wider_types])
def test_a_single_file_with_the_same_columns_is_read_just_as_well(folder, scores, tmp_path, write):
    write(folder, tmp_path / "one.parquet")
    result = open_result(tmp_path / "one.parquet")
    assert result.samples.tolist() == list(range(10)) and np.array_equal(result.labels, scores["labels"])
    assert result.default == 2 and result.macs is None and not result.partial
    assert result.settings == open_result(folder).settings
    for name in ("pred", "quality"):
        assert np.array_equal(result.matrix(name), scores[name])


def test_a_folder_of_parts_without_the_side_folder_is_read(folder, scores):
    shutil.rmtree(folder / "_itd")
    result = open_result(folder)
    assert np.array_equal(result.matrix("quality"), scores["quality"]) and result.default == 2


def test_samples_with_null_rows_are_left_out_and_counted(tmp_path, scores):
    gone = np.arange(10) % 4 == 1
    folder = synthetic.make_result(tmp_path / "r", scores, missing=gone)
    by_pandas(folder, tmp_path / "one.parquet")
    frame = pd.read_parquet(folder)
    assert frame.loc[frame["sample"] == 1, "quality"].isna().all() and frame["label"].notna().all()
    for path in (folder, tmp_path / "one.parquet"):
        result = open_result(path)
        assert result.nulls == 3 and result.n == 7 and result.images_done == 10 and not result.partial
        assert result.samples.tolist() == np.flatnonzero(~gone).tolist()
        for name in ("pred", "quality", "rank"):
            assert np.array_equal(result.matrix(name), scores[name][:, ~gone])


def test_one_null_score_in_a_foreign_file_leaves_its_sample_out(folder, tmp_path):
    frame = pd.read_parquet(folder)
    frame.loc[frame.index[13], "nll"] = np.nan
    frame.to_parquet(tmp_path / "one.parquet")
    assert open_result(tmp_path / "one.parquet").nulls == 1


@pytest.mark.parametrize("column", ["quality", "nll", "confidence"])
def test_what_is_no_number_in_a_foreign_file_leaves_its_sample_out(column, folder, tmp_path):
    """Pandas writes it as null; others do not."""
    table = pa.Table.from_pandas(pd.read_parquet(folder), preserve_index=False)
    values = table.column(column).to_numpy().copy()
    values[13] = np.nan
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, from_pandas=False))
    pq.write_table(table, tmp_path / "one.parquet")
    assert pq.read_table(tmp_path / "one.parquet").column(column).null_count == 0
    result = open_result(tmp_path / "one.parquet")
    assert result.nulls == 1
    assert baselines(result, resamples=9).most_confident.n == result.n


@pytest.mark.parametrize("kept", [False, True])
def test_a_row_beyond_the_configurations_is_an_error(kept, folder, scores):
    result = open_result(folder).kept() if kept else open_result(folder)
    configs = result.configs
    assert result.row("pred", -1).tolist() == result.matrix("pred")[-1].tolist() == scores["pred"][-1].tolist()
    for beyond in (configs, configs + 5, -configs - 1):
        with pytest.raises(IndexError):
            result.row("pred", beyond)


def test_a_sweep_that_is_not_finished_says_so(tmp_path, scores):
    writer = synthetic.open_writer(tmp_path / "r", 10)
    unit = writer.todo()[1]
    writer.write(unit, missing=np.zeros(4, bool), **{k: v[..., 4:8] for k, v in scores.items()})
    result = open_result(tmp_path / "r")
    assert result.partial and result.samples.tolist() == [4, 5, 6, 7] and result.images_requested == 10
    assert verify(tmp_path / "r").missing == ((0, 3), (8, 9))


def test_sample_numbers_are_those_of_the_data_set(tmp_path, scores):
    samples = np.array([7, 3, 100, 101, 102, 9, 50, 60, 70, 80])
    synthetic.write_units(synthetic.open_writer(tmp_path / "r", 0, samples=samples), scores)
    assert open_result(tmp_path / "r").samples.tolist() == samples.tolist()


def refused(path: Path, match: str) -> None:
    with pytest.raises(ResultError, match=match) as caught:
        open_result(path).matrix("quality")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def rewrite(folder: Path, path: Path, change) -> Path:
    change(pd.read_parquet(folder)).to_parquet(path, index=False)
    return path


def test_what_is_not_a_result_is_refused_in_one_line(folder, tmp_path):
    (tmp_path / "text.parquet").write_text("not Parquet at all")
    (tmp_path / "nothing.parquet").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    refused(tmp_path / "absent.parquet", "no such result")
    refused(tmp_path / "text.parquet", "cannot be read as Parquet")
    refused(tmp_path / "nothing.parquet", "cannot be read as Parquet")
    refused(tmp_path / "empty", "holds no Parquet file")
    refused(tmp_path / "other.parquet", "it has no column .*sample, label, config, pred")
    one = rewrite(folder, tmp_path / "one.parquet", lambda f: f.drop(columns=["nll", "dilation_B"]))
    refused(one, "it has no column dilation_B, nll")
    refused(rewrite(folder, one, lambda f: f.astype({"quality": str})), "another schema.*quality is")
    refused(rewrite(folder, one, lambda f: f.astype({"config": "float32"})), "config is float, not int16")


def test_missing_and_doubled_rows_are_refused(folder, tmp_path):
    one = tmp_path / "one.parquet"
    refused(rewrite(folder, one, lambda f: f.drop(index=f.index[17])), "1 rows are missing, such as sample 1, config 4")
    refused(rewrite(folder, one, lambda f: pd.concat([f, f.iloc[[17]]])), "sample 1, config 4 is there twice")
    swapped = lambda f: f.assign(sample=f["sample"].where(f.index != 17, 0))  # noqa: E731
    refused(rewrite(folder, one, swapped), "sample 0, config 4 is there twice")
    relabelled = lambda f: f.assign(label=f["label"].where(f.index != 17, 1))  # noqa: E731
    refused(rewrite(folder, one, relabelled), "two labels")
    reset = lambda f: f.assign(dilation_A=f["dilation_A"].where(f.index != 17, 9))  # noqa: E731
    refused(rewrite(folder, one, reset), "config 4 have different dilation_A")


def test_parts_that_overlap_or_do_not_belong_are_refused(folder):
    part = folder / "part-00000000-00000003.parquet"
    for name, match in {
        "part-00000002-00000005.parquet": "overlap",
        "part-00000040-00000043.parquet": "the result has 10 images",
        "mine.parquet": "not a part",
    }.items():
        shutil.copy(part, folder / name)
        refused(folder, match)
        (folder / name).unlink()
    (folder / "part-00000004-00000007.parquet").unlink()
    shutil.copy(part, folder / "part-00000004-00000007.parquet")
    (record,) = (folder / "_itd").glob("part-00000004-*.json")
    record.unlink()
    refused(folder, "it has no record")
    (first,) = (folder / "_itd").glob("part-00000000-*.json")
    shutil.copy(first, folder / "_itd/part-00000004-00000007.json")
    refused(folder, "other samples than its name says")
    shutil.rmtree(folder / "_itd")
    refused(folder, "rows of sample 0 are there twice")


def test_a_truncated_part_is_named_and_verify_lists_it(folder):
    part = folder / "part-00000004-00000007.parquet"
    data = part.read_bytes()
    for size in (0, 3, len(data) // 2, len(data) - 1):
        part.write_bytes(data[:size])
        refused(folder, "part-00000004-00000007.parquet is damaged")
        report = verify(folder)
        assert [d.file for d in report.damaged] == [part.name] and not report.ok and report.rows == 36
    part.write_bytes(data)
    assert verify(folder).ok


def test_a_damaged_side_folder_is_one_line(folder):
    side = folder / "_itd"
    (record,) = side.glob("part-00000004-*.json")
    for name in ("manifest.json", "configs.parquet", record.name):
        data = (side / name).read_bytes()
        (side / name).write_bytes(data[: len(data) // 2])
        refused(folder, "damaged")
        (side / name).write_bytes(data)
    open_result(folder)


def test_a_deleted_part_is_computed_anew(folder, scores):
    (folder / "part-00000004-00000007.parquet").unlink()
    writer: ResultWriter = synthetic.open_writer(folder, 10, space=synthetic.make_space(6, default=2))
    assert [(u.first, u.last) for u in writer.todo()] == [(4, 7)]
    synthetic.write_units(writer, scores)
    assert np.array_equal(open_result(folder).matrix("quality"), scores["quality"])


@pytest.mark.parametrize("missing", [None, np.arange(10) == 3], ids=["all have scores", "some have none"])
def test_a_run_that_goes_on_reads_each_part_once(
    missing: np.ndarray | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of parts whose records are older than what says that nothing has changed."""
    path = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 10), missing=missing)
    synthetic.make_older(path)
    reads: list[str] = []

    def once(part: Part, names: list[str]) -> pa.Table:
        reads.append(part.name)
        return read_columns(part, names)

    monkeypatch.setattr(whole, "read_columns", once)
    monkeypatch.setattr(index, "read_columns", None)
    writer = synthetic.open_writer(path, 10, retry_missing=True)
    assert sorted(reads) == sorted(part.name for part in path.glob("part-*"))
    assert writer.kept_images == (0 if missing is None else 4)


def test_rows_that_a_part_lacks_are_damage(folder):
    part = with_record(single_part(min(folder.glob("*.parquet"))))
    last = read_columns(part, ["pred"]).column(0).to_pylist()[23:]
    assert read_rows(part, "pred", 23, 24).to_pylist() == last
    with pytest.raises(ResultError, match="24 rows where row 24 should be"):
        read_rows(part, "pred", 22, 25)


def test_a_row_is_decoded_alone_where_rows_are_ordered_and_a_record_vouches_for_the_rest(folder):
    rows = index.read_index(with_record(single_part(min(folder.glob("*.parquet")))), None, None)
    block = _Block(rows, slice(0, 6), slice(0, 4))
    assert block.row(2) == replace(block, configs=slice(2, 3))
    for other in (
        replace(rows, order=np.arange(24)[::-1]),  # as a repaired part of somebody else's rows may be
        replace(rows, part=replace(rows.part, record=None)),
    ):
        whole_block = _Block(other, slice(0, 6), slice(0, 4))
        assert whole_block.row(2) is whole_block
    assert replace(block, group=0).row(2) == replace(block, group=0)


def test_a_row_of_rows_in_another_order_is_the_same(folder, tmp_path):
    rows = pq.read_table(folder).to_pandas()
    rows.sample(frac=1, random_state=1).to_parquet(tmp_path / "shuffled.parquet")
    result = open_result(tmp_path / "shuffled.parquet")
    for config in range(6):
        assert result.row("pred", config).tolist() == result.matrix("pred")[config].tolist()


def test_a_row_is_not_read_from_a_column_that_was_changed_after_it(folder):
    result = open_result(folder)
    path = min(folder.glob("*.parquet"))
    chunk = pq.read_metadata(path).row_group(0).column(list(TYPES).index("rank"))
    data = bytearray(path.read_bytes())
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ResultError, match="the bytes of column rank do not match its record"):
        result.row("rank", 0)


def test_each_part_is_opened_once_to_know_its_rows(folder, monkeypatch):
    opened: list[Path] = []
    real = pq.ParquetFile

    def counted(path, **how):
        if path in parts:
            opened.append(path)
        return real(path, **how)

    parts = sorted(folder.glob("*.parquet"))
    monkeypatch.setattr(reading.pq, "ParquetFile", counted)
    assert open_result(folder).n == 10
    assert sorted(opened) == parts and len(parts) == 3


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'{"itd": {"default": 2}}', b'{"itd": {"default": 3}}', "what they say twice differs"),
        (b"PANDAS_ATTRS\x18", b"PANDAs_ATTRS\x18", "what they say twice differs"),
        (b"UEFOREFTX0FUVFJT", b"UEFOREFTX1FUVFJT", "what they say twice differs"),  # Arrow's, in base64
        (b"HsiZGVmYXVsdCI6IDJ9f", b"HsiZGVmYXVsdCI6IDN9f", "what they say twice differs"),
        (b"\x00\x19,\x18\x0cPANDAS", b"\x01\x19,\x18\x0cPANDAS", "there are none, and no program that wrote it"),
        (b"\x00\x19,\x18\x0cPANDAS", b"\x04\x19,\x18\x0cPANDAS", "there are none, and no program"),
        (b"\x19,\x18\x0cPANDAS_ATTRS", b"\x19\x0c\x18\x0cPANDAS_ATTRS", "there are none, and no program"),
    ],
)
def test_a_bit_of_a_file_by_itself_does_not_take_its_default_away(tmp_path, old, new, words):
    """Each of these was another default, or none, and nothing showed it."""
    made = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 12), default=2, images_per_unit=12)
    data, path = min(made.glob("*.parquet")).read_bytes(), tmp_path / "alone.parquet"
    assert data.count(old) == 1 and sum((a ^ b).bit_count() for a, b in zip(old, new, strict=True)) == 1
    path.write_bytes(data)
    assert open_result(path).default == 2
    path.write_bytes(data.replace(old, new))
    with pytest.raises(ResultError, match=f"alone.parquet is damaged: its metadata .*{words}"):
        open_result(path)
