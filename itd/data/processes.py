"""How the processes that decode images are started: forked where that is safe, else by a server that CUDA is not in.

A fork copies what other threads hold locked, and CUDA does not bear it. So where CUDA is in use, or will be, processes
come from the standard library's fork server: a program of its own, which nothing has touched. What they need travels
to them as a pickle, and the script that runs here is run again there only where the pickle refers to it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator
from multiprocessing import spawn
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from itd.errors import DataError
from itd.text import first_line

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""The start method of processes that are not forked from this one; Windows has no fork server."""
FORKED = "fork" if sys.platform.startswith("linux") else None
"""The start method elsewhere; None is the system's own, which is another one on Linux from Python 3.14 on."""
PRELOADED = ["itd.data.loader"]
"""What the fork server loads once, for all of its processes: torch takes seconds."""
MOST_BYTES = 2**28
"""Of a pickle that goes to every process where nobody said how many there are to be."""
LEFT_TO_US = ("SIGINT", "SIGHUP", "SIGUSR1")
"""Signals that a whole group is sent, and that these processes leave to the one that ends them."""
_SHARED = "/dev/shm"
"""Where Linux keeps what processes hand to one another; containers often give it 64 MB."""


_GUARD = (
    "the images are defined in the script that runs, which each process that decodes runs again: put what calls itd "
    'under `if __name__ == "__main__":`, or the images\' class into a module of its own, or give `workers=0`'
)


