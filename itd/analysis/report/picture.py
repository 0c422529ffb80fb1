"""A picture of matplotlib made fit to stand beside others on one page: ids of its own, greys of the page's scheme,
nothing superfluous."""

from __future__ import annotations

import re

TAG = re.compile(r"<[^>]*>")
REFERENCE = re.compile(r'(url\(#|xlink:href="#)([^")]+)')
ID = re.compile(r' id="([^"]*)"')
PATH = re.compile(r' d="([^"]*)"')
LONG = re.compile(r"(\.\d\d)\d+")
GREY = re.compile(r"(?<=[:\s])#([0-9a-f]{2})\1\1(?=[;\"])")
USED = re.compile(r"var\(--grey-([0-9a-f]{2})\)")
BLACK = "00"
BLUE, DARK_BLUE = "#0072b2", "#2f93d8"
"""The first colour of the figures, and what it is on a dark page, where it would be too dark to read."""
DARK_INK, DARK_PAPER = (0xE6, 0xED, 0xF3), (0x16, 0x1B, 0x22)
"""`--ink` and `--paper` of page.css on a dark page: what black and white become."""


def own_picture(svg: str, name: str) -> str:
    """The picture with `name` before its ids, which several pictures on one page would share otherwise.

    Ids that nothing refers to, metadata, the size in points and digits below a hundredth of a point are left out.
    Black, white, greys and the blue become variables, which `scheme_style` defines.

    >>> own_picture('<svg width="9pt" viewBox="0 0 9 9"><g id="a"><path id="b" d="M 0.12345 1"/></g></svg>', "f1")
    '<svg viewBox="0 0 9 9"><g><path d="M 0.12 1"/></g></svg>'
    >>> own_picture('<path style="stroke: #e6e6e6; fill: #0072b2"/>', "f1")
    '<path style="stroke: var(--grey-e6); fill: var(--blue)"/>'
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    used = {target for _, target in REFERENCE.findall(svg)}

    def short(path: re.Match[str]) -> str:
        return ' d="' + LONG.sub(r"\1", " ".join(path[1].split())) + '"'

    def rename(tag: re.Match[str]) -> str:
        text = ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", tag[0])
        text = PATH.sub(short, REFERENCE.sub(rf"\g<1>{name}-\g<2>", text))
        text = GREY.sub(r"var(--grey-\1)", text).replace(BLUE, "var(--blue)") if "style=" in text else text
        return re.sub(r' (?:width|height)="[^"]*"', "", text) if text.startswith("<svg") else text

    return re.sub(r">\s+<", "><", TAG.sub(rename, svg))


def scheme_style(page: str) -> str:
    """The CSS of the variables that the pictures of a page use: the colours themselves, and those of a dark page.

    >>> print(scheme_style("stroke: var(--grey-ff)"), end="")
    :root { --blue: #0072b2; --grey-00: #000000; --grey-ff: #ffffff; }
    @media screen and (prefers-color-scheme: dark) {
    :root { --blue: #2f93d8; --grey-00: #e6edf3; --grey-ff: #161b22; } }
    """
    levels = sorted({BLACK, *USED.findall(page)})  # black is also what has no colour of its own
    light = " ".join(f"--grey-{level}: #{3 * level};" for level in levels)
    dark = " ".join(f"--grey-{level}: {_on_dark(int(level, 16) / 255)};" for level in levels)
    return (
        f":root {{ --blue: {BLUE}; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n:root {{ --blue: {DARK_BLUE}; {dark} }} }}\n"
    )


def _on_dark(lightness: float) -> str:
    """A grey as far from the dark page's ink as it is from black."""
    mixed = (round(ink + lightness * (paper - ink)) for ink, paper in zip(DARK_INK, DARK_PAPER, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
