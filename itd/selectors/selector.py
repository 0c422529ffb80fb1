"""A selector as a file: which configurations it chooses among, of which network, and how. Plain arrays, no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from itd import checked
from itd.checked import BadJson, listing, mapping, maybe, number, one_of, parse_json, text, whole
from itd.data.preprocess import Preprocess
from itd.errors import DataError, ItdError, ItdWarning
from itd.files import unwritable, write_atomic
from itd.selectors.learners import LEARNERS, Learned, fault_of
from itd.space import ATTRIBUTES, SITES, Conventions
from itd.space.listed import SITE_SETTINGS
from itd.text import one_line
from itd.weights.files import PREPROCESS_FIELDS

SOURCES = ("features", "thumbnail")
METHODS = ("cascade", "averaging", *(f"{source}-{kind}" for source in SOURCES for kind in LEARNERS))
"""cascade; averaging of the probabilities; and each learner on the pooled values at the frontier of level 0, or on a
16 x 16 thumbnail."""

_KEY = "itd.selector"
_SEAL = "itd.selector.sha256"
"""In the header: the SHA-256 of all else that the file says."""
_FORMAT = 1
_FIELDS = checked.fields(
    {
        "method": one_of(METHODS),
        "kind": maybe(one_of(tuple(LEARNERS))),
        "model": text,
        "weights_sha256": text,
        "sites": mapping(one_of(SITES), listing(text, 1)),
        "swept": listing(one_of(SITES), 0, 4, distinct=True),
        "attributes": listing(one_of(ATTRIBUTES), 1, 3, distinct=True),
        "choices": checked.fields(
            {}, dict.fromkeys(Conventions().identity(), checked.either(text, checked.truth)), others=False
        ),
        "configs": listing(SITE_SETTINGS, 1, 32_767),
        "preprocess": PREPROCESS_FIELDS,
    },
    {
        "format": whole(_FORMAT, _FORMAT),
        "threshold": maybe(number(-math.inf, math.inf)),
        "made_from": mapping(text, checked.anything),
        "class_subset": maybe(listing(whole(0, 32_766), 1, distinct=True)),
    },
    others=False,
)


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
        from safetensors.numpy import save

        path = check_selector_path(path)
        header = {name: value for name, value in self.__dict__.items() if name != "learned"}
        header |= {"format": _FORMAT, "kind": None if self.learned is None else self.learned.kind}
        arrays = {} if self.learned is None else dict(self.learned.arrays)
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()} or {"none": np.zeros(1)}
        said = json.dumps(header)
        data = save(arrays, metadata={_KEY: said, _SEAL: _sha256(said, arrays)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise ItdError(unwritable(f"the selector {path}", error)) from error


def load_selector(path: str | Path) -> Selector:
    """Reads a selector; ItdError for anything else."""
    from safetensors import safe_open

    again = "`itd select --save` writes one"
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is no file")
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            header, seal = metadata.get(_KEY), metadata.get(_SEAL)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except MemoryError:
        raise
    except Exception as error:  # the library, and numpy for kinds of numbers that it lacks, raise unrelated types
        raise ItdError(f"cannot read the selector {path}: {one_line(error)}; {again}") from error
    if header is None:
        raise ItdError(f"{path} is not a selector; {again}")
    try:
        fields = parse_json(header, checked.fields({"format": checked.anything}))
        if fields["format"] != _FORMAT:
            raise ItdError(
                f"{path} has format {one_line(repr(fields['format']), 20)}, this itd reads {_FORMAT}; make it again "
                "with `itd select --save`"
            )
        if seal is None:
            warnings.warn(
                f"{path} has no hash, as of an earlier itd: nothing says that it is as it was written; {again} with "
                "one",
                ItdWarning,
                stacklevel=2,
            )
        elif seal != _sha256(header, arrays):
            raise BadJson("it is not what its hash says")
        _FIELDS(fields, "")
        return _selector(fields, arrays)
    except (BadJson, DataError) as error:
        raise ItdError(
            f"the selector {path} is damaged: {one_line(error)}; make it again with `itd select --save`"
        ) from error


def _sha256(header: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Of a selector's header and arrays, whatever order the file has them in."""
    digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode("utf-8", "surrogatepass"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _selector(fields: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Selector:
    """The selector of a header that has been checked; BadJson where its fields and the arrays do not fit each other."""
    method, kind = fields["method"], fields.pop("kind")
    fields.pop("format")
    learned = None if kind is None else Learned(kind, arrays)
    if kind != (method.partition("-")[2] or None):
        raise BadJson(f"the method {method} has the learner {kind}")
    if method == "cascade" and fields.get("threshold") is None:
        raise BadJson("the cascade has no threshold")
    if learned is not None and (why := fault_of(learned, len(fields["configs"]))) is not None:
        raise BadJson(why)
    Preprocess.from_identity(fields["preprocess"])
    for name in ("swept", "attributes", "configs"):
        fields[name] = tuple(fields[name])
    return Selector(**fields, learned=learned)


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
