"""A job whose images take their time, so that processes that share it can be met while they work."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import itd
from itd.runner.job import SweepJob
from itd.store import at_work

WAIT_S = 90.0
"""After so long what does not come is an error instead of a hang."""


class Images:
    """`count` images of noise, each the same whenever it is read.

    pause_s: that reading one takes. fatal: of this one the reading process dies, where it is one that was started for
    the work.
    """

    def __init__(self, count: int, pause_s: float = 0.0, fatal: int | None = None) -> None:
        self.count, self.pause_s, self.fatal, self.home = count, pause_s, fatal, os.getpid()
        self.targets = [index % 10 for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if os.getpid() != self.home:
            time.sleep(self.pause_s)
            if index == self.fatal:
                os.kill(os.getpid(), 9)
        return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)), self.targets[index]


class Net(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


def make_job(count: int = 32, pause_s: float = 0.0, fatal: int | None = None, *, at_home: bool = False) -> SweepJob:
    """The same job each time, in any process. at_home: its images take their time in this process as well."""
    torch.manual_seed(0)
    net = itd.patch(Net().eval(), {"A": "stem", "B": "body"})
    space = itd.model_space(net, ["dilation"], input_shape=(3, 16, 16))
    images = Images(count, pause_s, fatal)
    images.home = -1 if at_home else images.home
    return SweepJob(net, space, images, name="noise", fingerprint="noise")


def wait_for(what: str, ready: object) -> object:
    """What `ready()` gives, once it is true."""
    until_s = time.monotonic() + WAIT_S
    while not (found := ready()):  # type: ignore[operator]
        assert time.monotonic() < until_s, f"{what} does not come"
        time.sleep(0.05)
    return found


def busy(out: str | Path, count: int) -> list[int]:
    """The processes that compute a unit of a result, once so many do."""

    def look() -> list[int]:
        pids = sorted({one.pid for one in at_work(Path(out)) if one.unit is not None})
        return pids if len(pids) >= count else []

    return wait_for(f"{count} processes at work", look)  # type: ignore[return-value]


def processes_of(name: str) -> list[int]:
    """The processes of this machine whose program has this name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().strip() == name:
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found
