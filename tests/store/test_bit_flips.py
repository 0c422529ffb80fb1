"""One flipped bit anywhere in a part is found."""

from __future__ import annotations

import numpy as np
import pytest

from itd.errors import ResultError
from itd.store import compact, open_result, verify
from itd.store.part import list_parts
from itd.store.reading import read_columns, read_schema, rows_of_groups
from itd.store.record import with_record
from itd.store.schema import SCORES
from support import synthetic


def test_every_kind_of_byte_is_covered_and_a_flip_of_any_is_found(tmp_path):
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(16, 8), images_per_unit=8)
    (part,) = folder.glob("*.parquet")
    data = part.read_bytes()
    rng = np.random.default_rng(0)
    ends = [0, 3, 4, 5, *range(len(data) - 12, len(data))]
    for at in [*ends, *rng.integers(0, len(data), 300).tolist()]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        part.write_bytes(flipped)
        assert [d.file for d in verify(folder).damaged] == [part.name], f"a flip in byte {at} of {len(data)} passed"
    part.write_bytes(data)
    assert verify(folder).ok


@pytest.mark.parametrize("by_groups", [False, True])
def test_a_flip_is_found_or_does_not_touch_what_is_read(by_groups, tmp_path, monkeypatch):
    scores = synthetic.make_scores(16, 8)
    folder = synthetic.make_result(tmp_path / "r", scores, images_per_unit=4 if by_groups else 8)
    if by_groups:
        monkeypatch.setattr("itd.store._rows.ROWS_PER_GROUP", 40)
        monkeypatch.setattr("itd.store.blocks.ROWS_AT_ONCE", 1)
        compact(folder)
        monkeypatch.setattr("itd.store.blocks.read_columns", None)  # which reads whole columns
    (part,) = folder.glob("*.parquet")
    data = part.read_bytes()
    rng = np.random.default_rng(1)
    found = 0
    for at in rng.integers(0, len(data), 150).tolist():
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        part.write_bytes(flipped)
        try:
            assert np.array_equal(open_result(folder).matrix("quality"), scores["quality"])
        except ResultError as error:
            found += 1
            assert part.name in str(error)
    assert found > 30


def test_a_flip_in_a_column_is_found_before_its_row_groups_are_read(tmp_path):
    """Page checksums do not cover the headers of pages."""
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(16, 8), images_per_unit=8)
    (part,) = list_parts(folder)
    part = with_record(part)
    assert rows_of_groups(part, "quality") == [128]
    meta = read_schema(part)[1]
    chunk = meta.row_group(0).column(meta.schema.names.index("quality"))
    data = part.path.read_bytes()
    for at in range(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size, 7):
        part.path.write_bytes(bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]))
        with pytest.raises(ResultError, match="the bytes of column quality do not match its record"):
            rows_of_groups(part, "quality")
        assert rows_of_groups(part, "nll") == [128]


def test_page_checksums_alone_find_a_flip_in_the_values(tmp_path):
    """Where the record is lost, the pages still carry their own checksums."""
    folder = synthetic.make_result(tmp_path / "r", synthetic.make_scores(16, 64), images_per_unit=64)
    (part,) = list_parts(folder)
    data = part.path.read_bytes()
    for record in (folder / "_itd").glob("part-*.json"):
        record.unlink()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 16
    part.path.write_bytes(flipped)
    assert with_record(part).record is None
    with pytest.raises(ResultError):
        read_columns(part, SCORES)
