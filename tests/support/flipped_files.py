"""Flips one bit at a time in a file that is no part of a result's folder, and says what became of each: in a child.

    python -m support.flipped_files COUNT SEED FOLDER

A flip is found where reading ends in an ItdError of one line, and harmless where all that is read is as it was. Prints
a line of JSON for each kind of file: {kind, found, harmless, silent: [bit, ...]}; the last is what should not be.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from itd.errors import ItdError
from itd.selectors.selector import Selector, load_selector
from itd.space import Setting
from itd.space.listed import SpaceList, read_space, write_space
from itd.store import open_result
from itd.store.schema import SCORES
from itd.training.run_files import RunFiles
from itd.training.trainer import _resume, _save
from support import synthetic
from support.fuzzed_files import some_selector
from support.fuzzing import CASE_S, within

RUN = {"model": "tiny", "schedule": {"epochs": 5}}


def _lone(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A part of a result, copied out of its folder."""
    made = synthetic.make_result(folder / "r.parquet", synthetic.make_scores(6, 12), default=2, images_per_unit=12)
    path = folder / "alone.parquet"
    path.write_bytes(next(made.glob("part-*.parquet")).read_bytes())

    def table() -> Any:
        result = open_result(path)
        scores = {name: result.matrix(name).tolist() for name in SCORES}
        return scores, result.settings, result.default, result.samples.tolist(), result.labels.tolist()

    return path, table


def _selector(kind: str) -> Callable[[Path], tuple[Path, Callable[[], Any]]]:
    def make(folder: Path) -> tuple[Path, Callable[[], Any]]:
        path = folder / "s.safetensors"
        some_selector(None if kind == "cascade" else kind).save(path)
        return path, lambda: _what(load_selector(path))

    return make


def _what(selector: Selector) -> Any:
    arrays = {} if selector.learned is None else {n: a.tolist() for n, a in selector.learned.arrays.items()}
    return {**selector.__dict__, "learned": None}, arrays


def _checkpoint(folder: Path) -> tuple[Path, Callable[[], Any]]:
    files = RunFiles(folder / "w.safetensors")

    def parts() -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        model(torch.ones(2, 3, 5, 5)).sum().backward()
        optimizer.step()
        return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)

    def taken_up() -> Any:
        model, optimizer, scaler = parts()
        epochs = _resume(files, RUN, model, optimizer, scaler, torch.device("cpu"))
        state = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
        moments = [held["momentum_buffer"].tolist() for held in optimizer.state.values()]
        return epochs, state, moments, {**optimizer.param_groups[0], "params": None}, scaler.state_dict()

    _save(files, RUN, 2, *parts())
    return files.checkpoint, taken_up


def _space(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "space.json"
    configs = ({"A": Setting(stride=2, size=3)}, {"A": Setting(stride=0.5), "D": Setting(size=5)}, {})
    write_space(path, SpaceList(("stride", "size"), configs, {"from": ["a.parquet", "b.parquet"], "budget": 625}))

    def settings() -> Any:
        space = read_space(path)  # what it was made from is for people to read
        return space.attributes, space.configs

    return path, settings


KINDS: dict[str, Callable[[Path], tuple[Path, Callable[[], Any]]]] = {
    "lone file": _lone,
    **{f"selector ({kind})": _selector(kind) for kind in ("cascade", "logistic", "boosting", "head")},
    "checkpoint": _checkpoint,
    "space": _space,
}


def flips(kind: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """What became of so many flips, drawn without replacement, of the file of a kind."""
    path, read = KINDS[kind](folder)
    whole = path.read_bytes()
    before = read()
    bits = np.random.default_rng(seed).choice(8 * len(whole), min(count, 8 * len(whole)), replace=False)
    said: dict[str, Any] = {"kind": kind, "bytes": len(whole), "found": 0, "harmless": 0, "silent": []}
    for bit in bits.tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        (folder / "last-case.txt").write_text(f"{kind}: bit {bit}")
        try:
            with within(CASE_S):
                after = read()
        except ItdError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, error
            said["found"] += 1
            continue
        if repr(after) == repr(before):
            said["harmless"] += 1
        else:
            said["silent"].append(bit)
    return said


def main(count: int, seed: int, folder: Path) -> None:
    """All kinds, each in a folder of its own."""
    warnings.simplefilter("ignore")
    for number, kind in enumerate(KINDS):
        own = folder / str(number)
        own.mkdir()
        print(json.dumps(flips(kind, count, seed, own)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
