"""Python in a process of its own that starts at once: it is forked from a server that has loaded torch and itd.

A new interpreter takes seconds to load them, the server takes them once for all tests of a process. What it forks is
like `python -c CODE ARGUMENTS`: a `__main__`, environment, folder, streams and end of its own, so it can be sent
signals and be killed. Where the start of the interpreter is what a test is about (what a command loads, the seed of
hashes, a script that is run again, torchrun), it has to be a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

COMMAND = "from itd_cli.main import main; main()"
"""The command `itd`, as code."""
MODULE = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
"""`python -m`, as code."""
SCRIPT = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
"""`python FILE`, as code."""
LOADED = (
    "torchvision.models", "pandas", "pyarrow.parquet", "sklearn.datasets", "itd.runner.sweep", "itd.runner.local",
    "itd.training.rof", "itd.training.scratch", "itd.store", "itd_cli.sweep", "itd_cli.rof", "itd_cli.main",
)  # fmt: skip
"""What takes long to load; a process loads by itself what else it needs."""
_TESTS = str(Path(__file__).resolve().parents[1])


class Forked:
    """Such a process, as its starter sees it; the names are those of `subprocess.Popen`.

    args: behind the code, of `sys.argv`. stdout, stderr: a file, `subprocess.DEVNULL`, or None for a pipe. cwd, env:
    None is as here. start_new_session: it leads a group of processes of its own.
    """

    def __init__(
        self,
        code: str,
        *args: object,
        stdout: Any = None,
        stderr: Any = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self.stdout, out = _piped(stdout)
        self.stderr, error = _piped(stderr)
        self._status, status = os.pipe()
        asked = {
            "code": code,
            "args": [str(arg) for arg in args],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "path": [path for path in sys.path if path],
            "session": start_new_session,
        }
        text = json.dumps(asked).encode()
        server = _server()
        socket.send_fds(server, [struct.pack("!Q", len(text))], [out, error, status])
        server.sendall(text)
        os.close(status)
        os.close(out)
        os.close(error)
        self.pid = self._read()

    def _read(self) -> int:
        data = os.read(self._status, 8)
        assert data, "the server has ended"
        return int(struct.unpack("!q", data)[0])

    def poll(self) -> int | None:
        """How it has ended: an exit status, or a signal's number below 0; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; subprocess.TimeoutExpired after so many seconds."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._read())
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that comes out of its pipes, once it has ended; it is killed and an error after so many seconds."""
        held = {"stdout": "", "stderr": ""}

        def read(name: str, stream: TextIO) -> None:
            with stream:
                held[name] = stream.read()

        pipes = [(name, getattr(self, name)) for name in held if getattr(self, name) is not None]
        readers = [threading.Thread(target=read, args=pipe, daemon=True) for pipe in pipes]
        for reader in readers:
            reader.start()
        until_s = None if timeout is None else time.monotonic() + timeout
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader in readers:
            reader.join(None if until_s is None else max(0.0, until_s - time.monotonic()))
            if reader.is_alive():  # a process that it started has the pipe, and lives on
                raise subprocess.TimeoutExpired(f"what process {self.pid} has started", timeout or 0.0)
        return held["stdout"], held["stderr"]

    def close(self) -> None:
        """Closes the pipes."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.wait()


def forked(code: str, *args: object, timeout: float = 300, **how: Any) -> subprocess.CompletedProcess[str]:
    """How Python code ends, as of `Forked`; a process that takes longer than `timeout` seconds is an error."""
    child = Forked(code, *args, **how)
    out, error = child.communicate(timeout)
    assert child.returncode is not None
    return subprocess.CompletedProcess(code, child.returncode, out, error)


def _piped(given: Any) -> tuple[TextIO | None, int]:
    """(the end of a pipe to read from, what the process writes to)."""
    if given == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    if given is not None:
        return None, os.dup(given if isinstance(given, int) else given.fileno())
    ours, theirs = os.pipe()
    return os.fdopen(ours, "r"), theirs


@functools.cache
def _server() -> socket.socket:
    """The way to the server, which ends with this process."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", "from support.forked import serve; serve()", str(theirs.fileno())]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        command, env=env, pass_fds=[theirs.fileno()], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        child.wait()

    atexit.register(end)
    return ours


def serve() -> None:
    """What the server runs; what it forks comes out of the loop."""
    _load()
    control = socket.socket(fileno=int(sys.argv[1]))
    wake = os.pipe()
    os.set_blocking(wake[1], False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake[1])
    running: dict[int, int] = {}
    while True:
        ready = select.select([control, wake[0]], [], [])[0]
        if wake[0] in ready:
            os.read(wake[0], 4096)
            _tell(running)
        if control in ready:
            asked, handles = _asked(control, running)
            pid = os.fork()
            if pid == 0:
                break
            os.write(handles[2], struct.pack("!q", pid))
            running[pid] = handles[2]
            for handle in handles[:2]:
                os.close(handle)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    for handle in (*wake, *running.values()):
        os.close(handle)
    _become(asked, handles)


def _load() -> None:
    """Loads what takes long; that may start no thread, as a fork would not have it, but jemalloc's, which bears it."""
    for name in LOADED:
        importlib.import_module(name)
    others = [path / "comm" for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
    names = {path.read_text().strip() for path in others} - {"jemalloc_bg_thd"}
    assert not names, f"the server has threads: {names}"
    gc.collect()
    gc.freeze()  # or what is loaded would be copied by the first collection of each process


def _tell(running: dict[int, int]) -> None:
    """Tells of the processes that have ended how they did."""
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            handle = running.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                os.write(handle, struct.pack("!q", status))
            os.close(handle)


def _asked(control: socket.socket, running: Mapping[int, int]) -> tuple[dict[str, Any], list[int]]:
    """(what to run, its stdout, stderr, and where its end is told). At the end of the tests this process ends."""
    size, handles, _, _ = socket.recv_fds(control, 8, 3)
    if not size:
        _end(running)
    left, parts = struct.unpack("!Q", size)[0], []
    while left:
        parts.append(control.recv(left))
        left -= len(parts[-1])
    return json.loads(b"".join(parts)), handles


def _end(running: Mapping[int, int]) -> NoReturn:
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _become(asked: dict[str, Any], handles: list[int]) -> None:
    if asked["session"]:
        os.setsid()
    for stream, handle in zip((1, 2), handles, strict=False):
        os.dup2(handle, stream)
    for handle in handles:
        os.close(handle)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    tempfile.tempdir = None  # which the environment says
    sys.argv[:] = ["-c", *asked["args"]]
    sys.path[:] = list(dict.fromkeys([*asked["path"], *sys.path]))
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    code: Any = None
    try:
        exec(compile(asked["code"], "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            raise
    threading._shutdown()  # type: ignore[attr-defined]  # all that Python does at its end, as of multiprocessing's
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code or 0)
