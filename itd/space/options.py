"""What `--options` says, read into values for each site and attribute."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from itd.errors import SpaceError
from itd.space.setting import ATTRIBUTES, SITES, parse_value


def parse_options(
    texts: Sequence[str],
    attributes: Sequence[str],
    swept: Sequence[str],
    fixed: Collection[tuple[str, str]] = (),
) -> dict[tuple[str, str], tuple[float, ...]]:
    """What `--options` says: (site, attribute) -> values.

    fixed: (site, attribute) that cannot vary; a list for every site passes them over.

    >>> parse_options(["1,2", "C=1/2"], ["stride"], ["B", "C"])
    {('B', 'stride'): (1, 2), ('C', 'stride'): (0.5,)}
    """
    everywhere: dict[tuple[str, str], tuple[float, ...]] = {}
    alone: dict[tuple[str, str], tuple[float, ...]] = {}
    for text in texts:
        attribute, site, listed = _split_option(text, attributes, swept)
        values = tuple(parse_value(attribute, part) for part in listed.split(","))
        found = alone if site else everywhere
        keys = [(name, attribute) for name in ([site] if site else swept) if site or (name, attribute) not in fixed]
        if any(key in found for key in keys):
            where = f"site {site}" if site else "every site"
            raise SpaceError(f"`options` gives {attribute} for {where} twice; give one list with all its values")
        found.update(dict.fromkeys(keys, values))
    return everywhere | alone


def _split_option(text: str, attributes: Sequence[str], swept: Sequence[str]) -> tuple[str, str, str]:
    """(attribute, site or "", values) of `1,2`, `A=1,2`, `stride:1,2` or `stride:A=1,2`."""
    head, colon, rest = text.rpartition(":")
    site, equals, values = rest.rpartition("=")
    attribute, site = head.strip(), site.strip()
    if not colon and len(attributes) > 1:
        raise SpaceError(
            f"`options={text}` does not say of which attribute; with `attributes={','.join(attributes)}` "
            f"write {attributes[0]}:{text}"
        )
    if colon and attribute not in ATTRIBUTES:
        raise SpaceError(f"`options={text}`: no such attribute: {attribute!r}; allowed are {', '.join(ATTRIBUTES)}")
    if equals and site not in SITES:
        raise SpaceError(
            f"`options={text}`: no such site: {site!r}; allowed are {', '.join(swept)}, each with an option of its "
            "own, such as A=1,2 and C=2"
        )
    return attribute or attributes[0], site, values
