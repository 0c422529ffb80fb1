"""One claim on a result: a small JSON file in `_itd/claims`, made with O_EXCL, touched while its process lives.

What the claims are for is in `itd.store.claims`; here is what a file system has to do for them, a local one or one of
the network.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from itd.process import HOST, Process, is_gone, this_process

CLAIMS = "claims"
"""The folder of claims within the side folder of a result."""
STALE_S = 60.0
"""After its last touch a claim is free, whoever has made it."""
_MOST_BYTES = 4096
_NAME = re.compile(r"^(part-\d{8,}-\d{8,}|run-[0-9a-f]+|lease)\.json$")
_UNIT = re.compile(r"^part-(\d{8,})-(\d{8,})$")


@dataclass(frozen=True)
class Claim:
    """A claim as it was found.

    name: of its file, without the ending. process, host: whose it is; None of one that is just being written, or that
    nobody can read. run: as the manifest's provenance calls it. since: when it was made, by the clock of its process.
    token: no other claim has it. touched_s: when it was last touched, by the clock of the file server. begun: whether
    its unit is being computed, and not only taken for next. of: as of `itd.store.claims.Claims`.
    """

    name: str
    process: Process | None
    host: str
    run: str | None
    since: str
    token: str
    touched_s: float
    begun: bool = False
    of: str | None = None

    @property
    def unit(self) -> tuple[int, int] | None:
        """The first and last position of the unit that is claimed; None of any other claim."""
        found = _UNIT.match(self.name)
        return (int(found[1]), int(found[2])) if found else None


def unit_name(first: int, last: int) -> str:
    """The name of the claim of a unit."""
    return f"part-{first:08d}-{last:08d}"


def list_claims(side: Path) -> list[Claim]:
    """All claims on a result."""
    try:
        names = sorted(os.listdir(side / CLAIMS))
    except OSError:
        return []
    found = (read_claim(side, match[1]) for match in map(_NAME.match, names) if match)
    return [claim for claim in found if claim is not None]


def read_claim(side: Path, name: str) -> Claim | None:
    """A claim; None where there is none. One that says nothing has no process."""
    found = _content(_path(side, name))
    if found is None:
        return None
    text, touched_s = found
    try:
        value = json.loads(text)
        process = Process(str(value["machine"]), int(value["pid"]), int(value["started"]))
        texts = [str(value[key]) for key in ("host", "since", "token")]
        run, begun, of = value["run"], value.get("begun") is True, value.get("of")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # Infinity; brackets without end
        return Claim(name, None, "", None, "", "", touched_s)
    run, of = (None if one is None else str(one) for one in (run, of))
    return Claim(name, process, texts[0], run, texts[1], texts[2], touched_s, begun, of)


def _content(path: Path) -> tuple[str, float] | None:
    """(what a file says, when it was last touched); None where there is none. Of what cannot be read, as another user
    may have made it, the text is empty: it grows stale like any other."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # nobody waits for a pipe
    except OSError:
        try:
            return "", os.stat(path).st_mtime
        except OSError:
            return None
    try:
        touched_s = os.fstat(handle).st_mtime
        try:
            return os.read(handle, _MOST_BYTES).decode("utf-8", "replace"), touched_s
        except OSError:
            return "", touched_s
    finally:
        os.close(handle)


def remove_leftovers(side: Path, older_than_s: float) -> None:
    """Removes the files of a moment that processes left which were killed in it."""
    for path in (side / CLAIMS).glob("taken-*.json"):
        with contextlib.suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) > older_than_s:  # a claim that is renamed keeps its time
                path.unlink()


def write_claim(
    side: Path, name: str, token: str, run: str | None, *, begun: bool = False, of: str | None = None
) -> bool:
    """Makes a claim; False where there is one of this name. begun: takes the place of one's own."""
    process = this_process()
    value = {
        "host": HOST,
        "machine": process.machine,
        "pid": process.pid,
        "started": process.started,
        "run": run,
        "since": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "token": token,
        "begun": begun,
        **({} if of is None else {"of": of}),
    }
    if begun:
        own = _path(side, f"taken-{secrets.token_hex(8)}")
        try:
            own.write_text(json.dumps(value) + "\n")
            os.replace(own, _path(side, name))
        finally:
            own.unlink(missing_ok=True)
        return True
    try:
        handle = _created(_path(side, name))
    except FileExistsError:
        return False
    try:
        os.write(handle, (json.dumps(value) + "\n").encode())
    except OSError:
        os.close(handle)
        with contextlib.suppress(OSError):
            os.unlink(_path(side, name))
        raise
    os.close(handle)
    return True


def _created(path: Path) -> int:
    """Opens a new file; FileExistsError where there is one."""
    for _ in range(3):  # the folder may go away in between, with a run that was refused
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def remove_claim(side: Path, name: str, token: str) -> None:
    """Takes a claim away, where it is the one of this token."""
    there = read_claim(side, name)
    if there is not None and there.token == token:
        with contextlib.suppress(OSError):
            os.unlink(_path(side, name))


def touch_claim(side: Path, name: str, token: str) -> None:
    """Says that whoever has a claim is alive, where it is the one of this token."""
    there = read_claim(side, name)
    if there is not None and there.token == token:
        with contextlib.suppress(OSError):
            os.utime(_path(side, name))


def is_free(side: Path, claim: Claim) -> bool:
    """Whether a claim holds no more: its process is gone, or was not heard of for a minute."""
    if claim.process is not None and is_gone(claim.process):
        return True
    if time.time() - claim.touched_s < STALE_S / 2 and claim.touched_s - time.time() < STALE_S / 2:
        return False  # fresh by any two clocks that are not half a minute apart
    return Clock(side).now_s() - claim.touched_s > STALE_S


def take_over(side: Path, claim: Claim) -> bool:
    """Takes a free claim away, so that a new one can be made; False where somebody else was first, or where it is not
    as it was found any more, as one that was begun since."""
    aside = f"taken-{secrets.token_hex(8)}"
    try:
        os.rename(_path(side, claim.name), _path(side, aside))
    except OSError:
        return False
    there = read_claim(side, aside)
    same = there is not None and (there.token, there.begun) == (claim.token, claim.begun)
    with contextlib.suppress(OSError):
        if not same:
            _put_back(_path(side, aside), _path(side, claim.name))
    with contextlib.suppress(OSError):
        os.unlink(_path(side, aside))
    return same


def _put_back(aside: Path, path: Path) -> None:
    """Gives a claim its name again, unless somebody has made another one by now."""
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here
        if not path.exists():
            os.rename(aside, path)


class Clock:
    """The clock of the file server, asked once: the time that it gives a file which is made there now."""

    def __init__(self, side: Path) -> None:
        self.side = side
        self._now_s: float | None = None

    def now_s(self) -> float:
        if self._now_s is None:
            self._now_s = _server_now_s(self.side)
        return self._now_s


def _server_now_s(side: Path) -> float:
    path = _path(side, f"taken-{secrets.token_hex(8)}")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.utime(handle if os.utime in os.supports_fd else path)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
            os.unlink(path)
    except OSError:  # a result that can only be read
        return time.time()


def _path(side: Path, name: str) -> Path:
    return side / CLAIMS / f"{name}.json"
