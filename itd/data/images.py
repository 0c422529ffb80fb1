"""Which images there are, in which order, and their classes; each is decoded only when asked for.

Not for preprocessing (preprocess.py) nor for batches (loader.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from itd.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DIGITS = "digits"
DIGITS_ONE_SCALE = "digits-one-scale"
"""The evaluation digits, all at the scale of training."""
MAX_CLASSES = 32_767
"""`label` is stored as int16."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images in a fixed order with their classes.

    names: N relative paths. labels: (N,) int16. class_names: K names, in the order of the labels. sizes_bytes: (N,)
    int64. source: what the user called it. read: (index, name) -> PIL RGB image; it can be pickled.
    """

    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    sizes_bytes: np.ndarray
    source: str
    read: Callable[[int, str], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def load(self, index: int) -> Image.Image:
        """The image as RGB; raises DataError naming the file where it cannot be decoded."""
        return self.read(index, self.names[index])

    def fingerprint(self) -> str:
        """SHA-256 over relative paths, sizes in bytes and the class map: what a result's identity calls the data."""
        digest = hashlib.sha256()
        for name, label, size in zip(self.names, self.labels.tolist(), self.sizes_bytes.tolist(), strict=True):
            digest.update(os.fsencode(name) + f"\0{label}\0{size}\n".encode())
        digest.update(b"\0classes\0" + b"\0".join(os.fsencode(name) for name in self.class_names))
        return digest.hexdigest()


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
                f"cannot decode image {index}, {path}: {_reason(error)}; replace the file, or pass --allow-missing to "
                "record it as missing"
            ) from error


def open_images(
    data: str | Path | None,
    *,
    num_classes: int | None = None,
    weights_classes: int | None = None,
    classes_file: str | Path | None = None,
    split: str = "eval",
) -> ImageSet:
    """The images of `--data`.

    data: a folder with one folder per class, "digits" (at many scales), "digits-one-scale", CIFAR-10 as
    published (a folder with it, or "cifar10" to fetch it), or None for $ITD_DATA and, without it, the digits.
    num_classes: `--num-classes`. weights_classes: what the weights were trained for. classes_file: `--classes`, one
    folder name per line in label order. split: which of the digits (see `digits_images`), or of CIFAR-10: "train", or
    else its test images.

    Raises DataError for a folder that is absent, empty, without class folders, or with folders that are no class.

    >>> len(open_images("digits"))
    360
    """
    if data is None:
        data = asked_data(None)
    if is_digits(data):
        split = "train-scale-eval" if str(data) == DIGITS_ONE_SCALE else split
        return _open_digits(num_classes or weights_classes, classes_file, split)
    from itd.data.cifar10 import cifar10_images, is_cifar10

    if is_cifar10(data):
        if (num_classes or weights_classes or 10) != 10 or classes_file is not None:
            raise DataError(
                f"CIFAR-10 has its ten classes, but --num-classes or the weights say {num_classes or weights_classes}, "
                "or --classes names others; pass weights for ten classes, and no --classes"
            )
        return cifar10_images(data, split)
    root = Path(data)
    folders = _class_folders(root)
    names = _class_names(root, folders, num_classes or weights_classes, classes_file)
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
        source=str(data),
        read=FolderReader(str(root)),
    )


def asked_data(data: str | None) -> str:
    """What `--data` names: as given, else $ITD_DATA, else the digits."""
    return data or os.environ.get("ITD_DATA") or DIGITS


def is_digits(data: str | Path | None) -> bool:
    """Whether `--data` names the embedded digits."""
    return str(data) in (DIGITS, DIGITS_ONE_SCALE)


def select(n_total: int, every: int = 1, limit: int | None = None) -> np.ndarray:
    """Sample ids (n,) int32: each `every`-th of `n_total` images, then the first `limit` of those.

    >>> select(10, every=3, limit=2).tolist()
    [0, 3]
    """
    if every < 1:
        raise DataError(f"--every {every} is not allowed; give a whole number of at least 1")
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit} is not allowed; give a whole number of at least 1, or leave it out for all")
    return np.arange(0, n_total, every, dtype=np.int32)[:limit]


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k in class order."""
    return tuple(resources.files("itd.data").joinpath("imagenet_wnids.txt").read_text("ascii").split())


def _open_digits(num_classes: int | None, classes_file: str | Path | None, split: str) -> ImageSet:
    from itd.data.digits import digits_images

    if classes_file is not None:
        raise DataError("--classes is for folders of images; the embedded digits have their ten classes: leave it out")
    if num_classes not in (None, 10):
        raise DataError(
            f"the embedded digits have 10 classes, but --num-classes or the weights ask for {num_classes}; "
            "pass --data DIR, or leave --weights out to train on the digits"
        )
    return digits_images(split)


def _class_folders(root: Path) -> list[str]:
    """The class folders' names, sorted; hidden ones are passed over."""
    expected = "expected one folder of images per class"
    if not root.exists():
        raise DataError(f"no such data folder: {root}; {expected}, or --data digits for the embedded digits")
    if not root.is_dir():
        raise DataError(f"--data {root} is a file; {expected}")
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
        raise DataError(f"--num-classes {count} is not allowed; give a whole number from 1 to {MAX_CLASSES}")
    if count == 1000:
        names = imagenet_wnids()
        advice = f"pass --num-classes {len(folders)} for data other than ImageNet, or --classes FILE"
        _refuse_strangers(root, folders, names, "the 1000 WordNet ids of ImageNet (such as n01440764)", advice)
        return names
    if len(folders) != count:
        raise DataError(
            f"{root} has {len(folders)} class folders ({_some(folders)}), but there are {count} classes; pass "
            f"--num-classes {len(folders)}, or --classes FILE with all {count} folder names where only some are present"
        )
    return tuple(folders)


def _refuse_strangers(root: Path, folders: Sequence[str], names: Sequence[str], what: str, advice: str) -> None:
    known = set(names)
    strangers = [folder for folder in folders if folder not in known]
    if strangers:
        is_are = "is" if len(strangers) == 1 else "are"
        raise DataError(
            f"{_some(strangers)} in {root} {is_are} not among {what}: {len(strangers)} of {len(folders)} folders; "
            f"remove what is no class, or {advice}"
        )


def _read_classes(path: Path, count: int | None) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read --classes {path}: {_reason(error)}; expected one folder name per line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"--classes {path} names {_some(twice)} more than once; each class has one line")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"--classes {path} names {len(names)} classes; expected one folder name per line, 1 to 32767")
    if count is not None and len(names) != count:
        raise DataError(
            f"--classes {path} names {len(names)} classes, but --num-classes or the weights say {count}; list all of "
            "them, in label order"
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
        raise DataError(f"cannot read data folder {folder}: {_reason(error)}; check its permissions") from error


def _size(entry: os.DirEntry[str]) -> int:
    """Size in bytes; 0 for a dangling link, which is listed, so that decoding it names it."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _reason(error: BaseException) -> str:
    """The error in one line, without the path that the caller names already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
