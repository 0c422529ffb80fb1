"""What the images of a result are called: `_itd/samples.parquet`, a row for each selected image in their order.

Written before the manifest that names its hash, so that a run which ends in between leaves a file that goes on beyond
what the manifest says: its first rows are read. No scores are here, and no image is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.errors import ResultError
from itd.store.files import SIDE, read_beside, sha256, write_whole

HASH = "samples_sha256"
"""The manifest's field; a result that is older than the file does not have it."""
FILE = "samples.parquet"
SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("label", pa.int16(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
    ]
)

Namer = Callable[[np.ndarray], pa.Table]
"""From (n,) samples to their rows: as many, or fewer where only the first ones are known."""


def printable(name: str) -> str:
    """A name as text that can be encoded: a byte of a file's name that is no UTF-8 stands as an escape.

    >>> print(printable("a/caf\\udce9.png"))
    a/caf\\udce9.png
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, eq=False)
class ImageNames:
    """What all images of the data are called.

    names: of each image, by sample; empty where nobody named them. labels: (all images,) int16. class_names: in label
    order, or none.
    """

    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str] = ()

    def rows(self, samples: np.ndarray) -> pa.Table:
        """The rows of (n,) samples."""
        labels = np.asarray(self.labels)[samples].astype(np.int16)
        classes = [printable(name) for name in self.class_names]
        known = [classes[label] if label < len(classes) else "" for label in labels.tolist()]
        names = [printable(self.names[sample]) for sample in samples.tolist()] if len(self.names) else [""] * len(known)
        columns = [pa.array(samples, pa.int32()), pa.array(names), pa.array(labels), pa.array(known)]
        return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def samples_path(folder: Path) -> Path:
    """Where a result's names lie."""
    return folder / SIDE / FILE


def write_samples(folder: Path, rows: pa.Table) -> str:
    """Writes the rows; returns what the manifest calls them."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    write_whole(samples_path(folder), data)
    return sha256(data)


def read_samples(folder: Path, manifest: Mapping[str, Any], samples: np.ndarray) -> pa.Table | None:
    """The rows of a result's first images, of all of them unless a version without this file went on with it.

    samples: (N,) those of the manifest. None where the manifest names no file; ResultError where it is not that one.
    """
    named, path = manifest.get(HASH), samples_path(folder)
    if named is None:
        return None
    try:
        data = read_beside(path)
        same = sha256(data) == named
        rows = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
        longer = rows.schema.equals(SCHEMA) and rows.num_rows > len(samples)
        if same or (longer and np.array_equal(rows.column("sample").to_numpy()[: len(samples)], samples)):
            return rows.slice(0, len(samples))
    except FileNotFoundError as error:
        raise ResultError(_refusal(path, "it is not there")) from error
    except PermissionError as error:
        raise ResultError(f"{path} cannot be read: permission denied; make it readable") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise ResultError(_refusal(path, "it is not Parquet any more")) from error
    raise ResultError(_refusal(path, f"it does not match {SIDE}/manifest.json"))


def _refusal(path: Path, why: str) -> str:
    return (
        f"{path} is damaged: {why}; give the same `itd sweep` or `itd union` command again, which writes it anew from "
        "the images, or restore it from a copy"
    )


def brought_up(folder: Path, manifest: dict[str, Any], samples: np.ndarray, namer: Namer | None) -> dict[str, Any]:
    """The manifest with the names of all its images, where somebody knows more of them than the file that is there.

    samples: (N,) those of the manifest. namer: of a run that knows names. The manifest is not saved.
    """
    if namer is None:
        return manifest
    try:
        there = read_samples(folder, manifest, samples)
    except ResultError:
        there = None
    known = 0 if there is None else there.num_rows
    rows = namer(samples) if known < len(samples) else None
    return manifest if rows is None or rows.num_rows <= known else {**manifest, HASH: write_samples(folder, rows)}
