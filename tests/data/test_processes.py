"""Processes that decode are not forked where CUDA is in use, and a script is run again only where it has to be."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from itd.data import processes
from itd.data.digits import digits_images
from itd.data.loader import Pixels, stream
from itd.data.preprocess import DIGITS_PREPROCESS
from itd.data.processes import DecoderDiedError, default_workers, items_of, why_not_sent
from itd.errors import DataError
from support.forked import SCRIPT as SCRIPT_RUN
from support.forked import forked
from support.where import Where

if sys.platform == "win32":
    pytest.skip("fork and signals of POSIX", allow_module_level=True)

GPU = torch.device("cuda")


def where(apart: bool | None, **how) -> torch.Tensor:
    """(8, 3) of the items, read by two processes."""
    return torch.cat(list(items_of(Where(**how), workers=2, apart=apart, batch_size=2, collate_fn=stacked)))


def stacked(items):
    return torch.stack([item[0] for item in items])


def test_processes_are_forked_from_this_one_only_where_cuda_is_not_in_use(monkeypatch) -> None:
    assert set(where(None)[:, 1].tolist()) == {os.getpid()}
    monkeypatch.setattr(processes, "cuda_is_in_use", lambda: True)
    pid, parent, blocked = where(None).T.tolist()
    assert os.getpid() not in {*pid, *parent} and len(set(pid)) == 2 and len(set(parent)) == 1
    assert set(blocked) == {1}, "Ctrl-C goes to the whole group, and they leave it to this process"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system's own way is taken")
def test_processes_are_forked_where_the_default_of_python_is_another() -> None:
    """As it is on Linux from Python 3.14 on: what cannot be pickled would not be decoded by processes any more."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert set(where(None)[:, 1].tolist()) == {os.getpid()}
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("apart", [False, True])
def test_both_ways_give_the_same_batches(apart: bool) -> None:
    images, samples = digits_images("eval"), np.array([7, 300, 2, 2, 359], dtype=np.int32)
    pixels = Pixels(images, DIGITS_PREPROCESS, DIGITS_PREPROCESS.shape)
    found = list(stream(pixels, [samples], batch_size=2, workers=2, apart=apart))
    assert np.concatenate([batch.samples for batch in found]).tolist() == samples.tolist()
    assert torch.equal(torch.cat([batch.pixels for batch in found]), torch.stack([pixels[int(i)] for i in samples]))


@pytest.mark.parametrize("apart", [False, True])
def test_a_process_that_is_killed_is_one_line_either_way(apart: bool) -> None:
    with pytest.raises(DecoderDiedError, match=r"^one of the processes that decode images died [^\n]*$"):
        where(apart, dies_at=5)


def test_what_cannot_be_sent_is_refused_in_one_line() -> None:
    images = Where()
    images.extra = lambda: None
    with pytest.raises(DataError, match=r"^the images cannot be sent to the processes .*`workers=0`$"):
        items_of(images, workers=1, apart=True)
    assert len(list(items_of(images, workers=1, apart=False, batch_size=None))) == 8


def test_the_default_is_the_cores_on_a_gpu_and_none_on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 16)
    monkeypatch.setattr(processes, "_shared_bytes", lambda: 2**40)
    assert default_workers(torch.device("cpu"), Where(), 100, 1) == (0, None)
    assert default_workers(GPU, Where(), 100, 1) == (16, None)
    assert default_workers(GPU, Where(), 3, 1) == (3, None), "no more than there are batches"
    monkeypatch.setattr(processes, "_shared_bytes", lambda: 64 << 20)
    assert default_workers(GPU, Where(), 100, 5 << 20) == (4, None), "no more than shared memory has room for"
    monkeypatch.setattr(processes, "_shared_bytes", lambda: 0)
    assert default_workers(GPU, Where(), 100, 1) == (0, "/dev/shm has no room for three batches")


def test_the_default_is_none_for_images_that_cannot_be_sent_or_are_large(monkeypatch) -> None:
    monkeypatch.setattr(processes, "_shared_bytes", lambda: 2**40)
    unsent, large, shared = Where(), Where(), TensorDataset(torch.zeros(2**20))
    unsent.extra = lambda: None
    large.extra = np.zeros(2**21, np.uint8)
    monkeypatch.setattr(processes, "MOST_BYTES", 2**20)
    (none, why), (few, much) = (default_workers(GPU, images, 9, 1) for images in (unsent, large))
    assert (none, few) == (0, 0) and "pickle" in why and much == "they hold 2 MB, of which each would have a copy"
    assert default_workers(GPU, shared, 1, 1) == (1, None), "torch shares the memory of tensors"
    assert why_not_sent(large) == (None, False), "whoever asks for processes gets them"


SCRIPT = """
import torch
from torch.utils.data import TensorDataset
from itd.data.processes import items_of
print("run", flush=True)

class Mine(TensorDataset):
    pass

def main(kind):
    print(len(list(items_of(kind(torch.zeros(8)), workers=2, apart=True, batch_size=1))))
"""


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        ("main(TensorDataset)", "run 8", ""),
        ("if __name__ == '__main__': main(Mine)", "run 8", ""),
        ("main(Mine)", "run", 'put what calls itd under `if __name__ == "__main__":`'),
    ],
)
def test_a_script_is_run_again_only_for_what_it_defines_and_needs_its_guard_only_then(
    call: str, answer: str, error: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT}\n{call}\n")
    guarded = call.startswith("if")  # the one for which a new interpreter is started, as a user does it
    new = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, script], **new) if guarded else forked(SCRIPT_RUN, script)
    assert " ".join(dict.fromkeys(done.stdout.split())) == answer, done.stdout + done.stderr
    assert (done.stdout.count("run") > 1) is ("Mine" in call)
    assert error in (done.stderr.splitlines() or [""])[-1] and (done.returncode == 0) is (not error), done.stderr
