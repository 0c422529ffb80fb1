"""What the report says: every question of the analysis asked of every result, and where each result comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from itd.analysis._efficiency import Efficiency, efficiency
from itd.analysis._gain import Gain, gain_of
from itd.analysis._greedy import GreedyCurve, greedy
from itd.analysis._oracle import OracleAccuracy, oracle
from itd.analysis._preferences import Preferences, preferences
from itd.analysis._unique import UniquePredictions, unique
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
from itd.analysis.report.page import Section, Table, render
from itd.analysis.report.provenance import provenance_tables
from itd.analysis.report.tables import (
    baselines_table,
    glance_table,
    greedy_tables,
    preferences_tables,
    subsets_tables,
    unique_tables,
)
from itd.analysis.sampling import Resamples, as_resamples
from itd.analysis.scores import require_results
from itd.analysis.subsets import Subsets, by_sites
from itd.errors import EmptyResultError, ResultError

if TYPE_CHECKING:
    from itd.store import Result

HONEST = (
    "Worst, median and best pick, for each image, the configuration of lowest, middle and highest quality, with the "
    "label in hand: the best case bounds what choosing could gain, nobody has achieved it. Beside it stands what "
    "guessing is worth. Matched top-k gives the static network as many guesses for each image as the configurations "
    "made distinct predictions there: a control on the oracle's figure, for where it does as well, guesses alone "
    "explain all of it. It is no bound on what choosing can gain. Single best, most confident and the votes do without "
    "the label of the image they classify. Small type: 95% intervals, Wilson's for shares of the images."
)

BASELINES = (
    "What can be had without the label, and what guessing is worth. Single best and the votes of the first k are "
    "chosen on one half of the images and measured on the other, both ways."
)
UNIQUE = "Where all configurations agree, nothing can be chosen; many distinct predictions are as many guesses."
PREFERRED = (
    "An image prefers the configuration of highest quality: the label's probability, and one more where the prediction "
    "is right. Ties go to the smaller loss, then to the default."
)
NO_COSTS = (
    "Efficiency: no result here varies the stride, has a default configuration and says what its configurations cost; "
    "dilation leaves the cost as it is, and size changes that of four layers only."
)
PROVENANCE = "What each result is of, and the runs that made it."


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
    def html(self) -> str:
        """The page."""
        count = len(self.results)
        lead = (
            f"{count} result{'s' if count != 1 else ''}, answered from the per-image scores of every configuration. "
            "Click a column's head to sort, point at a figure for its values; every figure has its numbers as CSV."
        )
        return render(self.title, lead, self.sections)


@dataclass
class _Answers:
    """Everything asked of one result."""

    oracle: OracleAccuracy
    curve: GreedyCurve | None
    subsets: Subsets | None
    unique: UniquePredictions
    preferences: Preferences
    efficiency: Efficiency | None
    gain: Gain | None


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
        resamples: how many bootstrap resamples the intervals are of, or drawn `Resamples`; default 1,000.
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
    answers: list[_Answers] = []
    shown: list[Result] = []
    for result in results:
        if progress is not None:
            progress(result.path)
        try:
            answers.append(_ask(result.kept(), partial, as_resamples(count, result.n, seed), page.skipped))
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


def _ask(result: Result, partial: bool, drawn: Resamples, skipped: list[str]) -> _Answers:
    measured = oracle(result, vote_ks=(3, 5, 10), resamples=drawn)
    curve = subsets = cheap = gained = None
    if result.partial and not partial:
        coverage = f"{result.images_done} of {result.images_requested} images are there"
        skipped.append(f"{result.path}: the greedy curve, because {coverage}; `partial` draws it all the same")
    else:
        curve = greedy(result, partial=partial, resamples=drawn)
    if result.default_index is None:
        skipped.append(f"{result.path}: subsets of sites and efficiency, because it has no default configuration")
    else:
        subsets = by_sites(result)
        gained, _ = gain_of(result, None if curve is None else curve.held_out)
        if "stride" in result.attributes and result.macs is not None:
            cheap = efficiency(result, resamples=drawn)
        elif "stride" in result.attributes:
            skipped.append(f"{result.path}: efficiency, because it does not say what its configurations cost")
    return _Answers(measured, curve, subsets, unique(result, resamples=drawn), preferences(result), cheap, gained)


def _sections(answers: Sequence[_Answers], skipped: list[str], shown: Sequence[Result]) -> list[Section]:
    rows = [a.oracle for a in answers]
    curves = [a.curve for a in answers if a.curve is not None]
    subsets = [a.subsets for a in answers if a.subsets is not None]
    wishes = [a.preferences for a in answers]
    plain = [w for w in wishes if not w.variation] or wishes
    gained = _each(gain_figure, [a.gain for a in answers if a.gain is not None], 12)
    sections = [
        Section("At a glance", (HONEST, glance_table(rows))),
        Section("Baselines", (BASELINES, *_each(baselines_figure, rows, 6), *gained, baselines_table(rows))),
    ]
    if curves:
        text = "How few configurations are enough, added greedily, and the most that any k of them could reach."
        sections.append(
            Section("Greedy accumulation", (text, *_each(greedy_figure, curves, 6), *greedy_tables(curves)))
        )
    if subsets:
        text = "Fewer dynamic sites: the configurations in which every other site holds its default."
        sections.append(Section("Dynamic sites", (text, *_each(sites_figure, subsets, 6), *subsets_tables(subsets))))
    many = [a.unique for a in answers]
    sections.append(Section("Distinct predictions", (UNIQUE, *_each(unique_figure, many, 9), *unique_tables(many))))
    varied: list[str | Table | Drawing] = [variation_figure(wishes)] if series_of(wishes) else []
    drawn = _each(preferences_figure, plain, 6)
    sections.append(Section("Preferences", (PREFERRED, *drawn, *varied, *preferences_tables(wishes))))
    cheap = [a.efficiency for a in answers if a.efficiency is not None]
    if cheap:
        text = "Results that vary the stride; the other attributes hardly change the cost of the default."
        sections.append(Section("Efficiency", (text, *map(efficiency_figure, cheap))))
    left_out = [*skipped, *([] if cheap else [NO_COSTS])]
    if left_out:
        sections.append(Section("Left out", tuple(left_out)))
    sections.append(Section("Provenance", (PROVENANCE, *provenance_tables(shown))))
    return sections


def _each(draw: Callable[[Any], Drawing], items: Sequence[Any], most: int) -> list[Drawing]:
    """One figure for every few items, so that each stays readable."""
    return [draw(items[i : i + most]) for i in range(0, len(items), most)]
