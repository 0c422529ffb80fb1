"""Which images are rescued, lost or never right: one row for each image, with its name, and what gets it right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row, flat, flat_settings
from itd.analysis.originals import open_originals
from itd.analysis.sampling import Estimate, wilson
from itd.analysis.scores import correctness, require_default, require_number, require_result
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.data.images import ImageSet
    from itd.store import Result

MOST_CONFIGS = 5
"""So many configurations that get an image right are written out."""
FEW, MANY = SORTS = ("few", "many")
"""By how many configurations get an image right: few first, a lucky guess, or many first, a robust gain."""
_BLOCK = 2048

MEANINGS = {
    "rescued": "the default is wrong, another configuration is right",
    "lost": "the default is right, more than half of the other configurations are wrong",
    "never": "no configuration is right",
    "only_config": "configuration {config} is right, the default is wrong",
    "only_default": "the default is right, configuration {config} is wrong",
}
"""Group -> which images are in it."""
GROUPS = ("rescued", "lost", "never")
"""Those that a result has without another word."""
_FIRST = {"rescued": MANY, "lost": FEW, "never": MANY, "only_config": MANY, "only_default": FEW}


@dataclass(frozen=True)
class RightConfig:
    """A configuration that gets an image right. source: of a union, the path of the result that it comes from."""

    config: int
    settings: dict[str, dict[str, float]]
    source: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        source = {} if self.source is None else {"source": self.source}
        return {"config": self.config, "settings": self.settings, **source}


@dataclass(frozen=True)
class ImageRow:
    """One image of a group.

    sample: its number in the data. name: what it is called there, None where nobody knows. label, class_name: its
    class. static, static_name: what the default configuration predicts, None without a default. right: how many
    configurations get it right. failing: the share of the others than the default that do not, None without others.
    configs: those of the others that get it right, of highest quality first, at most five.
    """

    sample: int
    name: str | None
    label: int
    class_name: str | None
    static: int | None
    static_name: str | None
    right: int
    failing: float | None
    configs: tuple[RightConfig, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "sample": self.sample,
            "name": self.name,
            "label": self.label,
            "class_name": self.class_name,
            "static": self.static,
            "static_name": self.static_name,
            "right": self.right,
            "failing": self.failing,
            "configs": [one.as_dict() for one in self.configs],
        }


@dataclass(frozen=True)
class ImageGroup:
    """Some images. name: of `MEANINGS`. share: of all n. sort: few or many. images: all of them, or the first."""

    name: str
    meaning: str
    share: Estimate
    total: int
    sort: str
    images: tuple[ImageRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        head = {"group": self.name, "meaning": self.meaning, "total": self.total, "share": self.share.as_dict()}
        return {**head, "sort": self.sort, "images": [one.as_dict() for one in self.images]}


@dataclass(frozen=True)
class Images(Answer):
    """The images of one result by what the configurations make of them.

    configs: how many there are. default: the number of the default one, or None. config: the one that was asked for.
    groups: those asked for. originals: the images themselves, where `data` opened them.
    """

    result: str
    n: int
    configs: int
    default: int | None
    groups: tuple[ImageGroup, ...]
    config: int | None = None
    originals: ImageSet | None = field(default=None, repr=False, compare=False)

    def group(self, name: str) -> ImageGroup | None:
        """The group of this name, None where it was not asked for or the result cannot have it."""
        return next((one for one in self.groups if one.name == name), None)

    def rows(self) -> list[Row]:
        """One row for each image of each group, with the first of the configurations that get it right."""
        head = {"result": self.result, "n": self.n}
        return [head | {"group": group.name} | _flat(row) for group in self.groups for row in group.images]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("result", "n", "configs", "default", "config")
        return {name: getattr(self, name) for name in names} | {"groups": [one.as_dict() for one in self.groups]}

    def shares(self) -> list[Row]:
        """One row for each group: how many images are in it, and their share with its interval."""
        return [{"group": one.name, "images": one.total} | flat("share", one.share) for one in self.groups]


def _flat(row: ImageRow) -> Row:
    found = row.as_dict()
    first = found.pop("configs")[:1]
    return found | {"config": None} | {k: v for one in first for k, v in _flat_config(one).items()}


def _flat_config(one: dict[str, Any]) -> Row:
    source = {"source": one["source"]} if "source" in one else {}
    return {"config": one["config"], **source, **flat_settings(one["settings"])}


def images(
    result: Result,
    group: str | None = None,
    *,
    config: int | None = None,
    sort: str | None = None,
    limit: int | None = None,
    data: str | Path | None = None,
    num_classes: int | None = None,
    classes_file: str | Path | None = None,
    labels_file: str | Path | None = None,
) -> Images:
    """Which images a result's configurations rescue, lose, and never get right, each with its name.

    Args:
        result: of `itd.open_result`.
        group: rescued, the default configuration is wrong and at least one other right; lost, the default is right and
            more than half of the others wrong; never, none is right. None is all that the result has.
        config: in place of a group, the number of a configuration: what it gets right and the default wrong, and the
            other way.
        sort: few, the images first that the fewest configurations get right; or many. Default many for what is gained,
            few for what is lost. What as many get right stays in the order of the selection.
        limit: at most so many images of each group.
        data: the images, as the sweep was given them, for what opens them: their names where the result is older than
            `_itd/samples.parquet`, the names of all classes, and a gallery.
        num_classes, classes_file, labels_file: as the sweep was given them.

    Returns:
        The groups, each image with its label, what the default predicts, and what gets it right.

    Raises:
        ResultError: for a group that needs a default configuration where there is none, for a configuration that is
            not there, and for images that are not the result's.

    Example:
        >>> images(open_result("results/resnet50-stride.parquet"), "never").groups[0].share.value  # doctest: +SKIP
        0.08
    """
    require_result(result, "images")
    _check(result, group, config, sort, limit)
    correct = correctness(result)
    if data is not None:
        originals = open_originals(
            result, data, num_classes=num_classes, classes_file=classes_file, labels_file=labels_file
        )
        names = _names_of(originals, result.samples)
    elif num_classes or classes_file or labels_file:
        raise ResultError("`num_classes`, `classes_file` and `labels_file` say how `data` is read; give `data` too")
    else:
        originals, names = None, _Names(result.names() or (), result.class_names())
    rows = _Rows(result, correct, names)
    groups = tuple(
        ImageGroup(
            name=name,
            meaning=MEANINGS[name].format(config=config),
            share=wilson(int(member.sum()), result.n),
            total=int(member.sum()),
            sort=sort or _FIRST[name],
            images=rows.of(member, sort or _FIRST[name], limit),
        )
        for name, member in _members(result, correct, group, config)
    )
    return Images(result.path, result.n, result.configs, result.default, groups, config, originals)


def _check(result: Result, group: Any, config: Any, sort: Any, limit: Any) -> None:
    """ResultError for what cannot be asked."""
    if group is not None and group not in GROUPS:
        raise ResultError(f"no such group of images: {group!r}; the groups are {', '.join(GROUPS)}")
    if group is not None and config is not None:
        raise ResultError(f"`config={config}` is a group of its own; give it or {group}, not both")
    if sort is not None and sort not in SORTS:
        raise ResultError(f"no such `sort`: {sort!r}; give {FEW} or {MANY}")
    if limit is not None:
        require_number(limit, "limit", least=1)
    if config is not None or group in ("rescued", "lost"):
        default = require_default(result, f"`config={config}`" if group is None else f"the group {group}")
        numbers = result.config_numbers.tolist()
        if config is not None:
            require_number(config, "config", least=0)
            if config not in numbers:
                raise ResultError(
                    f"{result.path} has no configuration {config}; its numbers are {numbers[0]} to {numbers[-1]}"
                )
            if config == numbers[default]:
                raise ResultError(f"`config={config}` is the default itself; give another to hold against it")


def _members(
    result: Result, correct: np.ndarray, group: str | None, config: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (N,) bool which images are in it) of each group that is asked for. correct: (C, N) bool."""
    some: np.ndarray = np.any(correct, axis=0)
    if group == "never" or result.default_index is None:
        yield "never", ~some
        return
    static = correct[result.default_index]
    if config is not None:
        own = correct[result.config_numbers.tolist().index(config)]
        yield "only_config", own & ~static
        yield "only_default", static & ~own
        return
    others_wrong = result.configs - correct.sum(0)  # where the default is right
    every = {
        "rescued": some & ~static,
        "lost": static & (2 * others_wrong > result.configs - 1),
        "never": ~some,
    }
    yield from ((name, member) for name, member in every.items() if group in (None, name))


