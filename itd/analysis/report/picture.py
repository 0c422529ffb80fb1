"""A picture of matplotlib made fit to stand beside others on one page: ids of its own, nothing superfluous."""

from __future__ import annotations

import re

TAG = re.compile(r"<[^>]*>")
REFERENCE = re.compile(r'(url\(#|xlink:href="#)([^")]+)')
ID = re.compile(r' id="([^"]*)"')
PATH = re.compile(r' d="([^"]*)"')
LONG = re.compile(r"(\.\d\d)\d+")


def own_picture(svg: str, name: str) -> str:
    """The picture with `name` before its ids, which several pictures on one page would share otherwise.

    Ids that nothing refers to, metadata, the size in points and digits below a hundredth of a point are left out.

    >>> own_picture('<svg width="9pt" viewBox="0 0 9 9"><g id="a"><path id="b" d="M 0.12345 1"/></g></svg>', "f1")
    '<svg viewBox="0 0 9 9"><g><path d="M 0.12 1"/></g></svg>'
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    used = {target for _, target in REFERENCE.findall(svg)}

    def short(path: re.Match[str]) -> str:
        return ' d="' + LONG.sub(r"\1", " ".join(path[1].split())) + '"'

    def rename(tag: re.Match[str]) -> str:
        text = ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", tag[0])
        text = PATH.sub(short, REFERENCE.sub(rf"\g<1>{name}-\g<2>", text))
        return re.sub(r' (?:width|height)="[^"]*"', "", text) if text.startswith("<svg") else text

    return re.sub(r">\s+<", "><", TAG.sub(rename, svg))
