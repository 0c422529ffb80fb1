"""How far the sweep on a GPU is from what its parts allow: counted on shapes, for the twelve sweeps.

    python benchmarks/roofline.py                          # writes results/networks/roofline.jsonl
    python benchmarks/roofline.py --check                  # writes nothing, fails where a count has changed
    python benchmarks/roofline.py --measured build/gpu.json
    python benchmarks/roofline.py --table                  # the table of tests/engine/test_limits.py

`make tables` puts the table into docs/performance.md. `--measured` takes the times of the twelve sweeps from what
`gpu.py` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counts import BYTES_PER_S, FLOPS, GB, SWEEPS, kernels, one_kernel_finishes, program_on_shapes

OUT = Path(__file__).resolve().parents[1] / "results" / "networks" / "roofline.jsonl"
MEMORY_GB = 141
IMAGES = 50_000
LABELS = {"resnet50": "ResNet-50", "resnext50_32x4d": "ResNeXt-50", "mobilenet_v2": "MobileNetV2",
          "densenet121": "DenseNet-121"}  # fmt: skip


def row(name: str, attribute: str, measured: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """One sweep: what an image costs, and the measured rate where there is one."""
    program = program_on_shapes(name, attribute)
    _, each = kernels(program, MEMORY_GB * GB)
    with one_kernel_finishes():
        _, finished = kernels(program_on_shapes(name, attribute), MEMORY_GB * GB)
    rounded = {key: _short(value) for key, value in asdict(each).items()}
    found = measured.get((name, attribute), {})
    return {
        "model": name,
        "attr": attribute,
        "configs": len(program.space),
        **rounded,
        "one_kernel_launches": _short(finished.launches),
        "one_kernel_bound_s": _short(finished.bound_s),
        "measured_images_per_s": found.get("images_per_s"),
        "measured_on": found.get("device"),
    }


def _short(value: float) -> float:
    return round(value) if value > 1000 else float(f"{value:.5g}")


def measurements(path: str | None) -> dict[tuple[str, str], dict[str, Any]]:
    """(model, attribute) -> a row of `gpu.py`'s twelve sweeps."""
    if path is None:
        return {}
    written = json.loads(Path(path).read_text(encoding="utf-8"))
    rows = written["parts"].get("twelve", {}).get("rows", [])
    return {(r["model"], r["attr"]): {**r, "device": written["device"]} for r in rows if "images_per_s" in r}


def minutes(seconds_each: float) -> float:
    """Of all of ImageNet's validation images."""
    return seconds_each * IMAGES / 60


def bounds(line: dict[str, Any]) -> tuple[float, float, float]:
    """Minutes of the arithmetic alone, of the traffic alone, and of all kernels, each at what bounds it."""
    return tuple(map(minutes, (2 * line["macs"] / FLOPS, line["bytes"] / BYTES_PER_S, line["bound_s"])))  # type: ignore[return-value]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The roofline, a row for each sweep and one for all."""
    head = ["sweep", "configurations", "GMAC", "GB", "kernels", "chunks", "arithmetic, min", "traffic, min", "bound by",
            "each kernel at its bound, min", "with the kernels of ITD_FUSED_EPILOGUE=1, min",
            "measured, min"]  # fmt: skip
    rows, totals, took, finished = [], [0.0, 0.0, 0.0], [], 0.0
    for line in lines:
        found = bounds(line)
        totals = [total + value for total, value in zip(totals, found, strict=True)]
        rate = line["measured_images_per_s"]
        finished += minutes(line["one_kernel_bound_s"])
        took.append(None if rate is None else minutes(1 / rate))
        arithmetic, traffic, each = (f"{value:.2f}" for value in found)
        counted = (f"{line['configs']}", f"{line['macs'] / 1e9:.0f}", f"{line['bytes'] / GB:.1f}",
                   f"{line['launches']:.1f}", f"{line['chunks']:.2f}")  # fmt: skip
        bound = "arithmetic" if found[0] > found[1] else "traffic"
        name = f"{LABELS[line['model']]} {line['attr']}"
        rows.append([name, *counted, arithmetic, traffic, bound, each,
                     f"{minutes(line['one_kernel_bound_s']):.2f}", _measured(took[-1])])  # fmt: skip
    whole = None if None in took else sum(t for t in took if t is not None)
    rows.append(["all twelve", *[""] * 5, *(f"{total:.1f}" for total in totals[:2]), "", f"{totals[2]:.1f}",
                 f"{finished:.1f}", _measured(whole)])  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def _measured(took: float | None) -> str:
    return "not measured" if took is None else f"{took:.2f}"


def limits_table() -> str:
    """The table that tests/engine/test_limits.py keeps."""
    lines = ["TABLE = {"]
    for name, attribute in SWEEPS:
        program, cells = program_on_shapes(name, attribute), []
        for budget_gb in (80, 141):
            seen, each = kernels(program, budget_gb * GB)
            found = f"{each.launches:.2f}, {each.bytes / GB:.3f}, {each.chunks:.3f}, {len(seen.convolutions)}"
            cells.append(f"{budget_gb}: ({found})")
        lines.append(f'    ("{name}", "{attribute}"): {{{", ".join(cells)}}},')
    return "\n".join([*lines, "}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measured", metavar="FILE", help="What gpu.py wrote.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(limits_table())
        return
    found = measurements(given.measured)
    lines = [row(name, attribute, found) for name, attribute in SWEEPS]
    if given.check:
        stale = changed(lines, [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()])
        print("\n".join(stale) or "every count is as it is stored")
        sys.exit(1 if stale else 0)
    given.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(table(lines), end="")


def changed(now: Sequence[dict[str, Any]], stored: Sequence[dict[str, Any]]) -> list[str]:
    """What is not stored as it is counted now; what is measured aside."""
    said = []
    for new, old in zip(now, stored, strict=True):
        keys = [key for key in new if not key.startswith("measured") and new[key] != old[key]]
        said += [f"{new['model']} {new['attr']}: {key} is {new[key]}, {old[key]} is stored" for key in keys]
    return said


if __name__ == "__main__":
    main()
