"""What samples prefer: each option at each site, the commonest configurations; options against scale or context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itd.analysis._preferences import ConfigShare, Preferences
from itd.analysis.figures.bounds import with_interval
from itd.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    NARROW_IN,
    STYLES,
    Drawing,
    Mark,
    grid,
    legend_style,
    name_panel,
    new_figure,
    shown_names,
    tidy,
    within_percent,
)
from itd.analysis.sampling import Estimate
from itd.errors import ResultError
from itd.space import format_value

AXES = {"scale": "image scale", "context_px": "context (px)"}
ON_LIGHT, ON_DARK = "#04193a", "#f7fbff"
"""What is written on a cell of the heat map; no black and white, which a page in a dark scheme turns round."""
PATHS = 10
"""So many of the preferred configurations have a bar."""


def preferences_figure(answers: Sequence[Preferences], *, narrow: bool = False) -> Drawing:
    """Above, the percent of samples that prefer each option at each site; below, the configurations that the most
    samples prefer (ITD paper, figure 1, which draws every one as a line). narrow: the results below one another.

    >>> preferences_figure([preferences(open_result("results/resnet50-stride.parquet"))])  # doctest: +SKIP
    """
    across = 1 if narrow else min(3, len(answers))
    down = -(-len(answers) // across)
    most = max(len(_options(one)) for one in answers)
    heights = (0.7 + 0.23 * most, 0.7 + 0.19 * PATHS)
    figure = new_figure(NARROW_IN if narrow else max(4.6, 3.4 * across), sum(heights) * down + 0.4)
    panels = figure.subplots(2 * down, across, squeeze=False, height_ratios=heights * down)
    for spare in range(len(answers), across * down):
        for axes in panels[2 * (spare // across) :, spare % across]:
            figure.delaxes(axes)
    marks: list[Mark] = []
    for i, (one, name) in enumerate(zip(answers, shown_names([f.result for f in answers]), strict=True)):
        row, column = 2 * (i // across), i % across
        marks += _options_panel(panels[row, column], one, name)
        marks += _paths_panel(panels[row + 1, column], one, name)
    _preferences_legend(figure, across)
    columns, rows = _table(answers)
    caption = (
        "Above: percent of samples whose preferred configuration (highest quality) has the option at the site. Below: "
        f"the {PATHS} configurations that the most samples prefer, their options from the first site to the last."
    )
    return Drawing("preferences", "Preferred configurations", caption, figure, columns, rows, tuple(marks))


def _table(answers: Sequence[Preferences]) -> tuple[tuple[str, ...], tuple[dict[str, Any], ...]]:
    """Columns and rows: each option of each site, and each preferred configuration."""
    rows: list[dict[str, Any]] = []
    for one in answers:
        head = {"result": one.result, "n": one.n}
        rows += [
            head | {"what": "option", "site": o.site, "attribute": o.attribute, "value": o.value, **_interval(o.share)}
            for o in one.options
        ]
        rows += [
            head
            | {"what": "config", "config": c.config, "is_default": c.config == one.default}
            | {f"{a}_{site}": v for site, setting in c.settings.items() for a, v in setting.items()}
            | _interval(c.share)
            for c in one.configs
        ]
    last = ("share", "low", "high")
    names = dict.fromkeys(name for row in rows for name in row)
    return (*(name for name in names if name not in last), *last), tuple(rows)


def _interval(share: Estimate) -> dict[str, float]:
    return {"share": share.value, "low": share.low, "high": share.high}


def _options(one: Preferences) -> list[tuple[str, float]]:
    """(attribute, value) of every option of any site, ascending within its attribute."""
    order = {attribute: place for place, attribute in enumerate(one.attributes)}
    return sorted({(o.attribute, o.value) for o in one.options}, key=lambda o: (order[o[0]], o[1]))


def _options_panel(axes: Any, one: Preferences, name: str) -> list[Mark]:
    """The heat map of option by site, each cell with its percent; a frame around the default's options."""
    options, marks = _options(one), []
    shares = [[one.share(site, attribute, value) for site in one.sites] for attribute, value in options]
    edges = ([x - 0.5 for x in range(len(one.sites) + 1)], [y - 0.5 for y in range(len(options) + 1)])
    percents = [[math.nan if share is None else 100 * share.value for share in row] for row in shares]
    axes.pcolormesh(*edges, percents, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=1)
    panel = axes.figure.axes.index(axes)
    for y, ((attribute, value), row) in enumerate(zip(options, shares, strict=True)):
        for x, (site, share) in enumerate(zip(one.sites, row, strict=True)):
            if share is None:
                continue
            colour = ON_DARK if share.value > 0.55 else ON_LIGHT
            axes.text(x, y, f"{100 * share.value:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
            text = f"{name}, {site}: {attribute} {format_value(value)} preferred by {with_interval(share)}"
            marks.append(Mark(panel, x, y, text))
    _frame_default(axes, one, options)
    several = len(one.attributes) > 1
    labels = [f"{attribute} {format_value(value)}" if several else format_value(value) for attribute, value in options]
    axes.set_xticks(range(len(one.sites)), one.sites)
    axes.set_yticks(range(len(options)), labels, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if not several:
        axes.set_ylabel(one.attributes[0], fontsize=9)
    name_panel(axes, name, one.n)
    return marks


def _frame_default(axes: Any, one: Preferences, options: Sequence[tuple[str, float]]) -> None:
    """Frames the default's options; where no sample prefers the default, nobody knows them here."""
    from matplotlib.patches import Rectangle

    default = next((c for c in one.configs if c.config == one.default), None)
    for x, site in enumerate(one.sites if default else ()):
        for option in default.settings[site].items() if default else ():
            if option in options:
                corner = (x - 0.48, options.index(option) - 0.48)
                axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=ON_LIGHT, linewidth=1.2))


