"""Answers as flat rows, for CSV, and as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from itd.analysis.sampling import Estimate

Row = dict[str, Any]


class Answer:
    """What every answer can: become a table."""

    def rows(self) -> list[Row]:
        """The answer as flat rows, those of its CSV."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """The answer as the rows and columns of its CSV."""
        import pandas as pd

        rows = self.rows()
        return pd.DataFrame(rows, columns=columns_of(rows))


def rows_of(answers: Iterable[Answer]) -> list[Row]:
    """The rows of several answers of one kind, one after another."""
    return [row for answer in answers for row in answer.rows()]


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column that a row has, in the order they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def flat(name: str, value: Estimate | None) -> Row:
    """An estimate as the columns name, name_low and name_high."""
    keys = (name, f"{name}_low", f"{name}_high")
    return dict.fromkeys(keys) if value is None else dict(zip(keys, (value.value, value.low, value.high), strict=True))


def interval(name: str, value: Estimate) -> Row:
    """An estimate as the columns name, low and high."""
    return {name: value.value, "low": value.low, "high": value.high}


def flat_settings(settings: Mapping[str, Mapping[str, float]]) -> Row:
    """`{"stride_A": 2, ...}`"""
    return {f"{a}_{site}": value for site, setting in settings.items() for a, value in setting.items()}


def short_names(paths: Sequence[str]) -> list[str]:
    """The results' names without folder and suffix, where that tells them apart.

    >>> short_names(["results/a-stride.parquet", "results/a-size.parquet"])
    ['a-stride', 'a-size']
    """
    names = [Path(p).name.removesuffix(".parquet") or p for p in paths]
    return names if len(set(names)) == len(names) else list(paths)
