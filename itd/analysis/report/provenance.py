"""Where each result comes from, read from its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from itd.analysis.report.page import Cell, Table
from itd.space import format_value

if TYPE_CHECKING:
    from itd.store import Result

FIELDS = (
    "result",
    "images",
    "model",
    "weights",
    "sites",
    "space",
    "open choices",
    "data",
    "preprocessing",
    "variation",
    "precision",
    "runs",
)


def provenance_tables(results: Sequence[Result]) -> list[Table]:
    """One table for each result: what it is of, and the runs that made it."""
    columns = (("what", "of the result"), ("value", "as its manifest has it"))
    tables = []
    for result in results:
        rows = tuple((Cell(name), Cell(text)) for name, text in zip(FIELDS, _row(result), strict=True))
        tables.append(Table(result.path, columns, rows, folded=True, prose=True))
    return tables


def _row(result: Result) -> list[str]:
    images = f"{result.n} of {result.images_requested} asked for" + (
        f", {result.nulls} not decoded" if result.nulls else ""
    )
    if result.manifest is None:
        unknown = ["not told: there is no manifest"] + ["-"] * (len(FIELDS) - 3)
        return [result.path, images, *unknown]
    identity: dict[str, Any] = result.manifest["identity"]
    runs = result.manifest["provenance"]
    last = runs[-1] if runs else {}
    return [
        result.path,
        images,
        str(identity.get("model")),
        f"{last.get('weights')}, SHA-256 {str(identity.get('weights_sha256'))[:16]}",
        "; ".join(f"{site}: {' + '.join(paths)}" for site, paths in (identity.get("sites") or {}).items()),
        _space(identity.get("space") or {}),
        _pairs(identity.get("choices") or {}),
        f"{last.get('data')}, fingerprint {str(identity.get('data'))[:16]}, every {identity.get('every')}",
        _pairs(identity.get("preprocess") or {}),
        _pairs(identity.get("variation") or {}) or "none",
        str(identity.get("precision")),
        f"{len(runs)}, the last: {_pairs({k: v for k, v in last.items() if k not in ('weights', 'data')})}",
    ]


def _space(space: dict[str, Any]) -> str:
    options = space.get("options") or {}
    lists = "; ".join(
        f"{site} {attribute} {', '.join(map(format_value, values))}"
        for site, by_attribute in options.items()
        for attribute, values in by_attribute.items()
    )
    how = "listed by a file, of " if space.get("listed") else ""
    return f"{space.get('configurations')} configurations: {how}{lists}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
