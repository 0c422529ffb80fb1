"""Who works on a result, and on which of its units: `_itd/claims`, a small JSON file for each claim.

Claims are advice, so that several processes share the work out. What is right does not hang on them: a part is put
only if absent. A claim is made with O_EXCL and touched every ten seconds. It is free at once where its process is known
to be gone, else 60 s after its last touch, by the clock of the file server; then whoever renames it away first has it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from itd.errors import ItdWarning, ResultError
from itd.process import Process, is_gone, this_process
from itd.store.claim import (
    CLAIMS,
    STALE_S,
    Clock,
    is_free,
    list_claims,
    read_claim,
    remove_claim,
    remove_leftovers,
    take_over,
    touch_claim,
    unit_name,
    write_claim,
)
from itd.store.files import SIDE

HEARTBEAT_S = 10.0
_DAY_S = 86_400
_WORD_S = 5.0
"""Whoever waits for a lease for longer says so."""


@dataclass(frozen=True)
class AtWork:
    """A process that works on a result. started: when, by its own clock. unit: first and last position of the one that
    it computes. stale: nothing was heard of it for a minute, as where it was stopped or its machine is gone. of: as of
    `Claims`."""

    host: str
    pid: int
    started: str
    run: str | None
    unit: tuple[int, int] | None
    stale: bool
    of: str | None = None


class Claims:
    """The claims of one run on one result. Inside the block the run is known to be at work there.

    folder: of the result, there already. run: as the manifest's provenance calls it. of: what it makes, the same of all
    runs with the same options; None where it makes nothing of its own.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Claims(folder) as mine, Claims(folder) as others:
    ...     mine.take(0, 15), others.take(0, 15), {one.unit for one in at_work(folder)} == {(0, 15), None}
    (True, False, True)
    """

    def __init__(self, folder: Path, run: str | None = None, of: str | None = None) -> None:
        self.side, self.of = folder / SIDE, of
        self.token = secrets.token_hex(8)
        self.run = run or self.token
        self._held: dict[str, str] = {}
        self._made: list[Path] = []
        self._ended = threading.Event()
        self._process = this_process()

    def __enter__(self) -> Claims:
        claims = self.side / CLAIMS
        self._made = [path for path in (claims, *claims.parents) if not os.path.exists(path)]
        _forget_ended(self.side)
        self._put(f"run-{self.token}")
        threading.Thread(target=self._beat, daemon=True, name="itd-claims").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for name in list(self._held):
            self._drop(name)
        if os.getpid() == self._process.pid:
            _forget_ended(self.side, everything=True)
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
        if there is None or there.token != token:  # there is none where the other run has written it already
            del self._held[name]
            return False
        with contextlib.suppress(OSError):
            write_claim(self.side, name, token, self.run, begun=True)
        return True

    def stealable(self) -> set[tuple[int, int]]:
        """The units that other runs have taken for next while they are busy with another one."""
        claims = list_claims(self.side)
        busy = {claim.run for claim in claims if claim.begun and claim.unit is not None}
        return {
            claim.unit
            for claim in claims
            if claim.unit is not None and not claim.begun and claim.run in busy and claim.run != self.run
        }

    def steal(self, first: int, last: int) -> bool:
        """Claims a unit that another run has taken for next and not begun; False where there is no such claim.

        It is begun at once, so that it is not stolen in turn.
        """
        name = unit_name(first, last)
        there = read_claim(self.side, name)
        stolen = (
            there is not None
            and there.process is not None
            and not there.begun
            and take_over(self.side, there)
            and self._put(name)
        )
        return stolen and self.begin(first, last)

    def release(self, first: int, last: int) -> None:
        """Gives a unit back."""
        self._drop(unit_name(first, last))

    def others(self) -> list[AtWork]:
        """The other processes that work on the result, without those that are stale."""
        return [one for one in at_work(self.side.parent, but=self.token) if not one.stale]

    def _put(self, name: str) -> bool:
        is_run = name == f"run-{self.token}"
        token = self.token if is_run else secrets.token_hex(8)
        try:
            written = write_claim(self.side, name, token, self.run, of=self.of if is_run else None)
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
                touch_claim(self.side, name, token)


@contextlib.contextmanager
def leased(side: Path) -> Iterator[None]:
    """One holder of a result's lease at a time: for what reads a file, changes it and writes it again.

    It works where there are no locks. A holder that was stopped loses it after a minute; whoever waits for long says
    for whom, in an ItdWarning.
    """
    token, waited_s, said = secrets.token_hex(8), 0.0, False
    sign: tuple[str, float] | None = None
    heard_s = 0.0
    while not write_claim(side, "lease", token, None):
        there = read_claim(side, "lease")
        if there is not None and (there.token, there.touched_s) != sign:
            sign, heard_s = (there.token, there.touched_s), waited_s
        silent = waited_s - heard_s > 2 * STALE_S  # its time may be one that is still to come, as of a clock set back
        if there is not None and (silent or is_free(side, there)) and take_over(side, there):
            continue
        wait_s = min(0.1, 0.005 + waited_s / 10)
        time.sleep(wait_s)
        waited_s += wait_s
        if waited_s > _WORD_S and not said and there is not None:
            said = True
            who = f"process {there.process.pid} on {there.host}" if there.process is not None else "another process"
            warnings.warn(
                f"waiting for {who}, which is changing {side.parent}; if it is "
                f"stopped, this goes on {STALE_S:.0f} s after its last sign of life",
                ItdWarning,
                stacklevel=3,
            )
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            touch_claim(side, "lease", token)

    threading.Thread(target=beat, daemon=True, name="itd-lease").start()
    held = _held_leases()
    held[os.path.abspath(side)] = token
    try:
        yield
    finally:
        held.pop(os.path.abspath(side), None)
        ended.set()
        remove_claim(side, "lease", token)


_of_thread = threading.local()


def _held_leases() -> dict[str, str]:
    """The tokens of the leases that this thread holds, by the side folder."""
    if not hasattr(_of_thread, "leases"):
        _of_thread.leases = {}
    return _of_thread.leases


def require_lease(side: Path) -> None:
    """ResultError where this thread has lost its lease, as after it was stopped for long: what it has read may have
    been changed since, and must not be written. Nothing happens where it has taken none."""
    token = _held_leases().get(os.path.abspath(side))
    there = read_claim(side, "lease") if token is not None else None
    if token is not None and (there is None or there.token != token):
        raise ResultError(
            f"this run was stopped for longer than a minute, and others may have changed {side.parent} in the "
            "meantime; nothing already written is lost: give the same command again"
        )


def at_work(folder: Path, *, but: str | None = None) -> list[AtWork]:
    """The processes that work on a result, by the time that they began. Those known to be gone are none of them.

    but: the token of a run that is left out.
    """
    side = folder / SIDE
    claims = list_claims(side)
    units: dict[tuple[Process | None, str | None], tuple[int, int]] = {}
    for claim in sorted(claims, key=lambda claim: (not claim.begun, claim.name)):  # what is taken for next comes last
        if claim.unit is not None:
            units.setdefault((claim.process, claim.run), claim.unit)
    runs = [claim for claim in claims if claim.name.startswith("run-") and claim.token != but]
    clock = Clock(side)
    return [
        AtWork(
            claim.host,
            claim.process.pid,
            claim.since,
            claim.run,
            units.get((claim.process, claim.run)),
            clock.now_s() - claim.touched_s > STALE_S,
            claim.of,
        )
        for claim in sorted(runs, key=lambda claim: (claim.since, claim.token))
        if claim.process is not None and not is_gone(claim.process)
    ]


def forget_process(folder: Path, process: Process) -> list[tuple[int, int]]:
    """Takes away what a process that is known to be gone had claimed; returns its units, by position."""
    side = folder / SIDE
    claims = [claim for claim in list_claims(side) if claim.process == process]
    for claim in claims:
        remove_claim(side, claim.name, claim.token)
    return sorted(claim.unit for claim in claims if claim.unit is not None)


def _forget_ended(side: Path, *, everything: bool = False) -> None:
    """Takes away what tells of runs that ended without a word: their process is gone, or silent for a day.

    everything: also their claims on units and the lease, which nobody else may ask for at the end of a run.
    """
    clock = Clock(side)
    remove_leftovers(side, _DAY_S)
    for claim in list_claims(side):
        if not (everything or claim.name.startswith("run-")):
            continue
        gone = claim.process is not None and is_gone(claim.process)
        if gone or clock.now_s() - claim.touched_s > _DAY_S:
            take_over(side, claim)
