"""The tables of the documents, from the stored results and nothing else: `make tables`.

Each table is written to docs/tables/NAME.md, and put into every document that has a line `<!-- table: NAME -->`, up to
the line `<!-- end -->`. `--check` writes nothing and fails where a file would change.

    python benchmarks/tables.py
    python benchmarks/tables.py --only oracle gain
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import itd
from itd.analysis.cascade import cascade
from itd.analysis.paper import STATIC, TABLE_1, TABLE_3
from itd.analysis.predictions import distinct as distinct_of
from itd.analysis.rules import rule_of
from itd.analysis.sampling import Difference, Estimate, paired, proportion
from itd.analysis.tables import p_value

ROOT = Path(__file__).resolve().parents[1]
PLAIN = [f"{m}-{a}-val1300" for m in ("resnet50", "mobilenet_v2") for a in ("stride", "dilation", "size")]
LEARNED = [f"cifar-resnet18{op}-stride-cifar10" for op in ("", "+involution", "+condconv", "+weightnet", "+se")]
SCALES = [f"resnet50-dilation-val1300-scale{s}" for s in ("0.25", "0.5", "1", "2", "4")]
CONTEXTS = [f"resnet50-dilation-val1300-context{px}" for px in (50, 100, 150, 200, 250)]
FINE_TUNED = {
    "resnet18-dilation-digits-one-scale": ("-rof",),
    "resnet18-stride-digits-one-scale": ("-rof",),
    "resnet18-dilation-digits": ("-recalibrated", "-rof"),
    "resnet18-stride-digits": ("-recalibrated", "-rof"),
    "resnet18-dilation-val1300": ("-rof",),
    "mobilenet_v2-dilation-val1300": ("-rof",),
}
"""Before -> what was made of it."""
KS = (1, 3, 5, 10)


@cache
def opened(name: str) -> itd.Result:
    """A stored result, its matrices kept."""
    return itd.open_result(ROOT / "results" / f"{name}.parquet").kept()


def share(value: Estimate | None) -> str:
    """`78.5 (70.6-84.7)`"""
    return "-" if value is None else f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def points(value: Estimate | None) -> str:
    """`+14.6 (+8.0 to +20.7)`, with McNemar's p where there is one."""
    if value is None:
        return "-"
    p = f", p {p_value(value.p)}" if isinstance(value, Difference) else ""
    middle, low, high = (round(100 * end, 1) + 0.0 for end in (value.value, value.low, value.high))  # never -0.0
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f}{p})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def oracle() -> str:
    """Table 1 of the paper, on our images and weights."""
    rows = []
    for name in PLAIN:
        model, attribute, _ = name.split("-")
        found = itd.oracle(opened(name))
        cells = [share(found.intervals[rule]) for rule in ("static", "worst", "median", "best")]
        paper = ", ".join(f"{value:g}" for value in (STATIC[model], *TABLE_1[model][attribute]))
        rows.append([name, f"{found.n}", *cells, share(found.baselines.matched_topk), paper])
    return markdown(
        ["result", "n", "static", "worst", "median", "best", "matched top-k", "paper: static, W, M, B"], rows
    )


def held_out() -> str:
    """The first k configurations against as many guesses, on images that did not choose the list."""
    rows = []
    for found in itd.gain([opened(name) for name in PLAIN]):
        for step in found.held_out.steps:
            if step.k in KS:
                sure = Estimate(step.accuracy, step.low, step.high, found.n)
                over = [points(step.over_static), points(step.over_matched)]
                guessed = f"{100 * step.matched_topk:.1f}"
                head = [Path(found.result).stem, f"{found.n}", f"{step.k}"]
                rows.append([*head, share(sure), f"{step.guesses:.2f}", guessed, *over])
    return markdown(
        ["result", "n", "k", "first k", "guesses", "as many guesses", "over static", "over as many guesses"], rows
    )


def baselines() -> str:
    """What needs no oracle."""
    keys = ("chance", "single_best", "most_confident", "vote_first_5", "vote_all")
    rows = []
    for name in PLAIN:
        named = itd.baselines(opened(name), vote_ks=(5,)).named()
        rows.append([name, f"{opened(name).n}", *(share(named[key]) for key in keys)])
    return markdown(["result", "n", *(rule_of(key).name for key in keys)], rows)


def combined() -> str:
    """Table 3 of the paper."""
    rows = []
    for attributes, (m, paper) in TABLE_3.items():
        found = itd.oracle(opened(f"resnet50-combined-{'+'.join(attributes)}-val1300"))
        cells = [share(found.intervals[rule]) for rule in ("worst", "median", "best")]
        counts = f"{m}^{len(attributes)} = {found.configs}"
        published = f"{paper.worst:g}, {paper.median:g}, {paper.best:g}"
        row = ["+".join(attributes), counts, f"{found.n}", *cells, share(found.baselines.matched_topk), published]
        rows.append(row)
    return markdown(
        ["attributes", "configurations", "n", "worst", "median", "best", "matched top-k", "paper: W, M, B"], rows
    )


