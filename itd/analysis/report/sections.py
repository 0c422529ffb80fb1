"""What the report says: every question of the analysis asked of every result, and where each result comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial as later
from typing import TYPE_CHECKING, Any

from itd.analysis._efficiency import Efficiency
from itd.analysis._oracle import OracleAccuracy
from itd.analysis.figures import (
    Drawing,
    baselines_figure,
    efficiency_figure,
    gain_figure,
    greedy_figure,
    preferences_figure,
    series_of,
    sites_figure,
    unique_figure,
    variation_figure,
)
from itd.analysis.figures.bounds import incomplete
from itd.analysis.report.answers import Answers, ask
from itd.analysis.report.brief import FIRST, brief_section
from itd.analysis.report.page import render
from itd.analysis.report.parts import Fold, Link, Part, Plot, Section
from itd.analysis.report.provenance import provenance_tables
from itd.analysis.report.tables import (
    baselines_table,
    glance_table,
    greedy_tables,
    preferences_tables,
    subsets_tables,
    unique_tables,
)
from itd.analysis.sampling import Resamples
from itd.analysis.scores import require_results
from itd.errors import EmptyResultError, ResultError

if TYPE_CHECKING:
    from itd.store import Result

HONEST = Fold("What the rules are", (
    "Worst, median and best pick, for each image, the configuration of lowest, middle and highest quality, with the "
    "label in hand: the best case bounds what choosing could gain, nobody has achieved it. Beside it stands what "
    "guessing is worth. Matched top-k gives the static network as many guesses for each image as the configurations "
    "made distinct predictions there: a control on the oracle's figure, for where it does as well, guesses alone "
    "explain all of it. It is no bound on what choosing can gain. Single best, most confident and the votes do without "
    "the label of the image they classify. Small type: 95% intervals, Wilson's for shares of the images.",
))  # fmt: skip
BASELINES = Fold("What the baselines are", (
    "What can be had without the label, and what guessing is worth. Single best and the votes of the first k are "
    "chosen on one half of the images and measured on the other, both ways.",
))  # fmt: skip
PREFERRED = Fold("What an image prefers", (
    "An image prefers the configuration of highest quality: the label's probability, and one more where the prediction "
    "is right. Ties go to the smaller loss, then to the default.",
))  # fmt: skip
GREEDY = "How few configurations are enough, added greedily, and the most that any k of them could reach."
SITES = "Fewer dynamic sites: the configurations in which every other site holds its default."
UNIQUE = "Where all configurations agree, nothing can be chosen; many distinct predictions are as many guesses."
EFFICIENCY = "Results that vary the stride; the other attributes hardly change the cost of the default."
NO_COSTS = (
    "Efficiency: no result here varies the stride, has a default configuration and says what its configurations cost; "
    "dilation leaves the cost as it is, and size changes that of four layers only."
)
IMAGES = (
    "The images themselves: rescued, where the default configuration is wrong and another right; lost, where the "
    "default is right and more than half of the others wrong; and never right."
)
PROVENANCE = "What each result is of, and the runs that made it."
USE = Fold("How to use this page", (
    "Click a column's head to sort by it. Point at a figure, or touch it, for its values; with the keyboard, the arrow "
    "keys go from one to the next. Every figure has its numbers as CSV. What is wider than the window scrolls by "
    "itself.",
))  # fmt: skip


@dataclass
class Report:
    """The answers of some results, and the page that shows them.

    skipped: what is not on the page and why. results: (path, n) of those that are.
    """

    sections: list[Section] = field(default_factory=list)
    results: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    glance: list[OracleAccuracy] = field(default_factory=list)
    title: str = "itd report"

    @property
    def figures(self) -> int:
        """How many the page has."""
        return sum(section.figures for section in self.sections)

    def link_images(self, links: Sequence[Link]) -> None:
        """Adds links to pages of the images, which lie beside this one, before the section of provenance."""
        if links:
            self.sections.insert(-1, Section("Images", (IMAGES, *links)))

    @property
    def html(self) -> str:
        """The page."""
        return self.to_html()

    def to_html(self, progress: Callable[[str], Any] | None = None) -> str:
        """The page, whose figures are drawn now. progress: called with a section's title before each of them."""
        count = len(self.results)
        many = f"{count} result{'s' if count != 1 else ''}"
        lead = f"{many}, answered from the scores of every configuration on each image."
        return render(self.title, lead, self.sections, progress)


