"""Several attributes in one network at the price of one: the most useful configurations of each, crossed (ITD paper,
section 4.4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itd.analysis._greedy import first_rows
from itd.analysis._held_out import FOLDS, REPEATS, HeldOutStep, held_out, scores_of
from itd.analysis.frames import Answer, Row
from itd.analysis.sampling import Resamples, as_resamples
from itd.analysis.scores import correctness, require_number, require_results, require_same_data
from itd.errors import ResultError
from itd.space import ATTRIBUTES, Setting, SpaceList

if TYPE_CHECKING:
    from itd.store import Result

BUDGET = 625


@dataclass(frozen=True)
class Combination(Answer):
    """What was chosen from each result, and the space that crosses it.

    per_attribute: m of the ITD paper's equation 2. chosen: for each result its first configurations, in greedy order,
    chosen on its n images. in_sample: the best case of these on the very images. held_out: what a list of as many
    achieves on images that it was not chosen on (see `greedy`), None for a single image: the crossed space has chosen
    on these images too, so a sweep of it on the same ones is as much too good.
    """

    results: tuple[str, ...]
    attributes: tuple[str, ...]
    n: tuple[int, ...]
    budget: int
    per_attribute: int
    chosen: tuple[tuple[int, ...], ...]
    space: SpaceList
    in_sample: tuple[float, ...] = ()
    held_out: tuple[HeldOutStep | None, ...] = ()

    def rows(self) -> list[Row]:
        """One row for each configuration that was chosen."""
        return [
            {"result": path, "place": place, "config": config}
            for path, chosen in zip(self.results, self.chosen, strict=True)
            for place, config in enumerate(chosen, start=1)
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "results": list(self.results),
            "attributes": list(self.attributes),
            "n": list(self.n),
            "budget": self.budget,
            "per_attribute": self.per_attribute,
            "chosen": [list(c) for c in self.chosen],
            "configs": len(self.space.configs),
            "in_sample": list(self.in_sample),
            "held_out": [None if step is None else step.as_dict() for step in self.held_out],
        }


def per_attribute(attributes: int, budget: int) -> int:
    """The largest whole m with `m ** attributes <= budget` (ITD paper, eq. 2).

    >>> per_attribute(2, 625), per_attribute(3, 625)
    (25, 8)
    """
    m = round(budget ** (1 / attributes))
    while m**attributes > budget:
        m -= 1
    while (m + 1) ** attributes <= budget:
        m += 1
    return m


def combine(
    results: Sequence[Result],
    *,
    budget: int = BUDGET,
    partial: bool = False,
    resamples: Resamples | int | None = None,
    seed: int = 0,
) -> Combination:
    """The first m greedy configurations of each result, crossed into one space of at most `budget` configurations.

    results: of different attributes, of one network on the same images. Raises ResultError for any others, for a budget
    that leaves less than one configuration each, and for results that are not finished unless partial.

    >>> combine([stride, size]).per_attribute  # doctest: +SKIP
    25
    """
    require_results(results, "combine")
    for result in results:
        if result.origins:
            raise ResultError(f"{result.path} is a union, which has no one network to sweep; give what it was made of")
    attributes = _distinct_attributes(results)
    require_same_data(results, "combine", model=True)
    require_number(budget, "budget", least=1)
    m = per_attribute(len(results), budget)
    rows = [first_rows(result, m, partial=partial) for result in results]
    chosen = tuple(tuple(int(r.config_numbers[i]) for i in first) for r, first in zip(results, rows, strict=True))
    origin = {
        "model": results[0].identity.get("model"),
        "budget": budget,
        "per_attribute": m,
        "made_from": [
            {"result": Path(r.path).name, "n": r.n, "configs": list(c)} for r, c in zip(results, chosen, strict=True)
        ],
    }
    space = SpaceList(attributes, _crossed(results, rows), origin)
    return Combination(
        results=tuple(r.path for r in results),
        attributes=attributes,
        n=tuple(r.n for r in results),
        budget=budget,
        per_attribute=m,
        chosen=chosen,
        space=space,
        in_sample=tuple(
            float(correctness(r)[list(first)].any(0).mean()) for r, first in zip(results, rows, strict=True)
        ),
        held_out=tuple(_last_step(result, m, as_resamples(resamples, result.n, seed)) for result in results),
    )


def _last_step(result: Result, m: int, drawn: Resamples) -> HeldOutStep | None:
    """The first m of a list, held out."""
    curve = held_out(scores_of(result), FOLDS, REPEATS, drawn, length=m, sure=m)
    return None if curve is None else curve.steps[-1]


def _distinct_attributes(results: Sequence[Result]) -> tuple[str, ...]:
    """The attributes that the results vary; ResultError for fewer than two results, or for one attribute in two."""
    if len(results) < 2:
        raise ResultError("one result is nothing to combine; give one result for each attribute, two or more")
    names = [a for result in results for a in result.attributes]
    if len(set(names)) < len(names):
        raise ResultError(
            f"cannot combine results that vary the same attribute ({', '.join(names)}); give one result for each "
            "attribute"
        )
    return tuple(a for a in ATTRIBUTES if a in names)


def _crossed(results: Sequence[Result], rows: Sequence[Sequence[int]]) -> tuple[dict[str, Setting], ...]:
    """Every combination of a chosen row of each result, as one configuration."""
    settings = [[_setting(result, row) for row in chosen] for result, chosen in zip(results, rows, strict=True)]
    return tuple(_merged(parts) for parts in itertools.product(*settings))


def _setting(result: Result, row: int) -> dict[str, Setting]:
    return {site: Setting(**values) for site, values in result.setting(row).items()}  # type: ignore[arg-type]


def _merged(parts: Sequence[dict[str, Setting]]) -> dict[str, Setting]:
    merged: dict[str, Setting] = {}
    for part in parts:
        for site, setting in part.items():
            merged[site] = merged.get(site, Setting()) | setting
    return merged
