"""CIFAR-10 and CIFAR-100 in their published forms: the Python pickles, through torchvision, and the binary files."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from itd.checked import BadFile, file_size, read_text
from itd.data.cache import cache_folder
from itd.data.images import ImageSet
from itd.data.preprocess import Preprocess
from itd.errors import DataError
from itd.files import fsync_folder, locked, write_synced
from itd.text import one_line

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_PREPROCESS = Preprocess(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""32 x 32 pixels, normalised by the mean and standard deviation of the 50,000 training images."""
CIFAR100_PREPROCESS = Preprocess(32, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
"""As of CIFAR-10, by those of CIFAR-100's 50,000."""

_PIXELS = 3 * 32 * 32
_MOST_RECORDS = 50_000
_WHOLE = ".whole"
"""In a folder of the cache: it was unpacked to its end."""


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets as it is published.

    name: what it is called in the literature. classes: K. pickles, binaries: the folders that the archives unpack to.
    label_bytes: before the pixels of a record, the last of them the label. train, test: the binary files. names_file:
    the names of the classes, beside the binary files; None where they are `CLASSES`. url, md5, fetched: the archive
    that is fetched, and the folder in it.
    """

    name: str
    classes: int
    preprocess: Preprocess
    pickles: str
    binaries: str
    label_bytes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    names_file: str | None
    url: str
    md5: str
    fetched: str

    @property
    def key(self) -> str:
        """What `data` calls it: cifar10 or cifar100."""
        return self.name.replace("-", "").lower()

    def folder(self, root: Path) -> Path | None:
        """Where it is: `root` itself, or one of its two folders inside; None where it is not there."""
        for folder in (root, root / self.pickles, root / self.binaries):
            if folder.name in (self.pickles, self.binaries) and folder.is_dir():
                return folder
        return None


CIFAR10 = Cifar(
    "CIFAR-10", 10, CIFAR10_PREPROCESS, "cifar-10-batches-py", "cifar-10-batches-bin", 1,
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), None,
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
    fetched="cifar-10-batches-py",
)  # fmt: skip
CIFAR100 = Cifar(
    "CIFAR-100", 100, CIFAR100_PREPROCESS, "cifar-100-python", "cifar-100-binary", 2,
    ("train.bin",), ("test.bin",), "fine_label_names.txt",
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8",
    fetched="cifar-100-binary",
)  # fmt: skip
_PUBLISHED = (CIFAR10, CIFAR100)


@dataclass(frozen=True, eq=False)
class CifarReader:
    """pixels: (N, 32, 32, 3) uint8."""

    pixels: np.ndarray

    def __call__(self, index: int, name: str) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def cifar_of(data: str | Path) -> Cifar | None:
    """Which CIFAR `data` is: by its name, as one of the published folders, or as a folder that holds one; else None.

    >>> cifar_of("cifar100").classes
    100
    """
    for kind in _PUBLISHED:
        if str(data) == kind.key or kind.folder(Path(data)) is not None:
            return kind
    return None


def cifar_images(data: str | Path, split: str) -> ImageSet:
    """The 50,000 training ("train") or 10,000 test images, with CIFAR-100's fine labels.

    data: as of `cifar_of`; a name alone fetches the data once, into the cache folder ($ITD_CACHE).
    Raises DataError where a file is missing, cut off or cannot be fetched.
    """
    kind = cifar_of(data)
    if kind is None:
        raise DataError(
            f"{data} holds no CIFAR: expected {', '.join(f'{k.pickles} or {k.binaries}' for k in _PUBLISHED)}"
        )
    folder = fetched(kind) if str(data) == kind.key else kind.folder(Path(data))
    assert folder is not None  # or `cifar_of` would not have known it
    read = _read_pickles if folder.name == kind.pickles else _read_binaries
    pixels, labels, names = read(kind, folder, split == "train")
    part = "train" if split == "train" else "test"
    return ImageSet(
        names=[f"{kind.key}/{part}/{names[label]}/{i:05d}" for i, label in enumerate(labels)],
        labels=labels.astype(np.int16),
        class_names=names,
        sizes_bytes=np.full(len(labels), _PIXELS, np.int64),
        source=kind.key,
        read=CifarReader(pixels),
    )


def _read_binaries(kind: Cifar, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    size, parts = kind.label_bytes + _PIXELS, []
    for name in kind.train if train else kind.test:
        try:
            file_size(folder / name, _MOST_RECORDS * size)
            found = np.fromfile(folder / name, np.uint8)
        except (OSError, BadFile) as error:
            raise _unreadable(kind, folder / name, error) from error
        if not len(found) or len(found) % size:
            raise DataError(
                f"{folder / name} is cut off: {len(found)} bytes are not records of {size}; unpack {kind.name} again"
            )
        parts.append(found.reshape(-1, size))
    records = np.concatenate(parts)
    labels = records[:, kind.label_bytes - 1]
    if labels.max() >= kind.classes:
        raise DataError(
            f"{folder} has labels above {kind.classes - 1}; it is not {kind.name}: give `data` a folder of its files"
        )
    pixels = records[:, kind.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels, _class_names(kind, folder)


def _class_names(kind: Cifar, folder: Path) -> tuple[str, ...]:
    if kind.names_file is None:
        return CLASSES
    path = folder / kind.names_file
    try:
        names = tuple(read_text(path).split())
    except (OSError, BadFile) as error:
        raise _unreadable(kind, path, error) from error
    if len(set(names)) != kind.classes or len(names) != kind.classes:
        raise DataError(f"{path} names {len(names)} classes, not {kind.classes} of them; unpack {kind.name} again")
    return names


def _unreadable(kind: Cifar, path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return DataError(f"cannot read {path}: {reason}; unpack {kind.name} again")


def _read_pickles(kind: Cifar, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Through torchvision, which checks each file's MD5 before it unpickles it."""
    from torchvision import datasets

    published = datasets.CIFAR10 if kind is CIFAR10 else datasets.CIFAR100
    try:
        found = published(str(folder.parent), train=train, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{folder} is not whole ({one_line(error)}); unpack the published archive again") from error
    return found.data, np.array(found.targets), tuple(found.classes)


def fetched(kind: Cifar) -> Path:
    """The folder in the cache, fetched and unpacked where it is not there whole.

    It is unpacked under a temporary name and renamed once it is whole, so that a run that was stopped leaves nothing
    that looks so; one run at a time fetches, and those that wait for it take what it fetched.
    """
    root = cache_folder()
    folder = root / kind.fetched
    if (folder / _WHOLE).is_file() or folder.is_symlink():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f"{kind.fetched}.lock") as held:
            if not (folder / _WHOLE).is_file():
                for left in root.glob(f"{kind.fetched}.tmp-*") if held else ():  # by runs that were stopped
                    shutil.rmtree(left, ignore_errors=True)
                _fetch(kind, root, folder)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error) as error:
        if (
            folder.is_dir()
        ):  # unpacked by hand or by an earlier version: what is missing there is named where it is read
            return folder
        raise DataError(
            f"{kind.name} cannot be fetched into {root} ({one_line(error)}); unpack it where there is network and pass "
            f"the folder that holds {kind.pickles} or {kind.binaries}"
        ) from error
    return folder


def _fetch(kind: Cifar, root: Path, folder: Path) -> None:
    from torchvision.datasets import utils

    name = os.path.basename(kind.url)
    with tempfile.TemporaryDirectory(prefix=f"{kind.fetched}.tmp-", dir=root) as temporary:
        if not utils.check_integrity(str(root / name), kind.md5):
            utils.download_url(kind.url, temporary, name, kind.md5)
            os.replace(Path(temporary, name), root / name)
        utils.extract_archive(str(root / name), temporary)
        unpacked = Path(temporary, kind.fetched)
        write_synced(unpacked / _WHOLE, "")
        for path in unpacked.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if folder.exists():  # begun by an earlier version, which was stopped
            os.replace(folder, Path(temporary, "before"))
        os.replace(unpacked, folder)
        fsync_folder(root)
