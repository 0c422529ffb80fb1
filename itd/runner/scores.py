"""From logits to the per-sample scores of a result. They stay on the device until a unit is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COLUMNS = ("pred", "quality", "nll", "rank", "confidence")


@dataclass(frozen=True)
class Scores:
    """Scores of logits (rows, K): pred, rank int16, quality, nll, confidence float32, finite bool, each (rows,)."""

    pred: Tensor
    quality: Tensor
    nll: Tensor
    rank: Tensor
    confidence: Tensor
    finite: Tensor


def score(logits: Tensor, labels: Tensor, kept: Tensor | None = None) -> Scores:
    """Score logits against labels (ITD paper, eq. 1: quality = p_y + 1[prediction == label]).

    logits: (rows, K), taken as float32. labels: (rows,) integer. kept: (K,) bool, the classes that are chosen among,
    None for all: the logits of others are minus infinity before anything but `finite`, and no label is one of them.
    Prediction: the lowest index among the largest logits. Rank: strictly larger logits, plus equal ones at lower
    indices; 0 exactly where the prediction is the label.

    >>> s = score(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1]))
    >>> int(s.pred), int(s.rank)
    (0, 1)
    """
    logits = logits.float()
    labels = labels.to(torch.int64)
    finite = torch.isfinite(logits).all(dim=1)
    logits = among(logits, kept)
    index = torch.arange(logits.shape[1], device=logits.device)
    top = logits.amax(dim=1, keepdim=True)
    pred = torch.where(logits == top, index, logits.shape[1] - 1).amin(dim=1)
    own = logits.gather(1, labels[:, None])
    rank = ((logits > own) | ((logits == own) & (index < labels[:, None]))).sum(dim=1)
    # log-softmax with the largest term left out of the sum, so that nll stays exact where p_y rounds to 1
    rest = (logits - top).exp().scatter(1, pred[:, None], 0.0).sum(dim=1)
    nll = torch.log1p(rest) + (top - own)[:, 0]
    return Scores(
        pred=pred.to(torch.int16),
        quality=(-nll).exp() + (pred == labels),
        nll=nll,
        rank=rank.to(torch.int16),
        confidence=1.0 / (1.0 + rest),
        finite=finite,
    )


def among(logits: Tensor, kept: Tensor | None) -> Tensor:
    """Logits (rows, K) with those of classes that are not kept, (K,) bool, at minus infinity; None keeps all."""
    return logits if kept is None else logits.masked_fill(~kept.to(logits.device), -torch.inf)


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device. A GPU's driver may wait for what it is doing before it takes memory that is not pinned."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class ScoreBuffer:
    """The scores of a unit of work: C configurations of n images, kept where they are computed, one unit after another.

    among: (K,) bool, as `kept` of `score`. What a unit left is overwritten by the next one, after `begin`.
    """

    def __init__(
        self, configs: int, labels: np.ndarray, device: torch.device | str, among: np.ndarray | None = None
    ) -> None:
        self.device, shape = torch.device(device), (configs, len(labels))
        self.among = None if among is None else torch.from_numpy(among).to(device)
        types = {"pred": torch.int16, "rank": torch.int16, "finite": torch.bool}
        self.columns = {
            name: torch.zeros(shape, dtype=types.get(name, torch.float32), device=device)
            for name in (*COLUMNS, "finite")
        }
        self._gpu = _HostCopy(self.columns, self.device) if self.device.type == "cuda" else None
        self.begin(labels)

    def begin(self, labels: np.ndarray) -> None:
        """A unit of as many images begins. labels: (n,)."""
        self.labels = sent(labels.astype(np.int64), self.device)
        self.columns["finite"].zero_()  # so that a row that is never added is none

    def add(self, configs: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
        """Score rows of logits (rows, K); configs, images: their numbers, (rows,)."""
        at = sent(np.stack([configs, images]), logits.device)
        scores = score(logits, self.labels[at[1]], self.among)
        for name, column in self.columns.items():
            column[at[0], at[1]] = getattr(scores, name)

    def end(self) -> None:
        """The unit's last rows were added, though a GPU may not have computed them yet. Of the thread that computes."""
        if self._gpu is not None:
            self._gpu.mark()

    def on_host(self) -> dict[str, np.ndarray]:
        """Every column as (C, n) numpy, `finite` among them, until the next unit begins; after `end`, of any thread."""
        columns = self.columns if self._gpu is None else self._gpu.copied()
        return {name: column.numpy() for name, column in columns.items()}


class _HostCopy:
    """Copies tensors of a GPU into memory of the host that is pinned, beside what the GPU goes on to compute."""

    def __init__(self, columns: dict[str, Tensor], device: torch.device) -> None:
        self.columns, self.device = columns, device
        self.there: torch.cuda.Event | None = None
        self.stream: torch.cuda.Stream | None = None
        self.host: dict[str, Tensor] = {}

    def mark(self) -> None:
        """What the computing thread has given the GPU up to here is what `copied` waits for."""
        self.there = self.there or torch.cuda.Event()
        self.there.record(torch.cuda.current_stream(self.device))

    def copied(self) -> dict[str, Tensor]:
        """The tensors on the host. Only this thread waits, and only for them."""
        if self.stream is None:
            self.stream = torch.cuda.Stream(self.device)
            self.host = {
                name: torch.empty(column.shape, dtype=column.dtype, pin_memory=True)
                for name, column in self.columns.items()
            }
        done = torch.cuda.Event(blocking=True)  # without it the thread would turn in circles on a core
        with torch.cuda.stream(self.stream):
            if self.there is not None:
                self.stream.wait_event(self.there)
            for name, column in self.columns.items():
                self.host[name].copy_(column, non_blocking=True)
            done.record(self.stream)
        done.synchronize()
        return self.host
