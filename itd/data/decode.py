"""Decoding one image file, wherever its bytes lie, so that every source gives the same pixels for the same file.

What a file's first bytes say is looked at before anything is decoded: its format, its size, its kind of pixels.
"""

from __future__ import annotations

import io
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from itd import checked
from itd.checked import BadFile
from itd.errors import DataError, ImageReadError
from itd.text import one_line

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Pillow's names of what is read, whatever a file is called: its other decoders, some of which start programs, are not
tried."""
MAX_PIXELS = 89_478_485
"""Width times height. Above it Pillow warns; decoded, an image of as many takes 0.4 GB, and its RGB copy as much."""
MAX_BYTES = 2**29
"""Of a file: an image of `MAX_PIXELS` takes 358 MB where nothing is compressed."""
_DEEP = ("PNG", "PPM")
"""Formats whose grey values are never above 16 bits, where older versions of Pillow have them in 32."""
_TILE_SIDES = (322, 323)
"""TIFF's tags TileWidth and TileLength: a decoder's buffer has that size, whatever the image's."""


def decoded(file: str | IO[bytes], index: int, where: str) -> Image.Image:
    """The image as RGB. file: a path, or what reads the bytes of one. A damaged one is an error: nothing is filled in.

    Of grey values of 16 bits the higher 8 are taken. index, where: of the image, for the message of a DataError, which
    is an ImageReadError where the bytes cannot be read: then nobody knows whether they can be decoded.
    """
    content = file if not isinstance(file, str) else io.BytesIO(read_bytes(file, index, where))
    try:
        with Image.open(content, formats=FORMATS) as image:
            why = _refused(image)
            if why is None:
                return _rgb(image)
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        why = f"it has more than {MAX_PIXELS:,} pixels"
    except UnidentifiedImageError as error:  # whose text has an address in memory
        raise DataError(_message(index, where, f"it is none of {', '.join(FORMATS)}")) from error
    except Exception as error:  # PIL's decoders raise a dozen unrelated types on damaged files
        raise DataError(_message(index, where, one_line(error))) from error
    raise DataError(_message(index, where, why))


def read_bytes(path: str, index: int, where: str) -> bytes:
    """The bytes of an image's file. index, where: of the image.

    Raises ImageReadError where the disk does not give them, DataError for what is no file, or too large.
    """
    try:
        return checked.read_bytes(path, MAX_BYTES)
    except BadFile as error:
        raise DataError(_message(index, where, str(error))) from error
    except OSError as error:
        raise unreadable(index, where, error) from error


def unreadable(index: int, where: str, error: BaseException | str) -> ImageReadError:
    """What is raised of an image whose bytes cannot be read."""
    return ImageReadError(
        f"cannot read image {index}, {where}: {one_line(error)}; see that its disk or network folder is there and "
        "readable, then give the same command again"
    )


def _refused(image: Image.Image) -> str | None:
    """Why an image is not decoded, by its header; None where it is."""
    if image.width * image.height > MAX_PIXELS:
        return f"it is {image.width} x {image.height}; allowed are {MAX_PIXELS:,} pixels"
    if image.format == "TIFF":
        sides = [image.tag_v2.get(tag, 1) for tag in _TILE_SIDES]  # type: ignore[attr-defined]
        if not all(isinstance(side, int) for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
            return f"its tiles are {sides[0]} x {sides[1]}; allowed are {MAX_PIXELS:,} pixels"
    if image.mode == "F" or (image.mode == "I" and image.format not in _DEEP):
        return f"its values are {'floats' if image.mode == 'F' else '32-bit integers'}, of no known range"
    return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _message(index: int, where: str, why: str) -> str:
    return (
        f"cannot decode image {index}, {where}: {why}; replace the file, or pass `allow_missing` to record it as "
        "missing"
    )
