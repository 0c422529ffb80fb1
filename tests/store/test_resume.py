"""What a run looks at in a result that it goes on with: of parts that are what their record says, only their bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itd.errors import ItdWarning
from itd.store import ResultWriter, merge, verify, whole
from itd.store.files import sealed, to_json
from itd.store.part import Part
from support import synthetic

GONE = np.array([False, True, False, False, False, False, False, False, False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(6, 10), missing=GONE)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts whose rows are read."""
    names: list[str] = []
    check_part = whole.check_part

    def noted(part: Part, *more: Any, **how: Any) -> Any:
        names.append(part.name)
        return check_part(part, *more, **how)

    monkeypatch.setattr(whole, "check_part", noted)
    return names


def open_again(path: Path) -> ResultWriter:
    return synthetic.open_writer(path, 10)


def test_no_rows_are_read_of_parts_that_are_unchanged(path: Path, read: list[str]) -> None:
    writer = open_again(path)
    assert read == [] and writer.todo() == [] and [one.image for one in writer.null_images] == [1, 9]


def test_merged_and_compacted_parts_are_known_as_well(path: Path, tmp_path: Path, read: list[str]) -> None:
    import itd

    other = synthetic.make_result(tmp_path / "o.parquet", synthetic.make_scores(6, 10), missing=GONE)
    merge([path, other], tmp_path / "m.parquet")
    itd.compact(other)
    read.clear()
    for folder in (tmp_path / "m.parquet", other):
        assert [one.image for one in open_again(folder).null_images] == [1, 9]
    assert read == []


def test_a_record_without_the_hash_has_its_rows_read(path: Path, read: list[str]) -> None:
    for record in (path / "_itd").glob("part-*.json"):
        fields = {name: value for name, value in json.loads(record.read_text()).items() if name != "rows_sha256"}
        del fields["sha256"]
        record.write_bytes(to_json(sealed(fields)))
    assert open_again(path).todo() == [] and len(read) == 3


@pytest.mark.parametrize("place", [4, 1000, -30])
def test_one_bit_is_seen(path: Path, read: list[str], place: int) -> None:
    part = path / "part-00000004-00000007.parquet"
    data = bytearray(part.read_bytes())
    data[place] ^= 1
    part.write_bytes(data)
    with pytest.warns(ItdWarning, match=r"part-00000004-00000007\.parquet is damaged"):
        writer = open_again(path)
    assert [(unit.first, unit.last) for unit in writer.todo()] == [(4, 7)]


def test_a_part_of_other_images_is_seen_with_its_own_record(path: Path, tmp_path: Path) -> None:
    samples = np.arange(10) + 5
    other = synthetic.open_writer(tmp_path / "o", 0, samples=samples)
    synthetic.write_units(other, synthetic.make_scores(6, 10))
    name = "part-00000004-00000007"
    for old in (path / "_itd").glob(f"{name}*"):
        old.unlink()
    for file in [tmp_path / "o" / f"{name}.parquet", *(tmp_path / "o/_itd").glob(f"{name}*")]:
        shutil.copy(file, path / file.relative_to(tmp_path / "o"))
    with pytest.warns(ItdWarning, match="holds other samples than its name says"):
        assert len(open_again(path).todo()) == 1
    assert not verify(path).complete
