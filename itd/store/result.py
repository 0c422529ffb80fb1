"""A result as arrays: samples x configurations. Which rows are there, and that each is, `opening` finds out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from itd.errors import ResultError
from itd.store import manifest as manifests
from itd.store.blocks import each_block
from itd.store.identity import with_defaults
from itd.store.index import Index
from itd.store.samples import read_samples
from itd.store.schema import SCORES, TYPES, setting_type

if TYPE_CHECKING:
    import pandas as pd

ORIGIN = ("source", "source_config", "source_default")
"""Columns of a union's `_itd/configs.parquet`: the fields of `Origin`."""


@dataclass(frozen=True)
class Origin:
    """Where a configuration of a union comes from.

    source: path of the result, as it was given. config: its number there. default: the number, in the union, of the
    default configuration of the same source; None where the source has none.
    """

    source: str
    config: int
    default: int | None


@dataclass
class Result:
    """A result's scores as arrays (C configurations, N samples).

    path: as given. config_numbers: (C,) the numbers of the configurations. settings: column -> (C,) values. macs: (C,)
    int64 or None where a single file does not say. default: the default configuration's number, or None.
    samples: (N,) int32. labels: (N,) int16. images_requested: how many were asked for. nulls: how many samples are
    left out because they have null rows. origins: of a union, where each of the (C,) configurations comes from.
    truth: whose labels they are: label, the data's own, or ReaL (`itd.with_real_labels`).
    """

    path: str
    attributes: tuple[str, ...]
    sites: tuple[str, ...]
    config_numbers: np.ndarray
    settings: dict[str, list[float | None]]
    macs: np.ndarray | None
    default: int | None
    samples: np.ndarray
    labels: np.ndarray
    images_requested: int
    nulls: int
    manifest: dict[str, Any] | None = field(repr=False)
    _indices: list[Index] = field(repr=False)
    _kept: dict[str, np.ndarray] | None = field(default=None, repr=False)
    origins: tuple[Origin, ...] = field(default=(), repr=False)
    truth: str = "label"

    @property
    def n(self) -> int:
        """How many samples there are, without those that have null rows."""
        return len(self.samples)

    @property
    def configs(self) -> int:
        """How many configurations there are."""
        return len(self.config_numbers)

    @property
    def images_done(self) -> int:
        """How many of the requested images are there, with those that have null rows."""
        return self.n + self.nulls

    @property
    def unprotected(self) -> bool:
        """Whether the manifest has no hash of its own, as older ones have not, so that nothing would show a change."""
        return self.manifest is not None and not manifests.is_protected(self.manifest)

    @property
    def partial(self) -> bool:
        """Whether the sweep still has images to do."""
        return self.images_done < self.images_requested

    @property
    def num_classes(self) -> int | None:
        """How many classes the network tells apart, or None where the result does not say."""
        runs = self.manifest["provenance"] if self.manifest else []
        return next((run["classes"] for run in reversed(runs) if run.get("classes")), None)

    @property
    def identity(self) -> dict[str, Any]:
        """What the result is of, a field that its manifest lacks at its default; empty without a manifest."""
        return {} if self.manifest is None else with_defaults(self.manifest["identity"])

    @property
    def macs_unknown(self) -> tuple[str, ...]:
        """Names of the operators that `macs` does not count; empty where all are counted, or nothing is known."""
        return tuple(self.manifest.get("macs_unknown", ())) if self.manifest else ()

    @property
    def default_index(self) -> int | None:
        """The row of the default configuration in `matrix`, or None."""
        rows = self.config_numbers.tolist()
        return rows.index(self.default) if self.default in rows else None

    def names(self) -> tuple[str, ...] | None:
        """(N,) what each sample is called in its data, in the order of `samples`; empty where it has no name there.

        None where the result does not say: it is older than `_itd/samples.parquet`, or a single file.

        >>> open_result("results/resnet50-stride.parquet").names()[0]  # doctest: +SKIP
        'n01440764/ILSVRC2012_val_00000293.JPEG'
        """
        rows = self._image_rows
        if rows is None:
            return None
        known = dict(zip(rows.column("sample").to_pylist(), rows.column("name").to_pylist(), strict=True))
        return tuple(known.get(sample, "") for sample in self.samples.tolist())

    def class_names(self) -> dict[int, str]:
        """Label -> name of the class, of those classes that selected images are of; empty where the result does not
        say."""
        rows = self._image_rows
        if rows is None:
            return {}
        each = zip(rows.column("label").to_pylist(), rows.column("class_name").to_pylist(), strict=True)
        return {label: name for label, name in each if name}

    @functools.cached_property
    def _image_rows(self) -> pa.Table | None:
        """`_itd/samples.parquet`, read and checked when it is first asked for."""
        if self.manifest is None:
            return None
        return read_samples(Path(self.path), self.manifest, manifests.from_runs(self.manifest["samples"]))

    def own_default(self, index: int) -> int | None:
        """The row of the default of the network that row `index` is of: in a union, of its source."""
        return self.origins[index].default if self.origins else self.default_index

    def setting(self, index: int) -> dict[str, dict[str, float]]:
        """The settings of row `index`, as `{"A": {"stride": 2}, ...}`."""
        out: dict[str, dict[str, float]] = {site: {} for site in self.sites}
        for column, values in self.settings.items():
            attribute, site = column.split("_")
            if site in out and (value := values[index]) is not None:
                out[site][attribute] = value
        return out

    def matrix(self, column: str) -> np.ndarray:
        """One score: (C, N), rows in the order of `config_numbers`, columns in the order of `samples`.

        column: pred, quality, nll, rank or confidence.

        >>> open_result("results/resnet50-stride.parquet").matrix("quality")  # doctest: +SKIP
        """
        self._require_score(column)

        def read() -> np.ndarray:
            out = np.empty((self.configs, self.n), dtype=TYPES[column].to_pandas_dtype())

            def fill(configs: slice, samples: slice, scores: np.ndarray) -> None:
                out[configs, samples] = scores

            self.each_block(column, fill)
            return out

        return self.keep(column, read)

    def row(self, column: str, index: int) -> np.ndarray:
        """(N,) one score of row `index` of `matrix`, without the memory of the other rows; IndexError beyond them."""
        self._require_score(column)
        index = range(self.configs)[index]

        def read() -> np.ndarray:
            out = np.empty(self.n, dtype=TYPES[column].to_pandas_dtype())

            def fill(configs: slice, samples: slice, scores: np.ndarray) -> None:
                out[samples] = scores[index - configs.start]

            self.each_block(column, fill, config=index)
            return out

        return self.keep(f"{column} of {index}", read)

    def each_block(
        self, column: str, work: Callable[[slice, slice, np.ndarray], Any], config: int | None = None
    ) -> None:
        """`work` on blocks of one score, on a few threads and in any order: which rows of `matrix`, which of its
        columns, and their scores. None of it is kept.

        column: as of `matrix`. config: the only row that is wanted; blocks without it are left out.
        """
        self._require_score(column)
        if self._kept is not None and column in self._kept:
            work(slice(0, self.configs), slice(0, self.n), self._kept[column])
        else:
            each_block(self.path, self._indices, column, work, config)

    def keep(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What `make` gives, made once where this result keeps what it reads; then it cannot be written to."""
        if self._kept is None:
            return make()
        if name not in self._kept:
            self._kept[name] = make()
            self._kept[name].flags.writeable = False
        return self._kept[name]

    def _require_score(self, column: str) -> None:
        """ResultError for what is no score, and for ranks where the truth is not the data's own labels."""
        if column not in SCORES:
            raise ResultError(f"no such score: {column!r}; allowed are {', '.join(SCORES)}")
        if column == "rank" and self.truth != "label":
            raise ResultError(
                f"{self.path} keeps the rank of one label, so what guesses give is not known by {self.truth} labels; "
                "leave `real_labels` out for this answer"
            )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each sample and configuration, by configuration, then in the order of `samples`.

        The columns are those of the files: sample, label, config, stride_A .. of the swept attributes, pred, quality,
        nll, rank and confidence. Samples with null rows are left out.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "sample": np.tile(self.samples, self.configs),
            "label": np.tile(self.labels, self.configs),
            "config": np.repeat(self.config_numbers.astype(np.int16), self.n),
        }
        for name, values in self.settings.items():
            kind = setting_type(name).to_pandas_dtype()
            whole = None not in values
            array = np.array([np.nan if v is None else v for v in values], kind if whole else np.float64)
            columns[name] = np.repeat(array, self.n)
        for name in SCORES:
            columns[name] = self.matrix(name).reshape(-1)
        return pd.DataFrame(columns)

    def kept(self) -> Result:
        """The same result, which reads each score once and keeps it in memory: for many answers in a row."""
        return self if self._kept is not None else replace(self, _kept={})