@dataclass(frozen=True)
class _Names:
    """What images and classes are called. images: (N,), or none. classes: label -> name."""

    images: Sequence[str]
    classes: Mapping[int, str]

    def image(self, place: int) -> str | None:
        return self.images[place] or None if self.images else None

    def of_class(self, label: int | None) -> str | None:
        return None if label is None else self.classes.get(label)


def _names_of(originals: ImageSet, samples: np.ndarray) -> _Names:
    """Those of (N,) samples of images that are opened, whose classes all have their names."""
    from itd.store import printable

    classes = {label: printable(name) for label, name in enumerate(originals.class_names)}
    return _Names([printable(originals.names[sample]) for sample in samples.tolist()], classes)


class _Rows:
    """Makes the rows of images. correct: (C, N) bool."""

    def __init__(self, result: Result, correct: np.ndarray, names: _Names) -> None:
        self.result, self.correct, self.names = result, correct, names
        self.right = correct.sum(0)
        self.default = result.default_index
        self.static = None if self.default is None else result.matrix("pred")[self.default]
        self.quality, self.nll = result.matrix("quality"), result.matrix("nll")
        self.configs: dict[int, RightConfig] = {}

    def of(self, member: np.ndarray, sort: str, limit: int | None) -> tuple[ImageRow, ...]:
        """The rows of the images where `member`, (N,) bool, holds: sorted, and the first `limit` of them."""
        places = np.flatnonzero(member)
        right = self.right[places]
        places = places[np.argsort(right if sort == FEW else -right, kind="stable")][:limit]
        return tuple(row for first in range(0, len(places), _BLOCK) for row in self._some(places[first:][:_BLOCK]))

    def _some(self, places: np.ndarray) -> Iterator[ImageRow]:
        """Those of (n,) places of images, all at once."""
        right = self.correct[:, places].copy()
        if self.default is not None:
            right[self.default] = False  # what is said of the others
        found = right.sum(0)
        ranked = np.lexsort((self.nll[:, places], -self.quality[:, places], ~right), axis=0)[:MOST_CONFIGS]
        others = self.result.configs - (self.default is not None)
        for column, place in enumerate(places.tolist()):
            yield self._row(place, ranked[: found[column], column].tolist(), int(found[column]), others)

    def _row(self, place: int, configs: Sequence[int], found: int, others: int) -> ImageRow:
        sample, label = int(self.result.samples[place]), int(self.result.labels[place])
        static = None if self.static is None else int(self.static[place])
        return ImageRow(
            sample=sample,
            name=self.names.image(place),
            label=label,
            class_name=self.names.of_class(label),
            static=static,
            static_name=self.names.of_class(static),
            right=int(self.right[place]),
            failing=None if static is None or not others else 1 - found / others,
            configs=tuple(map(self._config, configs)),
        )

    def _config(self, row: int) -> RightConfig:
        if row not in self.configs:
            source = self.result.origins[row].source if self.result.origins else None
            number = int(self.result.config_numbers[row])
            self.configs[row] = RightConfig(number, self.result.setting(row), source)
        return self.configs[row]
