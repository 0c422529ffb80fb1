"""How long `itd oracle` and `itd greedy` take on a result of ImageNet's size, and how much memory.

Builds a synthetic result of 50,000 samples x 625 configurations in a temporary folder, then reads it in a fresh process
with greedy, and in another with oracle. The last line of stdout is JSON: seconds from the start of the process to its
end, and its peak resident memory.

    python benchmarks/greedy.py
    python benchmarks/greedy.py --images 5000 --repeats 1
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
import json, resource, sys
from itd.analysis import greedy, oracle
from itd.store import open_result
result = open_result(sys.argv[1])
answer = greedy(result).steps[-1].accuracy if sys.argv[2] == "greedy" else oracle(result).best
print(json.dumps({"best": answer, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def build(folder: Path, images: int, configs: int, images_per_unit: int) -> None:
    """A result with seeded random scores; each unit has its own seed, so memory stays small."""
    import numpy as np

    from itd.space import Setting, SiteSpec, build_space
    from itd.store import ResultWriter

    values = tuple(range(1, round(configs**0.25) + 1))
    space = build_space(["dilation"], [SiteSpec(s, Setting(dilation=1), {"dilation": values}) for s in "ABCD"])
    rng = np.random.default_rng(0)
    strength = rng.uniform(0.1, 0.7, (len(space), 1))
    writer = ResultWriter.open(
        folder,
        identity={"model": "synthetic"},
        space=space,
        macs=[1] * len(space),
        samples=np.arange(images),
        images_per_unit=images_per_unit,
        provenance={"tool": "benchmarks/greedy.py"},
    )
    for unit in writer.todo():
        n = len(unit)
        correct = rng.random((len(space), n)) < strength * 2 * rng.random(n)
        p = np.where(correct, rng.uniform(0.3, 1, correct.shape), rng.uniform(0, 0.4, correct.shape)).astype(np.float32)
        labels = rng.integers(0, 1000, n)
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


def measure(folder: Path, what: str, repeats: int) -> dict[str, float]:
    """The best time of a few runs in fresh processes, and the largest peak."""
    seconds, peak = [], 0.0
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", CHILD, folder, what], capture_output=True, text=True, env=env)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(done.stderr)
        peak = max(peak, json.loads(done.stdout)["peak_mb"])
    return {
        f"{what}_s": round(min(seconds), 2),
        f"{what}_s_worst": round(max(seconds), 2),
        f"{what}_peak_mb": round(peak),
    }


def main() -> None:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--configs", type=int, default=625, help="a fourth power")
    parser.add_argument("--images-per-unit", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "synthetic-dilation.parquet"
        build(folder, args.images, args.configs, args.images_per_unit)
        size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        rows = args.images * args.configs
        report = {"images": args.images, "configs": args.configs, "parts": len(list(folder.glob("*.parquet")))}
        report |= {"mb": round(size / 1e6), "bytes_per_row": round(size / rows, 2)}
        report |= measure(folder, "oracle", args.repeats) | measure(folder, "greedy", args.repeats)
    report |= {"cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
