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
from functools import partial
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.device import resolve_device
from itd.engine.executor import Sink
from itd.engine.plain import PlainExecutor
from itd.engine.precision import Precision
from itd.engine.program import compile_program
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor, default_batch_size
from itd.errors import ItdError
from itd.patcher import DynamicModel, build_model, patch
from itd.runner.network import possible_space
from itd.runner.request import SweepRequest
from itd.weights.load import apply_weights, load_weights


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
    """`wanted` of `count` configurations, evenly spread."""
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


class Bench:
    """One network, one space, the same pixels for both executors, and what each of them answered."""

    def __init__(self, request: SweepRequest, count: int, plain_configs: int) -> None:
        self.request, self.count, self.device = request, count, resolve_device(request.device)
        model = self._model()
        traced, shape = trace(model), (3, request.crop_px or 224, request.crop_px or 224)
        self.space, self.plain_costs = possible_space(traced, request.space_of(model, tuple("ABCD")), shape)
        precision = Precision(request.precision, str(self.device))
        program = compile_program(traced, self.space, device=self.device, precision=precision)
        self.tree_macs = program.prefix_costs(shape).macs
        self.plain = PlainExecutor(model, self.space, device=self.device, precision=precision)
        self.tree = TreeExecutor(program)
        self.pixels = load_pixels(request.data, count, request.crop_px or 224)
        self.chosen = spread(len(self.space), plain_configs or len(self.space))
        self.logits = {
            name: torch.zeros(len(self.space), count, 1000, device=self.device) for name in ("plain", "tree")
        }
        self.timer = Timer(self.device)

    def _model(self) -> DynamicModel:
        torch.manual_seed(0)
        network = build_model(self.request.model, 1000)
        if self.request.weights is None:
            random_statistics(network)
        else:
            apply_weights(network, load_weights(self.request.model, self.request.weights))
        return patch(network, self.request.model)

    def _keep(self, name: str, first: int) -> Sink:
        def sink(configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
            at = torch.from_numpy(np.stack([configs, images + first])).to(self.device)
            self.logits[name][at[0], at[1]] = logits.float()

        return sink

    def run_plain(self, configs: list[int], size: int) -> None:
        for first in range(0, self.count, size):
            self.plain.run(self.pixels[first : first + size], self._keep("plain", first), configs)

    def run_tree(self) -> None:
        size = self.request.batch_size or default_batch_size(self.device)
        for first in range(0, self.count, size):
            self.tree.run(self.pixels[first : first + size], self._keep("tree", first))

    def best_batch(self) -> int:
        """The fastest of the plain loop's batch sizes on a few configurations; both executors are warm after it."""
        self.tree.run(self.pixels[:1], lambda *_: None)
        trial = self.chosen[:: max(1, len(self.chosen) // 4)]
        sizes = [size for size in (1, 4, 8) if size <= self.count] or [1]
        self.run_plain(trial, sizes[-1])
        times = {size: min(self.timer(partial(self.run_plain, trial, size)) for _ in range(2)) for size in sizes}
        return min(times, key=times.__getitem__)

    def report(self) -> dict[str, Any]:
        """Run both and compare them."""
        macs = [m for m in self.plain_costs.per_config if m is not None]
        batch = self.best_batch()
        plain_s = self.timer(partial(self.run_plain, self.chosen[::2], batch))
        tree_s = self.timer(self.run_tree)
        plain_s += self.timer(partial(self.run_plain, self.chosen[1::2], batch))
        plain_s *= sum(macs) / sum(macs[c] for c in self.chosen)
        agreement, difference = compare(self.logits["plain"][self.chosen], self.logits["tree"][self.chosen])
        cuda = self.device.type == "cuda"
        return {
            "model": self.request.model,
            "attr": self.request.attributes,
            "device": torch.cuda.get_device_name(self.device) if cuda else f"cpu, {torch.get_num_threads()} threads",
            "precision": self.request.precision,
            "torch": torch.__version__,
            "images": self.count,
            "configs": len(self.space),
            "plain_configs": len(self.chosen),
            "plain_batch": batch,
            "plain_s": plain_s,
            "tree_s": tree_s,
            "ratio": plain_s / tree_s,
            "macs_ratio": sum(macs) / self.tree_macs,
            "top1_agreement": agreement,
            "max_logit_difference": difference,
        }


@click.command()
@click.option("--model", required=True)
@click.option("--attr", "attributes", required=True)
@click.option("--images", "count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--options", multiple=True)
@click.option("--crop", "crop_px", default=224, show_default=True)
@click.option("--device", default=None)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--weights", default=None, help="A file or enum name; default seeded random weights.")
@click.option("--data", default=None, help="A folder of images; default seeded random images.")
@click.option("--batch-size", default=None, type=int, help="Images in the tree at once; default the sweep's own.")
@click.option("--plain-configs", default=24, show_default=True, help="Configurations of the plain loop; 0 is all.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON.")
def main(count: int, plain_configs: int, as_json: bool, **asked: Any) -> None:
    """Time the plain loop and the tree on the same work, and check that they agree."""
    try:
        report = Bench(SweepRequest(**asked), count, plain_configs).report()
    except ItdError as error:
        raise SystemExit(f"sweep.py: error: {error}") from error
    if not as_json:
        click.echo(
            "{model} {attr}: {ratio:.2f}x the plain loop (batch {plain_batch}; {plain_configs} of {configs} "
            "configurations), {macs_ratio:.2f}x fewer MACs, top-1 agreement {top1_agreement:.4f}, logits within "
            "{max_logit_difference:.1e}".format(**report)
        )
    click.echo(json.dumps(report))
    allowed = 1e-4 if report["precision"] == "fp32" else 0.1
    if report["top1_agreement"] < (1.0 if report["precision"] == "fp32" else 0.9) or not (
        report["max_logit_difference"] < allowed
    ):
        raise SystemExit("the tree and the plain loop disagree")


if __name__ == "__main__":
    main()
