"""Answers as pandas DataFrames: the rows that the command line writes as CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_ROWS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {}


def rows_of(kind: type, rows: Callable[[Any], list[dict[str, Any]]]) -> None:
    """Says how an answer becomes rows: `itd.analysis.tables` does so for each."""
    _ROWS[kind.__name__] = rows


class Answer:
    """What every answer can: become a table."""

    def to_pandas(self) -> pd.DataFrame:
        """The answer as the rows and columns of its CSV."""
        import pandas as pd

        rows = _ROWS[type(self).__name__](self)
        return pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row)))
