"""Image data sets of the `datasets` library: from its hub by name, or a folder that its `save_to_disk` wrote.

The library is imported only here, when such data are opened. It hands out the bytes of an image, and they are decoded
as those of a file are.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from itd.checked import file_size
from itd.data.classes import check_labels, imagenet_wnids, named_classes, numbered_classes
from itd.data.decode import decoded, read_bytes, unreadable
from itd.data.images import ImageSet
from itd.errors import DataError
from itd.text import listed, one_line

PREFIX = "hf:"
_DICT = "dataset_dict.json"
_ONE = ("dataset_info.json", "state.json")
_ROWS = 1000


@dataclass(frozen=True, eq=False)
class HfReader:
    """Decodes the images of a data set's column, which hands out their bytes. source: what the user called it."""

    dataset: Any
    column: str
    source: str

    def __call__(self, index: int, name: str) -> Image.Image:
        return decoded(io.BytesIO(self.content(index, name)), index, f"{name} of {self.source}")

    def stamp(self, index: int, name: str) -> tuple[int, int]:
        """A number that stands for the whole data set, as the library has it: it has no files of single images."""
        return 0, int.from_bytes(
            hashlib.sha256(str(getattr(self.dataset, "_fingerprint", "")).encode()).digest()[:7], "little"
        )

    def content(self, index: int, name: str) -> bytes:
        """The bytes of an image's file; errors as of `decoded`."""
        where = f"{name} of {self.source}"
        try:
            held = self.dataset[int(index)][self.column]
        except (OSError, pa.ArrowException) as error:
            raise unreadable(index, where, error) from error
        return read_bytes(held["path"], index, where) if held["bytes"] is None else held["bytes"]


def is_hf(data: str | Path) -> bool:
    """Whether `data` is `hf:NAME`, or a folder that `datasets.save_to_disk` wrote."""
    if str(data).startswith(PREFIX):
        return True
    folder = Path(data)
    return (folder / _DICT).is_file() or all((folder / name).is_file() for name in _ONE)


def hf_images(
    data: str | Path,
    *,
    num_classes: int | None,
    classes_file: str | Path | None = None,
    own_classes: bool = False,
    train: bool = False,
) -> ImageSet:
    """The images of one split, in its order.

    What the results call the data (`ImageSet.fingerprint`) is made of the split's name, each image's number, file
    name, size in bytes and label, and the classes. It reads offsets, not the images, and is the same wherever the data
    lie and however they came there. The library's own fingerprint is not: it changes with the library's version, and
    with each step that leads to the same rows.

    Args:
        data: `hf:NAME` or `hf:NAME:SPLIT`, NAME on the hub or a folder of `save_to_disk`; or such a folder. Without a
            split it is validation, else test, else the only one.
        num_classes: what the user or the weights say; None is 1000, or, with `own_classes`, the data's own.
        classes_file: one name per line, in label order.
        train: without a split it is train, else the only one.

    Raises:
        DataError: without the library, for data that cannot be loaded, and where split, image or label is ambiguous.
    """
    source = str(data)
    dataset, split = _opened(library_for(source), source, train)
    image, label = _columns(dataset, source)
    rows = _rows(dataset, image, label, source)
    names = [f"{split}/{place:06d}{'/' if path else ''}{path}" for place, path in enumerate(rows.paths)]
    labels, classes = _classes(dataset.features[label], rows.labels, source, num_classes, classes_file, own_classes)
    return ImageSet(names, labels, classes, rows.sizes, source, HfReader(_encoded(dataset, image), image, source))


