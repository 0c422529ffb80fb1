"""The loop a user would write against the sweep's engine: same images, weights, device and precision, in one run.

    python benchmarks/sweep.py --model resnet50 --attr dilation --images 4

Prints a line to read, then, as the last line of stdout, JSON. On a shared machine only `ratio` means much.

The plain loop is in its best setting: images decoded once, channels-last, inference mode, and the fastest of the batch
sizes 1, 4 and 8 (as far as there are images), tried on a few configurations. It may run a subset of the configurations,
drawn evenly; `plain_s` is then its time x MACs of all / MACs of the subset. Both are warmed up first. The two are run
in turn (plain half, tree, plain half), so that a machine that drifts does so for both.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from itd.patcher import build_model
from itd.runner.images import open_images
from itd.runner.loader import batches
from itd.runner.plain import PlainExecutor
from itd.runner.preprocess import Preprocess
from itd.runner.request import SweepRequest, request_space, walks
from itd.runner.tree import TreeExecutor
from itd.runner.weights import apply_weights, load_weights


def random_statistics(network: nn.Module, seed: int = 0) -> None:
    """Normalisation statistics that are not 0 and 1, so that folding is not trivial."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)


def load_pixels(data: str | None, count: int, crop_px: int) -> Tensor:
    """(count, 3, crop, crop) float32: images spread over a folder, or seeded noise."""
    if data is None:
        return torch.randn(count, 3, crop_px, crop_px, generator=torch.Generator().manual_seed(0))
    images = open_images(data)
    samples = np.linspace(0, len(images) - 1, count).astype(np.int32)
    preprocess = Preprocess(resize_px=max(256, crop_px), crop_px=crop_px)
    return next(batches(images, samples, preprocess, batch_size=count)).pixels


class Timer:
    """Seconds of a call, the GPU waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Any) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` configurations, evenly spread with a stride that visits every site's options."""
    if count <= wanted:
        return list(range(count))
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def compare(plain: Tensor, tree: Tensor) -> tuple[float, float]:
    """(top-1 agreement among clear predictions, largest logit difference as a fraction of the logits' scale)."""
    scale = plain.abs().amax(-1)
    top = plain.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > 1e-3 * scale
    same = (plain.argmax(-1) == tree.argmax(-1))[clear]
    difference = ((plain - tree).abs().amax(-1) / scale).max()
    return float(same.float().mean()) if clear.any() else 1.0, float(difference)


@click.command()
@click.option("--model", required=True)
@click.option("--attr", "attributes", required=True)
@click.option("--images", "count", default=4, show_default=True)
@click.option("--options", multiple=True)
@click.option("--crop", "crop_px", default=224, show_default=True)
@click.option("--device", default=None)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--weights", default=None, help="A file or enum name; default seeded random weights.")
@click.option("--data", default=None, help="A folder of images; default seeded random images.")
@click.option("--plain-configs", default=24, show_default=True, help="Configurations of the plain loop; 0 is all.")
@click.option("--tree-batch", default=None, type=int, help="Images in the tree at once; default the sweep's own.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON.")
def main(model: str, attributes: str, count: int, options: tuple[str, ...], crop_px: int, device: str | None,
         precision: str, weights: str | None, data: str | None, plain_configs: int, tree_batch: int | None,
         as_json: bool) -> None:  # fmt: skip
    """Time the plain loop and the tree on the same work, and check that they agree."""
    from itd.patcher import patch
    from itd.runner.precision import Precision

    request = SweepRequest(model, attributes, options=options, device=device, precision=precision, crop_px=crop_px)
    target = request.checked_device()
    torch.manual_seed(0)
    network = build_model(model, 1000)
    if weights is None:
        random_statistics(network)
    else:
        apply_weights(network, load_weights(model, weights))
    patched = patch(network, model)
    space = request_space(request, patched, tuple("ABCD"), None)
    walked, shared = walks(patched, space, crop_px)
    if walked.impossible():
        space = space.without(walked.impossible(), "a window exceeds its input")
        walked, shared = walks(patched, space, crop_px)
    macs = [m for m in walked.per_config if m is not None]
    pixels = load_pixels(data, count, crop_px)
    kind = Precision(precision, str(target))
    plain = PlainExecutor(patched, space, device=target, precision=kind)
    tree = TreeExecutor(patched, space, device=target, precision=kind)
    chosen = spread(len(space), plain_configs or len(space))
    timer, nothing = Timer(target), lambda *_: None

    tree_logits = torch.zeros(len(space), count, 1000, device=target)
    plain_logits = torch.zeros_like(tree_logits)

    def keep(into: Tensor, first: int) -> Any:
        def sink(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            at = torch.from_numpy(np.stack([configs, images + first])).to(target)
            into[at[0], at[1]] = logits.float()

        return sink

    def run_plain(configs: list[int], size: int, into: Tensor | None = None) -> None:
        for first in range(0, count, size):
            sink = nothing if into is None else keep(into, first)
            plain.run(pixels[first : first + size], sink, configs)

    def run_tree() -> None:
        size = tree_batch or (64 if target.type == "cuda" else 8)
        for first in range(0, count, size):
            tree.run(pixels[first : first + size], keep(tree_logits, first))

    run_plain(chosen[:1], min(4, count))
    tree.run(pixels[:1], nothing)
    trial = chosen[:: max(1, len(chosen) // 4)]
    sizes = [s for s in (1, 4, 8) if s <= count] or [1]
    times = {size: min(timer(lambda s=size: run_plain(trial, s)) for _ in range(2)) for size in sizes}
    best = min(times, key=times.__getitem__)
    part = sum(macs[c] for c in chosen) / sum(macs)
    plain_s = timer(lambda: run_plain(chosen[::2], best, plain_logits))
    tree_s = timer(run_tree)
    plain_s += timer(lambda: run_plain(chosen[1::2], best, plain_logits))
    agreement, difference = compare(plain_logits[chosen], tree_logits[chosen])
    report = {
        "model": model,
        "attr": attributes,
        "device": torch.cuda.get_device_name(target)
        if target.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "precision": precision,
        "torch": torch.__version__,
        "images": count,
        "configs": len(space),
        "plain_configs": len(chosen),
        "plain_batch": best,
        "plain_s": plain_s / part,
        "tree_s": tree_s,
        "ratio": plain_s / part / tree_s,
        "macs_ratio": sum(macs) / shared.macs,
        "top1_agreement": agreement,
        "max_logit_difference": difference,
    }
    if not as_json:
        click.echo(
            f"{model} {attributes}: {report['ratio']:.2f}x the plain loop (batch {best}; {len(chosen)} of {len(space)} "
            f"configurations), {report['macs_ratio']:.2f}x fewer MACs, top-1 agreement {agreement:.4f}, "
            f"logits within {difference:.1e}"
        )
    click.echo(json.dumps(report))
    if agreement < 1.0 or not difference < (1e-4 if precision == "fp32" else 0.1):
        raise SystemExit("the tree and the plain loop disagree")


if __name__ == "__main__":
    main()
