"""One training run: epochs of steps, a checkpoint after each, a log, and the same weights after a kill as without one.

What a step computes is given to it (`Objective`); it knows nothing of configurations.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from itd.errors import DataError, ItdError, ModelError
from itd.store.manifest import differences
from itd.training.data import TrainingSet, random_seed
from itd.training.run_files import RunFiles, replacing

LOG_COLUMNS = ("epoch", "step", "configs", "lr", "loss")

Part = tuple[str, Callable[[], Tensor]]
"""What a part of a step is called, and what computes its loss: a scalar whose gradient is added to the others'."""

Objective = Callable[[nn.Module, Tensor, Tensor, int], Sequence[Part]]
"""(network, pixels: (batch, 3, H, W), labels: (batch,), number of the step) -> the parts of the step's loss."""


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
        for name, value, least in (("epochs", self.epochs, 1), ("batch-size", self.batch_size, 1)):
            if value < least:
                raise ItdError(f"--{name} {value} is not allowed; give at least {least}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ItdError(f"--lr {self.lr:g} is not allowed; give a number above 0, as in 0.001")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ItdError(f"no such precision: {self.precision!r}; allowed for training are fp32, bf16 and fp16")
        if self.shape not in SHAPES:
            raise ItdError(f"no such --schedule: {self.shape!r}; allowed are {', '.join(SHAPES)}")
        if self.shape != "step" and self.milestones is not None:
            raise ItdError(f"--milestones are for --schedule step, not {self.shape}; leave them out")
        if self.bn not in ("train", "frozen"):
            raise ItdError(f"no such --bn: {self.bn!r}; allowed are train and frozen")

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


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun."""

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Ranks:
        """Joins the process group that torchrun's environment names, if it does."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(torch.distributed.get_rank(), count)


def train(
    model: nn.Module,
    data: TrainingSet,
    schedule: Schedule,
    objective: Objective,
    files: RunFiles,
    identity: Mapping[str, Any],
    *,
    device: torch.device,
    workers: int = 0,
    progress: Callable[[int, float], Any] | None = None,
    on_epoch: Callable[[int, int, float], Any] | None = None,
) -> None:
    """Trains `model` in place, going on from the checkpoint of the same run where there is one.

    objective: the parts of each step's loss; their gradients are added. identity: what makes two runs the same.
    progress: told (steps done, loss). on_epoch: told (epochs done, images seen, the last one's mean loss in this
    process) before its checkpoint; it may run the model. Each process of torchrun calls this; the first one writes,
    and is told, while the others wait.

    Raises ItdError where a loss is not finite, naming the part, and for a checkpoint of another run; what the last
    whole epoch left is kept.
    """
    ranks = Ranks.joined(device)
    steps = data.steps(schedule.batch_size, ranks.count)
    model.to(device).to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=schedule.precision == "fp16")
    told = json.loads(json.dumps({**identity, "schedule": asdict(schedule), "processes": ranks.count}))
    first = _resume(files, told, model, optimizer, scaler, device)
    network = DistributedDataParallel(model) if ranks.count > 1 else model
    log = _Log(files.log, first * steps) if ranks.rank == 0 else None
    for epoch in range(first, schedule.epochs):
        torch.manual_seed(random_seed(schedule.seed, epoch, ranks.rank))  # of dropout
        set_training(model, schedule.bn)
        batches = data.epoch(
            epoch, schedule.batch_size, rank=ranks.rank, ranks=ranks.count, workers=workers,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        epoch_loss = 0.0
        for place, (pixels, labels) in enumerate(batches):
            number = epoch * steps + place
            lr = schedule.lr_at(number, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            pixels = pixels.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            parts = objective(network, pixels, labels.to(device, non_blocking=True), number)
            loss, names = _step(network, parts, optimizer, scaler, schedule, device, number)
            epoch_loss += loss / steps
            if log is not None:
                log.add(epoch, number, names, lr, loss)
            if progress is not None:
                progress(number + 1, loss)
        if ranks.rank == 0:
            if on_epoch is not None:
                on_epoch(epoch + 1, (epoch + 1) * steps * ranks.count * schedule.batch_size, epoch_loss)
            _save(files, told, epoch + 1, model, optimizer, scaler)
    model.eval()


def _step(
    network: nn.Module,
    parts: Sequence[Part],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    schedule: Schedule,
    device: torch.device,
    number: int,
) -> tuple[float, str]:
    """One step of the optimizer on the sum of the parts; (its loss, the parts' names)."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(schedule.precision)
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for place, (name, compute) in enumerate(parts):
        last = place == len(parts) - 1
        alone = isinstance(network, DistributedDataParallel) and not last
        with network.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = compute()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"the loss of step {number} is {value} at configuration {name}; the weights of the last whole "
                    "epoch are kept in the checkpoint; give a smaller --lr, or --precision fp32"
                )
            scaler.scale(loss).backward()
        total += value
    scaler.step(optimizer)
    scaler.update()
    return total, " | ".join(name for name, _ in parts)


def set_training(model: nn.Module, bn: str) -> None:
    """Training mode; with bn `frozen` every batch normalisation keeps to the statistics that it has."""
    model.train()
    if bn == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def has_folded_bn(model: nn.Module) -> bool:
    """Whether every batch normalisation has mean 0 and variance 1: they were folded into the convolutions."""
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    return bool(norms) and all(
        bool((n.running_mean == 0).all()) and bool(((n.running_var - 1).abs() < 1e-4).all())  # type: ignore[union-attr, operator]
        for n in norms
    )


def _resume(
    files: RunFiles,
    told: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> int:
    """Loads the checkpoint of the same run; how many epochs are done."""
    if not files.checkpoint.exists():
        return 0
    try:
        found = torch.load(files.checkpoint, map_location=device, weights_only=True)
        there = json.loads(found["identity"])
    except Exception as error:  # torch raises a dozen unrelated types on a damaged file
        raise DataError(
            f"{files.checkpoint} is not a checkpoint of a run ({error}); delete it to begin anew"
        ) from error
    lines = [f"{name} is {a}, given {b}" for name, a, b in differences(there, told)]
    if lines:
        raise DataError(
            f"{files.checkpoint} is of another run: {'; '.join(lines)}; give another --out, delete it, or give the "
            "options that it was made with"
        )
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    scaler.load_state_dict(found["scaler"])
    return int(found["epochs"])


def _save(
    files: RunFiles,
    told: Mapping[str, Any],
    epochs: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    state = {
        "identity": json.dumps(told),
        "epochs": epochs,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }
    with replacing(files.checkpoint) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


class _Log:
    """The log of a run; what stands beyond the steps that are done is cut off."""

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        rows = []
        if steps_done and path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))[:steps_done]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, epoch: int, step: int, configs: str, lr: float, loss: float) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([epoch, step, configs, f"{lr:g}", repr(loss)])