def _paths_panel(axes: Any, one: Preferences, name: str) -> list[Mark]:
    """The configurations that the most samples prefer as bars, the default's black."""
    marks, panel = [], axes.figure.axes.index(axes)
    shown = one.configs[:PATHS]
    for y, c in enumerate(shown):
        own, value = c.config == one.default, 100 * c.share.value
        axes.barh(y, value, height=0.7, color="black" if own else COLOURS[4])
        axes.plot([100 * c.share.low, 100 * c.share.high], [y, y], color="0.45", linewidth=1)
        text = f"{name}: configuration {c.config}{' (default)' if own else ''}, {_path(one, c)}, preferred by"
        marks.append(Mark(panel, value, y, f"{text} {with_interval(c.share)}"))
    axes.set_yticks(range(len(shown)), [_path(one, c) for c in shown], fontsize=7.5)
    axes.set_ylim(PATHS - 0.5, -0.5)
    axes.set_xlim(0, min(100, 105 * max(c.share.high for c in shown)))
    axes.set_ylabel(f"{':'.join(one.attributes)} at {', '.join(one.sites)}", fontsize=8)
    axes.set_xlabel("samples that prefer it (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    total = 100 * sum(c.share.value for c in shown)
    axes.set_title(f"{len(shown)} of {len(one.configs)} preferred: {total:.0f}% of samples", fontsize=8)
    tidy(axes, "x")
    return marks


def _path(one: Preferences, c: ConfigShare) -> str:
    """A configuration's options from the first site to the last, such as `1, 2, 1/2, 3`."""

    def value(setting: Mapping[str, float], attribute: str) -> str:
        return format_value(setting[attribute]) if attribute in setting else "-"

    return ", ".join(":".join(value(c.settings[site], attribute) for attribute in one.attributes) for site in one.sites)


def _preferences_legend(figure: Any, across: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="#deebf7", edgecolor=ON_LIGHT, label="frame: the default's option"),
        Patch(color="black", label="the default configuration"),
        Patch(color=COLOURS[4], label="another configuration"),
        Line2D([], [], color="0.45", linewidth=1, label="95% interval"),
    ]
    style = legend_style() | {"handlelength": 1.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=4 if across > 1 else 2, **style)


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


def variation_figure(answers: Sequence[Preferences], *, narrow: bool = False) -> Drawing:
    """The share of samples that prefer each option at each site, against scale or context (ITD paper, figures 5, 7).

    One row for each model, attribute and kind of variation, one panel for each site; narrow: one panel below the other.
    Raises ResultError where no result is of varied images.

    >>> variation_figure([preferences(open_result(p)) for p in glob("results/*-scale*.parquet")])  # doctest: +SKIP
    """
    series = series_of(answers)
    if not series:
        raise ResultError(
            "none of the results is of varied images; make some with `itd sweep --scale` or `itd sweep --context`"
        )
    sites = sorted({site for one in series for member in one.members for site in member.sites})
    across, width = (1, NARROW_IN) if narrow else (len(sites), 2.3)
    figure, panels = grid(len(series) * len(sites), columns=across, width=width, height=2.6, sharey=True)
    marks: list[Mark] = []
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(series):
        for j, site in enumerate(sites):
            panel = i * len(sites) + j
            marks += _site_panel(panels[panel], one, site, panel, rows)
        row = panels[i * len(sites) : (i + 1) * len(sites)]
        row[0].set_ylabel(f"{one.model}\nsamples that prefer it (%)", fontsize=8)
        row[-1].legend(title=one.attribute, loc="center left", bbox_to_anchor=(1, 0.5), **legend_style())
    for axes in panels:
        within_percent(axes)
    sizes = sorted({member.n for one in series for member in one.members})
    caption = (
        f"Share of samples (n = {', '.join(map(str, sizes))} in each result) whose preferred configuration has the "
        "option at the site. Bands: 95% intervals."
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
