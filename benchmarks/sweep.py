"""The loop a user would write against the sweep's engine: same images, weights, device and precision, in one run.

    python benchmarks/sweep.py --model resnet50 --attr dilation --images 4
    python benchmarks/sweep.py --model resnet50 --attr dilation --precision bf16 --against fp32
    python benchmarks/sweep.py --model resnet50 --attr dilation --device cuda --precision bf16 --images 256

Prints lines to read, then, as the last line of stdout, JSON. On a shared machine only ratios and shares mean much.

The plain loop is in its best setting (`plain_loop.py`): images decoded once and on the device, inference mode, and the
fastest of several batch sizes, layouts and, on a GPU, autocast, `cudnn.benchmark` and torch.compile, tried on a few
configurations. It may run a subset of the configurations, spread over their MACs from a random start; `plain_s` is then
its time x MACs of all / MACs of the subset, and `ratio_low` to `ratio_high` the 95% interval that this extrapolation
leaves (`extrapolation.py`). `--plain-configs 0` runs all, which is what to quote.
Both are warmed up first, on a GPU with batches of the sizes that are timed. The two are run in turn (plain half, tree,
plain half), so that a machine that drifts does so for both.

`share`: multiply-accumulates of the reference tree (`reference.py`), two operations each, over the tree's time, as a
share of the rate of a matrix product in the same format, measured before and after (the better counts). `--against`:
the tree in another format before and after, `against_ratio` its time over the tree's. `top1_agreement` is of the rows
whose two top logits are 1e-3 of the logits' scale apart in fp32, and must be 1; else 1e-2 apart, and at least 0.99.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
import torch
from extrapolation import drawn, extrapolate
from plain_loop import PlainLoop
from rates import Timer, copy_bytes_per_s, device_name, matrix_flops, peak_bytes
from reference import reference_macs
from torch import Tensor, nn

from itd.data.loader import batches
from itd.data.open import open_images
from itd.data.preprocess import Preprocess
from itd.device import resolve_device
from itd.engine.executor import Sink
from itd.engine.precision import PRECISIONS, Precision
from itd.engine.program import compile_program
from itd.engine.tracing import trace
from itd.engine.tree import TreeExecutor, default_batch_size
from itd.errors import ItdError
from itd.patcher import DynamicModel, build_model, patch
from itd.runner.allocation import keep_freed_memory
from itd.runner.network import possible_space
from itd.runner.request import SweepRequest
from itd.weights.load import apply_weights, load_weights

CLEAR = {"fp32": 1e-3}
"""How far apart two top logits are that the tree and the plain loop must agree on, of the logits' scale."""
CLEAR_ROUNDED = 1e-2
AGREEMENT, AGREEMENT_ROUNDED = 1.0, 0.99
DIFFERENCE, DIFFERENCE_ROUNDED = 1e-4, 0.1
COMPILED_CONFIGS = 3


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


def compare(plain: Tensor, tree: Tensor, clear: float = CLEAR["fp32"]) -> tuple[float, float, int]:
    """(top-1 agreement among clear predictions, largest difference of logits, how many are clear).

    clear: how far the plain loop's two top logits are apart. It and the difference are shares of the logits' scale.
    """
    scale = plain.abs().amax(-1)
    top = plain.topk(2).values
    rows = (top[..., 0] - top[..., 1]) > clear * scale
    same = (plain.argmax(-1) == tree.argmax(-1))[rows]
    difference = ((plain - tree).abs().amax(-1) / scale).max()
    return float(same.float().mean()) if rows.any() else 1.0, float(difference), int(rows.sum())


