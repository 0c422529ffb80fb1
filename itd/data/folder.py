"""A folder of images for each class: which files are images, and which class each folder is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from itd.data.classes import imagenet_wnids, is_numbered_imagenet, named_classes
from itd.data.decode import decoded
from itd.data.images import ImageSet
from itd.errors import DataError
from itd.text import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class FolderReader:
    """Decodes the files of one folder."""

    root: str

    def __call__(self, index: int, name: str) -> Image.Image:
        path = os.path.join(self.root, name)
        return decoded(path, index, path)


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
    folders = _class_folders(root)
    if is_numbered_imagenet(folders, num_classes, classes_file):
        names, place = imagenet_wnids(), {folder: int(folder) for folder in folders}
    else:
        names = named_classes(
            folders, num_classes, classes_file, where=str(root), kind="folders", own_classes=own_classes
        )
        place = {name: label for label, name in enumerate(names)}
    files = [(path, size, place[folder]) for folder in folders for path, size in _walk(root, folder)]
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
    )


SEVERITIES = ("1", "2", "3", "4", "5")


def corruptions(root: str) -> list[tuple[str, int, Path]]:
    """(corruption, severity, folder per class) of what is laid out as ImageNet-C: CORRUPTION/1..5/CLASS/IMAGE.

    Empty for every other source: a folder counts only where all that is in it is so.
    """
    if not Path(root).is_dir():
        return []
    found = []
    for corruption in sorted(entry.name for entry in _scan(Path(root)) if entry.is_dir()):
        inside = sorted(entry.name for entry in _scan(Path(root, corruption)))
        if not inside or not set(inside) <= set(SEVERITIES):
            return []
        for severity in inside:
            folder = Path(root, corruption, severity)
            if not folder.is_dir() or not any(entry.is_dir() for entry in _scan(folder)):
                return []
            found.append((corruption, int(severity), folder))
    return found


def _class_folders(root: Path) -> list[str]:
    """The class folders' names, sorted; hidden ones are passed over."""
    expected = "expected one folder of images per class"
    if not root.exists():
        raise DataError(f"no such data folder: {root}; {expected}, or `data=digits` for the embedded digits")
    if not root.is_dir():
        raise DataError(f"`data={root}` is a file; {expected}, or tar shards, as in shards-{{000..063}}.tar")
    entries = _scan(root)
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    if not folders:
        inside = f"{len(entries)} files and no class folders" if entries else "nothing"
        raise DataError(
            f"data folder {root} holds {inside}; {expected} ({root}/CLASS/IMAGE), or `labels_file=FILE.csv`, which "
            "says the class of each image"
        )
    return folders


def _walk(root: Path, folder: str) -> list[tuple[str, int]]:
    """(relative path, size in bytes) of each image below one class folder, sorted by path."""
    found: list[tuple[str, int]] = []
    pending = [folder]
    while pending:
        inside = pending.pop()
        for entry in _scan(root / inside):
            name = f"{inside}/{entry.name}"
            if entry.is_dir():
                pending.append(name)
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append((name, _size(entry)))
    return sorted(found)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The folder's entries except hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read data folder {folder}: {one_line(error)}; check its permissions") from error


def _size(entry: os.DirEntry[str]) -> int:
    """Size in bytes; 0 for a dangling link, which is listed, so that decoding it names it."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0
