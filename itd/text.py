"""How messages say things: an error in one line, a long text cut, a long list with its end counted. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal acts on and does not show: control characters but the end of a line and the tab, marks of direction,
and halves of characters, which stand for bytes of a file's name that are no UTF-8."""


def visible(text: str) -> str:
    r"""A text in which what a terminal would act on stands as an escape: names of files may hold anything.

    >>> print(visible("a" + chr(27) + "[2Jb.jpg"))
    a\x1b[2Jb.jpg
    """
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1].replace("\\r", "\\x0d"), text)


def shorten(value: Any, most: int = 60) -> str:
    """A text of at most `most` characters; what was longer ends in three dots.

    >>> shorten("a long text", 8)
    'a lon...'
    """
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(error: Any, most: int = 160) -> str:
    """An error or a text on one line, its kind where it says nothing; an OSError without its number and path.

    >>> one_line(ValueError("first\\nsecond")), one_line(KeyError())
    ('first second', 'KeyError')
    """
    if isinstance(error, OSError) and error.strerror:
        return shorten(error.strerror.lower(), most)
    return shorten(" ".join(str(error).split()) or type(error).__name__, most)


def first_line(error: Any, most: int = 160) -> str:
    """The first line of what an error says, its kind where it says nothing: torch's errors go on for pages.

    >>> first_line(RuntimeError("sizes differ\\nat ..."))
    'sizes differ'
    """
    lines = str(error).strip().splitlines()
    return shorten(lines[0].strip(), most) if lines else type(error).__name__


def listed(names: Iterable[Any], most: int = 3, *, quoted: bool = False) -> str:
    """The first few of some names, and how many more there are.

    >>> listed("abcde"), listed(["x"], quoted=True)
    ('a, b, c and 2 more', "'x'")
    """
    found = [repr(name) if quoted else str(name) for name in names]
    more = f" and {len(found) - most:,} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
