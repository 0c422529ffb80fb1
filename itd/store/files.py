"""The side folder of a result: its temporary files, JSON, and disk errors as one line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from itd import checked
from itd.checked import BadJson, Check
from itd.errors import ResultError
from itd.files import TEMPORARY, write_atomic
from itd.process import Process, is_gone
from itd.text import one_line

SIDE = "_itd"
"""The sub-folder that readers of the table never see."""

DAY_S = 86_400
_MOST_BESIDE = 2**32
"""Names of ten million images take less."""
_ON = "nothing already written is lost"


@contextlib.contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turns an OSError of a write into one line that says how to go on."""
    try:
        yield
    except OSError as error:
        raise ResultError(_say(path, error)) from error


def _say(path: str | Path, error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        next_step = f"{_ON}: free some space, then give the same command again and it goes on from there"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        next_step = f"{_ON}: make the folder writable and give the same command again, or another `out`"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        next_step = "a result is a folder: give another `out`"
    else:
        next_step = f"{_ON}: the same command goes on from there"
    return f"cannot write {path}: {reason}; {next_step}"


def side_of(target: Path) -> Path:
    """The side folder of the result that a file belongs to: its temporary files lie there, `remove_stale` ends them."""
    return next((folder for folder in target.parents[:2] if folder.name == SIDE), target.parent / SIDE)


def write_whole(target: Path, data: bytes) -> None:
    """Writes a file of a result, whole or not at all, by way of the side folder."""
    write_atomic(target, data, folder=side_of(target))


def remove_stale(side: Path) -> None:
    """Removes temporary files of dead processes of this machine, and any that are older than a day."""
    for entry in list(os.scandir(side)):
        match = TEMPORARY.match(entry.name)
        if match is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - entry.stat().st_mtime > DAY_S
            if old or is_gone(Process(match[1], int(match[2]))):
                os.unlink(entry.path)


def remove_temporaries(side: Path) -> None:
    """Removes all temporary files of a result, so that nobody can put a part any more that was written before."""
    for entry in list(os.scandir(side)):
        if TEMPORARY.match(entry.name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


RESTORE = "restore it from a copy, or try `itd verify --repair`"


def read_json(path: Path, check: Check) -> Any:
    """A JSON file of a result; ResultError where it is damaged, or `check` refuses what it holds."""
    try:
        return checked.read_json(path, _with_hash(check))
    except BadJson as error:
        raise ResultError(f"{path} is damaged: {error}; {RESTORE}") from error
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from error


class UnreadableError(ResultError):
    """A file that cannot be read now, so that nobody knows whether it is damaged."""


def unreadable(path: Path, error: BaseException) -> UnreadableError:
    """What is raised of a file that the system does not give."""
    if isinstance(error, MemoryError):
        return UnreadableError(f"there is not enough memory to read {path}; end other programs, then try again")
    if isinstance(error, PermissionError):
        return UnreadableError(f"{path} cannot be read: permission denied; make it readable")
    return UnreadableError(f"{path} cannot be read: {one_line(error)}; see that its disk is there, then try again")


def _with_hash(check: Check) -> Check:
    """The check, then that of the hash that the value carries, where it carries one."""

    def both(value: Any, name: str) -> None:
        check(value, name)
        if isinstance(value, dict) and is_sealed(value) is False:
            raise BadJson("its fields do not match the hash that it carries")

    return both


def read_beside(path: Path) -> bytes:
    """A file of the side folder; OSError where it cannot be read, `itd.checked.BadFile` for what is no file."""
    return checked.read_bytes(path, _MOST_BESIDE)


def to_json(value: Any) -> bytes:
    """A value as JSON that reads well."""
    return (json.dumps(value, indent=1, default=_encode) + "\n").encode()


OWN_HASH = "sha256"
"""The field of a JSON object with the SHA-256 of its other fields."""


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of its own fields.

    >>> is_sealed(sealed({"a": 1})), is_sealed({**sealed({"a": 1}), "a": 2}), is_sealed({"a": 1})
    (True, False, None)
    """
    return {**value, OWN_HASH: _hash_of_fields(value)}


def is_sealed(value: Mapping[str, Any]) -> bool | None:
    """Whether a JSON object has the fields that its own hash is of; None where it has no hash."""
    return value[OWN_HASH] == _hash_of_fields(value) if OWN_HASH in value else None


def _hash_of_fields(value: Mapping[str, Any]) -> str:
    """Over the fields and not over the bytes of a file, so that another layout of the same JSON is no damage."""
    fields = {name: field for name, field in value.items() if name != OWN_HASH}
    return sha256(json.dumps(fields, sort_keys=True, separators=(",", ":"), default=_encode).encode())


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _encode(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
