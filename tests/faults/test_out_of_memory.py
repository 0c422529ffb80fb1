"""Memory that runs out, as torch, cuDNN and cuBLAS say it: what is run is halved and ends the same, or one line."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from itd.data.digits import digits_images
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.device import Halves, is_out_of_memory, moved
from itd.engine import check
from itd.engine.check import check_plain, check_tree
from itd.engine.macs import macs
from itd.engine.plain import PlainExecutor
from itd.engine.program import compile_program
from itd.errors import DataError, MemoryShortageError
from itd.patcher import model_space, patch
from itd.patcher.layout import measurable
from itd.patcher.storage import copy_on
from itd.selectors.predict import PredictRequest, predict
from itd.training import trainer
from itd.training.data import TrainingSet
from itd.training.evaluate import label_ranks
from itd.training.recalibrate import RecalibratedExecutor
from itd.weights.factory import count_logits
from support import engine
from support.commands import one_line, run
from support.networks import MyNet

ERRORS: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "engine": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
    "onednn": lambda: RuntimeError("could not create a primitive"),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"),
    "python": lambda: MemoryError(),
}
SITES_OF_MINE = {"A": "stem.conv", "B": "block2.conv"}


class Scarce(TorchDispatchMode):
    """Memory that operators of some names, or with these parts of names, find too small: for results of more than
    `most` rows, or at the `last`-th call.

    calls: how many there were. error: what is raised.
    """

    def __init__(
        self, error: Callable[[], Exception], *names: str, most: int | None = None, last: int | None = None
    ) -> None:
        super().__init__()
        self.error, self.names, self.most, self.last = error, names or ("conv",), most, last
        self.calls = self.raised = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        taken = any(part in name for part in self.names) and "weight" not in name
        if taken and isinstance(result, Tensor) and not result.is_meta:
            self.calls += 1
            if (self.most is not None and len(result) > self.most) or self.calls == self.last:
                self.raised += 1
                raise self.error()
        return result


def mine(seed: int = 0) -> tuple[Any, Any]:
    """A small network of two sites, and its dilations."""
    model = patch(MyNet(seed=seed).eval(), SITES_OF_MINE)
    return model, model_space(model, ["dilation"], options={("A", "dilation"): (1, 2, 3), ("B", "dilation"): (1, 2)})


def images(count: int, px: int = 24) -> Tensor:
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(3))


def executors() -> dict[str, Callable[[], Any]]:
    """Each way to run a space."""
    return {
        "tree": lambda: engine.tree(*mine(), budget_bytes=1 << 40),
        "plain": lambda: PlainExecutor(*mine()),
        "routed": lambda: Routed(engine.routed(*mine(), budget_bytes=1 << 40)),
        "recalibrated": lambda: estimated(RecalibratedExecutor(*mine(), images(4), batch_size=4)),
    }


class Routed:
    """A really dynamic network that each configuration in turn is chosen for."""

    def __init__(self, network: Any) -> None:
        self.network, self.space = network, network.space

    def run(self, pixels: Tensor, sink: Any) -> None:
        for number in range(len(self.space)):
            numbers = np.full(len(pixels), number)
            sink(numbers, np.arange(len(pixels)), self.network.logits(pixels, numbers))


def estimated(executor: RecalibratedExecutor) -> RecalibratedExecutor:
    executor.run(images(1), lambda *_: None)
    return executor


@pytest.mark.parametrize("error", ERRORS)
def test_each_way_of_saying_it_is_known(error: str) -> None:
    assert is_out_of_memory(ERRORS[error]())
    descriptor = RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive")
    for other in (
        descriptor,
        RuntimeError("shape mismatch"),
        ValueError("out of memory"),
        OSError(28, "No space left"),
    ):
        assert not is_out_of_memory(other)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("way", executors())
def test_every_executor_halves_and_gives_the_same_logits(way: str, error: str) -> None:
    make = executors()[way]
    expected = engine.logits(make(), images(5), 5)
    scarce = make()
    with Scarce(ERRORS[error], most=2) as memory:
        found = engine.logits(scarce, images(5), 5)
    assert memory.raised
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", executors())
def test_memory_that_runs_out_once_at_any_call_changes_nothing(way: str) -> None:
    """Also where segments that wait are joined, and where a single image is run."""
    make = executors()[way]
    expected = engine.logits(make(), images(5), 5)
    for last in itertools.count(1):
        executor = make()
        with Scarce(
            ERRORS["torch"], "conv", "cat", "linear", "contiguous", "index_select", "relu", "mean", last=last
        ) as memory:
            found = engine.logits(executor, images(5), 5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        if not memory.raised:
            break
    assert last > 10
    for last in range(1, 20):
        executor = make()
        with Scarce(ERRORS["torch"], last=last):
            found = engine.logits(executor, images(1), 5)
        torch.testing.assert_close(found, expected[:, :1], rtol=1e-4, atol=1e-5)


def test_segments_are_joined_in_halves(random_network) -> None:
    model = patch(random_network("resnet18"), "resnet18")
    space = model_space(model, ["dilation"], swept=["C", "D"], options={("C", "dilation"): (1, 2)})
    expected = engine.logits(engine.tree(model, space, budget_bytes=1 << 40), images(3, 64), 10)
    with Scarce(ERRORS["torch"], "cat", most=2) as memory:
        found = engine.logits(engine.tree(model, space, budget_bytes=1 << 40), images(3, 64), 10)
    assert memory.raised
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", executors())
def test_a_single_image_that_does_not_fit_is_one_line(way: str) -> None:
    executor = executors()[way]()
    with Scarce(ERRORS["torch"], most=0), pytest.raises(MemoryShortageError) as error:
        executor.run(images(2), lambda *_: None)
    assert "\n" not in str(error.value) and "crop_px" in str(error.value)
    assert "out of memory on cpu with a single image" in str(error.value)


def test_the_check_at_the_start_goes_on_and_is_never_taken_for_another_network() -> None:
    model, space = mine()
    program = compile_program(model, space)
    shape = (3, 24, 24)
    for last in (1, 3, 9, 12, 20):
        with Scarce(ERRORS["cudnn"], last=last) as memory:
            check_tree(program, shape, "mine")
        assert memory.raised
    with Scarce(ERRORS["cudnn"], most=1), pytest.raises(MemoryShortageError, match="out of memory on cpu with two"):
        check_tree(program, shape, "mine")
    with Scarce(ERRORS["cudnn"], most=1) as memory:
        check_plain(model, space, shape, "mine")
    assert memory.raised
    with Scarce(ERRORS["cudnn"], most=0), pytest.raises(MemoryShortageError, match="with a single image"):
        check_plain(model, space, shape, "mine")


def test_a_device_whose_memory_is_too_small_for_the_check_leaves_it_to_the_cpu(monkeypatch) -> None:
    program = compile_program(*mine())
    real, devices = check._check_tree, []

    def on(program: Any, *rest: Any) -> None:
        devices.append(program.device.type)
        if program.device.type == "cuda":
            raise MemoryShortageError("out of memory on cuda")
        real(program, *rest)

    monkeypatch.setattr(check, "_check_tree", on)
    check_tree(replace(program, device=torch.device("cuda")), (3, 24, 24), "mine")
    assert devices == ["cuda", "cpu"]


def test_images_that_do_not_fit_a_device_stay_where_they_are() -> None:
    class Large:
        def to(self, *_: Any, **__: Any) -> Tensor:
            raise ERRORS["torch"]()

    large: Any = Large()
    assert moved(large, torch.device("cpu"), torch.float32) is large
    assert moved(images(1), torch.device("cpu"), torch.float64).dtype == torch.float64


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_image_that_cannot_be_had_is_one_line_wherever_it_is_decoded(workers: int) -> None:
    def refusing(image: Any, seed: int) -> Tensor:
        raise DataError("image 7 is damaged")

    batches = TrainingSet(digits_images("train"), refusing).epoch(0, 4, workers=workers)
    with pytest.raises(DataError, match=r"^image 7 is damaged$"):
        next(batches)


def test_evaluation_halves_and_keeps_to_it(random_network) -> None:
    network = copy.deepcopy(random_network("resnet18"))  # which is left in another layout
    given = (network, digits_images("eval"), range(20), DIGITS_PREPROCESS, torch.device("cpu"))
    expected = label_ranks(*given, batch_size=10)
    with Scarce(ERRORS["engine"], most=3) as memory:
        assert np.array_equal(label_ranks(*given, batch_size=10), expected)
    assert memory.raised == 2, "10 and 5; then never more than 2"


def test_prediction_halves(tmp_path: Path, random_network) -> None:
    torch.save(random_network("resnet18").state_dict(), tmp_path / "w.pth")
    for index in range(5):
        digits_images("eval").load(index).resize((64, 64)).save(tmp_path / f"{index}.png")
    request = PredictRequest(
        (str(tmp_path),), "resnet18", str(tmp_path / "w.pth"), top=2, batch_size=5, resize_px=64, crop_px=64
    )
    expected = list(predict(request))
    with Scarce(ERRORS["cublas"], most=2) as memory:
        found = list(predict(request))
    assert memory.raised
    for one, other in zip(found, expected, strict=True):
        assert [c for c, _, _ in one.top] == [c for c, _, _ in other.top] and one.image == other.image
        assert [p for _, _, p in one.top] == pytest.approx([p for _, _, p in other.top], rel=1e-4)


def test_statistics_of_a_batch_are_never_halved() -> None:
    executor = RecalibratedExecutor(*mine(), images(8), batch_size=4)
    with Scarce(ERRORS["torch"], most=3), pytest.raises(MemoryShortageError) as error:
        executor.run(images(2), lambda *_: None)
    assert "the 4 images that statistics are estimated on" in str(error.value) and "`images`" in str(error.value)


def test_a_lack_of_memory_is_not_taken_for_a_fault_of_the_network(monkeypatch) -> None:
    for error in ERRORS.values():
        model = MyNet().eval()
        monkeypatch.setattr(
            MyNet, "__deepcopy__", lambda self, memo, e=error: (_ for _ in ()).throw(e()), raising=False
        )
        for make in (lambda m=model: patch(m, SITES_OF_MINE), lambda m=model: copy_on(m, torch.device("cpu"))):
            with pytest.raises(MemoryShortageError, match="out of memory on cpu with a copy of the network"):
                make()
        monkeypatch.undo()
        monkeypatch.setattr(MyNet, "forward", lambda self, x, e=error: (_ for _ in ()).throw(e()))
        for run_it in (lambda m=model: count_logits("mine", m, 24), lambda m=model: measurable(m, (3, 24, 24)),
                       lambda m=model: macs(m, input_shape=(3, 24, 24))):  # fmt: skip
            with pytest.raises(MemoryShortageError, match="out of memory on cpu with a single image"):
                run_it()
        monkeypatch.undo()


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    return ["train", "--model", "resnet18", "--data", "digits", "--epochs", "2", "--epoch-images", "8", "--batch-size",
            "4", "--progress", "none", "--out", str(tmp_path / "w.safetensors")]  # fmt: skip


def test_training_says_which_batch_was_too_large_and_keeps_the_last_epoch(
    training, tmp_path: Path, monkeypatch
) -> None:
    real = trainer._step

    def scarce(*given: Any) -> Any:
        with Scarce(ERRORS["torch"], last=3 if given[-1] == 3 else None):
            return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_step", scarce)
        answer = run(*training)
    one_line(
        answer, "out of memory on cpu in step 3, with batches of 4 images", "--batch-size", "--out", "last whole epoch"
    )
    assert answer.exit_code == 1
    assert torch.load(tmp_path / "w.checkpoint", weights_only=True)["epochs"] == 1
    assert len((tmp_path / "w.csv").read_text().splitlines()) == 1 + 3
    assert run(*training).exit_code == 0 and (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("error", ERRORS)
def test_memory_that_ends_a_command_anywhere_is_no_bug(error: str, monkeypatch) -> None:
    def raising(*_: object, **__: object) -> None:
        raise ERRORS[error]()

    monkeypatch.setattr("itd.store.open_result", raising)
    answer = run("oracle", "r.parquet")
    one_line(answer, "there is not enough memory")
    assert answer.exit_code == 1


def test_pieces_are_given_in_order_and_only_halved_where_they_do_not_fit() -> None:
    given: list[tuple[int, int]] = []

    def work(rows: slice) -> int:
        given.append((rows.start, rows.stop))
        if rows.stop - rows.start > 3:
            raise MemoryError
        return rows.stop - rows.start

    halves = Halves(torch.device("cpu"))
    assert sum(halves.run(10, work)) == 10 and halves.most == 2
    assert given == [(0, 10), (0, 5), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    with pytest.raises(DataError):
        halves.run(1, lambda rows: (_ for _ in ()).throw(DataError("another")))
