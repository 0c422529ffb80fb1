"""How a sweep is run: nothing here changes what is computed, the number format apart."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from itd.data.processes import default_workers
from itd.device import resolve_device, resolve_devices
from itd.engine.precision import PRECISIONS, Precision
from itd.engine.tree import default_batch_size
from itd.errors import DataError, ItdError, ItdWarning, ResultError, SpaceError
from itd.runner.job import SweepJob
from itd.runner.request import SweepRequest
from itd.store import check_folder, check_target
from itd.store.writer import Again
from itd.text import shorten

EXECUTORS = ("auto", "tree", "plain")
"""The prefix tree; plain forwards, one for each configuration; or the tree where the network can be traced."""
ENGINES = ("inline", "local", "ray")
"""This process; processes of this machine, one for each device; actors of Ray."""
AUTO = "auto"
"""The number format that is settled when a result is created: `itd.runner.precision`."""


@dataclass(frozen=True)
class RunOptions:
    """How to run, checked. Fields as the keywords of `itd.sweep`.

    precision: fp32 until `auto` is settled. auto: whether it is not. precision_asked: whether somebody named one.
    agreements: what was found of the number formats that were tried (`itd.runner.precision.Agreement`). members: how
    many workers the run has, of which `beside` are on the machine of this one. last: first and last positions of the
    units to try after all others. retry_missing: of a worker, the units that it shares with the others.
    """

    out: str | None
    device: torch.device
    precision: Precision
    batch_size: int | None = None
    workers: int | None = None
    shard: tuple[int, int] | None = None
    help_others: bool = False
    allow_missing: bool | int | str = False
    images_per_unit: int | None = None
    executor: str = "auto"
    overwrite: bool = False
    retry_missing: bool | tuple[Again, ...] = False
    check_data: bool = False
    fail_fast: bool = False
    auto: bool = False
    precision_asked: bool = False
    agreements: tuple[Any, ...] = ()
    devices: tuple[torch.device, ...] = ()
    engine: str = "inline"
    address: str | None = None
    workers_per_node: int | None = None
    members: int = 1
    beside: int = 1
    last: tuple[tuple[int, int], ...] = ()

    @property
    def sharers(self) -> int:
        """How many workers share the units of a new result, as far as this run knows."""
        return self.members * (1 if self.shard is None else self.shard[1])

    @classmethod
    def of(cls, request: SweepRequest | None = None, **keywords: Any) -> RunOptions:
        """The keywords that are given, else the request's, else the defaults.

        Raises ItdError for a device, a number format or a count that cannot be, and an `out` that cannot be written.
        """
        names = (
            "device",
            "devices",
            "engine",
            "address",
            "workers_per_node",
            "precision",
            "batch_size",
            "workers",
            "shard",
            "help_others",
            "allow_missing",
            "images_per_unit",
            "executor",
            "overwrite",
            "retry_missing",
            "check_data",
            "fail_fast",
        )
        chosen = {name: getattr(request, name) for name in names} if request is not None else {}
        chosen |= {name: value for name, value in keywords.items() if value is not None and name != "out"}
        out = keywords.get("out")
        if out is not None and not isinstance(out, (str, Path)):
            raise ItdError(f"out is {type(out).__name__}; give the path of the result's folder")
        strange = [name for name in keywords if name not in (*names, "out")]
        if strange:
            raise ItdError(f"there is no {strange[0]}; how to run is said by out, {', '.join(names)}")
        if out is None and request is not None:
            out = request.out_path()
        _check_counts(chosen)
        if chosen.get("executor", "auto") not in EXECUTORS:
            raise ItdError(f"no such `executor={chosen['executor']}`; allowed are {', '.join(EXECUTORS)}")
        missing_limit(chosen.get("allow_missing", False), 1)
        for name in ("help_others", "overwrite", "retry_missing", "check_data", "fail_fast"):
            if not isinstance(chosen.get(name, False), bool):
                raise ItdError(f"{name} is {chosen[name]!r}; give True or False")
        if chosen.get("help_others") and chosen.get("shard") is None:
            raise ItdError(
                "`help_others` is of a shard; give `shard` too, or neither: without one all units are its own"
            )
        if out is not None:
            (check_folder if chosen.get("overwrite") else check_target)(out)
        device = _place(chosen)
        given = chosen.pop("precision", None)
        name = given or (AUTO if device.type == "cuda" else "fp32")
        precision = name if isinstance(name, Precision) else _precision(name, device)
        chosen |= {"auto": name == AUTO, "precision_asked": given not in (None, AUTO)}
        return cls(None if out is None else str(out), device, precision, **chosen)


def _place(chosen: dict[str, Any]) -> torch.device:
    """The device, or the first one of the workers, of options that say where and by whom a sweep is run.

    `chosen` loses `device`; its `devices` become devices, and its `engine` is one. Raises ItdError for what cannot be.
    """
    named, several = chosen.pop("device", None), chosen.pop("devices", None)
    engine = chosen.setdefault("engine", None) or ("inline" if several is None else "local")
    if engine not in ENGINES:
        raise ItdError(f"no such `engine={engine}`; allowed are {', '.join(ENGINES)}")
    if named is not None and several is not None:
        raise ItdError(f"`device={named}` and `devices={several}` are both given; give one of them")
    if several is not None and engine != "local":
        raise ItdError(f"`devices` are of `engine=local`, and `engine={engine}` is given; leave one of them out")
    of_ray = [name for name in ("address", "workers_per_node") if chosen.get(name) is not None]
    if of_ray and engine != "ray":
        raise ItdError(f"`{of_ray[0]}` is of `engine=ray`; give that too, or leave it out")
    if engine == "ray" and named is not None:
        raise ItdError(f"`device={named}` is not for `engine=ray`, whose workers take the device that Ray gives them")
    chosen["engine"] = engine
    if several is not None:
        chosen["devices"] = resolve_devices(several)
        return chosen["devices"][0]
    return resolve_device(named)


def _precision(name: str, device: torch.device) -> Precision:
    if name not in (AUTO, *PRECISIONS):
        raise SpaceError(f"no such precision: {name!r}; allowed are {', '.join((AUTO, *PRECISIONS))}")
    return Precision("fp32" if name == AUTO else name, str(device))


def with_workers(options: RunOptions, job: SweepJob) -> RunOptions:
    """The options with a number of processes that decode, as of `default_workers` where nobody named one.

    An ItdWarning says why a GPU's images are decoded in this process alone.
    """
    if options.workers is not None:
        return options
    size = options.batch_size or default_batch_size(options.device)
    pixels = job.images.pixels
    image_bytes = math.prod(job.input_shape) * (1 if pixels.are_ours else 4)
    workers, why = default_workers(options.device, pixels, -(-len(job) // size), size * image_bytes)
    if why is not None:
        warnings.warn(f"the images are decoded in this process alone: {why}", ItdWarning, stacklevel=3)
    return replace(options, workers=max(1, workers // options.beside) if workers else 0)


def missing_limit(allowed: bool | int | str, images: int) -> int:
    """How many of the selected images a result may record as missing.

    allowed: a number, or a share as in "2%", which is at least one unless it is 0%; True is 1%, False none.

    >>> missing_limit(True, 50_000), missing_limit("2%", 30), missing_limit(7, 30), missing_limit(False, 30)
    (500, 1, 7, 0)
    """
    if isinstance(allowed, bool):
        allowed = "1%" if allowed else 0
    found = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%", str(allowed).strip())
    if found is None or float(found[2] or 0) > 100:
        raise ItdError(
            f"`allow_missing={shorten(str(allowed))}` is not allowed; give a number of images, or a share of the "
            "selected ones, as in 1%"
        )
    if found[1]:
        return int(found[1])
    share = float(found[2]) / 100
    return max(1, math.floor(images * share)) if share else 0


def checked_options(job: Any, **keywords: Any) -> RunOptions:
    """The options of a job or a request. Keywords and errors as of `RunOptions.of`."""
    if not isinstance(job, (SweepJob, SweepRequest)):
        raise ItdError(f"a sweep is a SweepJob or a SweepRequest, given {type(job).__name__}")
    return RunOptions.of(job if isinstance(job, SweepRequest) else None, **keywords)


def _check_counts(chosen: dict[str, Any]) -> None:
    for name, least in (("batch_size", 1), ("workers", 0), ("images_per_unit", 1), ("workers_per_node", 1)):
        value = chosen.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise ItdError(f"{name} is {value!r}; give a whole number of at least {least}")
        if value < least:
            raise DataError(f"`{name}={value}` is not allowed; give a whole number of at least {least}")
    shard = chosen.get("shard")
    if shard is not None and not (_is_pair(shard) and 0 <= shard[0] <= shard[1] >= 1):
        raise ResultError(f"no such shard: {shard!r}; allowed is (i, n) with i from 1 to n")


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(type(part) is int for part in value)
