"""How a network is trained: SGD with momentum, and how its learning rate goes. Nothing is trained here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from itd.errors import ItdError

SHAPES = ("step", "cosine", "onecycle")


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum, and how its learning rate goes.

    shape: of the learning rate. `step` divides it by ten after each milestone (the ITD paper's appendix: 15 epochs at
    0.001, 0.0001 after 10); `cosine` falls to zero along half a cosine; `onecycle` rises from lr / 25 to lr over the
    first 30% of the steps and falls to lr / 250,000, both along half a cosine (Smith and Topin, Super-convergence,
    2018, as `torch.optim.lr_scheduler.OneCycleLR` has it, its momentum left alone).
    milestones: epochs done before each division; by default after two thirds of the epochs. precision: of the forward
    pass: fp32, bf16 or fp16. bn: `train`, or `frozen` for normalisation with the statistics that the weights have.
    """

    epochs: int = 15
    lr: float = 0.001
    milestones: tuple[int, ...] | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    precision: str = "fp32"
    bn: str = "train"
    seed: int = 0
    shape: str = "step"

    def __post_init__(self) -> None:
        for name, value, least in (("epochs", self.epochs, 1), ("batch_size", self.batch_size, 1)):
            if value < least:
                raise ItdError(f"`{name}={value}` is not allowed; give at least {least}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ItdError(f"`lr={self.lr:g}` is not allowed; give a number above 0, as in 0.001")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ItdError(f"no such precision: {self.precision!r}; allowed for training are fp32, bf16 and fp16")
        if self.shape not in SHAPES:
            raise ItdError(f"no such `shape`: {self.shape!r}; allowed are {', '.join(SHAPES)}")
        if self.shape != "step" and self.milestones is not None:
            raise ItdError(f"`milestones` are for `shape=step`, not {self.shape}; leave them out")
        if self.bn not in ("train", "frozen"):
            raise ItdError(f"no such `bn`: {self.bn!r}; allowed are train and frozen")

    @property
    def steps_down(self) -> tuple[int, ...]:
        """The milestones."""
        return (max(1, round(self.epochs * 2 / 3)),) if self.milestones is None else self.milestones

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of a step. steps: of an epoch; both counted from the beginning of the run.

        >>> [Schedule().lr_at(epoch * 7, 7) for epoch in (0, 9, 10, 14)]
        [0.001, 0.001, 0.0001, 0.0001]
        """
        if self.shape == "step":
            return self.lr / 10 ** sum(step // steps >= m for m in self.steps_down)
        last = self.epochs * steps - 1
        if self.shape == "cosine":
            return _half_cosine(self.lr, 0.0, step / (last + 1))
        top = 0.3 * (last + 1) - 1
        if step <= top:
            return _half_cosine(self.lr / 25, self.lr, step / top)
        return _half_cosine(self.lr, self.lr / 250_000, (step - top) / (last - top) if last > top else 1.0)


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
