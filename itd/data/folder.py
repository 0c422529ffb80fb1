"""A folder of images for each class: which files are images, and which class each folder is."""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from itd.data.classes import imagenet_wnids, is_numbered_imagenet, named_classes
from itd.data.decode import decoded, read_bytes
from itd.data.images import ImageSet
from itd.errors import DataError, ItdWarning
from itd.text import listed, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class FolderReader:
    """Decodes the files of one folder."""

    root: str

    def __call__(self, index: int, name: str) -> Image.Image:
        path = os.path.join(self.root, name)
        return decoded(path, index, path)

    def stamp(self, index: int, name: str) -> tuple[int, int]:
        """Size and time of a file; OSError where it is gone."""
        found = os.stat(os.path.join(self.root, name))
        return found.st_size, found.st_mtime_ns

    def content(self, index: int, name: str) -> bytes:
        """The bytes of a file; errors as of `decoded`."""
        path = os.path.join(self.root, name)
        return read_bytes(path, index, path)


def folder_images(
    root: str | Path,
    *,
    num_classes: int | None,
    classes_file: str | Path | None = None,
    own_classes: bool = False,
) -> ImageSet:
    """The images of a folder with one folder for each class, sorted by path.

    Args:
        root: the folder.
        num_classes: what the user or the weights say; None is 1000, or, with `own_classes`, one for each folder.
        classes_file: one folder name per line, in label order.

    Raises:
        DataError: for a folder that is absent, empty, without class folders, or with folders that are no class.
    """
    root = Path(root)
    skipped: list[str] = []
    folders = _class_folders(root, skipped)
    if is_numbered_imagenet(folders, num_classes, classes_file):
        names, place = imagenet_wnids(), {folder: int(folder) for folder in folders}
    else:
        names = named_classes(
            folders, num_classes, classes_file, where=str(root), kind="folders", own_classes=own_classes
        )
        place = {name: label for label, name in enumerate(names)}
    files = [(path, size, place[folder]) for folder in folders for path, size in image_files(root, folder, skipped)]
    note_skipped(root, skipped)
    if not files:
        raise DataError(
            f"no images in the {len(folders)} class folders of {root}; files ending in {', '.join(EXTENSIONS)} are read"
        )
    return ImageSet(
        names=[path for path, _, _ in files],
        labels=np.array([label for _, _, label in files], dtype=np.int16),
        class_names=names,
        sizes_bytes=np.array([size for _, size, _ in files], dtype=np.int64),
        source=str(root),
        read=FolderReader(str(root)),
        folder=str(root),
    )


SEVERITIES = ("1", "2", "3", "4", "5")


def corruptions(root: str) -> list[tuple[str, int, Path]]:
    """(corruption, severity, folder per class) of what is laid out as ImageNet-C: CORRUPTION/1..5/CLASS/IMAGE.

    Empty for every other source: a folder counts only where all that is in it is so.
    """
    if not Path(root).is_dir():
        return []
    found = []
    for corruption in sorted(entry.name for entry in _scan(Path(root)) if _is_folder(entry)):
        inside = sorted(entry.name for entry in _scan(Path(root, corruption)))
        if not inside or not set(inside) <= set(SEVERITIES):
            return []
        for severity in inside:
            folder = Path(root, corruption, severity)
            if not folder.is_dir() or not any(_is_folder(entry) for entry in _scan(folder)):
                return []
            found.append((corruption, int(severity), folder))
    return found


def _class_folders(root: Path, skipped: list[str]) -> list[str]:
    """The class folders' names, sorted; hidden ones are passed over. skipped: gets links that lead nowhere but back."""
    expected = "expected one folder of images per class"
    if not root.exists():
        raise DataError(f"no such data folder: {root}; {expected}, or `data=digits` for the embedded digits")
    if not root.is_dir():
        raise DataError(f"`data={root}` is a file; {expected}, or tar shards, as in shards-{{000..063}}.tar")
    entries = _scan(root)
    folders = sorted(entry.name for entry in entries if _is_folder(entry, skipped))
    if not folders:
        inside = f"{len(entries)} files and no class folders" if entries else "nothing"
        raise DataError(
            f"data folder {root} holds {inside}; {expected} ({root}/CLASS/IMAGE), or `labels_file=FILE.csv`, which "
            "says the class of each image"
        )
    return folders


def image_files(root: Path, folder: str, skipped: list[str]) -> list[tuple[str, int]]:
    """(path relative to the root, size in bytes) of each image below a folder in it, or "" for itself, sorted by path.

    Links are followed, as a data set can be a farm of them. skipped: gets the paths of those that lead back to a folder
    that they are in, and of what is called an image and is no file, such as a pipe, which nothing would ever end.
    """
    found: list[tuple[str, int]] = []
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, (_place(root),) if folder else ())]
    while pending:
        inside, above = pending.pop()
        place = _place(root / inside)
        if place in above:
            skipped.append(inside)
            continue
        for entry in _scan(root / inside):
            name = f"{inside}/{entry.name}" if inside else entry.name
            if _is_folder(entry, skipped, name):
                pending.append((name, (*above, place)))
            elif entry.name.lower().endswith(EXTENSIONS):
                size = _size(entry)
                if size is not None:
                    found.append((name, size))
                elif name not in skipped:
                    skipped.append(name)
    return sorted(found)


def note_skipped(root: Path, skipped: Sequence[str]) -> None:
    """An ItdWarning of what `image_files` left out, where it did."""
    if skipped:
        warnings.warn(
            f"{root}: left out, as they are no files (pipes, devices) or links that lead back to themselves: "
            f"{listed(sorted(skipped))}",
            ItdWarning,
            stacklevel=3,
        )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The folder's entries except hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read data folder {folder}: {one_line(error)}; check its permissions") from error


def _place(folder: Path) -> tuple[int, int]:
    """What a folder is, whichever links lead to it."""
    try:
        found = os.stat(folder)
    except OSError as error:
        raise DataError(f"cannot read data folder {folder}: {one_line(error)}; check its permissions") from error
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str], skipped: list[str] | None = None, name: str = "") -> bool:
    """Whether an entry is a folder, or a link to one. skipped: gets its name where it is a link to itself."""
    try:
        return entry.is_dir()
    except OSError as error:
        if skipped is not None and error.errno == errno.ELOOP:
            skipped.append(name or entry.name)
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """Size in bytes of a file, None for what is none; 0 for a link to what is not there, so that decoding names it."""
    try:
        found = entry.stat()
    except OSError as error:
        return None if error.errno == errno.ELOOP else 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None
