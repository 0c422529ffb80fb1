"""What a training run writes: weights with how they were made, and beside them the log and the checkpoint.

Not the checkpoint's content, which is the trainer's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itd import __version__
from itd.checked import BadJson, anything, mapping, read_json, text
from itd.errors import DataError, ItdError
from itd.files import unwritable, write_atomic
from itd.training.schedule import Schedule
from itd.weights.content import content_sha256
from itd.weights.files import PREPROCESS_KEY
from itd.weights.load import Weights


@dataclass(frozen=True)
class RunFiles:
    """Where a run writes: the weights, and beside them the log and, while it runs, the checkpoint."""

    out: Path

    @property
    def checkpoint(self) -> Path:
        """The state after the last whole epoch."""
        return self.out.with_suffix(".checkpoint")

    @property
    def log(self) -> Path:
        """One line for each step."""
        return self.out.with_suffix(".csv")

    @property
    def curve(self) -> Path:
        """One line for each epoch."""
        return self.out.with_suffix(".epochs.csv")

    @property
    def sidecar(self) -> Path:
        """How the weights were made."""
        return self.out.with_suffix(".json")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError inside the block becomes one line that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(unwritable(str(path), error, "give another `out`")) from error


def weights_path(out: str) -> Path:
    """The path of weights to be written; ItdError for another suffix.

    >>> weights_path("rof/resnet50-stride.safetensors").stem
    'resnet50-stride'
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ItdError(f"`out={path}` is not a name for weights; it must end in .safetensors")
    return path


def finished(files: RunFiles, identity: dict[str, Any], schedule: Schedule) -> bool:
    """Whether the weights of this run are there; DataError where those of another one are."""
    if not files.out.exists() or files.checkpoint.exists():
        return False
    try:
        record = read_json(files.sidecar, mapping(text, anything), most_bytes=2**20)
    except (OSError, BadJson):
        record = {}
    wanted = json.loads(json.dumps({"identity": identity, "schedule": asdict(schedule)}))
    if {name: record.get(name) for name in wanted} == wanted:
        return True
    raise DataError(f"{files.out} is there already and is of another run; give another `out`, or move it away")


def publish(
    model: nn.Module,
    weights: Weights,
    files: RunFiles,
    identity: dict[str, Any],
    schedule: Schedule,
    key: str,
) -> None:
    """Writes the weights and how they were made; then the checkpoint is no longer needed.

    key: under which the header of the .safetensors file says how. The record beside the weights is there before them:
    weights under their name are a finished run's. Raises DataError where the disk refuses.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    record = {
        "identity": identity,
        "schedule": asdict(schedule),
        "began_with": weights.label,
        "sha256": content_sha256(state),
        "itd": __version__,
        "torch": torch.__version__,
    }
    header = {key: json.dumps(record), PREPROCESS_KEY: json.dumps(weights.preprocess.identity())}
    with disk_errors(files.sidecar):
        write_atomic(files.sidecar, json.dumps(record, indent=1) + "\n")
    with disk_errors(files.out):
        write_atomic(files.out, save(state, metadata=header))
        files.checkpoint.unlink(missing_ok=True)  # the weights are on the disk by now, and their name too
