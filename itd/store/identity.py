"""What makes two results the same: the fields of a manifest's identity, and how two of them are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from itd.store.files import sha256, to_json
from itd.text import shorten

ABSENT = "(absent)"

IDENTITY_DEFAULTS: Mapping[str, Any] = {
    "engine": 1,
    "network_sha256": None,
    "contents_sha256": None,
    "every": 1,
    "class_subset": None,
    "variation": None,
    "recalibration": None,
    "choices": {"size_scale": "area", "align_corners": False, "shortcut": "zero", "pool_half": "nearest"},
}
"""What a field of the identity is where a manifest does not have it: sweeps before the field existed did just that.

engine: 2 where size 1 of aligned corners is the kernel's centre tap, as it is now; before, it was the top left one. 3
in bf16 and fp16, where the last linear layer, biases, scales and shifts are in float32; before, they were rounded too.
contents_sha256: the contents of the files were not looked at. every: each image of the data was selected.
class_subset: predictions are among all classes. variation: the images are as they are. recalibration: the normalisation
statistics are the weights' own. choices: the readings of the paper that come first in `itd.space.Conventions`. A field
that is added to the identity later gets its default here, so that older results go on."""


OF_DATA = ("data", "contents_sha256")
"""The fields of an identity that a replaced file changes."""


def with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the fields that it lacks at their defaults, those of its own first and in their order.

    >>> with_defaults({"model": "resnet18", "choices": {"shortcut": "nearest"}})["choices"]["shortcut"]
    'nearest'
    """
    return _filled(identity, IDENTITY_DEFAULTS)


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(values)
    for name, default in defaults.items():
        if name not in filled:
            filled[name] = dict(default) if isinstance(default, dict) else default
        elif isinstance(default, dict) and isinstance(filled[name], dict):
            filled[name] = _filled(filled[name], default)
    return filled


def identity_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """`differences` of two identities of results, a field that one of them lacks compared as its default.

    A preprocessing of which one of them says nothing is not compared where the data are the same: they then cover it.
    """
    filled = [with_defaults(as_json(identity)) for identity in (there, here)]
    if None in (one.get("preprocess") for one in filled) and filled[0].get("data") == filled[1].get("data"):
        for one in filled:
            one.pop("preprocess", None)
    found = differences(*filled)
    follows = any(name == "precision" for name, _, _ in found)  # another `engine` then says nothing of its own
    return [one for one in found if not (follows and one[0] == "engine")]


def differences(there: Any, here: Any) -> list[tuple[str, str, str]]:
    """The fields in which two identities differ: (dotted name, value there, value here), values shortened.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', '2', '3')]
    """
    return list(_compare("", as_json(there), as_json(here)))


def _compare(name: str, there: Any, here: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            inner = f"{name}.{key}" if name else str(key)
            yield from _compare(inner, there.get(key, ABSENT), here.get(key, ABSENT))
    elif there != here:
        yield name, _shown(there), _shown(here)


def _shown(value: Any) -> str:
    return shorten(value if value is ABSENT else json.dumps(value))


def identity_sha256(identity: Mapping[str, Any]) -> str:
    """A short text that is the same of identities with the same fields."""
    return sha256(json.dumps(as_json(identity), sort_keys=True).encode())[:16]


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are strings."""
    return json.loads(to_json(value))
