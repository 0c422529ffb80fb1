"""itd: an oracle evaluation engine for inference-time-dynamic CNNs.

The public verbs are loaded when they are first used, so that `import itd` costs nothing.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "SweepRequest": "itd.runner.request",
    "SweepJob": "itd.runner.job",
    "sweep": "itd.runner.sweep",
    "plan": "itd.runner.sweep",
    "model_space": "itd.patcher",
    "patch": "itd.patcher",
    "open_result": "itd.store",
    "oracle": "itd.analysis",
    "by_sites": "itd.analysis",
    "baselines": "itd.analysis",
    "greedy": "itd.analysis",
    "unique": "itd.analysis",
    "preferences": "itd.analysis",
    "efficiency": "itd.analysis",
    "combine": "itd.analysis",
    "compare": "itd.analysis",
    "gain": "itd.analysis",
    "report": "itd.analysis.report",
}

__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        import importlib

        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'itd' has no attribute {name!r}")
