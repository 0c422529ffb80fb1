"""The rules by which a sample's prediction is picked, named once for tables, figures and the report."""

from __future__ import annotations

from dataclasses import dataclass

VOTE = "vote_first_"
"""Begins the key of the vote of the first k of a greedy list."""


@dataclass(frozen=True)
class Rule:
    """A rule.

    key: in JSON and CSV. head: of a narrow column. name: in a table. label: in a figure. meaning: what it is. needs:
    what it has to know.
    """

    key: str
    head: str
    name: str
    label: str
    meaning: str
    needs: str


ALL = {
    rule.key: rule
    for rule in (
        Rule("best", "best", "best", "oracle best",
             "for each image the configuration of highest quality: it knows the label", "the label"),
        Rule("matched_topk", "top-k", "matched top-k", "matched top-k",
             "the static network with as many guesses as there are distinct predictions",
             "the label, among as many guesses as there are distinct predictions"),
        Rule("static", "static", "static", "static", "the network as it was trained", "nothing"),
        Rule("single_best", "single", "single best", "single best",
             "one configuration, chosen on one half of the images, measured on the other",
             "one half of the labels; measured on the other"),
        Rule("most_confident", "confident", "most confident", "most confident",
             "for each image the configuration with the largest softmax value", "every configuration"),
        Rule("vote_all", "vote", "vote of all", "vote of all", "the class that the most configurations predict",
             "every configuration"),
        Rule("median", "median", "median", "oracle median",
             "for each image the configuration of middle quality", "the label"),
        Rule("worst", "worst", "worst", "oracle worst",
             "for each image the configuration of lowest quality", "the label"),
        Rule("chance", "chance", "chance", "chance", "the best case if these labels were dealt at random",
             "labels dealt at random"),
    )
}  # fmt: skip
"""key -> rule, in the order of a figure from best to worst."""

BESIDE = ("matched_topk", "chance", "single_best", "most_confident", "vote_all")
"""The baselines that stand beside an oracle's figures."""


def rule_of(key: str) -> Rule:
    """The rule of a key; those of the votes of the first k of a greedy list are made for their k.

    >>> rule_of("vote_first_5").name
    'vote of first 5'
    """
    if not key.startswith(VOTE):
        return ALL[key]
    name = f"vote of first {key.removeprefix(VOTE)}"
    meaning = "the majority of the first of a greedy list, made on the other half"
    return Rule(key, name, name, name, meaning, "one half of the labels, and as many configurations")


def in_order(keys: list[str]) -> list[str]:
    """Keys from best to worst, the votes of the first k before the vote of all."""
    votes = sorted({key for key in keys if key.startswith(VOTE)}, key=lambda key: int(key.removeprefix(VOTE)))
    ordered = list(ALL)
    at = ordered.index("vote_all")
    return [*ordered[:at], *votes, *ordered[at:]]
