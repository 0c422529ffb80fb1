"""What fuzzing shares: cases drawn by hypothesis in a child with limits of time and of address space.

A subject is a function that takes what a strategy draws, and returns where all is well. `python -m support.fuzzing
GROUP FOLDER` runs one group of them; tests/faults/test_fuzz.py starts that and says what went wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from itd.errors import ItdError
from support.strange import mutated

SOAK = float(os.environ.get("ITD_SOAK") or 0)
"""How many times as many cases as usual, of another seed each time; 0 is the usual ones, always the same."""
SPARE_BYTES = 3 * 2**30
"""What a case may take beyond what loading everything took."""
CASE_S = 30
GROUPS = ("files", "images", "folders", "commands")
LAST = "last-case.txt"
"""In the child's folder: what was drawn last, for a child that ended without a word."""


class TooLong(AssertionError):
    """A case that does not end."""


@dataclass(frozen=True)
class Subject:
    """check: called with the folder and what is drawn. cases: how many of them, usually."""

    name: str
    draws: st.SearchStrategy[Any]
    check: Callable[[Path, Any], object]
    cases: int


def accepted(read: Callable[[], object], *, names: bool = False) -> bool:
    """Whether something is read; what refuses it must be an ItdError of one line. names: but for line ends in names of
    files, which commands print as spaces."""
    try:
        read()
    except ItdError as error:
        text = str(error)
        assert text and (names or "\n" not in text) and len(text) < 12_000, text[:2000]
        return False
    return True


@st.composite
def json_changed(draw: st.DrawFn, whole: Any) -> Any:
    """A value with some places that hold something strange."""
    choose = draw(st.randoms(use_true_random=False))
    value = whole
    for _ in range(draw(st.integers(1, 3))):
        value = mutated(value, choose) if isinstance(value, (dict, list)) else value
    return value


@st.composite
def bytes_changed(draw: st.DrawFn, whole: bytes, near: int = 0) -> bytes:
    """Bytes of which a few are others, or that are cut. near: at least half the changes lie in the first so many."""
    data = bytearray(whole)
    for _ in range(draw(st.sampled_from((1, 1, 2, 8)))):
        most = len(data) - 1
        place = draw(st.integers(0, min(most, near) if near and draw(st.booleans()) else most))
        data[place] = draw(st.integers(0, 255))
    if draw(st.integers(0, 5)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


_ODD = (
    "", " ", "-", "--", "/", ".", "..", "~", "*", "{}", "{0..9}", "a=b", "=", "%s", "\u202e", "\x1b[2J", "é", "日本",
    "🎉", "\udce9", "x" * 5000, "-1", "null", "NaN", "all", "auto", "none", "A=", ",", ",,", "1,2",
)  # fmt: skip
ODD_TEXT = st.one_of(st.sampled_from(_ODD), st.text(st.characters(exclude_characters="\0"), max_size=12))
"""Odd texts without NUL, which no command line and no file's name can have."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside the block a case that does not end is a `TooLong`, where Python still runs."""

    def late(*_: object) -> None:
        raise TooLong(f"it takes longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(subject: Subject, folder: Path) -> int:
    """Runs a subject; how many cases. The error of hypothesis has the smallest case that failed."""
    count = 0
    cases = max(1, round(subject.cases * (SOAK or 1)))

    def case(drawn: Any) -> None:
        nonlocal count
        count += 1
        (folder / LAST).write_text(f"{subject.name}: {drawn!r}"[:20_000], "utf-8", "backslashreplace")
        with within(CASE_S):
            subject.check(folder, drawn)

    run = given(subject.draws)(case)
    phases = (Phase.generate, Phase.shrink) if SOAK else (Phase.generate,)
    run = settings(
        max_examples=cases, derandomize=not SOAK, database=None, deadline=None, phases=phases, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(run)  # fmt: skip
    if SOAK:
        drawn = int(os.environ.get("ITD_SOAK_SEED") or random.SystemRandom().randrange(2**32))
        print(f"ITD_SOAK_SEED={drawn}", flush=True)
        run = seed(drawn)(run)
    run()
    return count


def main(group: str, folder: Path) -> None:
    """Runs the subjects of a group and says how many cases each had, and how long they took."""
    subjects: tuple[Subject, ...] = importlib.import_module(f"support.fuzzed_{group}").subjects(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
    for subject in subjects:
        began = time.monotonic()
        count = fuzz(subject, folder)
        print(f"{subject.name}: {count} cases in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
