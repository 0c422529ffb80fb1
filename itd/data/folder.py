"""A folder of images for each class: which files are images, which class each folder is, and decoding them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from itd.data.images import MAX_CLASSES, ImageSet
from itd.errors import DataError
from itd.text import listed, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class FolderReader:
    """Decodes the files of one folder. A damaged file is an error: nothing is ever filled in."""

    root: str

    def __call__(self, index: int, name: str) -> Image.Image:
        path = os.path.join(self.root, name)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # PIL's decoders raise a dozen unrelated types on damaged files
            raise DataError(
                f"cannot decode image {index}, {path}: {one_line(error)}; replace the file, or pass `allow_missing` to "
                "record it as missing"
            ) from error


def folder_images(root: str | Path, *, num_classes: int | None, classes_file: str | Path | None = None) -> ImageSet:
    """The images of a folder with one folder for each class, sorted by path.

    Args:
        root: the folder.
        num_classes: what the user or the weights say; None is 1000.
        classes_file: one folder name per line, in label order.

    Raises:
        DataError: for a folder that is absent, empty, without class folders, or with folders that are no class.
    """
    root = Path(root)
    folders = _class_folders(root)
    names = _class_names(root, folders, num_classes, classes_file)
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


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k in class order."""
    return tuple(resources.files("itd.data").joinpath("imagenet_wnids.txt").read_text("ascii").split())


def _class_folders(root: Path) -> list[str]:
    """The class folders' names, sorted; hidden ones are passed over."""
    expected = "expected one folder of images per class"
    if not root.exists():
        raise DataError(f"no such data folder: {root}; {expected}, or `data=digits` for the embedded digits")
    if not root.is_dir():
        raise DataError(f"`data={root}` is a file; {expected}")
    entries = _scan(root)
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    if not folders:
        inside = f"{len(entries)} files and no class folders" if entries else "nothing"
        raise DataError(f"data folder {root} holds {inside}; {expected} ({root}/CLASS/IMAGE)")
    return folders


def _class_names(
    root: Path, folders: Sequence[str], count: int | None, classes_file: str | Path | None
) -> tuple[str, ...]:
    """The K class names in label order, by the rules for classes; refuses folders that are none of them."""
    if classes_file is not None:
        names = _read_classes(Path(classes_file), count)
        _refuse_strangers(root, folders, names, f"the {len(names)} classes of {classes_file}", "mend the list")
        return names
    count = 1000 if count is None else count
    if not 1 <= count <= MAX_CLASSES:
        raise DataError(f"`num_classes={count}` is not allowed; give a whole number from 1 to {MAX_CLASSES}")
    if count == 1000:
        names = imagenet_wnids()
        advice = f"pass `num_classes={len(folders)}` for data other than ImageNet, or `classes_file=FILE`"
        _refuse_strangers(root, folders, names, "the 1000 WordNet ids of ImageNet (such as n01440764)", advice)
        return names
    if len(folders) != count:
        raise DataError(
            f"{root} has {len(folders)} class folders ({listed(folders, quoted=True)}), but there are {count} classes; "
            f"pass `num_classes={len(folders)}`, or `classes_file=FILE` with all {count} folder names where only some "
            "are present"
        )
    return tuple(folders)


def _refuse_strangers(root: Path, folders: Sequence[str], names: Sequence[str], what: str, advice: str) -> None:
    known = set(names)
    strangers = [folder for folder in folders if folder not in known]
    if strangers:
        is_are = "is" if len(strangers) == 1 else "are"
        raise DataError(
            f"{listed(strangers, quoted=True)} in {root} {is_are} not among {what}: {len(strangers)} of {len(folders)} "
            f"folders; remove what is no class, or {advice}"
        )


def _read_classes(path: Path, count: int | None) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read `classes_file={path}`: {one_line(error)}; expected one folder name per line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(
            f"`classes_file={path}` names {listed(twice, quoted=True)} more than once; each class has one line"
        )
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"`classes_file={path}` names {len(names)} classes; expected one folder name per line, 1 to 32767"
        )
    if count is not None and len(names) != count:
        raise DataError(
            f"`classes_file={path}` names {len(names)} classes, but `num_classes` or the weights say {count}; list all "
            "of them, in label order"
        )
    return names


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
