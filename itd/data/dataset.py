"""Any map-style data set as images: a `torch.utils.data.Dataset` of a user's own, read as it is.

An item is `(image, label)`. Nothing is parsed and nothing assumed: an image that is not a tensor of floats already is
handed, as the PIL image that it depicts, to a preprocessing of the user's.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from itd.data.images import MAX_CLASSES
from itd.errors import DataError, ImageReadError
from itd.text import listed, one_line


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """N images of a map-style data set.

    dataset: `dataset[i]` is `(image, label)`. labels: (N,) int16, `read_labels` makes them. class_names: K names in the
    order of the labels, or none where nobody knows them. source: what the results call the data.
    """

    dataset: Any
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    source: str = "dataset"
    names: Sequence[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _SampleNames(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image | Tensor:
        """An image: PIL, or (C, H, W) float32 where the data set gives a tensor of floats.

        Raises DataError, naming the sample, for what cannot be read, is no image, or has another label than before.
        """
        image, label = read_item(self.dataset, index)
        if label != self.labels[index]:
            raise UnsteadyImageError(
                f"sample {index} has label {label} now and had {self.labels[index]} before; give a data set that gives "
                "the same each time, or labels= that agree with it"
            )
        return as_image(image, index)


class ItemError(DataError):
    """An item that is not what a data set has to give: no damaged image, so that it never counts as a missing one."""


class UnsteadyImageError(ItemError):
    """An image that is another one at each reading, as random augmentation makes it: then all rows are in doubt."""


class _SampleNames(Sequence[str]):
    """`sample 0`, `sample 1`, ...: a data set has no names."""

    def __init__(self, count: int) -> None:
        self.length = count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= int(index) < self.length:
            raise IndexError(index)
        return f"sample {int(index)}"


def dataset_length(dataset: Any) -> int:
    """How many items a map-style data set has; DataError for anything else."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"images is a {type(dataset).__name__}, which has no length or cannot be indexed; give a map-style data "
            "set whose items are (image, label), such as torchvision's ImageFolder"
        )
    try:
        count = len(dataset)
    except Exception as error:  # a data set of a user's own raises anything
        raise DataError(
            f"images has no length ({one_line(error)}); give a map-style data set, not an iterable one"
        ) from error
    if count < 1:
        raise DataError("images is an empty data set; give one with at least one (image, label)")
    return count


def read_item(dataset: Any, index: int) -> tuple[Any, int]:
    """(image, label) of a data set; DataError naming the sample where it cannot be read or is something else."""
    try:
        item = dataset[index]
    except (MemoryError, ItemError):
        raise
    except ImageReadError as error:  # of a data set that reads by this package
        raise ImageReadError(f"sample {index} cannot be read: {error}") from error
    except Exception as error:  # a data set of a user's own raises anything
        text = f"sample {index} cannot be read: {type(error).__name__}, {one_line(error)}"
        if _is_verdict(error):
            raise DataError(text) from error
        raise (ImageReadError if isinstance(error, OSError) else ItemError)(text) from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ItemError(f"sample {index} is {_kind(item)}; give a data set whose items are (image, label)")
    return item[0], as_label(item[1], index)


def _is_verdict(error: Exception) -> bool:
    """Whether Pillow says that it cannot decode what it has read. Of an OSError without a number, which others raise
    where a disk fails (h5py does), it has to be Pillow's own code that raised it."""
    kinds = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError)
    return isinstance(error, kinds) or (type(error) is OSError and error.errno is None and _is_of_pillow(error))


def _is_of_pillow(error: Exception) -> bool:
    """Whether an error, or one that it was raised from, comes from Pillow's code."""
    one: BaseException | None = error
    while one is not None:
        frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__)]
        if frames and frames[-1].f_globals.get("__name__", "").partition(".")[0] == "PIL":
            return True
        one = one.__cause__ or one.__context__
    return False