def report(
    results: Sequence[Result],
    *,
    partial: bool = False,
    resamples: Resamples | int | None = None,
    seed: int = 0,
    progress: Callable[[str], Any] | None = None,
) -> Report:
    """Asks every question of every result and puts the answers on one page.

    Args:
        results: of `open_result`; those without images are left out.
        partial: also accumulate greedily over results that are not finished.
        resamples: how many bootstrap resamples the intervals are of, or drawn `Resamples`; default 1,000. What is held
            out takes at most 100 of them.
        seed: of the resamples.
        progress: called with each result's path before it is read.

    Returns:
        The answers, and the page that shows them.

    Raises:
        ResultError: no result has an image.

    Example:
        >>> report([open_result("results/resnet50-stride.parquet")]).html[:15]  # doctest: +SKIP
        '<!doctype html>'
    """
    require_results(results, "report")
    count, seed = (resamples.count, resamples.seed) if isinstance(resamples, Resamples) else (resamples, seed)
    page = Report()
    answers: list[Answers] = []
    shown: list[Result] = []
    for result in results:
        if progress is not None:
            progress(result.path)
        try:
            answers.append(ask(result.kept(), partial, count, seed, page.skipped))
        except EmptyResultError as error:
            page.skipped.append(str(error))
            continue
        shown.append(result)
    if not answers:
        raise ResultError(f"there is nothing to report: {'; '.join(page.skipped) or 'no result was given'}")
    page.results = [(result.path, result.n) for result in shown]
    page.glance = [a.oracle for a in answers]
    page.sections = _sections(answers, page.skipped, shown)
    return page


def _sections(answers: Sequence[Answers], skipped: list[str], shown: Sequence[Result]) -> list[Section]:
    rows = [a.oracle for a in answers]
    curves = [a.curve for a in answers if a.curve is not None]
    subsets = [a.subsets for a in answers if a.subsets is not None]
    many = [a.unique for a in answers]
    gains = [a.gain for a in answers[FIRST:] if a.gain is not None]  # those before are on the first screen
    gained = _each(gain_figure, gains, FIRST)
    sections = [
        brief_section(answers, shown),
        Section("At a glance", (glance_table(rows), HONEST, USE)),
        Section("Baselines", (BASELINES, *_each(baselines_figure, rows, 4), *gained, baselines_table(rows))),
    ]
    if curves:
        sections.append(
            Section("Greedy accumulation", (GREEDY, *_each(greedy_figure, curves, 6), *greedy_tables(curves)))
        )
    if subsets:
        sections.append(Section("Dynamic sites", (SITES, *_each(sites_figure, subsets, 3), *subsets_tables(subsets))))
    sections.append(Section("Distinct predictions", (UNIQUE, *_each(unique_figure, many, 4), *unique_tables(many))))
    sections.append(_preferences_section(answers))
    cheap = [a.efficiency for a in answers if a.efficiency is not None]
    if cheap:
        notes = [f"{one.result}:{incomplete(one.macs_unknown)}" for one in cheap if one.macs_unknown]
        sections.append(Section("Efficiency", (EFFICIENCY, *notes, *_each(_efficiency_figure, cheap, 1))))
    left_out = [*skipped, *([] if cheap else [NO_COSTS])]
    if left_out:
        sections.append(Section("Left out", tuple(left_out)))
    sections.append(Section("Provenance", (PROVENANCE, *provenance_tables(shown))))
    return sections


def _preferences_section(answers: Sequence[Answers]) -> Section:
    wishes = [a.preferences for a in answers]
    plain = [w for w in wishes if not w.variation] or wishes
    varied: list[Part] = [Plot(later(variation_figure, wishes, narrow=True))] if series_of(wishes) else []
    drawn = _each(preferences_figure, plain, 2)
    return Section("Preferences", (PREFERRED, *drawn, *varied, *preferences_tables(wishes)))


def _each(draw: Callable[..., Drawing], items: Sequence[Any], most: int) -> list[Plot]:
    """One narrow figure for every few items: on a wide page they stand side by side, on a phone below one another."""
    return [Plot(later(draw, items[i : i + most], narrow=True)) for i in range(0, len(items), most)]


def _efficiency_figure(one: Sequence[Efficiency], *, narrow: bool) -> Drawing:
    return efficiency_figure(one[0], narrow=narrow)