def efficiency() -> str:
    """Figure 6 of the paper: what the same predictions cost."""
    found = itd.efficiency(opened("resnet50-stride+size-val1300"))
    rows = []
    for key, label in (
        ("static", "the default"),
        ("cheapest_as_static", "cheapest, same prediction as the default"),
        ("best", "the oracle's own choice"),
        ("cheapest_as_best", "cheapest, same prediction as the oracle"),
        ("cheapest_fixed", "cheapest fixed one as accurate as the default, held out"),
    ):
        point = getattr(found, key)
        factor = (
            "-"
            if point.factor is None
            else f"{point.factor.value:.2f} ({point.factor.low:.2f}-{point.factor.high:.2f})"
        )
        macs = f"{point.macs.value / 1e9:.2f} ({point.macs.low / 1e9:.2f}-{point.macs.high / 1e9:.2f})"
        rows.append([label, f"{found.n}", share(point.accuracy), macs, factor])
    return markdown(["configuration", "n", "top-1", "GMAC", "times fewer"], rows)


def preferences() -> str:
    """Figures 5 and 7 of the paper: the default at the first and the last site, of all and of the solved images."""
    rows = []
    for name in (*SCALES, *CONTEXTS):
        found = itd.preferences(opened(name))
        shares = {(o.site, o.value): o for o in found.options}
        cells = [share(e) for site, value in (("A", 1), ("D", 1), ("D", 5))
                 for e in (shares[site, value].share, shares[site, value].share_of_solved)]  # fmt: skip
        rows.append([name.removeprefix("resnet50-dilation-val1300-"), f"{found.n}", f"{found.solved}", *cells])
    heads = [f"{what}{of}" for what in ("A: 1", "D: 1", "D: 5") for of in (", of all", ", of solved")]
    return markdown(["images", "n", "solved", *heads], rows)


def defaults() -> str:
    """On how many images the default is the preferred configuration, and how many configurations some image prefers."""
    rows = []
    for name in PLAIN:
        found = itd.preferences(opened(name))
        own = next((c for c in found.configs if c.config == found.default), None)
        place = "-" if own is None else f"{1 + sum(c.share.value > own.share.value for c in found.configs)}"
        rows.append([name, f"{found.n}", share(own and own.share), place, f"{len(found.configs)}"])
    return markdown(["result", "n", "prefer the default", "its place", "configurations preferred by some image"], rows)


def fine_tuning() -> str:
    """Table 2 of the paper: before and after, and the paired change."""
    rows = []
    for before, afters in FINE_TUNED.items():
        for after in afters:
            found = itd.compare(opened(before), opened(before + after))
            figures = ("static", "worst", "median", "best", "matched_topk")
            for name, side in ((before, found.before), (before + after, found.after)):
                row = [name, f"{found.n}", *(share(getattr(side, key)) for key in figures)]
                if row not in rows:
                    rows.append(row)
            rows.append(["change", "", *(points(found.change[key]) for key in figures)])
    return markdown(["result", "n", "static", "worst", "median", "best", "matched top-k"], rows)


def distinct() -> str:
    """Figure 2 of the paper: distinct predictions before and after fine-tuning."""
    rows = []
    for before, afters in FINE_TUNED.items():
        for name in (before, *(before + after for after in afters)):
            found = itd.unique(opened(name))
            mean = f"{found.mean.value:.2f} ({found.mean.low:.2f}-{found.mean.high:.2f})"
            rows.append([name, f"{found.n}", share(found.agree), mean, f"{len(found.histogram)}"])
    return markdown(["result", "n", "all agree", "distinct predictions, mean", "most"], rows)


def selectors() -> str:
    """What selectors that look at no image achieve on the digits, and the gap that they close from three zeros."""
    rows = []
    before = opened("resnet18-stride-digits")
    for name, first in (("resnet18-stride-digits", None), ("resnet18-stride-digits-rof", before)):
        found = cascade(opened(name), before=first)
        named = {rule_of(key).name if key in ("static", "single_best", "most_confident") else key.replace("_", " "): one
                 for key, one in {**found.baselines, **found.selectors}.items()}  # fmt: skip
        for label, one in named.items():
            gaps = (one.gap_closed, one.gap_from_best_fixed, one.gap_from_before)
            macs = "-" if one.macs is None else f"{one.macs.value / 1e9:.3f}"
            rows.append([name, f"{found.n}", label, share(one.accuracy), macs, *map(gap, gaps)])
    heads = ["gap closed, % from static", "from the best fixed", "from before fine-tuning"]
    return markdown(["result", "n", "rule", "top-1", "GMAC", *heads], rows)


