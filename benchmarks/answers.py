"""How long each command that answers from results takes on a result of ImageNet's size, and how much memory.

Builds two synthetic results of 50,000 samples x 625 configurations in a temporary folder (dilation and size), then
gives each command in a fresh process, and `itd report` also the stored results. The last line of stdout is JSON: for
each command the wall time from the start of the process to its end (best and worst of the repeats), its CPU time (of
the best), its peak resident memory in MB of 10^6 bytes, and, where it has a target, whether the worst meets it. `busy`:
how many other processes wanted a core when it began.

    python benchmarks/answers.py
    python benchmarks/answers.py --compacted
    python benchmarks/answers.py --images 5000 --repeats 1 --only greedy,report
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHILD = """
import resource, sys
from itd_cli.main import cli
try:
    cli(sys.argv[1:], prog_name="itd")
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, file=sys.stderr)
"""
ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "oracle": ["oracle", "{0}"],
    "by_sites": ["oracle", "--by-sites", "{0}"],
    "baselines": ["baselines", "{0}"],
    "greedy": ["greedy", "{0}", "--folds", "0"],
    "greedy_held_out": ["greedy", "{0}", "--plot", "{out}/greedy.png"],
    "unique": ["unique", "{0}", "--plot", "{out}/unique.png"],
    "preferences": ["preferences", "{0}", "--plot", "{out}/preferences.png"],
    "efficiency": ["efficiency", "{0}", "--plot", "{out}/efficiency.png"],
    "combine": ["combine", "{0}", "{1}", "-o", "{out}/space.json"],
    "compare": ["compare", "{0}", "{1}"],
    "gain": ["gain", "{0}", "{1}"],
    "report": ["report", "{0}", "-o", "{out}/report.html"],
    "report_stored": ["report", "{stored}", "-o", "{out}/stored.html"],
}

TARGETS: dict[str, dict[str, float]] = {
    "greedy": {"s": 4, "peak_mb": 1000},
    "oracle": {"s": 3, "peak_mb": 1000},
    "report": {"s": 15, "peak_mb": 1000},
    "greedy_held_out": {"s": 60},
    "report_stored": {"s": 60},
}
"""What each may take at most on 2 cores: of 50,000 samples x 625 configurations, and of the stored results."""


def build(folder: Path, attribute: str, images: int, configs: int, images_per_unit: int) -> None:
    """A result of one attribute with seeded random scores; each unit has its own seed, so memory stays small."""
    import numpy as np

    from itd.space import Setting, SiteSpec, build_space
    from itd.store import ResultWriter

    values = tuple(range(1, 2 * round(configs**0.25) + 1, 2))
    default = Setting(dilation=1, size=3)
    space = build_space([attribute], [SiteSpec(s, default, {attribute: values}) for s in "ABCD"])
    rng = np.random.default_rng(len(attribute))
    true_labels = np.random.default_rng(0).integers(0, 1000, images)
    strength = rng.uniform(0.1, 0.7, (len(space), 1))
    writer = ResultWriter.open(
        folder,
        identity={"model": "synthetic", "data": "synthetic"},
        space=space,
        macs=[1_000_000 * (1 + i) for i in range(len(space))],
        samples=np.arange(images),
        images_per_unit=images_per_unit,
        provenance={"tool": "benchmarks/answers.py"},
    )
    for unit in writer.todo():
        n = len(unit)
        correct = rng.random((len(space), n)) < strength * 2 * rng.random(n)
        p = np.where(correct, rng.uniform(0.3, 1, correct.shape), rng.uniform(0, 0.4, correct.shape)).astype(np.float32)
        labels = true_labels[unit.first : unit.last + 1]
        wrong = rng.integers(1, 1000, correct.shape)
        writer.write(
            unit,
            labels=labels,
            pred=np.where(correct, labels, (labels + wrong) % 1000),
            quality=p + correct.astype(np.float32),
            nll=-np.log(p + np.float32(1e-9)),
            rank=np.where(correct, 0, wrong),
            confidence=np.maximum(p, np.float32(0.4)),
            missing=np.zeros(n, bool),
        )


def measure(arguments: list[str], repeats: int) -> dict[str, float]:
    """The best and the worst time of a few runs in fresh processes, the CPU time of the best, and the largest peak."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr)
        cpu, peak = map(float, done.stderr.split()[-2:])
        runs.append((seconds, cpu, peak))
    best, worst = min(runs), max(runs)
    return {"s": round(best[0], 2), "s_worst": round(worst[0], 2), "cpu_s": round(best[1], 2),
            "peak_mb": round(max(peak for _, _, peak in runs)), "n": repeats}  # fmt: skip


def held_to(target: Mapping[str, float], figures: Mapping[str, float]) -> dict[str, Any]:
    """A target, and whether the worst run meets it."""
    worst = {"s": figures["s_worst"], "peak_mb": figures["peak_mb"]}
    return {"target": target, "met": all(worst[name] <= most for name, most in target.items())}


def words(name: str, folders: Sequence[str], out: str) -> list[str]:
    """What a command is given; `{stored}` stands for each of the stored results."""
    stored = sorted(map(str, (ROOT / "results").glob("*.parquet")))
    return [
        word for text in COMMANDS[name]
        for word in (stored if text == "{stored}" else [text.format(*folders, out=out)])
    ]  # fmt: skip


def main() -> None:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--configs", type=int, default=625, help="a fourth power")
    parser.add_argument("--images-per-unit", type=int, default=250)
    parser.add_argument("--compacted", action="store_true", help="each result as one file, as `itd compact` leaves it")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, separated by commas")
    args = parser.parse_args()
    busy = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"{scratch}/synthetic-{attribute}.parquet" for attribute in ("dilation", "size")]
        for folder, attribute in zip(folders, ("dilation", "size"), strict=True):
            build(Path(folder), attribute, args.images, args.configs, args.images_per_unit)
            if args.compacted:
                measure(["compact", folder], 1)  # not here, as a child's peak is at least what its parent has
        size = sum(path.stat().st_size for path in Path(folders[0]).glob("*.parquet"))
        report: dict[str, Any] = {
            "images": args.images, "configs": args.configs, "compacted": args.compacted, "mb": round(size / 1e6),
            "busy": busy,
        }  # fmt: skip
        for name in args.only.split(","):
            figures = measure(words(name, folders, scratch), args.repeats)
            aimed = (args.images, args.configs) == (50_000, 625) or name == "report_stored"
            report[name] = figures | (held_to(TARGETS[name], figures) if aimed and name in TARGETS else {})
            print(name, report[name], file=sys.stderr, flush=True)
    met = {name: figures["met"] for name, figures in report.items() if isinstance(figures, dict) and "met" in figures}
    report |= {"targets_met": met, "cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
