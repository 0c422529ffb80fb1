"""What `--sites auto` finds in fifteen of timm's networks, and whether all of it runs.

    python benchmarks/auto_sites.py --out results/networks/auto.jsonl

Each network has seeded random weights and images of 224 px. For each attribute that some layer takes: the space is
planned (every configuration followed on shapes), and a few configurations, evenly drawn, are run by the tree and by
plain forwards on one image of noise. One line of JSON for each network.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from zoo import made

import itd
from itd.engine.plain import PlainExecutor
from itd.engine.program import compile_program
from itd.engine.tree import TreeExecutor
from itd.files import write_atomic
from itd.runner.network import possible_space, traced_for
from itd.space import ATTRIBUTES

NETWORKS = """
resnet50 resnet50d resnext50_32x4d seresnet50 resnetv2_50 mobilenetv2_100 mobilenetv3_large_100 efficientnet_b0
regnety_008 repvgg_a0 densenet121 ghostnet_100 hrnet_w18_small convnext_tiny vgg11_bn
"""
SHAPE = (3, 224, 224)


def row_of(name: str, configs: int) -> dict[str, Any]:
    """What was found in one network, and how far the tree is from plain forwards, in units of the logits' scale."""
    started = time.perf_counter()
    network, _ = made(name)
    sites = itd.auto_sites(network, SHAPE[1])
    row: dict[str, Any] = {"model": name, "registered": sites.registered, "why": list(sites.why), "attributes": {}}
    row["sites"] = {s: {m.path: sorted(m.attributes) for m in modules} for s, modules in sites.items()}
    model = itd.patch(network, sites)
    for attribute in ATTRIBUTES:
        able = [s for s, modules in sites.items() if any(attribute in m.attributes for m in modules)]
        able = [s for s in able if (s, attribute) not in sites.entry.fixed]
        if not able:
            continue
        space = itd.model_space(model, [attribute], swept=able, input_shape=SHAPE)
        traced = traced_for(model, [attribute], SHAPE)
        space, _ = possible_space(traced, space, SHAPE)
        drawn = sorted(set(np.linspace(0, len(space) - 1, configs).round().astype(int).tolist()))
        pixels = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2))
        found: list[dict[int, Tensor]] = []
        for executor in (TreeExecutor(compile_program(traced, space)), PlainExecutor(model, space)):
            logits: dict[int, Tensor] = {}
            executor.run(
                pixels, lambda c, _, values, kept=logits: kept.update(zip(c.tolist(), values, strict=True)), drawn
            )
            found.append(logits)
        apart = max(float((found[0][c] - found[1][c]).abs().max() / found[1][c].abs().max()) for c in drawn)
        row["attributes"][attribute] = {
            "sites": "".join(able),
            "configs": len(space),
            "run": len(drawn),
            "apart": apart,
        }
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    heads = ["network of timm", "sites from", *ATTRIBUTES, "apart", "not found"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        found = {a: f"{v['sites']}: {v['configs']:,}" for a, v in row["attributes"].items()}
        apart = max(v["apart"] for v in row["attributes"].values())
        cells = [
            row["model"],
            "the registry" if row["registered"] else "shapes",
            *(found.get(a, "-") for a in ATTRIBUTES),
        ]
        lines.append(f"| {' | '.join([*cells, f'{apart:.0e}', '; '.join(row['why']) or '-'])} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="JSON lines; a network's row takes the place of its old one."
)
@click.option("--only", multiple=True, help="A network; several times for several.")
@click.option("--configs", default=4, show_default=True)
def main(out: Path | None, only: tuple[str, ...], configs: int) -> None:
    rows = {row["model"]: row for row in map(json.loads, out.read_text().splitlines())} if out and out.exists() else {}
    for name in only or NETWORKS.split():
        row = rows[name] = row_of(name, configs)
        shown = ", ".join(
            f"{a} {v['sites']} {v['configs']} configurations, {v['apart']:.0e} apart"
            for a, v in row["attributes"].items()
        )
        click.echo(f"{name:<24} {shown}; {row['seconds']} s")
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, "".join(json.dumps(rows[n]) + "\n" for n in rows))


if __name__ == "__main__":
    main()
