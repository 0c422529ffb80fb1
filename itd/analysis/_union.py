"""Several results of the same images as one space: what several networks, scales, attributes or stages of training are
worth together, with every question that a result answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row
from itd.analysis.scores import require_default, require_images, require_results, require_same_data
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result
    from itd.store._union import UnionSource


@dataclass(frozen=True)
class Union(Answer):
    """A union as it was written.

    result: its path. n: images, with those that have null rows. default: the first source's, or None. sources: where
    the configurations come from, in order. already: images that were there before.
    """

    result: str
    n: int
    configs: int
    attributes: tuple[str, ...]
    sites: tuple[str, ...]
    default: int | None
    sources: tuple[UnionSource, ...]
    already: int = 0

    def rows(self) -> list[Row]:
        """One row for each source, with the numbers of its configurations in the union."""
        return [
            {"result": self.result, "n": self.n, "source": one.path, "model": one.model, "configs": one.configs}
            | {"first": one.first, "last": one.last, "default": one.default}
            for one in self.sources
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("result", "n", "configs", "attributes", "sites", "default", "already")
        head = {name: getattr(self, name) for name in names}
        head |= {name: list(head[name]) for name in ("attributes", "sites")}
        return {**head, "sources": [asdict(one) for one in self.sources]}


def union(
    results: Sequence[Result],
    out: str | Path,
    *,
    defaults: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Union:
    """Writes results of the same images as one result, whose configurations are theirs in the order given.

    A column of settings that a source does not have is null in its rows. `_itd/configs.parquet` says of each
    configuration which `source` it comes from and its number there, `source_config`. Given again, it goes on with what
    is missing; a sweep does not extend it.

    Args:
        results: two or more of `open_result`, all finished, in any of network, weights, attributes, precision,
            preprocessing and variation different. A union may be among them.
        out: the folder to write.
        defaults: take only each result's default configuration, of a union its sources': the networks as they are,
            none of them dynamic.
        progress: told how many images are there before, where any are, then each time how many were just written.

    Returns:
        What the union holds. Its default configuration, and so its matched top-k, is the first result's.

    Raises:
        ResultError: other images, samples or labels, named by field; results that are not finished, that have no
            manifest, or one that is given twice; another result at `out`.

    Example:
        >>> union([open_result("stride.parquet"), open_result("dilation.parquet")], "both.parquet")  # doctest: +SKIP
    """
    require_results(results, "union")
    _require_distinct(results, out)
    for result in results:
        _require_whole(result)
    require_same_data(results, "unite")
    from itd.store import write_union

    written = write_union(out, results, [_taken(result, defaults) for result in results], progress)
    return Union(
        result=written.path,
        n=written.images,
        configs=written.sources[-1].last + 1,
        attributes=written.attributes,
        sites=written.sites,
        default=written.default,
        sources=written.sources,
        already=written.already,
    )


def _require_distinct(results: Sequence[Result], out: str | Path) -> None:
    """ResultError for fewer than two results, for one that is there twice, and for an `out` that is one of them."""
    if len(results) < 2:
        raise ResultError("one result is nothing to unite; give two or more")
    if not isinstance(out, (str, Path)):
        raise ResultError(f"`out` is the path of the union, given {type(out).__name__}")
    target, seen = os.path.realpath(out), set()
    for result in results:
        path = os.path.realpath(result.path)
        if path == target:
            raise ResultError(f"{result.path} is given, and is where the union is to be written; give another `out`")
        if path in seen:
            raise ResultError(f"{result.path} is given twice; give each result once")
        seen.add(path)


def _require_whole(result: Result) -> None:
    """ResultError for a result without a manifest, without images, or not finished."""
    if result.manifest is None:
        raise ResultError(
            f"{result.path} does not say which images it is of; give the folder that `itd sweep` wrote, not a file"
        )
    require_images(result)
    if result.partial:
        raise ResultError(
            f"{result.path} is not finished: {result.images_done} of {result.images_requested} images are there; give "
            "the command that makes it again, or sweep the others with the same `limit`"
        )


def _taken(result: Result, defaults: bool) -> np.ndarray:
    """The rows of the configurations that go into the union, ascending."""
    if not defaults:
        return np.arange(result.configs)
    require_default(result, "`defaults`")
    own = {result.own_default(row) for row in range(result.configs)}
    return np.array(sorted(row for row in own if row is not None))
