"""What a second network, a second stride, a second scale is worth for each guess that it adds, as Markdown.

Everything is computed from stored results; no network is run. Networks and scales are unions of default configurations,
written to a temporary folder.

    python benchmarks/second.py
    python benchmarks/second.py --results results --halvings 20
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import itd
from itd.analysis.worth import HALVINGS, Worth, worth_per_guess, worth_table

CIFAR = ("cifar-resnet18", *(f"cifar-resnet18+{op}" for op in ("involution", "condconv", "weightnet", "se")))
SCALES = ("1", "0.25", "0.5", "2", "4")


def blocks(results: Path, halvings: int) -> list[tuple[str, list[Worth]]]:
    """(what is added, its figures): networks, strides of the first, both at once, and scales."""
    networks = [results / f"{name}-stride-cifar10.parquet" for name in CIFAR]
    scales = [results / f"resnet50-dilation-val1300-scale{scale}.parquet" for scale in SCALES]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        asked = [
            ("CIFAR networks", united(networks, out / "networks.parquet", defaults=True), 5),
            ("strides of cifar-resnet18", networks[0], 5),
            ("strides of any of the five", united(networks, out / "both.parquet"), 5),
            ("scales for ResNet-50", united(scales, out / "scales.parquet", defaults=True), 5),
        ]
        return [
            (what, worth_per_guess(itd.open_result(path), most=most, halvings=halvings)) for what, path, most in asked
        ]


def united(paths: list[Path], out: Path, *, defaults: bool = False) -> Path:
    """The path of a union."""
    return Path(itd.union([itd.open_result(path) for path in paths], out, defaults=defaults).result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--halvings", type=int, default=HALVINGS)
    given = parser.parse_args()
    print(worth_table(blocks(given.results, given.halvings)))


if __name__ == "__main__":
    main()