def library_for(source: str) -> Any:
    """The library `datasets`; DataError where it is not there."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"`data={source}` is read by the library datasets, which is not there ({one_line(error)}); "
            "pip install 'itd-oracle[hf]'"
        ) from error


def _opened(library: Any, source: str, train: bool) -> tuple[Any, str]:
    """(one split, its name)."""
    name, _, split = source.removeprefix(PREFIX).partition(":") if source.startswith(PREFIX) else (source, "", "")
    try:
        if os.path.isdir(name):
            found = library.load_from_disk(name)
            if not hasattr(found, "keys"):
                own = str(found.split or "data")
                return found, _chosen([own], split, train, source)
            chosen = _chosen(list(found), split, train, source)
            return found[chosen], chosen
        chosen = split or _chosen(list(library.get_dataset_split_names(name)), split, train, source)
        return library.load_dataset(name, split=chosen), chosen
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the library raises what its file systems and parsers do
        raise DataError(
            f"`data={source}` cannot be loaded: {type(error).__name__}, {one_line(error)}; give hf:NAME or "
            "hf:NAME:SPLIT of the hub, or a folder that the library saved to disk"
        ) from error


def _chosen(splits: Sequence[str], asked: str, train: bool, source: str) -> str:
    wanted = [asked] if asked else ["train"] if train else ["validation", "test"]
    for split in wanted:
        if split in splits:
            return split
    if not asked and len(splits) == 1:
        return splits[0]
    what = f"has no split {asked!r}" if asked else f"has several splits and none called {' or '.join(wanted)}"
    name = source.removeprefix(PREFIX).partition(":")[0]
    raise DataError(
        f"`data={source}` {what}; its splits are {', '.join(splits)}: give one, as in {PREFIX}{name}:{splits[0]}"
    )


def _columns(dataset: Any, source: str) -> tuple[str, str]:
    """The names of the columns of the image and of the label."""
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    integers = str(getattr(dataset.features.get("label"), "dtype", "")).lstrip("u").startswith("int")
    if not labels and integers and kinds["label"] == "Value":
        labels = ["label"]
    for found, usual, what in ((images, "image", "an image"), (labels, "label", "a class label")):
        if len(found) != 1 and usual not in found:
            all_columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise DataError(
                f"`data={source}` has {'several columns' if found else 'no column'} of {what}: {all_columns}; expected "
                f"one, or one called {usual}: select or rename columns with the library, and save that to disk"
            )
    return ("image" if len(images) > 1 else images[0]), ("label" if len(labels) > 1 else labels[0])


@dataclass(frozen=True)
class _Rows:
    """What is known of N images without their pixels. paths: file names, empty where there is none."""

    sizes: np.ndarray
    labels: np.ndarray
    paths: list[str]


def _encoded(dataset: Any, image: str) -> Any:
    """The data set with the image's column alone, as bytes and path."""
    library = importlib.import_module("datasets")
    return dataset.with_format(None).select_columns([image]).cast_column(image, library.Image(decode=False))


def _rows(dataset: Any, image: str, label: str, source: str) -> _Rows:
    sizes: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    paths: list[str] = []
    for table in dataset.select_columns([image, label]).with_format("arrow").iter(batch_size=_ROWS):
        first = len(paths)
        for column in (image, label):
            if table.column(column).null_count:
                row = first + int(np.flatnonzero(table.column(column).is_null().to_numpy())[0])
                raise DataError(f"`data={source}`, row {row}: {column} is empty; filter such rows out, and save again")
        held = table.column(image)
        lengths = pc.fill_null(pc.binary_length(pc.struct_field(held, "bytes")), -1).to_numpy().astype(np.int64)
        files = pc.struct_field(held, "path").to_pylist()
        for place in np.flatnonzero(lengths < 0):  # only its path is known
            lengths[place] = _file_size(files[place], source, first + int(place))
        sizes.append(lengths)
        labels.append(table.column(label).to_numpy().astype(np.int64))
        paths.extend(os.path.basename(file or "") for file in files)
    if not paths:
        raise DataError(f"`data={source}` has no rows; give a split with images")
    return _Rows(np.concatenate(sizes), np.concatenate(labels), paths)


def _file_size(path: str | None, source: str, row: int) -> int:
    try:
        return file_size(path or "", 2**63)
    except (OSError, ValueError) as error:  # of a name with a NUL, or what is no file
        raise DataError(
            f"`data={source}`, row {row}: there are no bytes, and the file {path} cannot be read: {one_line(error)}; "
            "save the data again where its files are"
        ) from error


def _classes(
    feature: Any, labels: np.ndarray, source: str, num_classes: int | None, classes_file: str | Path | None, own: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int16 labels and the K class names. A ClassLabel has names in an order of its own, a plain integer none."""

    def where(place: int) -> str:
        return f"`data={source}`, row {place},"

    names = tuple(getattr(feature, "names", None) or ())
    if not names:
        classes = numbered_classes(labels, num_classes, classes_file, where=where, own_classes=own)
        return labels.astype(np.int16), classes
    check_labels(labels, len(names), where)
    imagenets = num_classes in (None, 1000) and not own and set(names) <= set(imagenet_wnids())
    if classes_file is not None or imagenets:
        classes = named_classes(names, num_classes, classes_file, where=source)
        return np.array([classes.index(name) for name in names], np.int16)[labels], classes
    if not own and len(names) != (num_classes or 1000):
        raise DataError(
            f"`data={source}` has {len(names)} classes ({listed(names, quoted=True)}), but `num_classes` or the "
            f"weights say {num_classes or 1000}; pass `num_classes={len(names)}` with weights for as many, or "
            "`classes_file=FILE`"
        )
    return labels.astype(np.int16), names
