"""What a training run writes: weights with how they were made, and beside them the log and the checkpoint.

Not the checkpoint's content, which is the trainer's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from itd import __version__
from itd.errors import DataError, ItdError
from itd.weights.files import PREPROCESS_KEY
from itd.weights.load import Weights, content_sha256

if TYPE_CHECKING:
    from itd.training.trainer import Schedule


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
def replacing(path: Path) -> Iterator[Path]:
    """Inside the block a name beside `path`; what was written there becomes `path` at its end.

    Raises DataError where that cannot be written; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}; free some space") from error


def weights_path(out: str) -> Path:
    """The path of weights to be written; ItdError for another suffix.

    >>> weights_path("rof/resnet50-stride.safetensors").stem
    'resnet50-stride'
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ItdError(f"--out {path} is not a name for weights; it must end in .safetensors")
    return path


def finished(files: RunFiles, identity: dict[str, Any], schedule: Schedule) -> bool:
    """Whether the weights of this run are there; DataError where those of another one are."""
    if not files.out.exists() or files.checkpoint.exists():
        return False
    try:
        told = json.loads(files.sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    wanted = json.loads(json.dumps({"identity": identity, "schedule": asdict(schedule)}))
    if {name: told.get(name) for name in wanted} == wanted:
        return True
    raise DataError(f"{files.out} is there already and is of another run; give another --out, or move it away")


def publish(
    model: nn.Module,
    weights: Weights,
    files: RunFiles,
    identity: dict[str, Any],
    schedule: Schedule,
    key: str,
) -> None:
    """Writes the weights and how they were made; then the checkpoint is no longer needed. key: under which the header
    of the .safetensors file tells it."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    told = {
        "identity": identity,
        "schedule": asdict(schedule),
        "began_with": weights.label,
        "sha256": content_sha256(state),
        "itd": __version__,
        "torch": torch.__version__,
    }
    header = {key: json.dumps(told), PREPROCESS_KEY: json.dumps(weights.preprocess.identity())}
    with replacing(files.out) as temporary:
        save_file(state, temporary, metadata=header)
        files.sidecar.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    files.checkpoint.unlink(missing_ok=True)