def as_label(label: Any, index: int) -> int:
    """A label as an int; ItemError naming the sample where it is not one from 0 to 32,766.

    label: an int, or a tensor or array of one.

    >>> as_label(torch.tensor([7]), 0)
    7
    """
    array = _as_array(label)
    if array is None or array.size != 1 or array.dtype.kind not in "iu":
        raise ItemError(
            f"sample {index} has the label {one_line(label, 40)} ({_kind(label)}); a label is an int, or a tensor or "
            "array of one: give labels= and a data set of single labels"
        )
    value = int(array.reshape(()) if array.ndim == 0 else array.reshape(-1)[0])
    if not 0 <= value < MAX_CLASSES:
        raise ItemError(f"sample {index} has the label {value}; allowed are 0 to {MAX_CLASSES - 1}")
    return value


def _as_array(value: Any) -> np.ndarray | None:
    """A number, or a nest of them, as an array; None for what is none, such as lists of several lengths."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array


def as_image(image: Any, index: int) -> Image.Image | Tensor:
    """An item's image: PIL as it is, uint8 as the PIL image that it depicts, a float tensor (C, H, W) as float32."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor) and image.is_floating_point():
        if image.ndim != 3:
            raise ItemError(f"sample {index} has the shape {tuple(image.shape)}; an image is (C, H, W)")
        return image.detach().cpu().to(torch.float32)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] in (1, 3):
        return _depicted(image.permute(1, 2, 0).cpu().numpy())
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3):
        return _depicted(image)
    raise ItemError(
        f"sample {index} is {_kind(image)}; an image is PIL, a float tensor (C, H, W), a uint8 tensor (1 or 3, H, W) "
        "or a uint8 array (H, W, 1 or 3)"
    )


def _depicted(pixels: np.ndarray) -> Image.Image:
    """pixels: (H, W, 1 or 3) uint8."""
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _kind(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def known_labels(dataset: Any) -> np.ndarray | None:
    """(N,) the labels that a data set has in `targets` or `labels`, also behind a `Subset`; None where it has none."""
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if isinstance(dataset, torch.utils.data.Subset) and inner is not None and indices is not None:
        labels = known_labels(inner)
        return None if labels is None else labels[np.asarray(indices, np.int64)]
    for name in ("targets", "labels"):
        try:
            values = getattr(dataset, name, None)
        except Exception:  # a property of a user's own raises anything, and then holds no labels
            continue
        array = None if values is None or callable(values) else _as_array(values)
        if array is None:
            continue
        if array.shape in ((len(dataset),), (len(dataset), 1)) and array.dtype.kind in "iu":
            return array.reshape(-1)
    return None


def read_labels(dataset: Any, labels: Any = None) -> Iterator[int | np.ndarray]:
    """The labels of a data set: at the end (N,) int16, before it how many items were read, one by one.

    labels: what the user says they are; else the data set's own, else every item is read once.
    """
    count = dataset_length(dataset)
    values = known_labels(dataset) if labels is None else _given_labels(labels, count)
    if values is None:
        values = np.empty(count, np.int64)
        for index in range(count):
            values[index] = read_item(dataset, index)[1]
            yield index + 1
    wrong = np.flatnonzero((values < 0) | (values >= MAX_CLASSES))
    if len(wrong):
        raise ItemError(f"sample {wrong[0]} has the label {values[wrong[0]]}; allowed are 0 to {MAX_CLASSES - 1}")
    yield values.astype(np.int16)


def _given_labels(labels: Any, count: int) -> np.ndarray:
    array = _as_array(labels)
    if array is None or array.shape != (count,) or array.dtype.kind not in "iu":
        kind = _kind(labels if array is None else array)
        raise DataError(
            f"labels is {kind}, and there are {count} images; give one int for each, in the order of the images"
        )
    return array


def class_names_of(dataset: Any, class_names: Any = None) -> tuple[str, ...]:
    """The classes' names in label order: the user's, else the data set's own `classes` or `class_names`, else none."""
    try:
        own = getattr(dataset, "classes", getattr(dataset, "class_names", ()))
    except Exception:  # as of `known_labels`
        own = ()
    names = own if class_names is None else class_names
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        if class_names is None:
            return ()
        raise DataError(f"class_names is {one_line(names, 40)}; give the names of the classes, in label order")
    if len(set(names)) != len(names) and class_names is not None:
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise DataError(f"class_names has {listed(twice, quoted=True)} twice; each class has one name")
    return tuple(names)