def start_server(*modules: str) -> None:
    """Starts the program that processes are forked from, where it does not run yet; it loads torch in the meantime.

    modules: that it loads beside those of `PRELOADED`.

    Best before anything touches CUDA, from the thread that computes. Raises SystemExit in a process that only runs a
    script again to find what is defined in it: that script lacks its guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_GUARD)
    if START != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker

    if forkserver._forkserver._preload_modules == ["__main__"]:  # type: ignore[attr-defined]  # nobody else chose any
        forkserver.set_forkserver_preload([*PRELOADED, *modules])
    resource_tracker.ensure_running()  # by itself, as it unblocks signals
    numbers = {getattr(signal, name) for name in LEFT_TO_US}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # which all that it starts inherits
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def await_server() -> None:
    """Returns once the fork server has loaded what it loads, which `start_server` has begun.

    What is asked of it before comes to be later, even if this process has ended by then, and fails for lack of it.
    """
    if START == "forkserver":
        context: Any = multiprocessing.get_context(START)
        context.Process(target=int, daemon=True).start()


def cuda_is_in_use() -> bool:
    """Whether this process has begun to use a GPU, so that none may be forked from it."""
    return torch.cuda.is_initialized()


def items_of(
    dataset: Dataset[Any], *, workers: int, pin_memory: bool = False, apart: bool | None = None, **how: Any
) -> Generator[Any, None, None]:
    """What torch's DataLoader gives of a data set. Its processes are started at once, in this thread.

    workers: processes; 0 reads in this one. pin_memory: for copies to a GPU. apart: the processes are not forked from
    this one; None is where CUDA is in use. how: as of `DataLoader`. Raises DataError where the data set cannot be
    pickled and has to be, DecoderDiedError, as its items are taken, where a process was killed.
    """
    if apart is None:
        apart = pin_memory or cuda_is_in_use()
    apart = apart and workers > 0
    with warnings.catch_warnings(), _started_apart(dataset) if apart else contextlib.nullcontext(False) as script:
        # More workers than cores is the user's choice, and can pay on a slow disk.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        context = (START if apart else FORKED) if workers > 0 else None
        loader = DataLoader(dataset, num_workers=workers, pin_memory=pin_memory, multiprocessing_context=context, **how)
        return _guarded(iter(loader), script)


def _guarded(items: Iterator[Any], script: bool) -> Generator[Any, None, None]:
    """The items; a process that was killed (most often for memory) becomes one line. script: each runs it again."""
    none_yet = True
    try:
        for item in items:
            none_yet = False
            yield item
    except RuntimeError as error:
        if script and none_yet and is_death(error):
            raise DataError(_GUARD) from error
        raise_worker_death(error)
    finally:
        shut_down = getattr(items, "_shutdown_workers", None)
        if shut_down is not None:  # torch would do so when it is collected, which may be in the middle of other work
            shut_down()


def raise_worker_death(error: RuntimeError) -> NoReturn:
    """DecoderDiedError for what torch says of a process that was killed; any other error as it is."""
    if not is_death(error):
        raise error
    raise DecoderDiedError(
        "one of the processes that decode images died (out of memory, most often); pass fewer `workers`"
    ) from error


def is_death(error: RuntimeError) -> bool:
    """Whether torch says of one of its processes that it was killed."""
    return "DataLoader worker" in str(error)


class DecoderDiedError(DataError):
    """A process that decodes images was killed."""


@contextlib.contextmanager
def _started_apart(dataset: Any) -> Iterator[bool]:
    """Processes that are started inside run this program's script again only where the data set is defined in it.

    Gives whether it is.
    """
    start_server()
    why, script = why_not_sent(dataset)
    if why is not None:
        raise DataError(f"the images cannot be sent to the processes that decode them ({why}); give `workers=0`")
    prepared, thread = spawn.get_preparation_data, threading.get_ident()

    def without_script(name: str) -> dict[str, Any]:
        data = prepared(name)
        if threading.get_ident() == thread and not script:
            for field in ("init_main_from_name", "init_main_from_path"):
                data.pop(field, None)
        return data

    spawn.get_preparation_data = without_script
    try:
        yield script
    finally:
        spawn.get_preparation_data = prepared


class _Trial(pickle.Pickler):
    """A pickle of all but the values of arrays and tensors. arrays_bytes: of the arrays, which each process copies."""

    arrays_bytes = 0

    def reducer_override(self, value: Any) -> Any:
        """As of `pickle.Pickler`."""
        if isinstance(value, Tensor):  # torch shares its memory
            return str, ()
        if type(value) is np.ndarray and value.dtype != object:
            self.arrays_bytes += value.nbytes
            return str, ()
        return NotImplemented


def why_not_sent(dataset: Any, most_bytes: int | None = None) -> tuple[str | None, bool]:
    """(why a data set cannot go to another process, or None; whether it refers to what this program's script defines).

    most_bytes: of what is copied for each process.

    >>> why_not_sent(print), why_not_sent([lambda: None])[0] is None
    ((None, False), False)
    """
    out = io.BytesIO()
    trial = _Trial(out, pickle.HIGHEST_PROTOCOL)
    try:
        trial.dump(dataset)
    except Exception as error:  # a data set of a user's own raises anything
        return first_line(error, 120), False
    size = out.tell() + trial.arrays_bytes
    if most_bytes is not None and size > most_bytes:
        return f"they hold {size / 1e6:,.0f} MB, of which each would have a copy", False
    return None, b"__main__" in out.getbuffer().tobytes()


def default_workers(device: torch.device, dataset: Any, batches: int, batch_bytes: int) -> tuple[int, str | None]:
    """(processes that decode where nobody says how many, why there are none on a GPU).

    The cores of this machine on a GPU, 0 on a CPU; no more than there are batches, and than shared memory has room for;
    0 for a data set that cannot be sent to them, or is defined in the script that runs. batch_bytes: of one batch.
    """
    if device.type != "cuda":
        return 0, None
    why, script = why_not_sent(dataset, MOST_BYTES)
    if why is None and script:
        why = "they are defined in the script that runs, and processes find what a module defines"
    room = _shared_bytes() // max(1, 3 * batch_bytes)
    if why is None and not room:
        why = f"{_SHARED} has no room for three batches"
    return (0, why) if why is not None else (min(cores(), batches, room), None)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shared_bytes() -> int:
    """Room for what processes hand to one another; where nobody can say, any."""
    try:
        found = os.statvfs(_SHARED)
    except (OSError, AttributeError):
        return 2**62
    return found.f_bavail * found.f_frsize
