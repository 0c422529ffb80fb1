"""A folder of images whose classes are in a CSV file: which images it lists, and which class each is.

path,label
ILSVRC2012_val_00000001.JPEG,65
ILSVRC2012_val_00000002.JPEG,970
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itd.checked import MOST_LINE, BadFile, file_size
from itd.data.classes import named_classes, numbered_classes, read_classes
from itd.data.folder import FolderReader
from itd.data.images import ImageSet
from itd.errors import DataError
from itd.text import listed, one_line

HEADER = "expected a CSV file with the header path,label and a line for each image"
MOST_BYTES = 2**30


@dataclass(frozen=True)
class LabelLine:
    """One line of the file. number: of the line, 1 is the header. path: normalised, relative to the folder."""

    number: int
    path: str
    label: str


def labelled_images(
    root: str | Path,
    labels_file: str | Path,
    *,
    num_classes: int | None,
    classes_file: str | Path | None = None,
    own_classes: bool = False,
) -> ImageSet:
    """The images of a folder that a CSV file lists, in the order that the folder's would have, whatever the file's.

    Args:
        root: the folder.
        labels_file: with the columns path, relative to the folder, and label, an index or the name of a class. Names
            are numbered in sorted order or by `classes_file`; of 1000 classes they have to be ImageNet's WordNet ids.
        num_classes: what the user or the weights say; None is 1000, or, with `own_classes`, what the labels need.
        classes_file: one name per line, in label order.

    Raises:
        DataError: for a file or a folder that cannot be read, and, naming the line, for what it cannot say.
    """
    root, file = Path(root), Path(labels_file)
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise DataError(f"`labels_file={file}` lists images of a folder, and `data={root}` {what}; give that folder")
    lines = sorted(_unique(file, read_label_lines(file)), key=lambda line: (line.path.split("/")[0], line.path))
    sizes = _sizes(root, file, lines)
    labels, names = _labels(file, lines, num_classes, classes_file, own_classes)
    return ImageSet(
        names=[line.path for line in lines],
        labels=labels,
        class_names=names,
        sizes_bytes=sizes,
        source=str(root),
        read=FolderReader(str(root)),
        folder=str(root),
    )


def read_label_lines(file: Path) -> list[LabelLine]:
    """The lines in the order of the file; DataError for a file that has not these columns, or none of these lines."""
    lines = []
    try:
        file_size(file, MOST_BYTES)
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(_bounded(iter(lambda: stream.readline(MOST_LINE + 1), "")), strict=True)
            columns = _columns(file, next(reader, []))
            for row in reader:
                if row:
                    lines.append(_line(file, reader.line_num, row, columns))
    except (OSError, UnicodeDecodeError, csv.Error, BadFile) as error:
        raise DataError(f"cannot read `labels_file={file}`: {one_line(error)}; {HEADER}") from error
    if not lines:
        raise DataError(f"`labels_file={file}` lists no images; {HEADER}")
    return lines


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    """The lines; BadFile for one that is too long, or holds a NUL."""
    for number, line in enumerate(lines, start=1):
        if len(line) > MOST_LINE:
            raise BadFile(f"line {number} has more than {MOST_LINE:,} characters")
        if "\0" in line:
            raise BadFile(f"line {number} has a NUL, which no name has")
        yield line


def _columns(file: Path, header: Sequence[str]) -> tuple[int, int]:
    """Where the path and the label stand; other columns are not read."""
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError(f"`labels_file={file}` is empty; {HEADER}")
    if names.count("path") != 1 or names.count("label") != 1:
        raise DataError(f"`labels_file={file}` has the header {one_line(','.join(names), 60)!r}; {HEADER}")
    return names.index("path"), names.index("label")


def _line(file: Path, number: int, row: Sequence[str], columns: tuple[int, int]) -> LabelLine:
    where = f"`labels_file={file}`, line {number}"
    if len(row) <= max(columns):
        raise DataError(f"{where}: {one_line(','.join(row), 60)!r} has no path and label; write both, as in a/1.jpg,7")
    path, label = row[columns[0]], row[columns[1]].strip()
    if not path.strip() or not label:
        raise DataError(f"{where}: the {'label' if path.strip() else 'path'} is empty; write both, as in a/1.jpg,7")
    inside = posixpath.normpath(path)
    if os.path.isabs(path) or inside.split("/")[0] == "..":
        raise DataError(f"{where}: {one_line(path, 60)!r} is not inside the folder; paths are relative to `data`")
    return LabelLine(number, inside, label)


def _unique(file: Path, lines: Sequence[LabelLine]) -> Sequence[LabelLine]:
    first: dict[str, LabelLine] = {}
    for line in lines:
        before = first.setdefault(line.path, line)
        if before is not line:
            raise DataError(
                f"`labels_file={file}`: {line.path!r} has two labels, {before.label!r} on line {before.number} and "
                f"{line.label!r} on line {line.number}; leave one line for each image"
            )
    return lines


def _sizes(root: Path, file: Path, lines: Sequence[LabelLine]) -> np.ndarray:
    """(N,) int64 sizes in bytes; DataError naming the images that are not there."""
    sizes, missing = np.zeros(len(lines), np.int64), []
    for place, line in enumerate(lines):
        try:
            found = os.stat(root / line.path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            missing.append(line)
            continue
        if not stat.S_ISREG(found.st_mode):
            missing.append(line)
        sizes[place] = found.st_size
    if missing:
        named = listed((f"{line.path} (line {line.number})" for line in missing), 3)
        raise DataError(
            f"`labels_file={file}` lists {len(missing):,} of {len(lines):,} images that are not in `data={root}`: "
            f"{named}; paths are relative to `data`: give the folder that they begin at, or take the lines out"
        )
    return sizes


def _labels(
    file: Path, lines: Sequence[LabelLine], num_classes: int | None, classes_file: str | Path | None, own: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int16 labels and the K class names. Labels are names where a list has all of them, or none is a number."""
    found = sorted({line.label for line in lines})
    numbers = [label for label in found if re.fullmatch(r"-?[0-9]{1,9}", label)]
    names_known = set(() if classes_file is None else read_classes(Path(classes_file), num_classes))
    if len(numbers) == len(found) and not names_known.issuperset(found):
        values = np.array([int(line.label) for line in lines], np.int64)
        names = numbered_classes(
            values,
            num_classes,
            classes_file,
            where=lambda place: f"`labels_file={file}`, line {lines[place].number}, {lines[place].path},",
            own_classes=own,
        )
        return values.astype(np.int16), names
    if numbers and not names_known:
        number, name = (
            next(line for line in lines if (line.label in numbers) == is_number) for is_number in (True, False)
        )
        raise DataError(
            f"`labels_file={file}` has the number {number.label} on line {number.number} and the name {name.label!r} "
            f"on line {name.number}; give indices everywhere or names everywhere, or list the names in `classes_file`"
        )
    names = named_classes(found, num_classes, classes_file, where=f"`labels_file={file}`", own_classes=own)
    place = {name: label for label, name in enumerate(names)}
    return np.array([place[line.label] for line in lines], np.int16), names
