"""The public verbs, each one call: what the command line and a notebook use. They compose the parts; no logic here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from itd.data.images import asked_data, is_digits, open_images, select
from itd.data.preprocess import DIGITS_PREPROCESS, Preprocess
from itd.engine.precision import Precision
from itd.errors import DataError, ResultError
from itd.runner.request import (
    Prepared,
    SweepRequest,
    asked_preprocess,
    patched_model,
    prepare,
    request_space,
)
from itd.runner.sweep import SweepReport, check_faithful, open_writer
from itd.runner.sweep import sweep as run_sweep
from itd.store import check_target
from itd.weights.load import NONE, Weights, load_weights, plan_weights


def prepare_sweep(request: SweepRequest, *, only_plan: bool = False, quiet: bool = False) -> Prepared:
    """A request resolved: images found, weights loaded, space built, costs known; nothing run.

    Where the data are the embedded digits and no weights are named, the model is trained on them once. only_plan:
    nothing is trained or fetched; the weights stay random. quiet: no progress bar while training. Raises ItdError for
    anything that cannot be; what can be told without weights is told before any are made or fetched.
    """
    data = asked_data(request.data)
    _check_cheaply(request, data)
    weights = request_weights(request, data, only_plan=only_plan, quiet=quiet)
    images = open_images(
        data,
        num_classes=request.num_classes,
        weights_classes=weights.num_classes,
        classes_file=request.classes_file,
    )
    return prepare(request, images, weights)


def _check_cheaply(request: SweepRequest, data: str) -> None:
    Precision(request.precision, str(request.checked_device()))
    select(1, request.every, request.limit)
    model, swept, own = patched_model(request, 10)
    request_space(request, model, swept, own)
    out = request.out_path()
    check_target(out)
    Preprocess(scale=request.scale, context_px=request.context_px and 1)
    if is_digits(data):
        open_images(data, num_classes=request.num_classes, classes_file=request.classes_file)
        return
    if request.crop_px and request.resize_px:
        asked_preprocess(request, Preprocess())
    if not Path(data).is_dir():
        open_images(data)  # which says what is wrong with it
    if Path(out).absolute().is_relative_to(Path(data).absolute()):
        raise ResultError(f"--out {out} is inside --data {data}; give --out a folder elsewhere")
    if request.classes_file and not Path(request.classes_file).is_file():
        raise DataError(f"no such file: --classes {request.classes_file}; expected one folder name per line")


def named_weights(request: SweepRequest, data: str, *, quiet: bool = False) -> str | None:
    """How `--weights` names a request's weights; for the digits and none named, the file of those trained on them."""
    if request.weights is not None or not is_digits(data):
        return request.weights
    from itd.weights.digits import train_on_digits

    return str(train_on_digits(request.model, device=request.checked_device(), progress=not quiet))


def request_weights(request: SweepRequest, data: str, *, only_plan: bool = False, quiet: bool = False) -> Weights:
    """The weights that a request names, for these data; for the digits and none named, trained on them once."""
    digits = is_digits(data)
    num_classes = request.num_classes or (10 if digits else None)
    if only_plan:
        return plan_weights(request.model, request.weights, num_classes=num_classes, digits=digits)
    named = named_weights(request, data, quiet=quiet)
    weights = load_weights(request.model, named, num_classes=num_classes)
    return replace(weights, preprocess=DIGITS_PREPROCESS) if digits and named == NONE else weights


def varied(
    request: SweepRequest, *, scales: Sequence[float] = (), contexts_px: Sequence[int] = ()
) -> list[SweepRequest]:
    """One request for each variation of the images, or the request itself where none is asked for (ITD paper, 4.5).

    Where there are several, each is planned here, so that what cannot be is refused before the first one is run.

    >>> [r.out_path() for r in varied(SweepRequest("resnet18", "dilation", sites="D", data="digits"), scales=[2])]
    ['results/resnet18-dilation-scale2.parquet']
    """
    if scales and contexts_px:
        raise DataError("--scale and --context vary the images in two ways at once; give one of them")
    requests = [replace(request, scale=scale) for scale in dict.fromkeys(scales)]
    requests += [replace(request, context_px=side) for side in dict.fromkeys(contexts_px)]
    if len(requests) > 1:
        for one in requests:
            prepare_sweep(one, only_plan=True)
    return requests or [request]


def sweep(
    request: SweepRequest,
    *,
    on_start: Callable[[Prepared, int, int], Callable[[int], Any] | None] | None = None,
    quiet: bool = False,
) -> SweepReport:
    """Sweep a request into its result, doing only what is missing.

    on_start: called with the prepared sweep, the images there already and the images to do; returns what is told how
    many (image, configuration) pairs were computed. quiet: no progress bar while training on the digits.

    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/r.parquet"
    >>> request = SweepRequest("resnet18", "dilation", sites="D", data="digits", weights="none", limit=1, out=out)
    >>> sweep(request, quiet=True).configs
    5
    """
    prepared = prepare_sweep(request, quiet=quiet)
    check_faithful(prepared)
    writer = open_writer(prepared)
    todo = sum(len(unit) for unit in writer.todo(request.shard))
    progress = on_start(prepared, writer.done_images, todo) if on_start else None
    return run_sweep(prepared, writer, progress)
