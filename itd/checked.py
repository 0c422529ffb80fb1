"""JSON and lists from elsewhere: read within limits of size and depth, checked for types and ranges. No torch.

A check is a function of (value, name) that raises `BadJson`; checks are put together by `fields`, `listing`, `mapping`
and `maybe`. What is checked here is whether code can go on with a value, not whether it is right.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from itd.text import one_line, shorten

Check = Callable[[Any, str], None]

MOST_BYTES = 64 * 2**20
MOST_DEPTH = 32
MOST_LIST_BYTES = 16 * 2**20
MOST_LINE = 4096


class BadFile(ValueError):
    """A file that is not what it should be; the message says where and why, without the file's name."""


class BadJson(BadFile):
    """JSON that is not what it should be, as of `BadFile`."""


def file_size(path: str | Path, most_bytes: int) -> int:
    """Of a regular file in bytes; errors as of `read_bytes`."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise BadFile("it is no file")
    if found.st_size > most_bytes:
        raise BadFile(f"it has {found.st_size:,} bytes; allowed are {most_bytes:,}")
    return found.st_size


def read_bytes(path: str | Path, most_bytes: int) -> bytes:
    """What a regular file holds.

    Raises:
        OSError: the file cannot be read.
        BadFile: it is no regular file, as a pipe, from which nothing may ever come; or too long.
    """
    size = file_size(path, most_bytes)
    with open(path, "rb") as file:
        data = file.read(size or most_bytes + 1)  # of what the system makes up, no size is known
    if len(data) > most_bytes:
        raise BadFile(f"it has more than {most_bytes:,} bytes")
    return data


def read_text(path: str | Path, most_bytes: int = MOST_LIST_BYTES) -> str:
    """What a file of UTF-8 text holds, without the mark of its byte order; errors as of `read_bytes`."""
    data = read_bytes(path, most_bytes)
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(f"byte {error.start} is not UTF-8; save it as UTF-8") from error
    if "\0" in content:
        raise BadFile(f"line {content[: content.index(chr(0))].count(chr(10)) + 1} has a NUL, which no text has")
    return content


def read_lines(path: str | Path) -> list[str]:
    """The lines of a list, such as of the names of classes, that have something in them, without spaces around them.

    Errors as of `read_bytes`, and for a line that is longer than 4,096 characters.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, start=1):
        if len(line) > MOST_LINE:
            raise BadFile(f"line {number} has {len(line):,} characters; allowed are {MOST_LINE:,}")
    return [line for line in lines if line]


def read_json(path: str | Path, check: Check, *, name: str = "", most_bytes: int = MOST_BYTES) -> Any:
    """The value that a file holds.

    Args:
        path: of the file.
        check: of the value.
        name: what the value is called in messages.
        most_bytes: a longer file is not read.

    Raises:
        OSError: the file cannot be read.
        BadJson: it is no regular file, too long or no JSON, or the check refuses it.
    """
    try:
        data = read_bytes(path, most_bytes)
    except BadFile as error:
        raise BadJson(str(error)) from error
    return parse_json(data, check, name=name, most_bytes=most_bytes)


def parse_json(data: bytes | str, check: Check, *, name: str = "", most_bytes: int = MOST_BYTES) -> Any:
    """The value that a text holds; `BadJson` for one that is too long, no JSON or too deep, or that the check refuses.

    >>> parse_json('{"a": [1, 2]}', fields({"a": listing(whole(0, 9))}))
    {'a': [1, 2]}
    """
    if len(data) > most_bytes:
        raise BadJson(f"it has more than {most_bytes:,} bytes")
    try:
        value = json.loads(data)
    except RecursionError:
        raise BadJson(f"it is more than {MOST_DEPTH} levels deep") from None
    except (ValueError, MemoryError) as error:
        raise BadJson(f"it is not JSON ({one_line(error, 80)})") from error
    _check_depth(value)
    check(value, name)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise BadJson(f"it is more than {MOST_DEPTH} levels deep")


def anything(value: Any, name: str) -> None:
    """Any value."""


def whole(least: int, most: int) -> Check:
    """A whole number in a range, both ends included."""

    def check(value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _bad(value, name, f"a whole number from {least} to {most}")

    return check


def number(least: float, most: float) -> Check:
    """A number in a range, both ends included; not NaN."""

    def check(value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise _bad(value, name, f"a number from {least:g} to {most:g}")

    return check


def text(value: Any, name: str) -> None:
    """A text without line ends, control characters and halves of characters, of at most 4,096 characters."""
    if not isinstance(value, str) or len(value) > 4096 or re.search("[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise _bad(value, name, "a text of one line")


def hexadecimal(value: Any, name: str) -> None:
    """A SHA-256."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise _bad(value, name, "a SHA-256 in hexadecimal")


def one_of(allowed: Collection[Any]) -> Check:
    """One of some values of plain types."""

    def check(value: Any, name: str) -> None:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise _bad(value, name, f"one of {', '.join(map(str, allowed))}")

    return check


def truth(value: Any, name: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _bad(value, name, "true or false")


def maybe(inner: Check) -> Check:
    """Null, or what `inner` allows."""

    def check(value: Any, name: str) -> None:
        if value is not None:
            inner(value, name)

    return check


def either(*inner: Check) -> Check:
    """What at least one of some checks allows; the last one says what is wrong."""

    def check(value: Any, name: str) -> None:
        for one in inner[:-1]:
            try:
                return one(value, name)
            except BadJson:
                pass
        inner[-1](value, name)

    return check


def listing(inner: Check, least: int = 0, most: int | None = None, *, distinct: bool = False) -> Check:
    """A list, of so many members. distinct: each once."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list) or len(value) < least or (most is not None and len(value) > most):
            length = "" if not least and most is None else f" of {least}{'' if most == least else _to(most)}"
            raise _bad(value, name, f"a list{length}")
        for place, member in enumerate(value):
            inner(member, f"{name}[{place}]")
        if distinct and len(set(value)) != len(value):
            raise _bad(value, name, "a list that has nothing twice")

    return check


def _to(most: int | None) -> str:
    return " or more" if most is None else f" to {most}"


def mapping(keys: Check, values: Check) -> Check:
    """An object with any number of fields."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise _bad(value, name, "an object")
        for key, member in value.items():
            keys(key, f"a field of {name or 'it'}")
            values(member, _inner(name, key))

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, others: bool = True) -> Check:
    """An object with named fields. others: fields of other names are allowed, as later versions may write them."""
    known = {**required, **(optional or {})}

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise _bad(value, name, "an object")
        absent = [field for field in required if field not in value]
        if absent:
            raise BadJson(f"{name or 'it'} has no {', '.join(absent)}")
        strange = [field for field in value if field not in known]
        if strange and not others:
            raise BadJson(f"{name or 'it'} has the field {shorten(ascii(strange[0]))}; allowed are {', '.join(known)}")
        for field, inner in known.items():
            if field in value:
                inner(value[field], _inner(name, field))

    return check


def _inner(name: str, field: str) -> str:
    return f"{name}.{shorten(field, 40)}" if name else shorten(field, 40)


def _bad(value: Any, name: str, wanted: str) -> BadJson:
    return BadJson(f"{name or 'it'} is {_shown(value)}, not {wanted}")


def _shown(value: Any) -> str:
    """A value in a few characters, however large it is."""
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return f"a number of about {math.log10(abs(value)):.0f} digits"
    return shorten(json.dumps(value))
