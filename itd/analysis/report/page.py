"""A page of sections: tables that sort, figures that say what is under the pointer, numbers as CSV. It knows nothing of
what the numbers mean; `sections` does."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from itd.analysis.report.elements import Elements
from itd.analysis.report.parts import Section
from itd.analysis.report.picture import scheme_style
from itd.errors import ResultError
from itd.files import temporary, unwritable, write_atomic

_ANOTHER = "give another `out`, such as report.html"


def render(title: str, lead: str, sections: Sequence[Section], progress: Callable[[str], Any] | None = None) -> str:
    """The page as HTML with everything inside: style, script, pictures and numbers.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: in order.
        progress: called with a section's title before each of its figures is made.

    Returns:
        The page.

    >>> render("A page", "Its lead.", [Section("One", ("A paragraph.",))]).startswith("<!doctype html>")
    True
    """
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    toc = "".join(f'<li><a href="#{s.anchor}">{html.escape(s.title)}</a></li>' for s in sections)
    elements = Elements(progress)
    body = "\n".join(map(elements.section, sections))
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{style}{scheme_style(body)}</style></head>\n"
        f"<body><main>\n<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p></header>\n"
        f'<nav aria-label="Contents"><ul>{toc}</ul></nav>\n{body}\n</main>\n'
        f'<div id="ring" hidden></div><div id="tip" role="status" hidden></div>\n'
        f"<script>\n{script}</script></body></html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a path may hold bytes that are no text


def write_page(page: str, path: str | Path) -> None:
    """Writes a page, whole or not at all; ResultError where the path cannot be written."""
    _check_name(path)
    try:
        write_atomic(path, page)
    except OSError as error:
        raise ResultError(unwritable(f"the report {str(path)!r}", error, _ANOTHER)) from error


def check_page_path(path: str | Path) -> None:
    """ResultError where `write_page` could not write: to be asked before anything is computed."""
    _check_name(path)
    try:
        with temporary(path) as temp:
            temp.touch()
    except OSError as error:
        raise ResultError(unwritable(f"the report {str(path)!r}", error, _ANOTHER)) from error


def _check_name(path: str | Path) -> None:
    target = Path(path)
    if not target.name or "\0" in str(path) or target.is_dir():
        raise ResultError(f"cannot write the report {str(path)!r}: it is a folder, or names no file; {_ANOTHER}")


def _asset(name: str) -> str:
    return resources.files("itd.analysis.report").joinpath(name).read_text(encoding="utf-8")
