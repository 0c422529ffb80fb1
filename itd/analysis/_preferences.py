"""Which configuration each sample prefers, and which option at each site (ITD paper, section 4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import Answer, Row, flat_settings, interval
from itd.analysis.sampling import Estimate, Resamples, as_resamples, estimate
from itd.analysis.scores import correctness, preferred, require_result

if TYPE_CHECKING:
    from itd.store import Result


@dataclass(frozen=True)
class ConfigShare:
    """The share of samples that prefer one configuration."""

    config: int
    settings: dict[str, dict[str, float]]
    share: Estimate


@dataclass(frozen=True)
class OptionShare:
    """The share of samples whose preferred configuration has this value at this site."""

    site: str
    attribute: str
    value: float
    share: Estimate


@dataclass(frozen=True)
class Preferences(Answer):
    """What the samples of one result prefer. variation: of its images, `{"scale": 0.5}`, `{"context_px": 50}` or None.
    configs: those that any sample prefers, most preferred first. options: every option of every site."""

    result: str
    n: int
    model: str | None
    attributes: tuple[str, ...]
    sites: tuple[str, ...]
    variation: Mapping[str, float] | None
    default: int | None
    configs: tuple[ConfigShare, ...]
    options: tuple[OptionShare, ...]

    def share(self, site: str, attribute: str, value: float) -> Estimate | None:
        """The share of one option, or None where the space does not have it."""
        shares = (o.share for o in self.options if (o.site, o.attribute, o.value) == (site, attribute, value))
        return next(shares, None)

    def rows(self) -> list[Row]:
        """One row for each option of each site, and one for each preferred configuration."""
        variation = dict(self.variation or {})
        head = {"result": self.result, "n": self.n, "model": self.model}
        head |= {"scale": variation.get("scale"), "context_px": variation.get("context_px")}
        options = [
            head | {"what": "option", "site": o.site, "attribute": o.attribute, "value": o.value}
            | interval("share", o.share)
            for o in self.options
        ]  # fmt: skip
        return options + [
            head | {"what": "config", "config": c.config, **flat_settings(c.settings)} | interval("share", c.share)
            for c in self.configs
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "result": self.result,
            "n": self.n,
            "model": self.model,
            "attributes": list(self.attributes),
            "variation": self.variation,
            "default": self.default,
            "configs": [{"config": c.config, "settings": c.settings, "share": c.share.as_dict()} for c in self.configs],
            "options": [
                {"site": o.site, "attribute": o.attribute, "value": o.value, "share": o.share.as_dict()}
                for o in self.options
            ],
        }


def preferences(result: Result, *, resamples: Resamples | int | None = None, seed: int = 0) -> Preferences:
    """The share of samples that prefer each configuration, and each option at each site.

    A sample prefers its configuration of highest quality; ties go to the smaller nll, then the default, then the order.

    >>> preferences(open_result("results/resnet50-stride.parquet")).configs[0].share.value  # doctest: +SKIP
    0.021
    """
    require_result(result, "preferences")
    quality = result.matrix("quality")
    correctness(result, quality)  # refuses a result without images
    rows = preferred(quality, result.matrix("nll"), result.default_index)
    drawn = as_resamples(resamples, result.n, seed)
    counts = np.bincount(rows, minlength=result.configs)
    resampled = np.empty((drawn.count, result.configs))
    for b in range(drawn.count):
        resampled[b] = np.bincount(rows, drawn.weights[b], minlength=result.configs)
    order = [int(c) for c in np.lexsort((np.arange(result.configs), -counts)) if counts[c]]
    identity = result.identity
    return Preferences(
        result=result.path,
        n=result.n,
        model=identity.get("model"),
        attributes=result.attributes,
        sites=result.sites,
        variation=identity.get("variation"),
        default=result.default,
        configs=tuple(
            ConfigShare(int(result.config_numbers[c]), result.setting(c), _share(counts, resampled, [c], result.n))
            for c in order
        ),
        options=tuple(_options(result, counts, resampled)),
    )


def _options(result: Result, counts: np.ndarray, resampled: np.ndarray) -> list[OptionShare]:
    shares = []
    for site in result.sites:
        for attribute in result.attributes:
            values = result.settings[f"{attribute}_{site}"]
            for value in sorted({v for v in values if v is not None}):
                rows = [i for i, v in enumerate(values) if v == value]
                shares.append(OptionShare(site, attribute, value, _share(counts, resampled, rows, result.n)))
    return shares


def _share(counts: np.ndarray, resampled: np.ndarray, rows: list[int], n: int) -> Estimate:
    return estimate(float(counts[rows].sum() / n), resampled[:, rows].sum(1) / n, n)
