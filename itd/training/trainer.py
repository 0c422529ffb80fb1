"""One training run: epochs of steps, a checkpoint after each, a log, and the same weights after a kill as without one.

What a step computes is given to it (`Objective`); it knows nothing of configurations.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from itd.checked import BadJson, anything, file_size, mapping, parse_json, text, whole
from itd.device import current, is_out_of_memory
from itd.errors import DataError, ItdError, MemoryShortageError, ModelError
from itd.files import write_atomic
from itd.store.identity import differences
from itd.text import first_line, one_line
from itd.training.data import TrainingSet, random_seed
from itd.training.run_files import RunFiles, disk_errors
from itd.training.schedule import Schedule
from itd.weights.archives import check_archive
from itd.weights.files import require_tensors

LOG_COLUMNS = ("epoch", "step", "configs", "lr", "loss")
_MOST_LOG_BYTES = 2**30

LossTerm = tuple[str, Callable[[], Tensor]]
"""What a term of a step's loss is called, and what computes it: a scalar whose gradient is added to the others'."""

Objective = Callable[[nn.Module, Tensor, Tensor, int], Sequence[LossTerm]]
"""(network, pixels: (batch, 3, H, W), labels: (batch,), number of the step) -> the terms of the step's loss."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of torchrun."""

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> ProcessGroup:
        """Joins the process group that torchrun's environment names, if it does."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(torch.distributed.get_rank(), count)


def run_training(
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
    layout: torch.memory_format = torch.channels_last,
) -> None:
    """Trains `model` in place, going on from the checkpoint of the same run where there is one.

    Each process of torchrun calls this; the first one writes, and is called back, while the others wait.

    Args:
        model: what is trained.
        data: training images.
        schedule: how it is trained.
        objective: the terms of each step's loss; their gradients are added.
        files: where the run writes.
        identity: what makes two runs the same.
        device: where it runs.
        workers: processes that decode.
        progress: called with (steps done, loss).
        on_epoch: called with (epochs done, images seen, the last one's mean loss in this process) before its
            checkpoint; it may run the model.
        layout: of weights and images in memory, as of `itd.patcher.registry.layout_of`.

    Raises:
        ItdError: where a loss is not finite, naming the term, where the memory or the disk is full, and for a
            checkpoint of another run; what the last whole epoch left is kept.
    """
    group = ProcessGroup.joined(device)
    steps = data.steps(schedule.batch_size, group.count)
    model.to(device).to(memory_format=layout)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=schedule.precision == "fp16")
    run = json.loads(json.dumps({**identity, "schedule": asdict(schedule), "processes": group.count}))
    first = _resume(files, run, model, optimizer, scaler, device)
    network = DistributedDataParallel(model) if group.count > 1 else model

    def step(number: int, pixels: Tensor, labels: Tensor) -> tuple[float, str, float]:
        lr = _set_rate(optimizer, schedule.lr_at(number, steps))
        with _enough_memory(number, number >= steps, schedule, device):
            pixels = pixels.to(device, non_blocking=True).contiguous(memory_format=layout)
            terms = objective(network, pixels, labels.to(device, non_blocking=True), number)
            loss, names = _step(network, terms, optimizer, scaler, schedule, device, number)
        if progress is not None:
            progress(number + 1, loss)
        return lr, names, loss

    with current(device), _Log(files.log if group.rank == 0 else None, first * steps) as log:
        for epoch in range(first, schedule.epochs):
            torch.manual_seed(random_seed(schedule.seed, epoch, group.rank))  # of dropout
            set_training(model, schedule.bn)
            epoch_loss = 0.0
            images = data.epoch(
                epoch, schedule.batch_size, rank=group.rank, ranks=group.count, workers=workers,
                pin_memory=device.type == "cuda",
            )  # fmt: skip
            with contextlib.closing(images) as batches:  # which ends its workers, whoever holds the error that came
                for number, (pixels, labels) in enumerate(batches, epoch * steps):
                    lr, names, loss = step(number, pixels, labels)
                    log.add(epoch, number, names, lr, loss)
                    epoch_loss += loss / steps
            if group.rank == 0:
                if on_epoch is not None:
                    on_epoch(epoch + 1, (epoch + 1) * steps * group.count * schedule.batch_size, epoch_loss)
                log.write()
                _save(files, run, epoch + 1, model, optimizer, scaler)
    model.eval()


@contextlib.contextmanager
def _enough_memory(number: int, kept: bool, schedule: Schedule, device: torch.device) -> Iterator[None]:
    """Out of memory inside the block becomes one line: half a batch has other statistics, so it is never halved.

    number: of the step. kept: whether there is a checkpoint.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"out of memory on {device} in step {number}, with batches of {schedule.batch_size} images "
            f"({first_line(error)}); a smaller batch would be another training, so it is not made smaller by itself: "
            "give a smaller `batch_size` and another `out`, or another `device`"
            f"{'; the weights of the last whole epoch are kept in the checkpoint' if kept else ''}"
        ) from error


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for parameters in optimizer.param_groups:
        parameters["lr"] = lr
    return lr


