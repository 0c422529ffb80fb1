"""Decoding one image file, wherever its bytes lie, so that every source gives the same pixels for the same file."""

from __future__ import annotations

from typing import IO

from PIL import Image

from itd.errors import DataError
from itd.text import one_line


def decoded(file: str | IO[bytes], index: int, where: str) -> Image.Image:
    """The image as RGB. file: a path, or what reads the bytes of one. A damaged one is an error: nothing is filled in.

    index, where: of the image, for the message of a DataError.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise a dozen unrelated types on damaged files
        raise DataError(
            f"cannot decode image {index}, {where}: {one_line(error)}; replace the file, or pass `allow_missing` to "
            "record it as missing"
        ) from error
