"""The one atomic writer: a file under its final name is whole, on the disk, and what was meant to be written. No torch.

A temporary file beside the target (or in a folder of the caller's) is written, fsynced and checked, then renamed or,
where whoever is first shall win, linked; the folder is fsynced after it. Errors of the disk are `OSError`: each caller
says in its own words what could not be written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from itd.process import machine

TEMPORARY = re.compile(r"^\.?tmp-([A-Za-z0-9]+)-(\d+)-[0-9a-f]+$")
"""The name of a temporary file: the machine, as `itd.process.machine` calls it, and the process that write it."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without hard links answers."""


def write_atomic(
    target: str | Path,
    data: bytes | memoryview | str,
    *,
    folder: Path | None = None,
    check: Callable[[Path], None] | None = None,
    exclusive: bool = False,
) -> bool:
    """Writes a file that is either whole or absent.

    Args:
        target: the final name. A link stays and what it points to is replaced; what is there and no file (a pipe,
            /dev/stdout) is written to as it is.
        data: bytes, or text that is written as UTF-8.
        folder: where the temporary file goes, on the same file system; None is beside the target.
        check: called with the temporary file once it is on the disk; an error it raises leaves the target alone.
        exclusive: put only if absent; where the target is there already, it stays.

    Returns:
        Whether the target is now what was given: False only where `exclusive` found another.

    Raises:
        OSError: the disk refuses; then the target is as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_atomic(path, "first"), write_atomic(path, "second", exclusive=True), path.read_text()
        (True, False, 'first')
    """
    target = Path(os.path.realpath(target))
    if folder is None and _is_special(target):  # in a folder of the caller's a pipe has no business
        target.write_bytes(data.encode() if isinstance(data, str) else data)
        return True
    with temporary(target, folder=folder) as temp:
        write_synced(temp, data)
        return publish(temp, target, check=check, exclusive=exclusive)


def unwritable(what: str, error: OSError, otherwise: str = "give another path") -> str:
    """Why something could not be written, and what to do next: the message of each caller's own error.

    >>> unwritable("the space s.json", OSError(28, "No space left on device"))
    'cannot write the space s.json: No space left on device; free some space, or give another path'
    """
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG)
    return f"cannot write {what}: {error.strerror or error}; {'free some space, or ' if full else ''}{otherwise}"


@contextlib.contextmanager
def temporary(target: str | Path, *, folder: Path | None = None) -> Iterator[Path]:
    """A temporary name on the target's file system; what is still there at the end of the block goes away."""
    path = Path(target)
    name = f"tmp-{machine()}-{os.getpid()}-{secrets.token_hex(6)}"
    temp = path.parent / f".{name}" if folder is None else folder / name
    try:
        yield temp
    finally:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def _is_special(target: Path) -> bool:
    """Whether a path is something that a file must not take the place of: a pipe, a device, a folder."""
    return target.exists() and not target.is_file()


def write_synced(path: Path, data: bytes | memoryview | str) -> None:
    """Writes a new file and forces its bytes to the disk."""
    with synced(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, whose bytes are forced to the disk at the end of the block."""
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def publish(
    temp: Path, target: str | Path, *, check: Callable[[Path], None] | None = None, exclusive: bool = False
) -> bool:
    """Gives a written temporary file its final name, for good: fsync, check, rename or link, fsync of the folder.

    Returns whether it has the name now; False only where `exclusive` found the name taken.
    """
    target = Path(target)
    with open(temp, "rb") as file:
        os.fsync(file.fileno())
    if check is not None:
        check(temp)
    if exclusive:
        try:
            os.link(temp, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                return False
            os.replace(temp, target)
    else:
        os.replace(temp, target)
    fsync_folder(target.parent)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """One holder of a lock file at a time, also between processes. Inside the block: whether there is a lock at all,
    as not every file system or system has them."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = True
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except ImportError:
            held = False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            held = False
        yield held
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder last, where the system and the file system can."""
    if os.name == "nt":  # no folder can be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
