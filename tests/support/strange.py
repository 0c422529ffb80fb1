"""Values that no file should hold, and what reading one may do: give something, or refuse it in one line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from itd.errors import ItdError

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J", "\ud800", "a" * 10_000, [],
    [None], {}, {"x": 1}, [[]], [[1, 2]],
)  # fmt: skip


def mutated(value: Any, choose: random.Random) -> Any:
    """A copy in which one place, drawn at random, holds something strange, is gone, or is there under another name."""
    value = copy.deepcopy(value)
    at, key = None, None
    inner = value
    while isinstance(inner, (dict, list)) and inner and (at is None or choose.random() < 0.8):
        at, key = inner, choose.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = inner[key]
    if at is None:
        return choose.choice(STRANGE)
    how = choose.random()
    if how < 0.2:
        del at[key]
    elif how < 0.3 and isinstance(at, dict):
        at[choose.choice(["", "E", "x" * 5000, "\ud800"])] = at.pop(key)
    else:
        at[key] = choose.choice(STRANGE)
    return value


def only_lines(read: Callable[[], object]) -> bool:
    """Whether something was read; what refuses it is an ItdError of one short line."""
    try:
        read()
    except ItdError as error:
        assert "\n" not in str(error) and len(str(error)) < 700, error
        return False
    return True
