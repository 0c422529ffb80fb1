"""Signals that end a command: its work is dropped within ten seconds, and the command that goes on is printed.

Only the command line catches signals, and only while a command runs; the library never does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import click

from itd.text import visible

CAUGHT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C, and what schedulers, terminals and time limits send. A system may lack some."""
CHILDREN_S, GRACE_S = 3.0, 8.0
"""Seconds after a signal: then worker processes are killed, and the command is ended from another thread."""
SAME_S = 0.5
"""A second signal within so many seconds is the first one sent twice, as `timeout` does; a later one ends at once."""
KEPT = "nothing already written is lost"


class Stopped(KeyboardInterrupt):
    """A signal came. Raised in the main thread, so that what is open is closed on the way out."""


class Signals:
    """Inside the block a signal raises `Stopped`; after it the handlers are those from before.

    args: of the command, without the program's name. number: of the signal that came, None where none did. kept: what
    outlasts it. A signal that was ignored before stays so, as under nohup; of a thread that is not the main one nothing
    is caught.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)
        self.number: int | None = None
        self.kept = KEPT
        self.came = threading.Event()
        self._raised = self._said = False
        self._before: dict[int, Any] = {}
        self._of_children: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        _left_to_the_parent()
        numbers = [int(getattr(signal, name)) for name in CAUGHT if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        self._before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._woken = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="itd-signals")
        self._watcher.start()
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        for number, handler in [*self._before.items(), *self._of_children.items()]:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken)
        self._sender.send(b"\0")
        self._watcher.join()
        self._sender.close()
        self._receiver.close()

    @contextlib.contextmanager
    def keeping(self, kept: str) -> Iterator[None]:
        """Inside the block, and after one that an error ends, `kept` is what outlasts a signal."""
        before, self.kept = self.kept, kept
        yield
        self.kept = before

    def stopped(self, error: BaseException) -> bool:
        """Whether an error is a signal's doing: also what a worker process says that the same signal ended."""
        if isinstance(error, (KeyboardInterrupt, click.Abort)):
            return True
        if self._before and _of_a_worker(error):
            self.came.wait(1.0)  # the whole group is sent it, the worker perhaps first
        return self.number is not None

    @property
    def code(self) -> int:
        """The exit status: 128 and the signal's number."""
        return 128 + (self.number or signal.SIGINT)

    def text(self) -> str:
        """What was stopped and what is kept; on a line of its own the command that goes on."""
        name = signal.Signals(self.number or signal.SIGINT).name
        what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
        return f"itd: {what}; {self.kept}: the same command goes on from there\n{command_line(self.args)}"

    def say(self) -> None:
        """Says it on standard error, in torchrun's first process alone; ends the worker processes."""
        self._said = True
        end_children()
        if os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError, ValueError):  # a terminal that hung up takes nothing
                if self.number == signal.SIGINT and sys.stderr.isatty():
                    click.echo(err=True)  # behind the terminal's ^C
                click.echo(self.text(), err=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._raised:  # a second one is the watcher's
            self._raised = True
            self.number = number
            self.came.set()
            if hasattr(signal, "SIGCHLD"):  # torch's raises errors, on the way out, for each worker that ends as well
                self._of_children[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise Stopped(number)

    def _watch(self) -> None:
        """Sees each signal as it comes, also where the main thread is in the middle of something long."""
        first_s, children = None, True
        while True:
            left = None if first_s is None else first_s + (CHILDREN_S if children else GRACE_S) - time.monotonic()
            self._receiver.settimeout(None if left is None else max(left, 0.001))
            try:
                number = self._receiver.recv(1)[0]
            except TimeoutError:
                if not children:
                    self._end()
                end_children()
                children = False
                continue
            if number == 0:
                return
            if number in self._before and first_s is None:
                first_s = time.monotonic()
                self.number = number
                self.came.set()
            elif number in self._before and first_s is not None and time.monotonic() - first_s > SAME_S:
                self._end()

    def _end(self) -> None:
        """Ends this process, whatever the main thread is doing."""
        end_children()
        if not self._said and os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):
                os.write(2, (self.text() + "\n").encode(errors="backslashreplace"))
        os._exit(self.code)


@contextlib.contextmanager
def keeping(kept: str) -> Iterator[None]:
    """`Signals.keeping` of the command that runs."""
    context = click.get_current_context(silent=True)
    signals = None if context is None else context.find_object(Signals)
    with contextlib.nullcontext() if signals is None else signals.keeping(kept):
        yield


@functools.cache
def _left_to_the_parent() -> None:
    """A process that is forked leaves signals to its parent, which ends it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for name in CAUGHT:
        number = getattr(signal, name, None)
        if number is not None and isinstance(getattr(signal.getsignal(number), "__self__", None), Signals):
            signal.signal(number, signal.SIG_DFL if name == "SIGTERM" else signal.SIG_IGN)
            signal.set_wakeup_fd(-1)


def end_children() -> None:
    """Kills the worker processes that there still are."""
    multiprocessing = sys.modules.get("multiprocessing")
    with contextlib.suppress(Exception):
        children = [] if multiprocessing is None else multiprocessing.active_children()
        for child in children:
            child.kill()
        for child in children:
            child.join(1)


def _of_a_worker(error: BaseException | None) -> bool:
    """Whether torch says of a worker process that a signal ended it, in an error or in what caused it."""
    while error is not None:
        if "DataLoader worker" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def command_line(args: Sequence[str]) -> str:
    """The command as it can be typed again: how it was started, its arguments quoted, $ITD_DATA where that is set.

    >>> command_line(["oracle", "my result.parquet"]).endswith("oracle 'my result.parquet'")
    True
    """
    words = [*_program(), *args]
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    data = [f"ITD_DATA={quoted(os.environ['ITD_DATA'])}"] if "ITD_DATA" in os.environ else []
    return " ".join([*data, *map(quoted, words)])


def quoted(word: str) -> str:
    r"""A word for a shell, on one line whatever is in it.

    >>> print(quoted("it's"), quoted("a" + chr(10)))
    'it'"'"'s' $'a\x0a'
    """
    if visible(word) == word and not {"\n", "\t"} & set(word):
        return shlex.quote(word)
    plain = b"-_./ =:,+@%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "$'" + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(word)) + "'"


def _program() -> list[str]:
    """What starts the command in the way that it was started: torchrun, a script, `python -m itd_cli.main`."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        nodes, here = (os.environ.get(name, "1") for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        more = [] if nodes == "1" else ["--nnodes", nodes]
        return ["torchrun", *more, "--nproc-per-node", here, "-m", "itd_cli.main"]
    script, on_path = sys.argv[0], shutil.which("itd")
    if os.path.basename(script).removesuffix(".exe") == "itd" and os.path.exists(script):
        return ["itd"] if on_path is not None and os.path.samefile(on_path, script) else [script]
    started = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = started is not None and started.name == "itd_cli.main"
    return ["itd"] if on_path is not None and not module else [sys.executable, "-m", "itd_cli.main"]
