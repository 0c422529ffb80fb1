"""What samples prefer: configurations as lines over the sites, options against the images' scale or context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itd.analysis._preferences import Preferences
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    STYLES,
    Drawing,
    Mark,
    grid,
    legend_style,
    name_panel,
    shown_names,
    tidy,
)
from itd.errors import ResultError
from itd.space import format_value

AXES = {"scale": "image scale", "context_px": "context (px)"}


def preferences_figure(answers: Sequence[Preferences]) -> Drawing:
    """Each configuration that a sample prefers as a line over A to D, as wide as its share (ITD paper, figure 1).

    >>> preferences_figure([preferences(open_result("results/resnet50-stride.parquet"))])  # doctest: +SKIP
    """
    figure, panels = grid(len(answers), columns=3, width=3.2, height=2.9)
    marks: list[Mark] = []
    for i, (axes, one, name) in enumerate(zip(panels, answers, shown_names([f.result for f in answers]), strict=True)):
        marks += _lines(axes, one, name, i)
    rows = tuple(
        {"result": one.result, "n": one.n, "config": c.config, "is_default": c.config == one.default}
        | {f"{a}_{site}": v for site, setting in c.settings.items() for a, v in setting.items()}
        | {"share": c.share.value, "low": c.share.low, "high": c.share.high}
        for one in answers
        for c in one.configs
    )
    columns = tuple(dict.fromkeys(["result", "n", "config", "is_default", *(k for row in rows for k in row)]))
    columns = (*(c for c in columns if c not in ("share", "low", "high")), "share", "low", "high")
    caption = (
        "A line is a configuration, as wide as the share of samples that prefer it (highest quality); the default is "
        "black. Lines are drawn a little apart where they share an option."
    )
    return Drawing("preferences", "Preferred configurations", caption, figure, columns, rows, tuple(marks))


def _lines(axes: Any, one: Preferences, name: str, panel: int) -> list[Mark]:
    ways = sorted({tuple(s.values()) for c in one.configs for s in c.settings.values()})
    ways = sorted({*ways, *_all_ways(one)})
    place = {way: y for y, way in enumerate(ways)}
    top = max(c.share.value for c in one.configs)
    marks = []
    count = len(one.configs)
    for number, c in reversed(list(enumerate(one.configs))):
        own = c.config == one.default
        offset = 0.0 if own else 0.5 * (((number * 0.618034) % 1) - 0.5)
        ys = [place[tuple(c.settings[site].values())] + offset for site in one.sites]
        colour = "black" if own else COLOURS[number % (len(COLOURS) - 1)]
        width = max(0.4, 7 * c.share.value / top)
        alpha = 1 if own else max(0.35, 0.85 - count / 400)
        axes.plot(range(len(ys)), ys, color=colour, linewidth=width, alpha=alpha, solid_capstyle="round")
        text = f"{name}: configuration {c.config}{' (default)' if own else ''} preferred by {with_interval(c.share)}"
        marks += [Mark(panel, x, y, text) for x, y in enumerate(ys)]
    axes.set_xticks(range(len(one.sites)), one.sites)
    axes.set_yticks(
        range(len(ways)), [", ".join(map(format_value, way)) for way in ways], fontsize=min(8, 130 / len(ways))
    )
    axes.set_ylabel(", ".join(one.attributes), fontsize=9)
    name_panel(axes, name, one.n)
    tidy(axes, "x")
    return marks[:400]


def _all_ways(one: Preferences) -> set[tuple[float, ...]]:
    """Every setting of a result that varies one attribute, preferred or not."""
    return {(o.value,) for o in one.options} if len(one.attributes) == 1 else set()


@dataclass(frozen=True)
class Series:
    """Results of one model and attribute that differ in one variation of the images, ascending."""

    model: str
    attribute: str
    kind: str
    members: tuple[Preferences, ...]

    def at(self, one: Preferences) -> float:
        """Where a result stands on the axis."""
        return (one.variation or {})[self.kind]


def series_of(answers: Sequence[Preferences]) -> list[Series]:
    """Groups results by model, attribute and kind of variation; those without a variation are in none."""
    groups: dict[tuple[str, str, str], list[Preferences]] = {}
    for one in answers:
        for kind in one.variation or {}:
            for attribute in one.attributes:
                groups.setdefault((one.model or "", attribute, kind), []).append(one)
    return [
        Series(*key, tuple(sorted(members, key=lambda one: (one.variation or {})[key[2]])))
        for key, members in sorted(groups.items())
    ]


def variation_figure(answers: Sequence[Preferences]) -> Drawing:
    """The share of samples that prefer each option at each site, against scale or context (ITD paper, figures 5, 7).

    One row for each model, attribute and kind of variation, one panel for each site. Raises ResultError where no result
    is of varied images.

    >>> variation_figure([preferences(open_result(p)) for p in glob("results/*-scale*.parquet")])  # doctest: +SKIP
    """
    series = series_of(answers)
    if not series:
        raise ResultError(
            "none of the results is of varied images; make some with `itd sweep --scale` or `itd sweep --context`"
        )
    sites = sorted({site for one in series for member in one.members for site in member.sites})
    figure, panels = grid(len(series) * len(sites), columns=len(sites), width=2.3, height=2.6, sharey=True)
    marks: list[Mark] = []
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(series):
        for j, site in enumerate(sites):
            panel = i * len(sites) + j
            marks += _site_panel(panels[panel], one, site, panel, rows)
        row = panels[i * len(sites) : (i + 1) * len(sites)]
        row[0].set_ylabel(f"{one.model}\nsamples that prefer it (%)", fontsize=8)
        row[-1].legend(title=one.attribute, loc="center left", bbox_to_anchor=(1, 0.5), **legend_style())
    sizes = sorted({member.n for one in series for member in one.members})
    caption = (
        f"Share of samples (n = {', '.join(map(str, sizes))} in each result) whose preferred configuration has the "
        "option at the site. Bands: 95% bootstrap intervals."
    )
    columns = ("model", "attribute", "variation", "at", "n", "site", "value", "share", "low", "high", "result")
    return Drawing(
        "variation", "Preferences across scale and context", caption, figure, columns, tuple(rows), tuple(marks)
    )


def _site_panel(axes: Any, series: Series, site: str, panel: int, rows: list[dict[str, Any]]) -> list[Mark]:
    marks = []
    values = sorted(
        {o.value for one in series.members for o in one.options if (o.site, o.attribute) == (site, series.attribute)}
    )
    for i, value in enumerate(values):
        shares = [(series.at(one), one, one.share(site, series.attribute, value)) for one in series.members]
        there = [(x, one, share) for x, one, share in shares if share is not None]
        xs = [x for x, _, _ in there]
        colour = COLOURS[i % len(COLOURS)]
        label = format_value(value)
        axes.plot(
            xs, [100 * s.value for _, _, s in there], color=colour, label=label, linewidth=1.6,
            linestyle=STYLES[i % len(STYLES)], marker=MARKERS[i % len(MARKERS)], markersize=4,
        )  # fmt: skip
        axes.fill_between(xs, [100 * s.low for _, _, s in there], [100 * s.high for _, _, s in there],
                          color=colour, alpha=0.08, linewidth=0)  # fmt: skip
        for x, one, share in there:
            where = f"{AXES[series.kind]} {x:g}, {site}: {series.attribute} {label} preferred by"
            marks.append(Mark(panel, x, 100 * share.value, f"{where} {with_interval(share)}, n = {one.n}"))
            rows.append(
                {"model": series.model, "attribute": series.attribute, "variation": series.kind, "at": x, "n": one.n}
                | {"site": site, "value": value, "share": share.value, "low": share.low, "high": share.high}
                | {"result": one.result}
            )
    xs = [series.at(one) for one in series.members]
    if series.kind == "scale":
        axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [f"{x:g}" for x in xs], fontsize=8)
    axes.minorticks_off()
    if len(xs) > 1:
        pad = 0.04 * (math.log2(xs[-1] / xs[0]) if series.kind == "scale" else xs[-1] - xs[0])
        ends = (xs[0] * 2**-pad, xs[-1] * 2**pad) if series.kind == "scale" else (xs[0] - pad, xs[-1] + pad)
        axes.set_xlim(*ends)
    axes.set_title(f"site {site}", fontsize=9)
    axes.set_xlabel(AXES[series.kind], fontsize=8)
    tidy(axes)
    return marks
