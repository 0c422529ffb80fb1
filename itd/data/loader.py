"""Images as the network gets them, and batches of them in the order asked for, decoded here or by worker processes."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from itd.data.crops import CropCache
from itd.data.dataset import ItemError, UnsteadyImageError
from itd.data.images import ImageSet
from itd.data.preprocess import Preprocess, as_values
from itd.data.processes import DecoderDiedError as DecoderDiedError
from itd.data.processes import items_of, raise_worker_death
from itd.device import current
from itd.errors import DataError, ImageReadError
from itd.text import one_line

T = TypeVar("T")

Shape = tuple[int, int, int]
"""(C, H, W)."""


class Images(Protocol):
    """What holds images: an `ImageSet` or a `DatasetImages`. load(i): PIL, or a float tensor (C, H, W)."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image | Tensor: ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images as the network gets them: `pixels[i]` is (C, H, W) float32, or before the last step of it uint8.

    images: what holds them. preprocess: from a PIL image to a float tensor; None where the images are tensors of floats
    already. shape: what each must have; None is not looked at. digests: sample -> `digest` of its pixels at an earlier
    reading, which a later one must give again. crops: where the decoded images of an `ImageSet` are kept. as_values:
    images that a `Preprocess` makes are given as uint8, for whoever calls its `normalise`: a quarter of the bytes.
    """

    images: Images
    preprocess: Callable[[Any], Any] | None
    shape: Shape | None = None
    digests: Mapping[int, str] = field(default_factory=dict)
    crops: CropCache | None = None
    as_values: bool = False

    def __getitem__(self, index: int) -> Tensor:
        """Raises DataError naming the sample where it cannot be decoded, ItemError where it is not what it must be."""
        values = self._read(index)
        pixels = self._normalised(values) if not self.as_values or index in self.digests else values
        if not bool(pixels.isfinite().all()):
            raise ItemError(
                f"sample {index} has values that are not finite; a fused activation can make numbers of them, so mend "
                "the data set or preprocess="
            )
        if self.shape is not None and tuple(pixels.shape) != self.shape:
            raise ItemError(
                f"sample {index} has the shape {tuple(pixels.shape)}, the first one {self.shape}; every image must "
                "have the same: resize and crop them alike in preprocess="
            )
        if index in self.digests and digest(pixels) != self.digests[index]:
            raise UnsteadyImageError(
                f"sample {index} is not what it was when it was first read; take random augmentation out of the data "
                "set and of preprocess=, so that every reading gives the same pixels"
            )
        return values if self.as_values else pixels

    @property
    def dtype(self) -> torch.dtype:
        """Of what is given."""
        return torch.uint8 if self.as_values and self.are_ours else torch.float32

    @property
    def are_ours(self) -> bool:
        """Whether an image is a crop of 8 bits a value until this package normalises it."""
        return isinstance(self.preprocess, Preprocess)

    def _read(self, index: int) -> Tensor:
        """(C, H, W): uint8 where this package preprocesses, before it is normalised, else float32."""
        if not isinstance(self.preprocess, Preprocess):
            return self._preprocessed(self.images.load(index), index)
        if self.crops is not None and isinstance(self.images, ImageSet):
            return as_values(self.crops.crop(index, self.images, self.preprocess))
        image = self.images.load(index)
        return self._preprocessed(image, index) if isinstance(image, Tensor) else as_values(self.preprocess.crop(image))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self.preprocess.normalise(pixels) if isinstance(self.preprocess, Preprocess) else pixels

    def _preprocessed(self, image: Image.Image | Tensor, index: int) -> Tensor:
        if isinstance(image, Tensor):
            if self.preprocess is not None:
                raise ItemError(
                    f"sample {index} is a float tensor, which is taken as it stands, so preprocess= would do nothing; "
                    "leave it out, or give PIL or uint8 images"
                )
            return image
        if self.preprocess is None:
            raise ItemError(
                f"sample {index} is an image that is not a float tensor yet, and there is no preprocess=; give one, "
                "such as torchvision's or timm's transform"
            )
        try:
            pixels = self.preprocess(image)
        except Exception as error:  # a transform of a user's own raises anything
            raise ItemError(
                f"preprocess= does not take sample {index}: {type(error).__name__}, {one_line(error)}; give a callable "
                "from a PIL image to a float tensor"
            ) from error
        if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.ndim != 3:
            kind = f"{tuple(pixels.shape)} of {pixels.dtype}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ItemError(f"preprocess= makes {kind} of sample {index}; it has to make a float tensor (C, H, W)")
        return pixels.detach().cpu().to(torch.float32)


def digest(pixels: Tensor) -> str:
    """SHA-256 of the shape and the values of an image, (C, H, W) float32."""
    values = pixels.contiguous().numpy()
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + values.tobytes()).hexdigest()


UNDECODABLE, REFUSED, IO, MEMORY, UNSTEADY = "undecodable", "refused", "io", "memory", "unsteady"


@dataclass(frozen=True)
class Problem:
    """Why there are no pixels of an image. An exception that crosses from a worker would lose its type.

    kind: undecodable, the decoder's verdict on bytes that were read; refused, an image that is not what the others are;
    io, its bytes cannot be read; memory, there is not enough; unsteady, it is another one at each reading. text: one
    line.
    """

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception, sample: int) -> Problem:
        """The problem that an error of `Pixels` stands for."""
        if isinstance(error, MemoryError):
            return cls(MEMORY, f"there is not enough memory to decode sample {sample}")
        kinds = ((UnsteadyImageError, UNSTEADY), (ItemError, REFUSED), (ImageReadError, IO))
        return cls(next((kind for of, kind in kinds if isinstance(error, of)), UNDECODABLE), str(error))

    @property
    def error(self) -> Exception:
        """The error that it stands for."""
        kinds = {REFUSED: ItemError, IO: ImageReadError, MEMORY: MemoryError, UNSTEADY: UnsteadyImageError}
        return kinds.get(self.kind, DataError)(self.text)


@dataclass(frozen=True, eq=False)
class Batch:
    """n images.

    samples: (n,) int32, indices in the data set. pixels: (n, C, H, W) on the CPU, of the `dtype` of `Pixels`; zeros of
    an image with a problem. labels: (n,) int16. problems: of each image, None where it has none.
    """

    samples: np.ndarray
    pixels: Tensor
    labels: np.ndarray
    problems: list[Problem | None]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def missing(self) -> np.ndarray:
        """(n,) bool, the images with a problem."""
        return np.array([problem is not None for problem in self.problems])


def batches(
    images: Images,
    samples: np.ndarray,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    keep_going: bool = False,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches of `samples`, (n,) indices into `images`, in that order; the last may be smaller.

    Other arguments and errors as of `stream`.

    >>> from itd.data.digits import digits_images
    >>> from itd.data.preprocess import DIGITS_PREPROCESS
    >>> batch = next(batches(digits_images(), np.arange(10), DIGITS_PREPROCESS, batch_size=4))
    >>> batch.pixels.shape
    torch.Size([4, 3, 64, 64])
    """
    pixels = Pixels(images, preprocess, preprocess.shape)
    return stream(
        pixels, [samples], batch_size=batch_size, workers=workers, keep_going=keep_going, pin_memory=pin_memory
    )


