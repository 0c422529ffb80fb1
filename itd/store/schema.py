"""The columns of a result, their types and how they are laid out in Parquet. No file is touched here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itd.checked import BadJson, fields, maybe, parse_json, whole
from itd.errors import ResultError
from itd.space import ATTRIBUTES, SITES
from itd.text import listed

INDEX = ("sample", "label", "config")
SCORES = ("pred", "quality", "nll", "rank", "confidence")

TYPES: Mapping[str, pa.DataType] = {
    "sample": pa.int32(),
    "label": pa.int16(),
    "config": pa.int16(),
    "pred": pa.int16(),
    "quality": pa.float32(),
    "nll": pa.float32(),
    "rank": pa.int16(),
    "confidence": pa.float32(),
}
SETTING_TYPES: Mapping[str, pa.DataType] = {"stride": pa.float32(), "dilation": pa.int8(), "size": pa.int8()}
FLOATS = tuple(name for name in SCORES if pa.types.is_floating(TYPES[name]))

_ATTRS = b"PANDAS_ATTRS"
_LONGEST_NAME = 200
"""Of the program that wrote a file: longer texts are other fields of a damaged footer."""
_ATTRS_FIELDS = fields({}, {"itd": fields({"default": maybe(whole(0, 32_767))})})


def setting_columns(attributes: Sequence[str]) -> list[str]:
    """`stride_A` .. `stride_D` for each attribute, in the order of the table.

    >>> setting_columns(["size"])
    ['size_A', 'size_B', 'size_C', 'size_D']
    """
    return [f"{attribute}_{site}" for attribute in ATTRIBUTES if attribute in attributes for site in SITES]


def setting_type(column: str) -> pa.DataType:
    """The Arrow type of a setting column."""
    return SETTING_TYPES[column.split("_")[0]]


def part_schema(attributes: Sequence[str], default: int | None) -> pa.Schema:
    """The schema of a part.

    The default configuration travels in the metadata under the key where pandas keeps `DataFrame.attrs`, so that it
    survives a user's reading the folder and writing one file, with pandas as with pyarrow.
    """
    fields = [pa.field(name, TYPES[name], nullable=False) for name in INDEX]
    fields += [pa.field(name, setting_type(name)) for name in setting_columns(attributes)]
    fields += [pa.field(name, TYPES[name]) for name in SCORES]
    return pa.schema(fields, metadata={_ATTRS: json.dumps({"itd": {"default": default}})})


def default_of(schema: pa.Schema, footer: pq.FileMetaData, where: str) -> int | None:
    """The default configuration that a file's metadata name; None where they have nothing of it.

    Nothing protects the footer of a file without a record, but the metadata are in it twice: in Arrow's schema, which
    pyarrow reads, and beside it. Where there are none at all, damage shows in the name of the program that wrote it.
    Raises ResultError, naming `where`, for metadata that are damaged: then nobody would know that they named one.
    """
    own, beside = (schema.metadata or {}).get(_ATTRS), (footer.metadata or {}).get(_ATTRS)
    text = beside if own is None else own
    try:
        if schema.metadata and own != beside:
            raise BadJson("what they say twice differs")
        if not footer.metadata and not _names_its_writer(footer):
            raise BadJson("there are none, and no program that wrote it")
        if text is None:
            return None
        attrs = parse_json(text, _ATTRS_FIELDS, name="PANDAS_ATTRS")
    except BadJson as error:
        raise ResultError(
            f"{where} is damaged: its metadata do not say its default configuration ({error}); make the file again"
        ) from error
    return attrs.get("itd", {}).get("default")


def _names_its_writer(footer: pq.FileMetaData) -> bool:
    """Whether a footer says which program wrote it; of a damaged one other texts can stand there."""
    try:
        name = footer.created_by or ""
    except UnicodeDecodeError:
        return False
    return 0 < len(name) <= _LONGEST_NAME and _ATTRS.decode() not in name


def part_table(
    schema: pa.Schema,
    settings: Mapping[str, Sequence[float | None]],
    samples: np.ndarray,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    missing: np.ndarray,
) -> pa.Table:
    """The rows of one unit, ordered by configuration, then the place of the image in the selection.

    Args:
        schema: of the part.
        settings: column -> one value for each configuration.
        samples: (n,).
        labels: (n,).
        scores: column -> (C, n).
        missing: (n,) bool, samples whose scores are null; or (C, n), where some configurations' are.
    """
    configs, n = scores["quality"].shape
    null = np.broadcast_to(missing, (configs, n)).reshape(-1) if missing.any() else None
    number = np.repeat(np.arange(configs), n)
    columns = {
        "sample": pa.array(np.tile(samples.astype(np.int32), configs)),
        "label": pa.array(np.tile(labels.astype(np.int16), configs)),
        "config": pa.array(number.astype(np.int16)),
    }
    for name, values in settings.items():
        columns[name] = pa.array(list(values), type=setting_type(name)).take(pa.array(number))
    for name in SCORES:
        flat = np.ascontiguousarray(scores[name]).reshape(-1).astype(TYPES[name].to_pandas_dtype())
        columns[name] = pa.array(flat, mask=null)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def encode(table: pa.Table) -> bytes:
    """A table as a Parquet file with page checksums, laid out as `layout` says."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **layout(table.schema))
    return sink.getvalue().to_pybytes()


