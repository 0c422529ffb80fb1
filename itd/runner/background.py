"""One piece of work at a time behind the caller's back: what is written while the next is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Background(Generic[T, R]):
    """A thread for one item at a time. `start` begins with one, `result` waits for what comes of it.

    work: from an item to its result. Where the block is left in between, whatever the reason, the item that was begun
    is ended first, so that nothing is half done.

    >>> with Background(lambda n: n + 1) as behind:
    ...     behind.start(1)
    ...     behind.result()
    2
    """

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work = work
        self._task: _Task[R] | None = None

    def __enter__(self) -> Background[T, R]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.ended.wait()

    @property
    def busy(self) -> bool:
        """Whether an item was begun whose result nobody has taken."""
        return self._task is not None

    @property
    def failed(self) -> bool:
        """Whether the item that was begun has ended with an error, which `result` raises."""
        return self._task is not None and self._task.error is not None

    def start(self, item: T) -> None:
        """Begins with an item; the result of the one before has been taken."""
        if self._task is not None:
            raise RuntimeError("the result of the item before has not been taken")
        self._task = _Task(lambda: self.work(item))

    def result(self) -> R:
        """What comes of the item, or the error that it ended with."""
        task = self._task
        if task is None:
            raise RuntimeError("nothing was begun")
        task.ended.wait()  # not `join`, which an interrupt can leave believing that the thread has ended
        self._task = None
        if task.error is not None:
            raise task.error
        return task.results[0]


class _Task(Generic[R]):
    """A thread that runs one function. ended: set once it has its result, or its error."""

    def __init__(self, function: Callable[[], R]) -> None:
        self.ended = threading.Event()
        self.results: list[R] = []
        self.error: BaseException | None = None
        self.function = function
        threading.Thread(target=self._run, daemon=True, name="itd-write").start()

    def _run(self) -> None:
        try:
            self.results.append(self.function())
        except BaseException as error:  # raised again where the result is taken
            self.error = error
        finally:
            self.ended.set()