def stream(
    pixels: Pixels,
    ranges: Iterable[np.ndarray],
    *,
    batch_size: int,
    workers: int = 0,
    keep_going: bool = False,
    pin_memory: bool = False,
    apart: bool | None = None,
) -> Iterator[Batch]:
    """Batches of ranges of samples, one range after the other; no batch reaches over the end of a range.

    Args:
        pixels: the images; with `keep_going` their shape has to be known.
        ranges: (n,) int32 samples each. They are taken as they are needed, so that the list may still grow.
        batch_size: images in a batch.
        workers: processes that decode; 0 decodes in this one.
        keep_going: an image of which there are no pixels is marked, with its problem, instead of stopping.
        pin_memory: for copies to a GPU.
        apart: as of `itd.data.processes.items_of`.

    Raises:
        DataError: names the first image, in the order of the samples, that cannot be decoded.
    """
    if batch_size < 1:
        raise DataError(f"`batch_size={batch_size}` is not allowed; give a whole number of at least 1")
    if workers < 0:
        raise DataError(f"`workers={workers}` is not allowed; give 0 to decode in this process, or more")
    items = items_of(
        _Decoded(pixels),
        workers=workers,
        pin_memory=pin_memory,
        apart=apart,
        batch_sampler=_Batches(ranges, batch_size),
        collate_fn=_collate,
    )
    return _batches(pixels, items, keep_going)


def _batches(pixels: Pixels, items: Generator[Any, None, None], keep_going: bool) -> Iterator[Batch]:
    with contextlib.closing(items):  # ends the workers here, whoever holds the error that came
        for samples, values, problems in items:
            for problem in filter(None, problems):
                if not keep_going:
                    raise problem.error
            yield Batch(samples, values, pixels.images.labels[samples], problems)


class _Batches:
    """Lists of samples of at most one batch each: a `batch_sampler` that asks for the next range when it needs it."""

    def __init__(self, ranges: Iterable[np.ndarray], batch_size: int) -> None:
        self.ranges, self.batch_size = ranges, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for samples in self.ranges:
            for first in range(0, len(samples), self.batch_size):
                yield np.asarray(samples[first : first + self.batch_size]).tolist()


class _Decoded(Dataset[tuple[int, Tensor, "Problem | None"]]):
    """(sample, pixels, problem)."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels.images)

    def __getitem__(self, sample: int) -> tuple[int, Tensor, Problem | None]:
        try:
            return sample, self.pixels[sample], None
        except (DataError, MemoryError) as error:
            return (
                sample,
                torch.zeros(self.pixels.shape or (1, 1, 1), dtype=self.pixels.dtype),
                Problem.of(error, sample),
            )


def _collate(items: list[tuple[int, Tensor, Problem | None]]) -> tuple[np.ndarray, Tensor, list[Problem | None]]:
    samples = np.array([sample for sample, _, _ in items], np.int32)
    problems = [problem for _, _, problem in items]
    if any(problems) and len({tuple(values.shape) for _, values, _ in items}) > 1:
        return samples, torch.zeros(len(items), 1, 1, 1), problems  # which stops: the shape was never known
    return samples, torch.stack([values for _, values, _ in items]), problems


def ahead(items: Iterator[T], depth: int = 2, device: torch.device | None = None) -> Generator[T, None, None]:
    """The items, made by a thread while those before them are used; its errors are raised here.

    device: a GPU that memory is pinned for, which is another thread's current one only where it is told so.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put((kind, value), timeout=0.2)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            with contextlib.nullcontext() if device is None else current(device):
                for item in items:
                    put("item", item)
                    if stop.is_set():
                        close()
                        return
            put("end", None)
        except BaseException as error:  # raised again where the items are used
            put("error", error)

    close = getattr(items, "close", lambda: None)  # else processes would run on while somebody holds an error
    thread = threading.Thread(target=fill, daemon=True, name="itd-decode")
    thread.start()
    try:
        while True:
            try:
                kind, value = ready.get()
            except RuntimeError as error:  # raised by the signal handler that watches the DataLoader's workers
                raise_worker_death(error)
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        # A thread that is still inside torch when the interpreter ends would abort it (seen once after a Ctrl-C).
        thread.join(timeout=10)
