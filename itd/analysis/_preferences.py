"""Which configuration each sample prefers, and which option at each site (ITD paper, section 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row, flat, flat_settings, interval
from itd.analysis.sampling import Estimate, wilson
from itd.analysis.scores import correctness, preferred, require_result

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class ConfigShare:
    """The share of samples that prefer one configuration: of all, and of those that some configuration gets right."""

    config: int
    settings: dict[str, dict[str, float]]
    share: Estimate
    share_of_solved: Estimate | None = None


@dataclass(frozen=True)
class OptionShare:
    """The share of samples whose preferred configuration has this value at this site: of all, and of those that some
    configuration gets right."""

    site: str
    attribute: str
    value: float
    share: Estimate
    share_of_solved: Estimate | None = None


@dataclass(frozen=True)
class Preferences(Answer):
    """What the samples of one result prefer.

    solved: how many of the n samples some configuration gets right; on the others a preference is for the least wrong
    one. variation: of its images, `{"scale": 0.5}`, `{"context_px": 50}` or None. configs: those that any sample
    prefers, most preferred first. options: every option of every site.
    """

    result: str
    n: int
    model: str | None
    attributes: tuple[str, ...]
    sites: tuple[str, ...]
    variation: Mapping[str, float] | None
    default: int | None
    configs: tuple[ConfigShare, ...]
    options: tuple[OptionShare, ...]
    solved: int = 0

    def share(self, site: str, attribute: str, value: float) -> Estimate | None:
        """The share of one option, or None where the space does not have it."""
        shares = (o.share for o in self.options if (o.site, o.attribute, o.value) == (site, attribute, value))
        return next(shares, None)

    def rows(self) -> list[Row]:
        """One row for each option of each site, and one for each preferred configuration."""
        variation = dict(self.variation or {})
        head = {"result": self.result, "n": self.n, "solved": self.solved, "model": self.model}
        head |= {"scale": variation.get("scale"), "context_px": variation.get("context_px")}
        options = [
            head | {"what": "option", "site": o.site, "attribute": o.attribute, "value": o.value}
            | interval("share", o.share) | flat("share_of_solved", o.share_of_solved)
            for o in self.options
        ]  # fmt: skip
        return options + [
            head
            | {"what": "config", "config": c.config, **flat_settings(c.settings)}
            | interval("share", c.share)
            | flat("share_of_solved", c.share_of_solved)
            for c in self.configs
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "result": self.result,
            "n": self.n,
            "solved": self.solved,
            "model": self.model,
            "attributes": list(self.attributes),
            "variation": self.variation,
            "default": self.default,
            "configs": [{"config": c.config, "settings": c.settings, **_shares_dict(c)} for c in self.configs],
            "options": [
                {"site": o.site, "attribute": o.attribute, "value": o.value, **_shares_dict(o)} for o in self.options
            ],
        }


def _shares_dict(one: ConfigShare | OptionShare) -> dict[str, Any]:
    solved = one.share_of_solved
    return {"share": one.share.as_dict(), "share_of_solved": None if solved is None else solved.as_dict()}


def preferences(result: Result) -> Preferences:
    """The share of samples that prefer each configuration, and each option at each site.

    A sample prefers its configuration of highest quality; ties go to the smaller nll, then the default, then the order.
    A sample that no configuration gets right prefers one as well; each share is therefore also given among the samples
    that some configuration gets right.

    >>> preferences(open_result("results/resnet50-stride.parquet")).configs[0].share.value  # doctest: +SKIP
    0.021
    """
    require_result(result, "preferences")
    quality = result.matrix("quality")
    solved: np.ndarray = np.any(correctness(result, quality), axis=0)
    rows = preferred(quality, result.matrix("nll"), result.default_index)
    shares = _Shares(rows, solved, result.configs)
    order = [int(c) for c in np.lexsort((np.arange(result.configs), -shares.all)) if shares.all[c]]
    identity = result.identity
    return Preferences(
        result=result.path,
        n=result.n,
        model=identity.get("model"),
        attributes=result.attributes,
        sites=result.sites,
        variation=identity.get("variation"),
        default=result.default,
        configs=tuple(ConfigShare(int(result.config_numbers[c]), result.setting(c), *shares.of([c])) for c in order),
        options=tuple(_options(result, shares)),
        solved=int(solved.sum()),
    )


class _Shares:
    """How many samples prefer each configuration. rows: (N,) the preferred. solved: (N,) bool."""

    def __init__(self, rows: np.ndarray, solved: np.ndarray, configs: int) -> None:
        self.all = np.bincount(rows, minlength=configs)
        self.solved = np.bincount(rows[solved], minlength=configs)

    def of(self, rows: list[int]) -> tuple[Estimate, Estimate | None]:
        """The share that prefers one of these rows, of all samples and of the solved."""
        n, solved = int(self.all.sum()), int(self.solved.sum())
        among = wilson(int(self.solved[rows].sum()), solved) if solved else None
        return wilson(int(self.all[rows].sum()), n), among


def _options(result: Result, shares: _Shares) -> list[OptionShare]:
    options = []
    for site in result.sites:
        for attribute in result.attributes:
            values = result.settings[f"{attribute}_{site}"]
            for value in sorted({v for v in values if v is not None}):
                rows = [i for i, v in enumerate(values) if v == value]
                options.append(OptionShare(site, attribute, value, *shares.of(rows)))
    return options