def _step(
    network: nn.Module,
    terms: Sequence[LossTerm],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    schedule: Schedule,
    device: torch.device,
    number: int,
) -> tuple[float, str]:
    """One step of the optimizer on the sum of the terms; (its loss, the terms' names)."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(schedule.precision)
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for place, (name, compute) in enumerate(terms):
        last = place == len(terms) - 1
        alone = isinstance(network, DistributedDataParallel) and not last
        with network.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = compute()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"the loss of step {number} is {value} at configuration {name}; the weights of the last whole "
                    "epoch are kept in the checkpoint; give a smaller `lr`, or `precision=fp32`"
                )
            scaler.scale(loss).backward()
        total += value
    scaler.step(optimizer)
    scaler.update()
    return total, " | ".join(name for name, _ in terms)


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
    run: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> int:
    """Loads the checkpoint of the same run; how many epochs are done."""
    if not files.checkpoint.exists():
        return 0
    try:
        check_archive(files.checkpoint)  # torch compares nothing with its checksums
        found = torch.load(files.checkpoint, map_location=device, weights_only=True)
        there = parse_json(found["identity"], mapping(text, anything))
    except Exception as error:  # torch raises a dozen unrelated types on a damaged file
        raise _no_checkpoint(files, one_line(error)) from error
    lines = [f"{name} is {a}, given {b}" for name, a, b in differences(there, run)]
    if lines:
        raise DataError(
            f"{files.checkpoint} is of another run: {'; '.join(lines)}; give another `out`, delete it, or give the "
            "options that it was made with"
        )
    try:
        whole(1, run["schedule"]["epochs"])(found.get("epochs"), "epochs")
        require_tensors(files.checkpoint, found["model"])
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        scaler.load_state_dict(found["scaler"])
        for parameter, state in optimizer.state.items():
            shapes = {value.shape for value in state.values() if isinstance(value, Tensor)}
            if shapes - {parameter.shape}:
                raise BadJson("the optimizer's state has other shapes than the network")
    except Exception as error:  # of values of other types, shapes and names, as above
        raise _no_checkpoint(files, one_line(error)) from error
    return int(found["epochs"])


def _no_checkpoint(files: RunFiles, why: str) -> DataError:
    return DataError(f"{files.checkpoint} is not a checkpoint of a run ({why}); delete it to begin anew")


def _save(
    files: RunFiles,
    run: Mapping[str, Any],
    epochs: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    state = {
        "identity": json.dumps(run),
        "epochs": epochs,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }
    data = io.BytesIO()  # into a file on a full disk torch raises errors that say nothing of the disk
    torch.save(state, data)
    with disk_errors(files.checkpoint):
        write_atomic(files.checkpoint, data.getbuffer())


class _Log:
    """The log of a run, written whole at the end of each epoch, and where an error ends one.

    path: None where nothing is written. steps_done: what stands beyond them is cut off.
    """

    def __init__(self, path: Path | None, steps_done: int) -> None:
        self.path, self.text = path, io.StringIO(newline="")
        rows = []
        if path is not None and steps_done and path.exists():
            try:
                file_size(path, _MOST_LOG_BYTES)
                with open(path, newline="", encoding="utf-8") as file:
                    rows = list(itertools.islice(csv.DictReader(file), steps_done))
            except (csv.Error, ValueError, OSError) as error:
                raise DataError(f"{path} is not the log of a run ({one_line(error)}); move it away") from error
        writer = csv.DictWriter(self.text, LOG_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)

    def __enter__(self) -> _Log:
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(ItdError):  # of a disk that is full it was said already
                self.write()

    def add(self, epoch: int, step: int, configs: str, lr: float, loss: float) -> None:
        """A line, which `write` writes."""
        csv.writer(self.text).writerow([epoch, step, configs, f"{lr:g}", repr(loss)])

    def write(self) -> None:
        """Puts what there is in the place of the file; DataError where that cannot be."""
        if self.path is not None:
            with disk_errors(self.path):
                write_atomic(self.path, self.text.getvalue())
