"""What several workers on one result cost and give.

`--simulate`, with no network: 50,000 images x 625 configurations shared by 64 workers. How large units and parts are,
what the claims do to the file system, how long workers wait at the end (`shared_out.py`), and, measured on real files,
how long `itd.status` and a run that goes on take where there are 10,000 parts, and what 64 workers ask of the process
that drives them.

`--throughput`: `--devices cpu*2` against one process with two threads, in turn, on a network with random weights and
the digits. `ratio`: rows a second of two workers over those of one process, from the first part to the last one.
`ratio_whole`: the same of whole commands, with their start. Only where nothing else computes do they mean much.

    python benchmarks/workers.py --simulate
    python benchmarks/workers.py --throughput --model mobilenet_v2 --limit 720 --repeats 3

Prints lines to read, then, as the last line of stdout, JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGES, CONFIGS, WORKERS = 50_000, 625, 64
SPREAD, DRAWS = 0.2, 50
"""Speeds are drawn evenly between 1 - SPREAD and 1 + SPREAD, so many times."""
AHEAD = (1, 3)
"""Units that a worker has taken for next: one where a unit is several batches, three where it is one."""
TARGETS = {"idle": 0.05, "status_s": 5.0, "resume_s": 5.0, "ratio": 1.0}
"""At most; the ratio at least."""


def scores_of(configs: int, images: int) -> dict[str, Any]:
    """Seeded scores as of a network that is right half of the time: (configs, images) each, and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, images)
    right = rng.random((configs, images)) < rng.random(images)
    p = rng.uniform(0.3, 1, right.shape).astype(np.float32)
    wrong = rng.integers(1, 1000, right.shape)
    return {
        "labels": labels,
        "pred": np.where(right, labels, (labels + wrong) % 1000),
        "quality": p + right.astype(np.float32),
        "nll": -np.log(p),
        "rank": np.where(right, 0, wrong),
        "confidence": p,
    }


def open_writer(folder: Path, configs: int, images: int, per_unit: int) -> Any:
    """A result of a synthetic space."""
    import numpy as np

    from itd.space import Setting, SiteSpec, build_space
    from itd.store import ResultWriter

    values = tuple(range(1, round(configs**0.25) + 1))
    space = build_space(["dilation"], [SiteSpec(s, Setting(dilation=1), {"dilation": values}) for s in "ABCD"])
    return ResultWriter.open(
        folder,
        identity={"model": "synthetic", "data": "synthetic"},
        space=space,
        macs=[1_000_000 + i for i in range(len(space))],
        samples=np.arange(images),
        images_per_unit=per_unit,
        provenance={"tool": "benchmarks/workers.py"},
    )


