"""A selector as a file: which configurations it chooses among, of which network, and how. Plain arrays, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from itd.errors import ItdError
from itd.files import replacing
from itd.selectors.learners import LEARNERS, Learned

SOURCES = ("features", "thumbnail")
METHODS = ("cascade", "averaging", *(f"{source}-{kind}" for source in SOURCES for kind in LEARNERS))
"""cascade; averaging of the probabilities; and each learner on the pooled values at the frontier of level 0, or on a
16 x 16 thumbnail."""

_KEY = "itd.selector"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Selector:
    """How to choose a configuration for an image.

    method: a name of `METHODS`. configs: site -> attribute -> value, in the order of the list (of a cascade, in the
    order they are run). threshold: of a cascade. learned: of the others. weights_sha256, sites, swept, attributes,
    choices, preprocess: of the network that it was made for. class_subset: the labels that are chosen among, None for
    all. made_from: for people to read.
    """

    method: str
    model: str
    weights_sha256: str
    sites: Mapping[str, Any]
    swept: tuple[str, ...]
    attributes: tuple[str, ...]
    choices: Mapping[str, Any]
    configs: tuple[Mapping[str, Mapping[str, float]], ...]
    preprocess: Mapping[str, Any]
    threshold: float | None = None
    learned: Learned | None = None
    made_from: Mapping[str, Any] = field(default_factory=dict)
    class_subset: Sequence[int] | None = None

    @property
    def source(self) -> str | None:
        """What the learner sees: `features` or `thumbnail`; None where nothing is learnt."""
        return None if self.learned is None else self.method.partition("-")[0]

    def save(self, path: str | Path) -> None:
        """Writes the selector; ItdError where the path cannot be written."""
        from safetensors.numpy import save_file

        path = check_selector_path(path)
        header = {name: value for name, value in self.__dict__.items() if name != "learned"}
        header |= {"format": _FORMAT, "kind": None if self.learned is None else self.learned.kind}
        arrays = {} if self.learned is None else dict(self.learned.arrays)
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(contiguous or {"none": np.zeros(1)}, temporary, metadata={_KEY: json.dumps(header)})
        except OSError as error:
            raise ItdError(f"cannot write {path}: {error.strerror or error}; give another path") from error


def load_selector(path: str | Path) -> Selector:
    """Reads a selector; ItdError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            header = (file.metadata() or {}).get(_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise ItdError(f"cannot read the selector {path}: {error}; `itd select --save` writes one") from error
    if header is None:
        raise ItdError(f"{path} is not a selector; `itd select --save` writes one")
    fields = json.loads(header)
    version, kind = fields.pop("format"), fields.pop("kind")
    if version != _FORMAT:
        raise ItdError(f"{path} has format {version}, this itd reads {_FORMAT}; make it again with `itd select --save`")
    for name in ("swept", "attributes", "configs"):
        fields[name] = tuple(fields[name])
    return Selector(**fields, learned=None if kind is None else Learned(kind, arrays))


def check_selector_path(path: str | Path) -> Path:
    """The path of a selector to be written; ItdError for another suffix."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ItdError(f"{path} is not a name for a selector; it must end in .safetensors")
    return path


def check_method(method: str) -> str:
    """The method; ItdError for one that there is not."""
    if method not in METHODS:
        raise ItdError(f"no such method: {method!r}; allowed are {', '.join(METHODS)}")
    return method
