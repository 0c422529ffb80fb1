"""What the paper's text leaves open, as one value. Our reading is the default; each other one is a named option."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from itd.errors import SpaceError

OPEN_CONVENTIONS = {
    "size_scale": ("area", "side", "none"),
    "shortcut": ("zero", "nearest"),
    "pool_half": ("nearest", "zero"),
}
"""name -> what it may be, the default first."""


@dataclass(frozen=True)
class Conventions:
    """A reconstruction of what the paper does not say (DESIGN: "What a setting computes").

    size_scale: a resized kernel's output is scaled by (k0/k)**2, k0/k or 1. align_corners: of the bilinear resize.
    shortcut: the 1x1 projection at stride 1/2 fills with zeros or the nearest value. pool_half: a pool at stride 1/2
    upsamples its input by the nearest value or by zeros.
    """

    size_scale: str = "area"
    align_corners: bool = False
    shortcut: str = "zero"
    pool_half: str = "nearest"

    def __post_init__(self) -> None:
        for name, allowed in OPEN_CONVENTIONS.items():
            if getattr(self, name) not in allowed:
                raise SpaceError(f"no such {name}: {getattr(self, name)!r}; allowed are {', '.join(allowed)}")

    def identity(self) -> dict[str, Any]:
        """The conventions as JSON values."""
        return asdict(self)

    def scale(self, k0: int, k: int) -> float:
        """What multiplies a kernel resized from k0 to k."""
        return {"area": (k0 / k) ** 2, "side": k0 / k, "none": 1.0}[self.size_scale]
