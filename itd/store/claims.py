"""Who works on a result, and on which of its units: `_itd/claims`, a small JSON file for each claim.

Claims are advice, so that several processes share the work out. What is right does not hang on them: a part is put
only if absent. A claim is made with O_EXCL and touched every ten seconds. It is free at once where its process is known
to be gone, else 60 s after its last touch, by the clock of the file server; then whoever renames it away first has it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from itd.errors import ItdWarning
from itd.process import HOST, Process, is_gone, this_process

CLAIMS = "claims"
"""The folder of claims within the side folder of a result."""
HEARTBEAT_S = 10.0
STALE_S = 60.0
_WORD_S = 5.0
"""Whoever waits for a lease for longer says so."""
_NAME = re.compile(r"^(part-\d{8,}-\d{8,}|run-[0-9a-f]+|lease)\.json$")
_UNIT = re.compile(r"^part-(\d{8,})-(\d{8,})$")


@dataclass(frozen=True)
class Claim:
    """A claim as it was found.

    name: of its file, without the ending. process, host: whose it is; None of one that is just being written. run: as
    the manifest's provenance calls it. since: when it was made, by the clock of its process. token: no other claim has
    it. touched_s: when it was last touched, by the clock of the file server. begun: whether its unit is being computed,
    and not only taken for next.
    """

    name: str
    process: Process | None
    host: str
    run: str | None
    since: str
    token: str
    touched_s: float
    begun: bool = False

    @property
    def unit(self) -> tuple[int, int] | None:
        """The first and last position of the unit that is claimed; None of any other claim."""
        found = _UNIT.match(self.name)
        return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class AtWork:
    """A process that works on a result. started: when, by its own clock. unit: first and last position of the one that
    it computes. stale: nothing was heard of it for a minute, as where it was stopped or its machine is gone."""

    host: str
    pid: int
    started: str
    run: str | None
    unit: tuple[int, int] | None
    stale: bool


class Claims:
    """The claims of one run on one result. Inside the block the run is known to be at work there.

    folder: of the result, there already. run: as the manifest's provenance calls it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Claims(folder) as mine, Claims(folder) as others:
    ...     mine.take(0, 15), others.take(0, 15), [len(at_work(folder)), at_work(folder)[0].unit]
    (True, False, [2, (0, 15)])
    """

    def __init__(self, folder: Path, run: str | None = None) -> None:
        self.side = folder / "_itd"
        self.token = secrets.token_hex(8)
        self.run = run or self.token
        self._held: dict[str, str] = {}
        self._made: list[Path] = []
        self._ended = threading.Event()
        self._process = this_process()

    def __enter__(self) -> Claims:
        self._made = [path for path in (self.side / CLAIMS, self.side, self.side.parent) if not path.exists()]
        self._put(f"run-{self.token}")
        threading.Thread(target=self._beat, daemon=True, name="itd-claims").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for name in list(self._held):
            self._drop(name)
        with contextlib.suppress(OSError):  # a run that was refused leaves no empty folders
            for folder in self._made:
                folder.rmdir()

    def take(self, first: int, last: int) -> bool:
        """Claims a unit; False where another run has it. Where no claim can be written, the answer is True: claims are
        advice, and what the disk refuses is said when the unit is written."""
        name = unit_name(first, last)
        if name in self._held or self._put(name):
            return True
        there = read_claim(self.side, name)
        if there is None:
            return self._put(name)
        return is_free(self.side, there) and take_over(self.side, there) and self._put(name)

    def begin(self, first: int, last: int) -> bool:
        """Says that a unit is being computed from now on; False where another run has it by now, as one that had
        nothing left to do takes what others have not begun."""
        name = unit_name(first, last)
        token = self._held.get(name)
        if token is None:  # taken though another has claimed it for long, or the disk took no claim
            return True
        there = read_claim(self.side, name)
        if there is not None and there.token != token:
            del self._held[name]
            return False
        with contextlib.suppress(OSError):
            write_claim(self.side, name, token, self.run, begun=True)
        return True

    def steal(self, first: int, last: int) -> bool:
        """Claims a unit that another run has taken for next and not begun; False where there is no such claim."""
        name = unit_name(first, last)
        there = read_claim(self.side, name)
        return (
            there is not None
            and there.process is not None
            and not there.begun
            and take_over(self.side, there)
            and self._put(name)
        )

    def release(self, first: int, last: int) -> None:
        """Gives a unit back."""
        self._drop(unit_name(first, last))

    def others(self) -> list[AtWork]:
        """The other processes that work on the result, without those that are stale."""
        return [one for one in at_work(self.side.parent, but=self.token) if not one.stale]

    def _put(self, name: str) -> bool:
        token = secrets.token_hex(8) if name != f"run-{self.token}" else self.token
        try:
            written = write_claim(self.side, name, token, self.run)
        except OSError:
            return True
        if written:
            self._held[name] = token
        return written

    def _drop(self, name: str) -> None:
        token = self._held.pop(name, None)
        if token is not None and os.getpid() == self._process.pid:
            remove_claim(self.side, name, token)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            for name, token in list(self._held.items()):
                _touch(self.side, name, token)


@contextlib.contextmanager
def leased(side: Path) -> Iterator[None]:
    """One holder of a result's lease at a time: for what reads a file, changes it and writes it again.

    It works where there are no locks. A holder that was stopped loses it after a minute; whoever waits for long says
    for whom, in an ItdWarning.
    """
    token, waited_s, said = secrets.token_hex(8), 0.0, False
    while not write_claim(side, "lease", token, None):
        there = read_claim(side, "lease")
        if there is not None and is_free(side, there):
            take_over(side, there)
            continue
        wait_s = min(0.1, 0.005 + waited_s / 10)
        time.sleep(wait_s)
        waited_s += wait_s
        if waited_s > _WORD_S and not said and there is not None and there.process is not None:
            said = True
            warnings.warn(
                f"waiting for process {there.process.pid} on {there.host}, which is changing {side.parent}; if it is "
                f"stopped, this goes on {STALE_S:.0f} s after its last sign of life",
                ItdWarning,
                stacklevel=3,
            )
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            _touch(side, "lease", token)

    threading.Thread(target=beat, daemon=True, name="itd-lease").start()
    try:
        yield
    finally:
        ended.set()
        remove_claim(side, "lease", token)


def unit_name(first: int, last: int) -> str:
    """The name of the claim of a unit."""
    return f"part-{first:08d}-{last:08d}"


def at_work(folder: Path, *, but: str | None = None) -> list[AtWork]:
    """The processes that work on a result, by the time that they began. Those known to be gone are none of them.

    but: the token of a run that is left out.
    """
    side = folder / "_itd"
    claims = list_claims(side)
    units: dict[str | None, tuple[int, int]] = {}
    for claim in claims:
        if claim.unit is not None:
            units[claim.run] = min(claim.unit, units.get(claim.run, claim.unit))
    runs = [claim for claim in claims if claim.name.startswith("run-") and claim.token != but]
    clock = _Clock(side)
    return [
        AtWork(
            claim.host,
            claim.process.pid,
            claim.since,
            claim.run,
            units.get(claim.run),
            clock.now_s() - claim.touched_s > STALE_S,
        )
        for claim in sorted(runs, key=lambda claim: (claim.since, claim.token))
        if claim.process is not None and not is_gone(claim.process)
    ]


def forget_process(folder: Path, process: Process) -> list[tuple[int, int]]:
    """Takes away what a process that is known to be gone had claimed; returns its units, by position."""
    side = folder / "_itd"
    claims = [claim for claim in list_claims(side) if claim.process == process]
    for claim in claims:
        remove_claim(side, claim.name, claim.token)
    return sorted(claim.unit for claim in claims if claim.unit is not None)


def list_claims(side: Path) -> list[Claim]:
    """All claims on a result that can be read."""
    try:
        names = sorted(os.listdir(side / CLAIMS))
    except OSError:
        return []
    found = (read_claim(side, match[1]) for match in map(_NAME.match, names) if match)
    return [claim for claim in found if claim is not None]


def read_claim(side: Path, name: str) -> Claim | None:
    """A claim; None where there is none. One that is just being written has no process yet."""
    try:
        with open(_path(side, name), encoding="utf-8", errors="replace") as file:
            text, touched_s = file.read(4096), os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    try:
        value = json.loads(text)
        process = Process(str(value["machine"]), int(value["pid"]), int(value["started"]))
        texts = [str(value[key]) for key in ("host", "since", "token")]
        run, begun = value["run"], value.get("begun") is True
    except (ValueError, KeyError, TypeError):
        return Claim(name, None, "", None, "", "", touched_s)
    return Claim(name, process, texts[0], None if run is None else str(run), texts[1], texts[2], touched_s, begun)


def write_claim(side: Path, name: str, token: str, run: str | None, *, begun: bool = False) -> bool:
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
    }
    if begun:
        own = side / CLAIMS / f"taken-{secrets.token_hex(8)}"
        own.write_text(json.dumps(value) + "\n")
        os.replace(own, _path(side, name))
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


def is_free(side: Path, claim: Claim) -> bool:
    """Whether a claim holds no more: its process is gone, or was not heard of for a minute."""
    if claim.process is not None and is_gone(claim.process):
        return True
    if time.time() - claim.touched_s < STALE_S / 2 and claim.touched_s - time.time() < STALE_S / 2:
        return False  # fresh by any two clocks that are not half a minute apart
    return _Clock(side).now_s() - claim.touched_s > STALE_S


def take_over(side: Path, claim: Claim) -> bool:
    """Takes a free claim away, so that a new one can be made; False where somebody else was first."""
    aside = side / CLAIMS / f"taken-{secrets.token_hex(8)}"
    try:
        os.rename(_path(side, claim.name), aside)
    except OSError:
        return False
    try:
        with open(aside, encoding="utf-8", errors="replace") as file:
            same = claim.token in file.read(4096)
        if not same:  # one that somebody made in the meantime: it goes back
            with contextlib.suppress(OSError):
                os.link(aside, _path(side, claim.name))
        return same
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)


class _Clock:
    """The clock of the file server, asked once: the time that it gives a file which is made there now."""

    def __init__(self, side: Path) -> None:
        self.side = side
        self._now_s: float | None = None

    def now_s(self) -> float:
        if self._now_s is None:
            self._now_s = _server_now_s(self.side)
        return self._now_s


def _server_now_s(side: Path) -> float:
    path = side / CLAIMS / f"taken-{secrets.token_hex(8)}"
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


def _touch(side: Path, name: str, token: str) -> None:
    there = read_claim(side, name)
    if there is not None and there.token == token:
        with contextlib.suppress(OSError):
            os.utime(_path(side, name))


def _path(side: Path, name: str) -> Path:
    return side / CLAIMS / f"{name}.json"