def layout(schema: pa.Schema, *, many_images: bool = False) -> dict[str, Any]:
    """How the parts of a schema are laid out in Parquet, as arguments of pyarrow's writers.

    Floats are split by byte before zstd (smaller and as fast to read as plain, pyarrow 26); everything else repeats
    and goes through a dictionary. Without a page index, the column chunks fill the file from the magic to the footer:
    a checksum of each, and one of the footer, cover every bit.

    many_images: samples and labels come again only after more rows than a page has (20,000, pyarrow 26), where zstd
    sees no repetition; as differences 50,000 samples x 625 configurations take 0.2 MB, and 64 MB by a dictionary.
    """
    steps = ("sample", "label") if many_images else ()
    encodings = dict.fromkeys(FLOATS, "BYTE_STREAM_SPLIT") | dict.fromkeys(steps, "DELTA_BINARY_PACKED")
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [name for name in schema.names if name not in encodings],
        "column_encoding": encodings,
        "write_page_checksum": True,
        "write_statistics": True,
    }


def check_columns(schema: pa.Schema, where: str) -> list[str]:
    """The attributes of a table that is a result; ResultError for any other table, naming the columns."""
    names = set(schema.names)
    attributes = [a for a in ATTRIBUTES if any(f"{a}_{site}" in names for site in SITES)]
    wanted = [*INDEX, *setting_columns(attributes), *SCORES]
    absent = [name for name in wanted if name not in names]
    if not attributes:
        absent.insert(0, "stride_A.. or dilation_A.. or size_A..")
    if absent:
        raise ResultError(
            f"{where} is not a result: it has no column {', '.join(absent)} (its columns: {listed(schema.names, 12)}); "
            "give a folder or file written by `itd sweep`"
        )
    wrong = []
    for name in wanted:
        kind = schema.field(name).type
        if pa.types.is_integer(kind) or (pa.types.is_floating(kind) and name not in INDEX):
            continue
        wrong.append(f"{name} is {kind}, not {TYPES.get(name) or setting_type(name)}")
    if wrong:
        raise ResultError(
            f"{where} has another schema than a result: {'; '.join(wrong)}; give one written by `itd sweep`"
        )
    return attributes


def plain(value: Any) -> float | int | None:
    """A setting as JSON shows it: whole numbers as int, a null as None.

    >>> plain(2.0), plain(0.5), plain(float("nan"))
    (2, 0.5, None)
    """
    if value is None or value != value:
        return None
    return int(value) if float(value).is_integer() else float(value)
