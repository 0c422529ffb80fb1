"""What a manifest and a part's record must hold for the code to go on with them: types and ranges, as checks of JSON.

Whether it is true is another question: hashes and the parts themselves answer it.
"""

from __future__ import annotations

from typing import Any

from itd.checked import (
    BadJson,
    anything,
    either,
    fields,
    hexadecimal,
    listing,
    mapping,
    maybe,
    number,
    one_of,
    text,
    whole,
)
from itd.space import ATTRIBUTES, SITES

MOST_IMAGES = 100_000_000
_LAST = 2**31 - 1
_MOST_CONFIGS = 32_767
_OBJECT = mapping(text, anything)

_IDENTITY_FIELDS = {
    "model": maybe(text),
    "weights_sha256": maybe(text),
    "network_sha256": maybe(text),
    "sites": maybe(mapping(text, either(text, listing(text)))),
    "space": maybe(
        fields(
            {},
            {
                "attributes": listing(text),
                "options": maybe(mapping(text, mapping(text, listing(maybe(number(0, 1e6)))))),
                "stride_range": maybe(listing(number(0, 1e12), 2, 2)),
                "configurations": whole(0, _MOST_CONFIGS),
                "listed": text,
            },
        )
    ),
    "engine": maybe(whole(1, 1000)),
    "choices": maybe(_OBJECT),
    "data": maybe(text),
    "contents_sha256": maybe(hexadecimal),
    "every": maybe(whole(1, _LAST)),
    "class_subset": maybe(listing(whole(0, _MOST_CONFIGS))),
    "preprocess": maybe(_OBJECT),
    "variation": maybe(mapping(text, number(0, 1e6))),
    "precision": maybe(text),
    "recalibration": maybe(_OBJECT),
}
_IDENTITY = fields({}, {**_IDENTITY_FIELDS, "union": mapping(text, fields({}, _IDENTITY_FIELDS))})
_RUN = fields({}, {"classes": maybe(whole(1, _MOST_CONFIGS)), "run": maybe(text)})

_MANIFEST = fields(
    {
        "identity": _IDENTITY,
        "images": whole(0, MOST_IMAGES),
        "samples": listing(listing(whole(-_LAST, _LAST), 3, 3)),
        "images_per_unit": whole(1, _LAST),
        "attributes": listing(one_of(ATTRIBUTES), 1, 3, distinct=True),
        "sites": listing(one_of(SITES), 1, 4, distinct=True),
        "configs": whole(1, _MOST_CONFIGS),
        "default": maybe(whole(0, _MOST_CONFIGS)),
        "configs_sha256": hexadecimal,
        "provenance": listing(_RUN, 1),
    },
    {
        "swept": listing(one_of(SITES), 0, 4, distinct=True),
        "removed": mapping(text, whole(0, 2**53)),
        "macs_unknown": listing(text),
        "order": text,
        "samples_sha256": hexadecimal,
        "sha256": hexadecimal,
    },
)


def check_manifest(value: Any, name: str) -> None:
    """A manifest's fields, and that its counts agree with each other."""
    _MANIFEST(value, name)
    count = 0
    for place, (start, step, length) in enumerate(value["samples"]):
        count += length
        if length < 1 or (step == 0 and length > 1) or count > MOST_IMAGES:
            raise BadJson(f"samples[{place}] is no run of sample numbers")
        if start < 0 or not 0 <= start + step * (length - 1) <= _LAST:
            raise BadJson(f"samples[{place}] goes beyond 0 to {_LAST}")
    if count != value["images"]:
        raise BadJson(f"samples are {count:,}, and images is {value['images']:,}")
    if value["default"] is not None and value["default"] >= value["configs"]:
        raise BadJson(f"default is {value['default']}, and there are {value['configs']} configurations")


check_record = fields(
    {
        "rows": whole(0, 2**53),
        "bytes": whole(0, 2**53),
        "footer_sha256": hexadecimal,
        "columns_crc32": mapping(text, whole(0, 2**32 - 1)),
    },
    {"content_sha256": hexadecimal, "run": maybe(text), "sha256": hexadecimal},
)
