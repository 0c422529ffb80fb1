"""The oracle's figures class by class: which classes gain, and which lose against as many guesses of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row, flat
from itd.analysis.predictions import distinct_of
from itd.analysis.sampling import Estimate, proportion
from itd.analysis.scores import correctness, require_default, require_result
from itd.errors import ResultError

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class ClassAccuracy:
    """One class. label, name: which; name is None where nobody says it. n: its images. Figures as of `oracle`."""

    label: int
    name: str | None
    n: int
    static: Estimate
    best: Estimate
    matched_topk: Estimate

    @property
    def gain(self) -> float:
        """How much the oracle adds to the network as it is."""
        return self.best.value - self.static.value

    @property
    def beyond(self) -> float:
        """How much the oracle has beyond as many guesses of the network as it is; below 0 where it has less."""
        return self.best.value - self.matched_topk.value

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = ("static", "best", "matched_topk")
        return {"label": self.label, "name": self.name, "n": self.n, "gain": self.gain, "beyond": self.beyond,
                **{figure: getattr(self, figure).as_dict() for figure in figures}}  # fmt: skip


@dataclass(frozen=True)
class Classes(Answer):
    """Every class that a result has images of, in the order of labels."""

    result: str
    n: int
    classes: tuple[ClassAccuracy, ...]

    def gaining(self, count: int) -> tuple[ClassAccuracy, ...]:
        """The classes to which the oracle adds most, at most as many; those to which it adds nothing are none."""
        first = sorted(self.classes, key=lambda one: (-one.gain, -one.beyond, one.label))
        return tuple(one for one in first[:count] if one.gain > 0)

    def losing(self, count: int) -> tuple[ClassAccuracy, ...]:
        """The classes in which as many guesses of the network have most beyond the oracle, at most as many."""
        first = sorted(self.classes, key=lambda one: (one.beyond, one.gain, one.label))
        return tuple(one for one in first[:count] if one.beyond < 0)

    def rows(self) -> list[Row]:
        """One row for each class."""
        return [
            {"result": self.result, "label": one.label, "name": one.name, "n": one.n}
            | flat("static", one.static) | flat("best", one.best) | flat("matched_topk", one.matched_topk)
            | {"gain": one.gain, "beyond": one.beyond}
            for one in self.classes
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"result": self.result, "n": self.n, "classes": [one.as_dict() for one in self.classes]}


def by_class(result: Result, *, class_names: Sequence[str] | None = None) -> Classes:
    """Static, best and matched top-k accuracy of each class that a result has images of.

    Args:
        result: of `open_result`.
        class_names: in the order of labels; default what the result says, if it does.

    Returns:
        The classes with Wilson's 95% intervals, which are wide where a class has few images.

    Raises:
        ResultError: what is given is no result, has no default configuration, or has a label without a name;
            EmptyResultError for one without images.

    Example:
        >>> by_class(open_result("results/resnet50-stride.parquet")).gaining(1)[0].name  # doctest: +SKIP
        'n01440764'
    """
    require_result(result, "by_class")
    default = require_default(result, "`by_class`")
    if class_names is not None and len(class_names) <= int(result.labels.max()):
        raise ResultError(
            f"class_names has {len(class_names)} names, and {result.path} has the label {int(result.labels.max())}; "
            "give one for each class, in the order of labels"
        )
    names = dict(enumerate(class_names)) if class_names is not None else result.class_names()
    correct = correctness(result)
    best, static = correct.any(0), correct[default]
    matched = result.matrix("rank")[default] < distinct_of(result)
    classes = []
    for label in np.unique(result.labels):
        of = result.labels == label
        figures = (proportion(np.asarray(right)[of]) for right in (static, best, matched))
        classes.append(ClassAccuracy(int(label), names.get(int(label)), int(of.sum()), *figures))
    return Classes(result.path, result.n, tuple(classes))
