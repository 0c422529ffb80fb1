"""A disk that refuses one step of what is written to it: open, write, force to the disk, link, rename."""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import itd.files
from itd.errors import ItdError


class Disk:
    """Refuses the `last`-th of its steps: to open a file for writing, to write (of which a half is written), to force
    it to the disk, to link and to rename. steps: those so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int, number: int = errno.ENOSPC) -> None:
        self.last, self.number, self.steps = last, number, 0
        for name in ("fsync", "link", "rename", "replace"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(itd.files, "open", self.open, raising=False)

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.last:
            raise OSError(self.number, os.strerror(self.number))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*given: Any, **how: Any) -> Any:
            self.step()
            return real(*given, **how)

        return refusing

    def open(self, path: Any, mode: str = "r", **how: Any) -> Any:
        if "r" in mode:
            return open(path, mode, **how)
        self.step()
        return Refusing(open(path, mode, **how), self)


class Refusing:
    """A file that is written to a disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self.file, self.disk = file, disk

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        if self.disk.steps + 1 == self.disk.last:
            self.file.write(data[: len(data) // 2])
        self.disk.step()
        return self.file.write(data)


def refusals(do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[ItdError]:
    """What `do` raises where the first step is refused, where the second is, ..., until nothing is refused any more."""
    for last in itertools.count(1):
        with monkeypatch.context() as patch:
            disk = Disk(patch, last)
            try:
                do()
            except ItdError as error:
                refused: ItdError | None = error
            else:
                refused = None
        if refused is None:
            assert disk.steps < last, f"step {last} was refused, and nobody said so"
            return
        assert re.search("No space left on device; .*free some space", str(refused)), refused
        assert "\n" not in str(refused)
        yield refused


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
