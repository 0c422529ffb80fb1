"""A file of a user's own that gives small networks, as `--model FILE.py:NAME` takes it."""

from __future__ import annotations

from pathlib import Path

SITES = "A=stem.0,B=body.0"
SOURCE = """
import torch
from torch import nn

from mylayers import block  # of the file's own folder


class Net(nn.Module):
    def __init__(self, width=4, classes=10, act="ReLU"):
        super().__init__()
        self.stem = block(3, width, act)
        self.body = block(width, width, act)
        self.body[1].running_var.fill_(0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def make(width=4, **others):
    return Net(width, **others)


def noisy(width=4):
    print("making a network")
    return Net(width)


def needy(depth):
    return Net(depth)


def fails():
    raise ValueError("no checkpoint here\\nand more lines")


def leaves():
    raise SystemExit("bye")


def number():
    return 3


def nothing():
    pass


class Values(Net):
    def forward(self, x):
        return super().forward(x)[:, : int(x.abs().sum() * 0) + 7]


class Flat(nn.Sequential):
    def __init__(self, side=32):
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(side * side, 10))


class Map(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1))


there = Net()
five = 5
"""
LAYERS = """
from torch import nn


def block(inputs, outputs, act):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), getattr(nn, act)())
"""


def write_nets(folder: Path, name: str = "mynets.py") -> Path:
    """The file, and beside it the one that it imports."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mylayers.py").write_text(LAYERS)
    (folder / name).write_text(SOURCE)
    return folder / name
