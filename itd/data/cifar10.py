"""CIFAR-10 in its published forms: the Python pickles, through torchvision, and the binary files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from itd.data.cache import cache_folder
from itd.data.images import ImageSet
from itd.data.preprocess import Preprocess
from itd.errors import DataError
from itd.text import one_line

CIFAR10 = "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_PREPROCESS = Preprocess(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""32 x 32 pixels, normalised by the mean and standard deviation of the 50,000 training images."""

_PICKLES, _BINARIES = "cifar-10-batches-py", "cifar-10-batches-bin"
_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True, eq=False)
class CifarReader:
    """pixels: (N, 32, 32, 3) uint8."""

    pixels: np.ndarray

    def __call__(self, index: int, name: str) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def is_cifar10(data: str | Path) -> bool:
    """Whether `--data` is CIFAR-10 as published: `cifar10`, one of its two folders, or a folder that holds one."""
    return str(data) == CIFAR10 or _folder(Path(data)) is not None


def cifar10_images(data: str | Path, split: str) -> ImageSet:
    """CIFAR-10's 50,000 training ("train") or 10,000 test images.

    data: as of `is_cifar10`; the name `cifar10` alone fetches it once, into the cache folder ($ITD_CACHE).
    Raises DataError where a file is missing, cut off or cannot be fetched.
    """
    folder = _fetched() if str(data) == CIFAR10 else _folder(Path(data))
    if folder is None:
        raise DataError(f"{data} holds no CIFAR-10: expected {_PICKLES} or {_BINARIES}")
    read = _read_pickles if folder.name == _PICKLES else _read_binaries
    pixels, labels = read(folder, split == "train")
    kind = "train" if split == "train" else "test"
    return ImageSet(
        names=[f"cifar10/{kind}/{CLASSES[label]}/{i:05d}" for i, label in enumerate(labels)],
        labels=labels.astype(np.int16),
        class_names=CLASSES,
        sizes_bytes=np.full(len(labels), _RECORD - 1, np.int64),
        source=CIFAR10,
        read=CifarReader(pixels),
    )


def _folder(root: Path) -> Path | None:
    for folder in (root, root / _PICKLES, root / _BINARIES):
        if folder.name in (_PICKLES, _BINARIES) and folder.is_dir():
            return folder
    return None


def _read_binaries(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    parts = []
    for name in names:
        try:
            found = np.fromfile(folder / name, np.uint8)
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error.strerror or error}; unpack CIFAR-10 again") from error
        if not len(found) or len(found) % _RECORD:
            raise DataError(
                f"{folder / name} is cut off: {len(found)} bytes are not records of {_RECORD}; unpack CIFAR-10 again"
            )
        parts.append(found.reshape(-1, _RECORD))
    records = np.concatenate(parts)
    if records[:, 0].max() > 9:
        raise DataError(f"{folder} has labels above 9; it is not CIFAR-10 (CIFAR-100 is not read)")
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), records[:, 0]


def _read_pickles(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Through torchvision, which checks each file's MD5 before it unpickles it."""
    from torchvision.datasets import CIFAR10 as Published

    try:
        found = Published(str(folder.parent), train=train, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{folder} is not whole ({one_line(error)}); unpack the published archive again") from error
    return found.data, np.array(found.targets)


def _fetched() -> Path:
    from torchvision.datasets import CIFAR10 as Published

    root = cache_folder()
    try:
        Published(str(root), train=True, download=not (root / _PICKLES).is_dir())
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 cannot be fetched into {root} ({one_line(error)}); unpack it where there is "
            f"network and pass the folder that holds {_PICKLES}"
        ) from error
    return root / _PICKLES
