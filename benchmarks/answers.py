"""How long each command that answers from results takes on a result of ImageNet's size, and how much memory.

Builds two synthetic results of 50,000 samples x 625 configurations in a temporary folder (dilation and size), then
gives each command in a fresh process. The last line of stdout is JSON: for each command the seconds from the start of
the process to its end (best and worst of the repeats), and its peak resident memory.

    python benchmarks/answers.py
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
from pathlib import Path

CHILD = """
import resource, sys
from itd_cli.main import cli
try:
    cli(sys.argv[1:], prog_name="itd")
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
"""

COMMANDS = {
    "oracle": ["oracle", "{0}"],
    "by_sites": ["oracle", "--by-sites", "{0}"],
    "baselines": ["baselines", "{0}"],
    "greedy": ["greedy", "{0}", "--plot", "{out}/greedy.png"],
    "unique": ["unique", "{0}", "--plot", "{out}/unique.png"],
    "preferences": ["preferences", "{0}", "--plot", "{out}/preferences.png"],
    "efficiency": ["efficiency", "{0}", "--plot", "{out}/efficiency.png"],
    "combine": ["combine", "{0}", "{1}", "-o", "{out}/space.json"],
    "compare": ["compare", "{0}", "{1}"],
    "gain": ["gain", "{0}", "{1}"],
    "report": ["report", "{0}", "-o", "{out}/report.html"],
}


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
    """The best and the worst time of a few runs in fresh processes, and the largest peak."""
    seconds, peak = [], 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(done.stderr)
        peak = max(peak, float(done.stderr.split()[-1]))
    return {"s": round(min(seconds), 2), "s_worst": round(max(seconds), 2), "peak_mb": round(peak)}


def main() -> None:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--configs", type=int, default=625, help="a fourth power")
    parser.add_argument("--images-per-unit", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, separated by commas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"{scratch}/synthetic-{attribute}.parquet" for attribute in ("dilation", "size")]
        for folder, attribute in zip(folders, ("dilation", "size"), strict=True):
            build(Path(folder), attribute, args.images, args.configs, args.images_per_unit)
        size = sum(path.stat().st_size for path in Path(folders[0]).glob("*.parquet"))
        report = {"images": args.images, "configs": args.configs, "mb": round(size / 1e6)}
        for name in args.only.split(","):
            report[name] = measure([a.format(*folders, out=scratch) for a in COMMANDS[name]], args.repeats)
            print(name, report[name], file=sys.stderr, flush=True)
    print(json.dumps(report | {"cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}))


if __name__ == "__main__":
    main()
