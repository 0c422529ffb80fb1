"""itd: an oracle evaluation engine for inference-time-dynamic CNNs.

The public verbs are loaded when they are first used, so that `import itd` costs nothing:

    net = itd.patch(MyNet().eval(), {"A": ["stem.conv"], "B": ["block2.conv"]})
    space = itd.model_space(net, ["dilation"])
    job = itd.SweepJob(net, space, images=my_dataset, name="mynet")
    report = itd.sweep(job, out="results/mynet-dilation.parquet")
    itd.oracle(itd.open_result(report.out)).best
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from itd import errors

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` loads each name when it is first used
    from itd.analysis import (
        Estimate,
        Resamples,
        baselines,
        by_class,
        by_sites,
        combine,
        compare,
        efficiency,
        gain,
        greedy,
        images,
        oracle,
        preferences,
        union,
        unique,
        with_real_labels,
    )
    from itd.analysis.report import report
    from itd.data.cache import cache
    from itd.engine.macs import macs
    from itd.patcher import SiteModule, model_space, patch, register_model
    from itd.patcher.auto import auto_sites
    from itd.patcher.summary import models
    from itd.runner.job import SweepJob
    from itd.runner.plan import SweepPlan, plan
    from itd.runner.request import SweepRequest
    from itd.runner.run import SweepReport
    from itd.runner.sites import sites
    from itd.runner.sweep import sweep
    from itd.selectors.evaluate import SelectRequest, select
    from itd.selectors.predict import PredictRequest, predict
    from itd.space import Conventions, Setting, Space
    from itd.store import Result, Status, compact, merge, open_result, repair, status, verify
    from itd.training.compare_layers import CompareLayersRequest, compare_layers
    from itd.training.evaluate import EvaluateRequest, evaluate
    from itd.training.recalibrate import RecalibrateRequest, recalibrate
    from itd.training.rof import RofRequest, rof
    from itd.training.schedule import Schedule
    from itd.training.scratch import TrainRequest, train

__version__ = "0.2.0"

_MODULES = {
    "itd.analysis": (
        "Estimate",
        "Resamples",
        "baselines",
        "by_class",
        "by_sites",
        "combine",
        "compare",
        "efficiency",
        "gain",
        "greedy",
        "images",
        "oracle",
        "preferences",
        "union",
        "unique",
        "with_real_labels",
    ),
    "itd.analysis.report": ("report",),
    "itd.engine.macs": ("macs",),
    "itd.patcher": (
        "SiteModule",
        "model_space",
        "patch",
        "register_model",
    ),
    "itd.patcher.auto": ("auto_sites",),
    "itd.patcher.summary": ("models",),
    "itd.runner.job": ("SweepJob",),
    "itd.data.cache": ("cache",),
    "itd.runner.plan": (
        "SweepPlan",
        "plan",
    ),
    "itd.runner.request": ("SweepRequest",),
    "itd.runner.sites": ("sites",),
    "itd.runner.run": ("SweepReport",),
    "itd.runner.sweep": ("sweep",),
    "itd.selectors.evaluate": (
        "SelectRequest",
        "select",
    ),
    "itd.selectors.predict": (
        "PredictRequest",
        "predict",
    ),
    "itd.space": (
        "Conventions",
        "Setting",
        "Space",
    ),
    "itd.store": (
        "Result",
        "Status",
        "compact",
        "merge",
        "open_result",
        "repair",
        "status",
        "verify",
    ),
    "itd.training.compare_layers": (
        "CompareLayersRequest",
        "compare_layers",
    ),
    "itd.training.evaluate": (
        "EvaluateRequest",
        "evaluate",
    ),
    "itd.training.recalibrate": (
        "RecalibrateRequest",
        "recalibrate",
    ),
    "itd.training.rof": (
        "RofRequest",
        "rof",
    ),
    "itd.training.schedule": ("Schedule",),
    "itd.training.scratch": (
        "TrainRequest",
        "train",
    ),
}
"""module -> the public names that come from it."""

_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CompareLayersRequest",
    "Conventions",
    "Estimate",
    "EvaluateRequest",
    "PredictRequest",
    "RecalibrateRequest",
    "Resamples",
    "Result",
    "RofRequest",
    "Schedule",
    "SelectRequest",
    "Setting",
    "SiteModule",
    "Space",
    "Status",
    "SweepJob",
    "SweepPlan",
    "SweepReport",
    "SweepRequest",
    "TrainRequest",
    "__version__",
    "auto_sites",
    "baselines",
    "by_class",
    "by_sites",
    "cache",
    "combine",
    "compact",
    "compare",
    "compare_layers",
    "efficiency",
    "errors",
    "evaluate",
    "gain",
    "greedy",
    "images",
    "macs",
    "merge",
    "model_space",
    "models",
    "open_result",
    "oracle",
    "patch",
    "plan",
    "predict",
    "preferences",
    "recalibrate",
    "register_model",
    "repair",
    "report",
    "rof",
    "select",
    "sites",
    "status",
    "sweep",
    "train",
    "union",
    "unique",
    "verify",
    "with_real_labels",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'itd' has no attribute {name!r}; its names are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
