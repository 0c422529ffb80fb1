"""What `itd models` says of each registered model, and of the networks with learned dynamic convolutions."""

from __future__ import annotations

from typing import Any

from itd.errors import ItdError, SpaceError
from itd.layers.models import LEARNED
from itd.patcher.model import DynamicModel, model_space, patch, patch_in_place
from itd.patcher.packages import broken_packages
from itd.patcher.registry import MODELS, build_model, is_of_others
from itd.patcher.storage import WithoutStorage
from itd.space import ATTRIBUTES, Conventions


def models(*, learned: bool = False) -> list[dict[str, Any]]:
    """One row for each registered model, or for each network with learned dynamic convolutions.

    Args:
        learned: the second.

    Returns:
        Rows of `model`, `sites` (site -> module paths), `configs` (attribute -> count, 0 where no site takes it, None
        for a network of an installed package that cannot be built) and `v1_top1`, the published ImageNet accuracy of
        torchvision's IMAGENET1K_V1 weights in percent; of learned networks the fields of
        `itd.layers.models.LearnedEntry`.

    Example:
        >>> models(learned=True)[0]["params"]
        11173962
    """
    if learned:
        return [dict(entry.__dict__) for entry in LEARNED.values()]
    broken_packages()  # which registers what installed packages have
    return [_summary(name) for name in MODELS]


def _summary(name: str) -> dict[str, Any]:
    entry = MODELS[name]
    return {
        "model": name,
        "sites": {site: [m.path for m in modules] for site, modules in entry.sites.items()},
        "configs": _counts(name),
        "v1_top1": entry.v1_top1,
    }


def _counts(name: str) -> dict[str, int | None]:
    """attribute -> configurations; None throughout where the network cannot be built: the package's that has it."""
    try:
        with WithoutStorage():
            model = _patched(name)
    except Exception:  # what is registered may read values
        try:
            model = _patched(name)
        except ItdError:
            return dict.fromkeys(ATTRIBUTES)
    return {attribute: _count(model, attribute) for attribute in ATTRIBUTES}


def _patched(name: str) -> DynamicModel:
    """A network of this call alone, patched; only one that others may have is copied for it, which takes long."""
    network = build_model(name)
    return patch(network, name) if is_of_others(name) else patch_in_place(network, name, Conventions())


def _count(model: DynamicModel, attribute: str) -> int:
    try:
        return len(model_space(model, [attribute]))
    except SpaceError:  # no site takes it
        return 0
