"""Where each result comes from, and every run that made it, read from its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from itd.analysis.figures import short_names
from itd.analysis.report.parts import Cell, Table
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
)
FIRST = ("time", "git", "device")
SHA_DIGITS, DATE_DIGITS = 8, len("2026-01-31")


def provenance_tables(results: Sequence[Result]) -> list[Table]:
    """One table for each result, of what it is, and one for each union's sources; then one of all the runs."""
    columns = (("what", "of the result"), ("value", "as its manifest has it"))
    tables = []
    for result in results:
        rows = tuple((Cell(name), Cell(text)) for name, text in zip(FIELDS, _row(result), strict=True))
        tables.append(Table(result.path, columns, rows, folded=True, prose=True))
        if result.origins:
            tables.append(_sources_table(result))
    return [*tables, _runs_table(results)]


def facts(result: Result) -> tuple[tuple[str, str], ...]:
    """(what, value) of n, model, weights, data and the date of the last run, in brief."""
    n = f"{result.n:,} of {result.images_requested:,}" + (f", {result.nulls:,} not decoded" if result.nulls else "")
    if result.manifest is None:
        return (("n", n), ("manifest", "none: model, weights and data are unknown"))
    identity, last = result.identity, (_runs(result) or [{}])[-1]
    weights = f"{last.get('weights')}, {str(identity.get('weights_sha256'))[:SHA_DIGITS]}"
    data = ", ".join(filter(None, (str(last.get("data")), _pairs(identity.get("variation") or {}))))
    if result.origins:
        weights, data = "those of its sources", data if last.get("data") else "that of its sources"
    dates = [str(run["time"])[:DATE_DIGITS] for run in _runs(result) if run.get("time")]
    found = (("n", n), ("model", str(identity.get("model"))), ("weights", weights), ("data", data))
    return (*found, ("last run", max(dates, default="unknown")))


def _sources_table(result: Result) -> Table:
    """A row for each source of a union: its configurations' numbers there, and in what it differs from the others."""
    names = ("model", "weights", "variation", "precision", "preprocessing", "recalibration")
    columns = (("source", "as it was given"), ("configurations", "their numbers in the union"),
               *((name, "as the source's manifest has it") for name in names))  # fmt: skip
    numbers: dict[str, list[int]] = {}
    for number, origin in enumerate(result.origins):
        numbers.setdefault(origin.source, []).append(number)
    rows = []
    for (source, own), identity in zip(numbers.items(), result.identity["union"].values(), strict=True):
        texts = (str(identity.get("model")), str(identity.get("weights_sha256"))[:12],
                 _pairs(identity.get("variation") or {}) or "none", str(identity.get("precision")),
                 _pairs(identity.get("preprocess") or {}), str(identity.get("recalibration") or "none"))  # fmt: skip
        rows.append((Cell(source), Cell(f"{own[0]} to {own[-1]}", own[0]), *map(Cell, texts)))
    return Table(f"{result.path}: its sources", columns, tuple(rows), folded=True, prose=True)


def _runs_table(results: Sequence[Result]) -> Table:
    """A row for each run that wrote into a result: versions, device, git revision, time."""
    runs = [(name, run) for result, name in _named(results) for run in _runs(result)]
    keys = [key for _, run in runs for key in run]
    keys = list(dict.fromkeys([*(key for key in FIRST if key in keys), *keys]))
    columns = (("result", "its name"), *((key.replace("_", " "), "as its manifest has it") for key in keys))
    rows = tuple(
        (Cell(name), *(Cell("" if run.get(key) is None else str(run[key])) for key in keys)) for name, run in runs
    )
    return Table(f"All runs ({len(runs)})", columns, rows, folded=True)


def _named(results: Sequence[Result]) -> list[tuple[Result, str]]:
    return list(zip(results, short_names([result.path for result in results]), strict=True))


def _runs(result: Result) -> list[dict[str, Any]]:
    return result.manifest["provenance"] if result.manifest else []


def _row(result: Result) -> list[str]:
    images = f"{result.n} of {result.images_requested} asked for" + (
        f", {result.nulls} not decoded" if result.nulls else ""
    )
    if result.manifest is None:
        unknown = ["unknown: there is no manifest"] + ["-"] * (len(FIELDS) - 3)
        return [result.path, images, *unknown]
    identity = result.identity
    last = (_runs(result) or [{}])[-1]
    several = "of its sources: see below" if result.origins else ""
    return [
        result.path,
        images,
        str(identity.get("model")),
        several or f"{last.get('weights')}, SHA-256 {identity.get('weights_sha256')}",
        "; ".join(f"{site}: {' + '.join(paths)}" for site, paths in (identity.get("sites") or {}).items()),
        _space(identity.get("space") or {}),
        _pairs(identity.get("choices") or {}),
        f"{several or last.get('data')}, fingerprint {identity.get('data')}, every {identity.get('every')}",
        _pairs(identity.get("preprocess") or {}) or several,
        _pairs(identity.get("variation") or {}) or several or "none",
        str(identity.get("precision") or several),
    ]


def _space(space: dict[str, Any]) -> str:
    options = space.get("options") or {}
    lists = "; ".join(
        f"{site} {attribute} {', '.join(map(format_value, values))}"
        for site, by_attribute in options.items()
        for attribute, values in by_attribute.items()
        if values != [None]  # no layer of the site takes it
    )
    how = "listed by a file, of " if space.get("listed") else ""
    return f"{space.get('configurations')} configurations: {how}{lists}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
