"""Checkpoints and records of training from elsewhere: taken up, or refused in one line; nothing is overwritten."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itd.errors import DataError, ItdError
from itd.training.run_files import RunFiles, finished
from itd.training.schedule import Schedule
from itd.training.trainer import _Log, _resume
from support.strange import STRANGE, mutated

RUN = {"model": "tiny", "schedule": {"epochs": 5}}


def parts() -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "w.safetensors")


def content() -> dict[str, Any]:
    model, optimizer, scaler = parts()
    return {
        "identity": json.dumps(RUN),
        "epochs": 2,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def resumed(files: RunFiles) -> int:
    return _resume(files, RUN, *parts(), torch.device("cpu"))


def test_checkpoints_are_taken_up_or_refused(files: RunFiles) -> None:
    torch.save(content(), files.checkpoint)
    assert resumed(files) == 2
    choose, refused = random.Random(0), 0
    for _ in range(300):
        torch.save(mutated(content(), choose), files.checkpoint)
        try:
            assert 1 <= resumed(files) <= 5
        except ItdError as error:
            refused += 1
            assert "\n" not in str(error) and str(files.checkpoint) in str(error)
    assert refused > 150


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"weight": torch.ones(2, 3), "bias": torch.ones(2, device="meta")}},
        {"model": {"weight": torch.ones(9, 3), "bias": torch.ones(2)}},
        {"epochs": -1}, {"epochs": 6}, {"epochs": "2"}, {"identity": "[" * 100_000}, {"identity": None},
        {"optimizer": 3},
    ],
)  # fmt: skip
def test_checkpoints_of_other_types_are_one_line(changes: dict, files: RunFiles) -> None:
    torch.save({**content(), **changes}, files.checkpoint)
    with pytest.raises(DataError, match=r"is not a checkpoint of a run .*delete it to begin anew") as error:
        resumed(files)
    assert "\n" not in str(error.value)


def test_an_optimizer_of_other_shapes_is_refused_before_a_step_fails(files: RunFiles) -> None:
    held = content()
    held["optimizer"]["state"][0]["momentum_buffer"] = torch.ones(7)
    torch.save(held, files.checkpoint)
    with pytest.raises(DataError, match="the optimizer's state has other shapes than the network"):
        resumed(files)


@pytest.mark.parametrize("value", [*STRANGE[:5], [], {}, "deep"])
def test_weights_beside_a_record_that_is_none_are_of_another_run(value: Any, files: RunFiles) -> None:
    files.out.write_bytes(b"weights")
    files.sidecar.write_text("[" * 100_000 if value == "deep" else json.dumps(value))
    with pytest.raises(DataError, match="is there already and is of another run"):
        finished(files, {"model": "tiny"}, Schedule(epochs=5))
    assert files.out.read_bytes() == b"weights"


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"epoch,step\n1,2,3,4,5,6,7\n" * 3, b'"' + b"x" * 200_000, b"\0" * 50]
)
def test_a_log_that_is_none_is_one_line_or_begun_anew(data: bytes, files: RunFiles) -> None:
    files.log.write_bytes(data)
    try:
        _Log(files.log, 10)
    except DataError as error:
        assert "\n" not in str(error) and files.log.read_bytes() == data


def test_a_log_that_is_no_file_or_too_long_is_not_read(files: RunFiles) -> None:
    os.mkfifo(files.log)
    with pytest.raises(DataError, match=r"w\.csv is not the log of a run \(it is no file\)"):
        _Log(files.log, 10)
    files.log.unlink()
    with open(files.log, "wb") as file:
        file.truncate(10**12)  # a hole: it takes no space
    with pytest.raises(DataError, match="it has 1,000,000,000,000 bytes; allowed are"):
        _Log(files.log, 10)
