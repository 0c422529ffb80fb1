"""Everything that only a GPU can tell, in one command, as JSON: `make bench-gpu`.

    python benchmarks/gpu.py --out build/gpu.json
    python benchmarks/gpu.py --only rates sweeps           # the others in the file stay
    python benchmarks/gpu.py --device cpu --small --out /tmp/gpu.json   # tiny sizes: that it works

Each part runs in a process of its own, with a time limit, and writes every row as soon as it has it: a part that is
out of time, or that a GPU's error ends, leaves what it has measured. `--limit twelve=600` changes a limit, in seconds.
What each part measures: `gpu_sweeps.py`, `gpu_layers.py`. `roofline.py --measured FILE` puts the twelve sweeps beside
what bounds them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LIMITS_S = {"rates": 60, "sweeps": 480, "convolutions": 300, "special": 120, "large": 60, "twelve": 540, "jpegs": 240}
"""Part -> seconds."""
GRACE_S = 60
"""A part that is in the middle of a row when its time is over may end it."""


def parts() -> dict[str, Callable[[Any], Iterator[Row]]]:
    """Name -> what measures, row by row."""
    import gpu_layers
    import gpu_sweeps

    return {
        "rates": gpu_sweeps.rates,
        "sweeps": gpu_sweeps.sweeps,
        "convolutions": gpu_layers.convolutions,
        "special": gpu_layers.special,
        "large": gpu_layers.large,
        "twelve": gpu_sweeps.twelve,
        "jpegs": gpu_sweeps.jpegs,
    }


def collect(rows: Iterator[Row], path: Path, limit_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Writes rows as they come, a line each, until the time is over. False where some may be missing."""
    until = clock() + limit_s
    with path.open("a", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")
            out.flush()
            if clock() > until:
                return False
    return True


def supervised(command: Sequence[str], path: Path, limit_s: float) -> Row:
    """Runs a command that writes rows to a file: what there is of it, and how it ended."""
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        state = {0: "done", 3: "out of time"}.get(done.returncode, f"failed: {last[0]}")
    except subprocess.TimeoutExpired:
        state = "out of time"
    written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for line in written:
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last one, in the middle of which it was ended
            state += "; a row was not whole"
    return {"state": state, "seconds": time.monotonic() - start, "rows": rows}


def measure(name: str, given: argparse.Namespace, limit_s: float) -> Row:
    """One part in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        command = [sys.executable, __file__, "--part", name, "--rows", str(path), "--limit", f"{name}={limit_s}"]
        command += ["--device", given.device] + ["--small"] * given.small
        return supervised(command, path, limit_s + GRACE_S)


def run_part(name: str, given: argparse.Namespace, limit_s: float) -> None:
    """What the process of a part does; exit status 3 says that the time was over."""
    from gpu_sweeps import Run

    if not collect(parts()[name](Run(given.device, given.small)), given.rows, limit_s):
        sys.exit(3)


def about(device: str) -> Row:
    """What the numbers were measured on, and when."""
    import torch
    from rates import device_name

    at = torch.device(device)
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if at.type == "cuda" else {}
    return {
        "device": device_name(at),
        "torch": torch.__version__,
        **cuda,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
    }


def said(name: str, part: Row) -> str:
    """A part in a line."""
    wrong = [row["error"] for row in part["rows"] if "error" in row]
    errors = f", {len(wrong)} of them errors, the first: {wrong[0]}" if wrong else ""
    return f"{name}: {part['state']}, {part['seconds']:.0f} s, {len(part['rows'])} rows{errors}"


def limits(texts: Sequence[str]) -> dict[str, float]:
    """`["twelve=600"]` as the limits of all parts."""
    changed = dict(text.split("=", 1) for text in texts)
    unknown = changed.keys() - LIMITS_S.keys()
    if unknown:
        raise SystemExit(f"gpu.py: error: no part {', '.join(sorted(unknown))}; there are {', '.join(LIMITS_S)}")
    return {**LIMITS_S, **{name: float(value) for name, value in changed.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"))
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, default=list(LIMITS_S), metavar="PART")
    parser.add_argument("--limit", nargs="+", default=[], metavar="PART=SECONDS")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="Tiny sizes, whose numbers mean nothing.")
    parser.add_argument("--part", choices=LIMITS_S, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    limits_s = limits(given.limit)
    if given.part is not None:
        return run_part(given.part, given, limits_s[given.part])
    written = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"parts": {}}
    written |= {**about(given.device), "small": given.small}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        written["parts"][name] = measure(name, given, limits_s[name])
        given.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        print(said(name, written["parts"][name]), flush=True)
    print(given.out)
    return None


if __name__ == "__main__":
    main()