class Bench:
    """One network, one space, the same pixels for both executors, and what each of them answered.

    logits["plain"]: (timed configurations, N, 1000); logits["tree"]: (C, N, 1000). compiled_configs: on how
    many torch.compile is tried, on a GPU. small: for tests of the benchmark.
    """

    def __init__(
        self,
        request: SweepRequest,
        count: int,
        plain_configs: int,
        *,
        compiled_configs: int = COMPILED_CONFIGS,
        small: bool = False,
    ) -> None:
        self.request, self.count, self.device = request, count, resolve_device(request.device)
        self.small, self.compiled_configs, self.timer = small, compiled_configs, Timer(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()  # as a sweep does; for the plain loop as well
        self.batch_size = min(count, request.batch_size or default_batch_size(self.device))
        model = self._model()
        px = request.crop_px or 224
        self.traced, shape = trace(model), (3, px, px)
        self.space, self.plain_costs = possible_space(self.traced, request.space_of(model, tuple("ABCD")), shape)
        self.precision = Precision(request.precision, str(self.device))
        self.reference_macs = reference_macs(self.traced, self.space, shape)
        self.tree = self.tree_in(self.precision)
        self.tree_macs = self.tree.program.prefix_costs(shape).macs
        self.pixels = load_pixels(request.data, count, px)
        self.plain = PlainLoop(model, self.space, self.pixels, self.device, self.precision)
        self.plain_macs = [m for m in self.plain_costs.per_config if m is not None]
        self.chosen = drawn(self.plain_macs, plain_configs or len(self.space))
        self.logits = {"plain": self._no_logits(len(self.chosen)), "tree": self._no_logits(len(self.space))}

    def _model(self) -> DynamicModel:
        torch.manual_seed(0)
        network = build_model(self.request.model, 1000)
        if self.request.weights is None:
            random_statistics(network)
        else:
            apply_weights(network, load_weights(self.request.model, self.request.weights))
        return patch(network, self.request.model)

    def _no_logits(self, configs: int) -> Tensor:
        return torch.zeros(configs, self.count, 1000, device=self.device)

    def tree_in(self, precision: Precision) -> TreeExecutor:
        """The tree of the space in a number format."""
        return TreeExecutor(compile_program(self.traced, self.space, device=self.device, precision=precision))

    def run_tree(self, tree: TreeExecutor, logits: Tensor, count: int | None = None) -> None:
        """All configurations on the first `count` images, or on all. logits: (C, N, 1000), where they are put."""

        def keep(first: int) -> Sink:
            def sink(configs: np.ndarray, images: np.ndarray, values: Tensor) -> None:
                at = torch.from_numpy(np.stack([configs, images + first])).to(self.device)
                logits[at[0], at[1]] = values.float()

            return sink

        for first in range(0, count or self.count, self.batch_size):
            tree.run(self.pixels[first : min(first + self.batch_size, count or self.count)], keep(first))

    def warm(self, tree: TreeExecutor, logits: Tensor) -> None:
        """On a GPU a batch of the size that is timed, and what is left after whole ones; on a CPU one image."""
        if self.device.type == "cpu":
            return self.run_tree(tree, logits, 1)
        self.run_tree(tree, logits, self.batch_size)
        if rest := self.count % self.batch_size:
            self.run_tree(tree, logits, rest)
        return None

    def time_tree(self) -> dict[str, Any]:
        """The tree alone, with the device's rates before and after it."""
        self.warm(self.tree, self.logits["tree"])
        side, size = (128, 1 << 16) if self.small else (None, None)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        rates = [matrix_flops(self.precision, self.device, side)]
        tree_s = self.timer(lambda: self.run_tree(self.tree, self.logits["tree"]))
        peak = peak_bytes(self.device)
        rates.append(matrix_flops(self.precision, self.device, side))
        flops = 2 * self.reference_macs * self.count / tree_s
        return {
            "tree_s": tree_s,
            "images_per_s": self.count / tree_s,
            "reference_macs": self.reference_macs,
            "tree_macs": self.tree_macs,
            "tree_flops": flops,
            "matrix_flops": max(rates),
            "share": flops / max(rates),
            "copy_bytes_per_s": copy_bytes_per_s(self.device, size),
            "peak_bytes": peak,
        }

    def report(self) -> dict[str, Any]:
        """Run both and compare them."""
        macs = self.plain_macs
        trial = self.chosen[:: max(1, len(self.chosen) // 4)]
        way = self.plain.best_way(trial)
        speedup, compiled = 1.0, "not tried"
        if self.device.type == "cuda":
            speedup, compiled = self.plain.compiled_speedup(trial[: self.compiled_configs], way)
            self.plain.warm(self.chosen, way)
        order = [*range(0, len(self.chosen), 2), *range(1, len(self.chosen), 2)]
        seconds, logits = dict.fromkeys(order, 0.0), self.logits["plain"]
        half, tree = len(order[::2]), {}
        for done, i in enumerate(order):
            if done == half:
                tree = self.time_tree()
            seconds[i] = self.plain.time(self.chosen[i], way, logits[i]) / speedup
        tree = tree or self.time_tree()
        told = extrapolate([seconds[i] for i in range(len(order))], self.chosen, macs)
        agreement, difference, clear = compare(logits, self.logits["tree"][self.chosen], self._clear())
        return {
            **self.what(),
            "plain_configs": len(self.chosen),
            "plain_batch": way.batch,
            "plain_way": str(way),
            "plain_compiled": compiled,
            "plain_s": told.total_s,
            **tree,
            "ratio": told.total_s / tree["tree_s"],
            "ratio_low": told.low_s and told.low_s / tree["tree_s"],
            "ratio_high": told.high_s and told.high_s / tree["tree_s"],
            "half_error": told.half_error,
            "macs_ratio": sum(macs) / self.tree_macs,
            "top1_agreement": agreement,
            "clear_rows": clear,
            "max_logit_difference": difference,
        }

    def what(self) -> dict[str, Any]:
        """What is measured, and on what."""
        return {
            "model": self.request.model,
            "attr": self.request.attributes,
            "device": device_name(self.device),
            "precision": self.request.precision,
            "torch": torch.__version__,
            "images": self.count,
            "batch_size": self.batch_size,
            "configs": len(self.space),
        }

    def _clear(self) -> float:
        return CLEAR.get(self.request.precision, CLEAR_ROUNDED)

    def against(self, name: str) -> dict[str, Any]:
        """The tree in another number format against the tree: other, tree, other, in turn."""
        other = self.tree_in(Precision(name, str(self.device)))
        logits = self._no_logits(len(self.space))
        self.warm(other, logits)
        times = [self.timer(lambda: self.run_tree(other, logits))]
        tree_s = self.timer(lambda: self.run_tree(self.tree, self.logits["tree"]))
        times.append(self.timer(lambda: self.run_tree(other, logits)))
        same = (logits.argmax(-1) == self.logits["tree"].argmax(-1)).float().mean()
        agreement, _, clear = compare(logits, self.logits["tree"], max(CLEAR_ROUNDED, self._clear()))
        return {
            "against": name,
            "against_s": sum(times) / 2,
            "against_ratio": sum(times) / 2 / tree_s,
            "against_top1_agreement": agreement,
            "against_clear_rows": clear,
            "against_top1_all_rows": float(same),
        }


def wrong(report: dict[str, Any]) -> bool:
    """Whether the tree and the plain loop disagree more than rounding explains."""
    exact = report["precision"] == "fp32"
    enough, allowed = (AGREEMENT, DIFFERENCE) if exact else (AGREEMENT_ROUNDED, DIFFERENCE_ROUNDED)
    return report["top1_agreement"] < enough or not report["max_logit_difference"] < allowed


def sentences(report: dict[str, Any]) -> str:
    """What a report says, to read."""
    sure = "" if report["ratio_low"] is None else " ({ratio_low:.2f} to {ratio_high:.2f})"
    lines = [
        "{model} {attr} {precision}: {ratio:.2f}x" + sure + " the plain loop ({plain_way}; {plain_configs} of "
        "{configs} configurations), {macs_ratio:.2f}x fewer MACs",
        "top-1 agreement {top1_agreement:.4f} of {clear_rows} clear rows, logits within {max_logit_difference:.1e}",
        "{tree_g:.0f} GFLOP/s of the reference tree's, {share:.0%} of a matrix product's {matrix_g:.0f}; copies "
        "{copy_g:.1f} GB/s; {images_per_s:.3g} images/s; at most {peak_g:.1f} GB; torch.compile {plain_compiled}",
    ]  # fmt: skip
    if "against" in report:
        lines.append(
            "{precision} over {against}: {against_ratio:.2f}x, top-1 agreement {against_top1_agreement:.4f} of "
            "{against_clear_rows} clear rows, {against_top1_all_rows:.4f} of all"
        )
    giga = {f"{key}_g": report[name] / 1e9 for key, name in GIGA.items()}
    return "\n".join(lines).format(**report, **giga)


GIGA = {"tree": "tree_flops", "matrix": "matrix_flops", "copy": "copy_bytes_per_s", "peak": "peak_bytes"}


@click.command()
@click.option("--model", required=True)
@click.option("--attr", "attributes", required=True)
@click.option("--images", "count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--options", multiple=True)
@click.option("--crop", "crop_px", default=224, show_default=True)
@click.option("--device", default=None)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--against", type=click.Choice(PRECISIONS), help="Another number format, timed in the same run.")
@click.option("--weights", default=None, help="A file or enum name; default seeded random weights.")
@click.option("--data", default=None, help="A folder of images; default seeded random images.")
@click.option("--batch-size", default=None, type=int, help="Images in the tree at once; default the sweep's own.")
@click.option("--plain-configs", default=48, show_default=True, help="Configurations of the plain loop; 0 is all.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON.")
def main(count: int, plain_configs: int, against: str | None, as_json: bool, **asked: Any) -> None:
    """Time the plain loop and the tree on the same work, and check that they agree."""
    try:
        bench = Bench(SweepRequest(**asked), count, plain_configs)
        report = bench.report()
        if against is not None:
            report |= bench.against(against)
    except ItdError as error:
        raise SystemExit(f"sweep.py: error: {error}") from error
    if not as_json:
        click.echo(sentences(report))
    click.echo(json.dumps(report))
    if wrong(report):
        raise SystemExit("the tree and the plain loop disagree")


if __name__ == "__main__":
    main()
