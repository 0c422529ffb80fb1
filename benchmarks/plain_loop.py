"""The loop that a user would write, in its best setting: one forward of the patched network for each configuration.

What it may choose: images at once, channels-last or not, a network cast to the number format or autocast, cuDNN's own
search for the fastest algorithm, and torch.compile where it works. Tried one after the other on a few configurations.
Not a command: `sweep.py` times it against the tree.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from rates import Timer
from torch import Tensor, nn

from itd.device import is_out_of_memory
from itd.engine.precision import Precision
from itd.patcher import DynamicModel, logits_of
from itd.space import Space
from itd.text import first_line

BATCHES = {"cpu": (1, 4, 8), "cuda": (64, 128, 256, 512)}


@dataclass(frozen=True)
class Way:
    """How the loop runs. batch: images at once. tuned: with `torch.backends.cudnn.benchmark`."""

    batch: int
    channels_last: bool = True
    autocast: bool = False
    tuned: bool = False

    def __str__(self) -> str:
        parts = [f"batch {self.batch}", "channels-last" if self.channels_last else "contiguous"]
        return ", ".join(parts + ["autocast"] * self.autocast + ["cudnn.benchmark"] * self.tuned)


class PlainLoop:
    """Runs configurations one by one on images that are on the device already. pixels: (N, 3, H, W) float32."""

    def __init__(
        self, model: DynamicModel, space: Space, pixels: Tensor, device: torch.device, precision: Precision
    ) -> None:
        self.model, self.space, self.pixels = model, space, pixels
        self.device, self.precision, self.timer = device, precision, Timer(device)
        self._held: tuple[tuple[bool, bool], DynamicModel, Tensor] | None = None

    def time(self, config: int, way: Way, logits: Tensor | None = None) -> float:
        """Seconds of a configuration on all images. logits: (N, K), where they are put afterwards."""
        made: list[Tensor] = []
        with self._ready(config, way) as (network, pixels):
            batches = pixels.split(way.batch)
            seconds = self.timer(lambda: made.extend(logits_of(network(some)) for some in batches))
        if logits is not None:
            logits.copy_(torch.cat(made))
        return seconds

    def warm(self, configs: Sequence[int], way: Way) -> None:
        """One batch of each configuration, and one of what is left of the images."""
        for config in configs:
            with self._ready(config, way) as (network, pixels):
                for some in {len(some): some for some in pixels.split(way.batch)}.values():
                    network(some)

    def best_way(self, configs: Sequence[int]) -> Way:
        """The fastest on a few configurations: first how many images at once, then each of the other choices."""
        batches = [size for size in BATCHES[self.device.type] if size <= len(self.pixels)] or [len(self.pixels)]
        best = self._fastest([Way(size) for size in batches], configs)
        changes: list[dict[str, bool]] = []
        if self.device.type == "cuda":
            half = self.precision.dtype != torch.float32
            changes = [{"autocast": True}] * half + [{"channels_last": False}, {"tuned": True}]
        for change in changes:
            best = self._fastest([best, replace(best, **change)], configs)
        return best

    def _fastest(self, ways: Sequence[Way], configs: Sequence[int]) -> Way:
        times = {}
        for way in ways:
            try:
                self.warm(configs[-1:] if self.device.type == "cpu" else configs, way)
                times[way] = min(sum(self.time(config, way) for config in configs) for _ in range(2))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        return min(times, key=times.__getitem__) if times else ways[0]

    def compiled_speedup(self, configs: Sequence[int], way: Way, backend: str = "inductor") -> tuple[float, str]:
        """(how many times faster torch.compile is on some configurations, 1 where it is not; what became of it).

        Each configuration is a network of its own to the compiler, and its compilation is not counted.
        """
        plain = compiled = 0.0
        try:
            for config in configs:
                with self._ready(config, way) as (network, pixels):
                    torch._dynamo.reset()
                    fast = torch.compile(network, backend=backend, dynamic=False)
                    some = pixels[: way.batch]
                    compiled += self.timer.best(lambda fast=fast, some=some: fast(some), 3)
                    plain += self.timer.best(lambda network=network, some=some: network(some), 3)
        except Exception as error:  # a compiler may raise anything
            return 1.0, f"does not work: {first_line(error)}"
        finally:
            torch._dynamo.reset()
        return max(1.0, plain / compiled), f"{plain / compiled:.2f} times as fast on {len(configs)} configurations"

    @contextlib.contextmanager
    def _ready(self, config: int, way: Way) -> Iterator[tuple[nn.Module, Tensor]]:
        """The network at a configuration and the images, on the device, in the way's format and layout."""
        network, pixels = self._network(way)
        tuned = torch.backends.cudnn.benchmark
        cast = torch.autocast(self.device.type, self.precision.dtype, enabled=way.autocast)
        with torch.inference_mode(), self.precision.flags(), cast, network.configured(self.space.configs[config]):
            torch.backends.cudnn.benchmark = way.tuned
            try:
                yield network, pixels
            finally:
                torch.backends.cudnn.benchmark = tuned

    def _network(self, way: Way) -> tuple[DynamicModel, Tensor]:
        key = way.channels_last, way.autocast
        if self._held is None or self._held[0] != key:
            self._held = None
            layout = torch.channels_last if way.channels_last else torch.contiguous_format
            dtype = torch.float32 if way.autocast else self.precision.dtype
            network = copy.deepcopy(self.model).to(device=self.device, dtype=dtype, memory_format=layout)
            self._held = key, network, self.pixels.to(self.device, dtype).contiguous(memory_format=layout)
        return self._held[1], self._held[2]
