"""The public verbs, each one call: what the command line and a notebook use. They compose the parts; no logic here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from itd.runner.images import DIGITS, open_images
from itd.runner.request import Prepared, SweepRequest, patched_model, prepare, request_space
from itd.runner.sweep import SweepReport, open_writer
from itd.runner.sweep import sweep as run_sweep
from itd.runner.weights import load_weights


def prepare_sweep(request: SweepRequest, *, quiet: bool = False) -> Prepared:
    """A request resolved: images found, weights loaded, space built, costs known; nothing run.

    Where the data are the embedded digits and no weights are named, the model is trained on them once. Raises
    ItdError for anything that cannot be, cheap checks first.
    """
    device = request.checked_device()
    model, swept, own = patched_model(request, 10)
    request_space(request, model, swept, own)
    data = request.data or os.environ.get("ITD_DATA") or DIGITS
    weights_text = request.weights
    if data == DIGITS and weights_text is None:
        from itd.training.digits import train_on_digits

        open_images(data, num_classes=request.num_classes, classes_file=request.classes_file)
        weights_text = str(train_on_digits(request.model, device=device, progress=not quiet))
    num_classes = request.num_classes or (10 if data == DIGITS else None)
    weights = load_weights(request.model, weights_text, num_classes=num_classes)
    images = open_images(
        data,
        num_classes=request.num_classes,
        weights_classes=weights.num_classes,
        classes_file=request.classes_file,
    )
    return prepare(request, images, weights)


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
    writer = open_writer(prepared)
    todo = sum(len(unit) for unit in writer.todo(request.shard))
    progress = on_start(prepared, writer.done_images, todo) if on_start else None
    return run_sweep(prepared, writer, progress)
