"""Images in tar files with WebDataset's keys: which there are, by the headers alone, and reading one by its place.

A key's files: `0001.jpg` (or .jpeg, .png) is its image, `0001.cls` its label, a whole number. Others are not read.
Nothing is unpacked, and nothing is kept open.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from itd.data.classes import numbered_classes
from itd.data.decode import MAX_BYTES, decoded, unreadable
from itd.data.images import ImageSet
from itd.errors import DataError
from itd.text import listed, one_line

IMAGES = ("jpg", "jpeg", "png")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_MOST_CLS_BYTES = 64
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Decodes the images of some shards.

    shards: their paths. shard: (N,) int32, the shard of each image. offset, size: (N,) int64, in bytes.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __call__(self, index: int, name: str) -> Image.Image:
        return decoded(io.BytesIO(self.content(index, name)), index, f"{name} in {self.shards[self.shard[index]]}")

    def stamp(self, index: int, name: str) -> tuple[int, int]:
        """Size of an image and time of its shard; OSError where that is gone."""
        return int(self.size[index]), os.stat(self.shards[self.shard[index]]).st_mtime_ns

    def content(self, index: int, name: str) -> bytes:
        """The bytes of an image. Its shard is opened anew: a handle would be shared by processes that were forked."""
        path, size = self.shards[self.shard[index]], int(self.size[index])
        if size > MAX_BYTES:
            raise DataError(
                f"cannot decode image {index}, {name} in {path}: it has {size:,} bytes; allowed are {MAX_BYTES:,}; "
                "pack the shard without it, or pass `allow_missing` to record it as missing"
            )
        try:
            with open(path, "rb") as file:
                file.seek(int(self.offset[index]))
                content = file.read(size)
        except OSError as error:
            raise unreadable(index, f"{name} in {path}", error) from error
        if len(content) != size:
            raise unreadable(index, f"{name} in {path}", "the shard has become shorter")
        return content


@dataclass
class _Sample:
    """What a shard has of one key. image: its extension, offset and size. cls: its text."""

    image: tuple[str, int, int] | None = None
    cls: str | None = None


def is_shards(data: str | Path) -> bool:
    """Whether `data` names tar files: by its ending, also where none is there.

    >>> is_shards("shards-{000..063}.tar"), is_shards("photos")
    (True, False)
    """
    name = str(data).lower()
    return name.endswith((".tar", *COMPRESSED)) and not Path(data).is_dir()


def shard_paths(data: str | Path) -> list[str]:
    """The shards that a name with a range in braces stands for, all of them there; DataError for a missing one.

    The range is of whole numbers, written as wide as its first one.
    """
    text = str(data)
    if text.lower().endswith(COMPRESSED):
        raise DataError(
            f"`data={text}` is compressed, so that no image can be read without all before it; unpack it to a .tar, as "
            "with gunzip, or to a folder"
        )
    paths = expanded(text)
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(
            f"no such shard: {listed(missing)} ({len(missing)} of the {len(paths)} of `data={text}`); give tar files "
            "that are there, one or a range, as in shards-{000..063}.tar"
        )
    return paths


def expanded(text: str) -> list[str]:
    """The names that a range in braces stands for, in order.

    >>> expanded("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    found = _RANGE.search(text)
    if found is None:
        if "{" in text:
            raise DataError(f"`data={text}` has a brace that is no range; give whole numbers, as in {{000..063}}")
        return [text]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise DataError(
            f"`data={text}` has the empty range {found[0]}; give the lower number first, as in {{000..063}}"
        )
    width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
    rest = expanded(text[found.end() :])
    return [f"{text[: found.start()]}{n:0{width}d}{end}" for n in range(first, last + 1) for end in rest]


def shard_images(
    data: str | Path, *, num_classes: int | None, classes_file: str | Path | None = None, own_classes: bool = False
) -> ImageSet:
    """The images of tar shards: in the order of the shards, then of their keys.

    Args:
        data: a tar file, or several by a range in braces.
        num_classes: what the user or the weights say; None is 1000, or, with `own_classes`, what the labels need.
        classes_file: one name per line, in label order.

    Raises:
        DataError: naming the shard and the key, for what is missing, cut off or ambiguous, and for a wrong label.
    """
    paths = shard_paths(data)
    index = _Index()
    for number, path in enumerate(paths):
        index.add(number, path)
    labels = np.array(index.labels, np.int64)
    names = numbered_classes(
        labels,
        num_classes,
        classes_file,
        where=lambda place: f"shard {paths[index.shard[place]]}, {index.names[place]},",
        own_classes=own_classes,
    )
    reader = ShardReader(
        tuple(paths), np.array(index.shard, np.int32), np.array(index.offset, np.int64), np.array(index.size, np.int64)
    )
    return ImageSet(
        index.names, labels.astype(np.int16), names, reader.size, str(data), reader, os.path.dirname(paths[0]) or "."
    )


@dataclass
class _Index:
    """Where each image is, one list entry each."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)

    def add(self, number: int, path: str) -> None:
        samples = _samples(path)
        if not samples:
            raise DataError(
                f"shard {path} has no image: expected files KEY.cls and KEY.{' or KEY.'.join(IMAGES)}; pack it anew, "
                "or leave it out of `data`"
            )
        shard = os.path.basename(path)
        for key in sorted(samples):
            self.labels.append(_label(path, key, samples[key]))
            extension, offset, size = samples[key].image  # type: ignore[misc]  # `_label` refuses a key without one
            self.names.append(f"{shard}/{key}.{extension}")
            self.shard.append(number)
            self.offset.append(offset)
            self.size.append(size)


def _label(path: str, key: str, sample: _Sample) -> int:
    if sample.image is None or sample.cls is None:
        lacks = "image (.jpg, .jpeg or .png)" if sample.image is None else "label (.cls)"
        raise DataError(f"shard {path}, key {key}: there is no {lacks}; pack the shard with both for each key")
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", sample.cls):
        raise DataError(
            f"shard {path}, key {key}: the label (.cls) is {one_line(repr(sample.cls), 40)}; it has to be a whole "
            "number as text, such as 7"
        )
    return int(sample.cls)


def _samples(path: str) -> dict[str, _Sample]:
    """Key -> what the shard has of it, for keys that have an image or a label."""
    samples: dict[str, _Sample] = {}
    for member, content in _members(path):
        found = _KEY.fullmatch(member.name.removeprefix("./"))
        if found is None:
            continue
        key, kind = found[1], found[2]
        if kind.lower() in IMAGES:
            sample = samples.setdefault(key, _Sample())
            if sample.image is not None:
                raise DataError(
                    f"shard {path}, key {key}: there are two images, .{sample.image[0]} and .{kind}; pack the shard "
                    "with one for each key"
                )
            sample.image = kind, member.offset_data, member.size
        elif kind.lower() == "cls":
            sample = samples.setdefault(key, _Sample())
            if sample.cls is not None:
                raise DataError(f"shard {path}, key {key}: there are two labels (.cls); pack the shard with one")
            sample.cls = content.decode("ascii", "replace").strip()
    return samples


def _members(path: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a shard in their order, each with its content where it is a label, else with nothing."""
    last = "its beginning"
    try:
        with open(path, "rb", buffering=0) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            before = -1
            while (member := tar.next()) is not None:
                last = member.name
                if tar.offset <= before:
                    raise ValueError("a header says that the next one lies before it")
                before = tar.offset
                if not member.isreg() or member.issparse():
                    continue
                content = b""
                if member.name.lower().endswith(".cls"):
                    file.seek(member.offset_data)
                    content = file.read(min(member.size, _MOST_CLS_BYTES))
                yield member, content
            file.seek(tar.offset)
            end = file.read(_BLOCK)
    except Exception as error:  # of headers that lie, tarfile raises what its parts do
        raise _damaged(path, last, one_line(error)) from error
    if len(end) < _BLOCK or any(end):  # tarfile ends without a word where a header is cut off or damaged
        raise _damaged(path, last, "no header and no end of the archive follows")


def _damaged(path: str, last: str, why: str) -> DataError:
    return DataError(
        f"shard {path} cannot be read after {last}: {why}; it is cut off, damaged or no plain tar file: copy or pack "
        "it anew"
    )
