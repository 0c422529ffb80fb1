"""The rows of a result as its files hold them, read and sorted without the project's own reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def raw_rows(folder: Path) -> pa.Table:
    """All rows of all parts, in the order of the files and of the rows in them."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.glob("part-*.parquet")))


def in_order(folder: Path) -> pa.Table:
    """All rows by configuration, then the place of the image in the selection."""
    table = raw_rows(folder)
    manifest = json.loads((folder / "_itd" / "manifest.json").read_text())
    place = {}
    for start, step, count in manifest["samples"]:
        place |= {start + step * i: len(place) + i for i in range(count)}
    places = np.array([place[sample] for sample in table.column("sample").to_pylist()])
    return table.take(np.lexsort((places, table.column("config").to_numpy())))


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def part_names(folder: Path) -> list[str]:
    """The positions of the parts: `0-7`."""
    found = (path.stem.split("-")[1:] for path in sorted(folder.glob("part-*.parquet")))
    return [f"{int(first)}-{int(last)}" for first, last in found]