def units() -> dict[str, dict[str, Any]]:
    """What a result is cut into on CPUs and GPUs, and how large that is on a disk, from one real part."""
    import torch

    from itd.runner.run import unit_size

    found = {}
    for kind in ("cpu", "cuda"):
        size = unit_size(IMAGES, torch.device(kind), WORKERS)
        count = -(-IMAGES // size)
        with tempfile.TemporaryDirectory() as scratch:
            writer = open_writer(Path(scratch) / "r", CONFIGS, size, size)
            write_all(writer)
            part = sum(path.stat().st_size for path in writer.folder.glob("part-*"))
            record = sum(path.stat().st_size for path in (writer.folder / "_itd").glob("part-*"))
        found[kind] = {
            "images_per_unit": size, "units": count, "units_per_worker": round(count / WORKERS, 1),
            "part_bytes": part, "record_bytes": record, "bytes_per_row": round(part / (size * CONFIGS), 2),
            "result_gb": round(count * (part + record) / 1e9, 3),
        }  # fmt: skip
    return found


def write_all(writer: Any) -> None:
    """Writes what is missing, with seeded scores."""
    import numpy as np

    for unit in writer.todo():
        scores = scores_of(writer.manifest["configs"], len(unit))
        writer.write(unit, missing=np.zeros(len(unit), bool), **scores)


def claims_traffic(count: int = 500) -> dict[str, Any]:
    """What one unit asks of the file system beside its part: taken, begun, written by its run, and given back."""
    from itd.store import Claims

    seen: Counter[str] = Counter()
    counting = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if counting and event in ("open", "os.rename", "os.remove", "os.listdir", "os.link", "os.utime"):
            seen[event.removeprefix("os.")] += "claims" in str(args[0])

    sys.addaudithook(hook)
    with tempfile.TemporaryDirectory() as scratch, Claims(Path(scratch)) as claims:
        counting, began_s = True, time.perf_counter()
        for unit in range(count):
            claims.take(unit, unit)
            claims.begin(unit, unit)
            claims.release(unit, unit)
        spent_s, counting = time.perf_counter() - began_s, False
    per_unit = {name: round(times / count, 2) for name, times in sorted(seen.items())}
    return {"per_unit": per_unit, "operations_per_unit": round(sum(seen.values()) / count, 1),
            "ms_per_unit_local_disk": round(1e3 * spent_s / count, 2)}  # fmt: skip


def tails(cut: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """How long workers wait at the end: the median and the worst of the draws."""
    import numpy as np
    from shared_out import share_out

    found = []
    for kind, unit in cut.items():
        for spread in (SPREAD, 0.0):
            for ahead, steal in ((AHEAD[0], True), (AHEAD[1], True), (AHEAD[1], False)):
                rng = np.random.default_rng(0)
                drawn = [rng.uniform(1 - spread, 1 + spread, WORKERS).tolist() for _ in range(DRAWS if spread else 1)]
                each = [share_out(unit["units"], speeds, ahead, steal=steal) for speeds in drawn]
                found.append({
                    "kind": kind, "spread": spread, "ahead": ahead, "steal": steal,
                    "idle": round(statistics.median(one.idle for one in each), 4),
                    "idle_worst": round(max(one.idle for one in each), 4),
                    "longest": round(max(one.longest for one in each), 4),
                    "stolen": round(statistics.median(one.stolen for one in each)),
                })  # fmt: skip
    return found


def make_parts(folder: Path, parts: int, images: int, configs: int) -> None:
    """A result of many parts, as `ResultWriter.write` makes them; their bytes are not forced to the disk."""
    import numpy as np

    from itd.store import manifest as manifests
    from itd.store.files import sealed, to_json
    from itd.store.part import part_name
    from itd.store.record import make_record, record_path, with_rows
    from itd.store.schema import encode, part_schema, part_table, setting_columns

    writer = open_writer(folder, configs, parts * images, images)
    attributes = writer.manifest["attributes"]
    table = manifests.load_configs(folder, writer.manifest)
    settings = {name: table.column(name).to_pylist() for name in setting_columns(attributes)}
    schema = part_schema(attributes, writer.manifest["default"])
    scores = scores_of(table.num_rows, images)
    labels = scores.pop("labels")
    for number in range(parts):
        first = number * images
        samples = np.arange(first, first + images, dtype=np.int32)
        data = encode(part_table(schema, settings, samples, labels, scores, np.zeros(images, bool)))
        target = folder / part_name(first, first + images - 1)
        record = with_rows(make_record(data), np.arange(table.num_rows), samples, ())
        record_path(target, record["content_sha256"]).write_bytes(to_json(sealed(record)))
        target.write_bytes(data)


def timed(what: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """The best and the worst of some runs, and the CPU time of the best."""
    runs = []
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        what()
        runs.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {"s": round(min(runs)[0], 2), "s_worst": round(max(runs)[0], 2), "cpu_s": round(min(runs)[1], 2)}


def scan(parts: int, images: int, configs: int) -> dict[str, Any]:
    """How long it takes to look at a result of many parts: its status, one listing of it, and to go on with it."""
    import itd
    from itd.store import part

    def first(look: Callable[[], Any]) -> dict[str, float]:
        """Timed as of a process that has not listed the folder before."""
        return timed(lambda: (part._arranged.cache_clear(), look()))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "r.parquet"
        make_parts(folder, parts, images, configs)
        size = sum(path.stat().st_size for path in folder.glob("part-*"))
        assert itd.status(folder).complete

        def resume() -> None:
            assert not open_writer(folder, configs, parts * images, images).todo()

        return {
            "parts": parts, "images_per_part": images, "configs": configs, "mb": round(size / 1e6),
            "list": first(lambda: part.list_parts(folder)), "status": first(lambda: itd.status(folder)),
            "resume": first(resume),
        }  # fmt: skip


def driver(polls: int = 200) -> dict[str, Any]:
    """CPU time of one look of the driving process at 64 workers, each of which has computed something since."""
    import multiprocessing

    from itd.runner.fleet import _POLL_S, Fleet, _Worker

    class Remote:
        """A worker of which there are only its pipe, its counters, and a process that all of these share."""

        label, process = "none", None

        def __init__(self, pid: int) -> None:
            self.pid, self.counted = pid, multiprocessing.Value("q", 0)
            self.receiver, self.sender = multiprocessing.Pipe(duplex=False)

        @property
        def rows(self) -> int:
            return int(self.counted.value)

        done = rows

        def poll(self) -> None:
            os.waitpid(self.pid, os.WNOHANG)
            self.receiver.poll()

    fleet: Any = Fleet(None, Path("."), CONFIGS, IMAGES, lambda: 0, lambda rows: None)  # type: ignore[arg-type]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        fleet.workers = [_Worker(number, b"", Remote(child.pid)) for number in range(WORKERS)]  # type: ignore[arg-type]
        began_s = time.process_time()
        for poll in range(polls):
            for worker in fleet.workers:
                worker.remote.counted.value = poll
                fleet._look_at(worker)
            fleet._show(sum(worker.all_rows for worker in fleet.workers))
        spent_s = (time.process_time() - began_s) / polls
        child.communicate(b"\n")
    return {"workers": WORKERS, "ms_per_poll": round(1e3 * spent_s, 2), "share_of_a_core": round(spent_s / _POLL_S, 4)}


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """All that needs no network."""
    cut = units()
    report: dict[str, Any] = {"images": IMAGES, "configs": CONFIGS, "workers": WORKERS, "units": cut}
    for kind, unit in cut.items():
        show(f"{kind}: {unit}")
    report["claims"] = claims_traffic()
    show(f"claims: {report['claims']}")
    report["tail"] = tails(cut)
    for one in report["tail"]:
        show(f"tail: {one}")
    report["driver"] = driver()
    show(f"driver: {report['driver']}")
    report["scan"] = []
    for configs in args.scan_configs:
        report["scan"].append(scan(args.parts, args.images_per_part, configs))
        show(f"scan: {report['scan'][-1]}")
    shared = [one["idle_worst"] for one in report["tail"] if one["steal"]]
    report["targets_met"] = {
        "idle": max(shared) < TARGETS["idle"],
        "status_s": all(one["status"]["s_worst"] < TARGETS["status_s"] for one in report["scan"]),
        "resume_s": all(one["resume"]["s_worst"] < TARGETS["resume_s"] for one in report["scan"]),
    }
    return report


def swept(args: argparse.Namespace, out: Path, how: list[str]) -> dict[str, float]:
    """One sweep in a fresh process: how long it took, and rows a second from its first part to its last one."""
    import itd

    options = f"--attr dilation --sites {args.sites} --options 1,2,3 --data digits --weights none --num-classes 10"
    command = [
        sys.executable, "-m", "itd_cli.main", "sweep", "--model", args.model, *options.split(), "--crop", "32",
        "--resize", "32", "--limit", str(args.limit), "--progress", "none", "--out", str(out), *how,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    began_s = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    whole_s = time.perf_counter() - began_s
    if done.returncode:
        raise SystemExit(done.stderr)
    result = itd.open_result(out)
    rows = len(result.config_numbers)
    times = sorted((path.stat().st_mtime, _images(path.name)) for path in out.glob("part-*.parquet"))
    spent_s = times[-1][0] - times[0][0]
    return {
        "s": whole_s,
        "rows_per_s": rows * sum(images for _, images in times[1:]) / spent_s,
        "rows_per_s_whole": rows * args.limit / whole_s,
    }


def _images(name: str) -> int:
    first, last = name.removesuffix(".parquet").split("-")[1:]
    return int(last) - int(first) + 1


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Two workers against one process with two threads, in turn."""
    ways = {"one": ["--device", "cpu"], "two": ["--devices", "cpu*2"]}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(args.repeats):
            for name, how in ways.items():
                runs[name].append(swept(args, Path(scratch) / f"{name}-{repeat}.parquet", how))
                show(f"{name}: { {key: round(value, 2) for key, value in runs[name][-1].items()} }")
    report: dict[str, Any] = {"model": args.model, "limit": args.limit, "n": args.repeats, "cores": os.cpu_count()}
    for key, ratio in (("rows_per_s", "ratio"), ("rows_per_s_whole", "ratio_whole")):
        pairs = [two[key] / one[key] for one, two in zip(runs["one"], runs["two"], strict=True)]
        report[ratio] = round(statistics.median(pairs), 3)
        report[f"{ratio}_range"] = [round(min(pairs), 3), round(max(pairs), 3)]
        report |= {f"{name}_{key}": round(statistics.median(run[key] for run in each)) for name, each in runs.items()}
    report["targets_met"] = {"ratio": report["ratio"] >= TARGETS["ratio"]}
    return report


def show(text: str) -> None:
    """A line to read."""
    print(text, flush=True)


def main() -> None:
    """Simulates or measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--images-per-part", type=int, default=5)
    parser.add_argument("--scan-configs", type=int, nargs="+", default=[16, 625], help="fourth powers")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--sites", default="ABCD")
    parser.add_argument("--limit", type=int, default=720)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    report: dict[str, Any] = {"busy": round(os.getloadavg()[0], 2)}
    if args.simulate:
        report["simulate"] = simulate(args)
    if args.throughput:
        report["throughput"] = throughput(args)
    report |= {"cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