def gap(value: Estimate | None) -> str:
    """`48 (28 to 65)`"""
    return "-" if value is None else f"{100 * value.value:.0f} ({100 * value.low:.0f} to {100 * value.high:.0f})"


def gain() -> str:
    """What learning to adapt leaves to the oracle."""
    rows = []
    for found in itd.gain([opened(name) for name in LEARNED]):
        fifth = found.held_out.steps[4]
        over = (found.over_matched, found.against_first, fifth.over_static, fifth.over_matched)
        shares = map(share, (found.static, found.best, found.matched_topk))
        rows.append([Path(found.result).stem, f"{found.n}", *shares, *map(points, over)])
    heads = ["best - matched", "against the plain network", "first 5 over static", "first 5 over as many guesses"]
    return markdown(["result", "n", "static", "best", "matched top-k", *heads], rows)


def second() -> str:
    """What a second network, stride or scale is worth for each guess."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from second import HALVINGS, blocks, worth_table

    return worth_table(blocks(ROOT / "results", HALVINGS)).rstrip() + "\n"


def mirror() -> str:
    """How often an image and its mirror prefer the same."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from mirror import agreement, table

    name = "resnet50-dilation-val1300"
    return table(agreement(opened(name), opened(f"{name}-mirrored"))) + "\n"


def zoo() -> str:
    """Which of timm's files run, and how."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from zoo import table

    return table(lines("zoo"))


def auto_sites() -> str:
    """What is found in networks that are not registered."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from auto_sites import table

    return table(lines("auto"))


def controls() -> str:
    """Fine-tuning against as many steps that need no options, over seeds."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from controls import table

    return table(lines("rof-stride", "controls")) + "\n"


def operators() -> str:
    """The learned operators trained alike on the digits, over seeds."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from operators import table

    return table(lines("operators", "controls")) + "\n"


def roofline() -> str:
    """What bounds each sweep on a GPU."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from roofline import table

    return table(lines("roofline"))


def all_strides() -> str:
    """What the range of total output strides leaves out of ResNet-50's 400 stride configurations."""
    inside, above, below = (opened(f"resnet50-stride{part}-val1300") for part in ("", "-above288", "-below4"))
    kinds = {
        "4 to 288": ((inside,), inside.samples),
        "4 to 1,024": ((inside, above), inside.samples),
        "4 to 288, same images as all": ((inside,), below.samples),
        "all": ((inside, above, below), below.samples),
    }
    rows = []
    for name, (parts, samples) in kinds.items():
        at = [np.searchsorted(part.samples, samples) for part in parts]
        pred = np.concatenate([part.matrix("pred")[:, here] for part, here in zip(parts, at, strict=True)])
        labels = inside.labels[at[0]]
        rank = inside.matrix("rank")[inside.default_index][at[0]]
        best, guessed = (pred == labels).any(0), rank < distinct_of(pred)
        figures = (share(proportion(right)) for right in (rank == 0, best, guessed))
        rows.append([name, f"{len(pred)}", f"{len(samples)}", *figures, points(paired(best, guessed))])
    heads = ["total output stride", "configurations", "n", "static", "best", "matched top-k", "best - matched"]
    return markdown(heads, rows)


def lines(name: str, folder: str = "networks") -> list[dict[str, Any]]:
    """What a benchmark wrote."""
    return [json.loads(line) for line in (ROOT / "results" / folder / f"{name}.jsonl").read_text().splitlines()]


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (oracle, held_out, baselines, combined, efficiency, preferences, defaults, fine_tuning, distinct,
                     selectors, gain, second, mirror, zoo, auto_sites, controls, operators, roofline, all_strides)
}  # fmt: skip
"""name -> what makes it."""
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n\n)(.*?)(\n?<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Every document that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(names: Sequence[str]) -> dict[Path, str]:
    """Path -> text that it should have, of the tables and the documents that hold them."""
    made = {name: TABLES[name]() for name in names}
    texts = {ROOT / "docs" / "tables" / f"{name}.md": text for name, text in made.items()}
    for path in documents():
        old = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda m: m[1] + made.get(m[2], m[3]) + ("\n" if m[2] in made else "") + "<!-- end -->"
                        if m[2] in made else m[0], old)  # fmt: skip
        if BLOCK.search(old):
            texts[path] = new
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    stale = []
    for path, text in written(given.only).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not given.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) if stale else "every table is as its results say")
    if stale and given.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
