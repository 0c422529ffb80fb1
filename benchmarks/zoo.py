"""How many of timm's networks the engine takes: one small network of each of its files, with random weights.

    python benchmarks/zoo.py --out results/networks/zoo.jsonl                # all: a quarter of an hour on two cores
    python benchmarks/zoo.py --out results/networks/zoo.jsonl --only mvitv2  # one file again

Of each network two odd square convolutions are sites, at a third and at two thirds of its layers, with dilation 1 and
2; `itd.sweep` writes the rows of a few images of noise, and each row is compared with the network's own forward, the
two layers set by hand (`dilation` and `padding` of `nn.Conv2d`). One line of JSON for each file: the executor (`tree`,
`plain`, or `refused` and why), how many rows there are, how many are wrong (another prediction where the two top logits
are 1e-3 of their scale apart, or a quality or nll that is off by more than 1e-3), how far the nll is apart at most, and
how far the settings move it. `--pick` prints the smallest network of each file, which takes minutes.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import itd
from itd.errors import ItdError
from itd.files import write_atomic

NETWORKS = """
eca_botnext26ts_256 test_byobnet coat_tiny convmixer_768_32 test_convnext cpubone_nano crossvit_9_dagger_240 csatv2
cs3darknet_focus_s cspnext_tiny davit_tiny densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout test_coatnet
poolformerv2_s12 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny nasnetalarge jx_nest_tiny
nextvit_small test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50
resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 shvit_s1 skresnet18 starnet_s050
swiftformer_xs tiny_vit_5m_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_small_r26_s32_224 vitamin_small_224
volo_d1_224 ese_vovnet19b_slim_dw xception xception41p xcit_nano_12_p8_224
"""
"""The smallest network, by parameters, of each file of timm 1.0.31 that has two odd square convolutions in one."""

CLOSE = 1e-3


def picked() -> list[str]:
    """The smallest network of each file of timm that has two odd square convolutions."""
    import timm
    from timm.models._registry import _module_to_models

    names = []
    for _, members in sorted(_module_to_models.items()):
        found = []
        for name in sorted(members):
            try:
                with torch.device("meta"):
                    network = timm.create_model(name)
            except Exception:  # one that needs another package, or values
                continue
            odd = [m for m in network.modules() if isinstance(m, nn.Conv2d) and _is_odd_square(m)]
            if len(odd) > 1:
                found.append((sum(p.numel() for p in network.parameters()), name))
        names += [min(found)[1]] if found else []
    return names


def _is_odd_square(conv: nn.Conv2d) -> bool:
    height, width = conv.kernel_size
    return height == width > 1 and height % 2 == 1


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network with seeded random weights of which none are all alike, and (C, H, W) of its images."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    with torch.no_grad():
        for module in network.modules():
            for parameter in module.parameters(recurse=False):
                spread = parameter.std() if parameter.numel() > 1 else torch.tensor(0.0)
                if spread < 1e-3:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)
    shape = tuple(network.pretrained_cfg["input_size"])  # type: ignore[index, arg-type]
    _spread_logits(network, shape)
    return network, shape  # type: ignore[return-value]


def _spread_logits(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Scales the last linear layer so that the logits of noise are as far apart as those of a trained network."""
    last = [m for m in network.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        spread = float(logits_in(network(torch.randn(1, *shape))).std())
        for parameter in last[-1].parameters() if last and spread > 0 else ():
            parameter.mul_(2 / spread)


def two_sites(network: nn.Module) -> list[str]:
    """Paths of two odd square convolutions that compute as torch's do, at a third and at two thirds of them."""
    odd = [
        path
        for path, layer in network.named_modules()
        if type(layer) is nn.Conv2d and _is_odd_square(layer) and layer.padding_mode == "zeros"
    ]
    if len(odd) < 2:
        raise ItdError(f"{len(odd)} odd square convolutions compute as torch's do")
    first, second = odd[len(odd) // 3], odd[2 * len(odd) // 3]
    return [odd[0] if first == second else first, second]


def by_hand(network: nn.Module, sites: list[str], settings: tuple[int, int]) -> nn.Module:
    """The network with the two layers' dilation and padding set."""
    changed = copy.deepcopy(network)
    for path, dilation in zip(sites, settings, strict=True):
        conv = changed.get_submodule(path)
        if conv.padding != "same":
            more = (dilation - conv.dilation[0]) * (conv.kernel_size[0] - 1) // 2
            conv.padding = tuple(p + more for p in conv.padding)
        conv.dilation = (dilation, dilation)
    return changed


def row_of(name: str, images: int) -> dict[str, Any]:
    """One line of the table."""
    started = time.perf_counter()
    network, shape = made(name)
    row: dict[str, Any] = {
        "model": name,
        "file": type(network).__module__.rsplit(".", 1)[-1],
        "parameters": sum(p.numel() for p in network.parameters()),
        "px": shape[1],
    }
    try:
        sites = row["sites"] = two_sites(network)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row |= swept(network, sites, shape, images, str(Path(folder) / "r.parquet"))
    except ItdError as error:
        row |= {"executor": "refused", "why": str(error)}
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def swept(network: nn.Module, sites: list[str], shape: tuple[int, int, int], images: int, out: str) -> dict[str, Any]:
    """The rows of a sweep against the network's own."""
    pixels = torch.randn(images, *shape, generator=torch.Generator().manual_seed(1))
    labels = list(range(images))
    model = itd.patch(network, dict(zip("AB", sites, strict=True)))
    options = {(site, "dilation"): (1, 2) for site in "AB"}
    space = itd.model_space(model, ["dilation"], options=options, input_shape=shape)
    job = itd.SweepJob(model, space, list(zip(pixels, labels, strict=True)), name="zoo")
    report = itd.sweep(job, out=out, device="cpu", batch_size=images)
    frame = pd.read_parquet(out).sort_values(["config", "sample"])
    own = []
    for a, b in frame.groupby("config")[["dilation_A", "dilation_B"]].first().to_numpy():
        with torch.inference_mode():
            own.append(logits_in(by_hand(network, sites, (int(a), int(b)))(pixels)))
    logits = torch.stack(own)
    truth = torch.tensor(labels).expand(len(own), -1)
    log_p = logits.log_softmax(-1).gather(-1, truth[..., None])[..., 0]
    top = logits.topk(2).values
    clear = ((top[..., 0] - top[..., 1]) > CLOSE * logits.abs().amax(-1)).numpy()
    pred = logits.argmax(-1)
    quality = (log_p.exp() + (pred == truth)).numpy()
    found = {c: frame[c].to_numpy().reshape(len(own), images) for c in ("pred", "quality", "nll")}
    wrong = clear & (found["pred"] != pred.numpy())
    wrong |= clear & (np.abs(found["quality"] - quality) > CLOSE)
    apart = np.abs(found["nll"] + log_p.numpy()) / np.maximum(1, np.abs(log_p.numpy()))
    wrong |= apart > CLOSE
    return {
        "executor": report.executor,
        "why": job.why_plain or "",
        "rows": int(wrong.size),
        "wrong": int(wrong.sum()),
        "moved": float((log_p - log_p[0]).abs().max()),
        "apart": float(apart.max()),
    }


def logits_in(output: Any) -> Tensor:
    """The logits among what a network returns."""
    from itd.patcher import logits_of

    return logits_of(output).float()


def summary(rows: list[dict[str, Any]]) -> str:
    """How many went which way."""
    count = {way: sum(row["executor"] == way for row in rows) for way in ("tree", "plain", "refused")}
    wrong = sum(row.get("wrong", 0) for row in rows)
    still = sum(row["moved"] <= 10 * row["apart"] for row in rows if "moved" in row)
    return (
        f"{len(rows)} files: {count['tree']} by the tree, {count['plain']} by plain forwards, {count['refused']} "
        f"refused; {wrong} of {sum(row.get('rows', 0) for row in rows)} rows wrong; {still} networks that the settings "
        "move by less than ten times what their rows are apart"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, with the counts above it."""
    lines = [
        "| file of timm | network | runs by | rows | wrong | nll apart | nll moved |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["file"]):
        figures = ["-"] * 4
        if "rows" in row:
            figures = [str(row["rows"]), str(row["wrong"]), f"{row['apart']:.0e}", f"{row['moved']:.0e}"]
        way = row["executor"] + (f": {row['why']}" if row.get("why") else "")
        lines.append(f"| {' | '.join([row['file'], row['model'], way, *figures])} |")
    return f"{summary(rows)}.\n\n" + "\n".join(lines) + "\n"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="JSON lines; a file's row takes the place of its old one.")
@click.option("--only", multiple=True, help="A file of timm or a network; several times for several.")
@click.option("--images", default=2, show_default=True)
@click.option("--pick", is_flag=True, help="Print the smallest network of each file of the timm that is installed.")
def main(out: Path | None, only: tuple[str, ...], images: int, pick: bool) -> None:
    if pick:
        click.echo(" ".join(picked()))
        return
    rows = {row["model"]: row for row in map(json.loads, out.read_text().splitlines())} if out and out.exists() else {}
    asked = [n for n in NETWORKS.split() if not only or any(n.startswith(part) for part in only)]
    for name in asked or only:
        row = rows[name] = row_of(name, images)
        click.echo(f"{row['file']:<24} {name:<26} {row['executor']:<8} {row.get('wrong', '-')!s:>3} {row['seconds']} s")
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, "".join(json.dumps(rows[n]) + "\n" for n in sorted(rows, key=lambda n: rows[n]["file"])))
    click.echo(summary(list(rows.values())))


if __name__ == "__main__":
    main()
