"""The first screen of the report: what each result says in a sentence, what it is of, and the gain of the first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from itd.analysis.figures import gain_figure, short_names
from itd.analysis.report.answers import Answers
from itd.analysis.report.parts import Card, Cards, Fold, Part, Plot, Section
from itd.analysis.report.provenance import facts

if TYPE_CHECKING:
    from itd.store import Result

FIRST = 6
"""So many results share a figure of the gain, and the first so many stand beside theirs."""

MEANING = (
    "The oracle takes for each image the configuration of highest quality, with the label in hand: nobody has achieved "
    "it. The network as it is takes the default configuration for every image. As many guesses: that network may name "
    "as many classes for an image as the configurations predict there, and is right wherever one of them is; where "
    "this does as well as the oracle, guessing alone explains its figure.",
    "Held out: the first five configurations are chosen greedily on nine of ten folds of the images and measured, with "
    "the label in hand, on the tenth. They are the figure to read, beside as many guesses. In brackets: 95% intervals, "
    "paired for differences.",
)


def brief_section(answers: Sequence[Answers], results: Sequence[Result]) -> Section:
    """A card for each result, the figure of the gain beside the first of them, and what the words mean."""
    cards = []
    for one, result, name in zip(answers, results, short_names([r.path for r in results]), strict=True):
        sentence = one.summary.sentence(name).removeprefix(f"{name}: ")
        cards.append(Card(name, sentence, facts(result)))
    gained = [one.gain for one in answers[:FIRST] if one.gain is not None]
    beside = Plot(partial(gain_figure, gained, narrow=True)) if gained else None
    parts: list[Part] = [Cards(tuple(cards), beside, FIRST), Fold("What the sentences mean", MEANING)]
    return Section("Results", (*parts, *_how_sure(answers)))


def _how_sure(answers: Sequence[Answers]) -> list[str]:
    """Of how many resamples the intervals are."""
    curves = [one.curve.held_out for one in answers if one.curve is not None and one.curve.held_out is not None]
    counts = sorted({curve.resamples for curve in curves})
    if not counts or not counts[-1]:
        return []
    shown = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
    return [
        f"Intervals of what is held out are of {shown} resamples of the images here; `itd gain` and `itd greedy` draw "
        "up to 1,000, so that an end may differ from theirs in its last digit."
    ]
