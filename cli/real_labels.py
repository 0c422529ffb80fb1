"""`--real-labels`: another truth for the commands that say accuracies."""

from __future__ import annotations

from typing import Any

import click

real_labels_option = click.option(
    "--real-labels", metavar="FILE", help="ImageNet's ReaL labels, the published real.json, as the truth."
)
"""`--real-labels FILE`."""


def relabelled(result: Any, real_labels: str | None) -> Any:
    """The result by ReaL labels where they are asked for."""
    if real_labels is None:
        return result
    from itd.analysis import with_real_labels

    return with_real_labels(result, real_labels)
