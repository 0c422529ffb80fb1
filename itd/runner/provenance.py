"""Where and when a sweep was run: never part of what makes two results the same."""

from __future__ import annotations

import datetime
import platform
import secrets
import subprocess
from pathlib import Path
from typing import Any

import PIL
import torch

from itd import __version__
from itd.runner.job import SweepJob
from itd.runner.options import RunOptions
from itd.text import visible


def provenance(job: SweepJob, options: RunOptions, executor: str, run: str | None = None) -> dict[str, Any]:
    """What a result records of a run. run: what it is called; None names it anew."""
    import torchvision

    device = options.device
    return {
        "run": run or secrets.token_hex(8),
        "itd": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(),
        "python": platform.python_version(),
        "host": visible(platform.node()) or None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
        "weights": job.weights_label,
        "data": job.images.source,
        "classes": job.num_classes,
        "executor": executor,
        "batch_size": options.batch_size,
        "workers": options.workers,
        **({"agreement": [one.as_dict() for one in options.agreements]} if options.agreements else {}),
        "git": _git_revision(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _cudnn_version() -> int | None:
    """cuDNN's, where torch has one that can be loaded."""
    try:
        return torch.backends.cudnn.version()
    except RuntimeError:  # another one is installed than torch was built with
        return None


def _git_revision() -> str | None:
    """The checkout's revision; None for an installed package, whatever repository surrounds it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() or None
