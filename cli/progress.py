"""Progress of a command on standard error: a bar on a terminal, plain lines elsewhere. It does no work itself.

itd: 16/40 images (40%), 288 rows/s, 8 s left
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

MODES = ("auto", "bar", "log", "none")
SILENCE_S = 59.0
"""After it a line of a log is due, also within a single step; as this is looked at each second, each minute has one."""


def mode_of(mode: str, stream: TextIO, environ: Mapping[str, str]) -> str:
    """bar, log or none. auto: a bar on a terminal that is neither dumb nor of CI, else lines; of torchrun's processes
    the first one alone."""
    if mode != "auto":
        return mode
    if environ.get("RANK", "0") != "0":
        return "none"
    plain = environ.get("TERM") == "dumb" or environ.get("CI", "").lower() not in ("", "0", "false")
    return "bar" if stream.isatty() and not plain else "log"


@dataclass
class Work:
    """How far one piece of work is.

    total: units. grain, grains: a unit is so many smaller ones, which are what is counted: an image is 625 rows. what,
    remark: stand before and behind the numbers. done, before: grains, the latter of an earlier run. started_s, line_s:
    on the clock, of the beginning and of the latest line.
    """

    total: int
    unit: str
    grain: str
    grains: int
    what: str
    started_s: float
    line_s: float
    done: int = 0
    before: int = 0
    remark: str = ""

    @property
    def ended(self) -> bool:
        return self.done >= self.total * self.grains

    @property
    def tenth(self) -> int:
        """Tenths that are whole."""
        return 10 * self.done // (self.total * self.grains)

    def text(self, now_s: float, percent: bool = True) -> str:
        """`16/40 images (40%), 288 rows/s, 8 s left`."""
        share = f" ({100 * self.done // (self.total * self.grains)}%)" if percent else ""
        parts = [f"{self.done // self.grains:,}/{self.total:,} {self.unit}{share}"]
        spent_s, lately = now_s - self.started_s, self.done - self.before
        if lately and spent_s > 0:
            rate = lately / spent_s
            left_s = (self.total * self.grains - self.done) / rate
            parts.append(per_second(rate, self.grain))
            parts.append(f"in {span(spent_s)}" if self.ended else f"{span(left_s)} left{until(left_s)}")
        return (f"{self.what}: " if self.what else "") + ", ".join([*parts, *([self.remark] if self.remark else [])])


class Progress:
    """What a command shows of its work, one piece after another, each a bar or lines of its own.

    mode: of `MODES`. stream: standard error. clock: seconds. It is safe to close twice, and it closes itself where the
    work is whole.

    >>> with Progress("log", stream=sys.stdout, clock=iter(range(99)).__next__) as progress:
    ...     progress.start(2, "images", grains=50, grain="rows")
    ...     progress.update(50)
    itd: 1/2 images (50%), 50 rows/s, 1 s left
    """

    def __init__(
        self, mode: str = "auto", *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream or sys.stderr
        self.mode = mode_of(mode, self.stream, os.environ)
        self._clock = clock
        self._work: Work | None = None
        self._bar: Any = None
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self, total: int, unit: str, *, done: int = 0, grain: str | None = None, grains: int = 1, what: str = ""
    ) -> None:
        """Begins a piece of work, after the one before; nothing is shown of what is whole already.

        total, done: units, the latter there before. unit, grain: their names in the plural. grains: in a unit; they are
        what is counted from here on. what: stands before the numbers.
        """
        self.close()
        if self.mode == "none" or done >= total:
            return
        now_s = self._clock()
        self._work = Work(total, unit, grain or unit, grains, what, now_s, now_s)
        self._closed = threading.Event()
        if self.mode == "bar":
            self._bar = _bar(self._work, self.stream)
        else:
            threading.Thread(target=self._never_silent, args=(self._closed,), daemon=True).start()
        if done:
            self.skip(done * grains)

    def skip(self, count: int) -> None:
        """So many grains were done by an earlier run; they are in no rate."""
        with self._lock:
            if self._work is not None:
                self._work.before += count
                self._advance(self._work, count)

    def update(self, count: int = 1, remark: str = "") -> None:
        """So many grains more are done. remark: stands at the end, such as a loss."""
        with self._lock:
            if self._work is not None:
                self._work.remark = remark
                self._advance(self._work, count)

    def reach(self, done: int, remark: str = "") -> None:
        """So many grains are done in all. All but the last of the first call were done by an earlier run."""
        work = self._work
        if work is not None:
            if not work.done and done > 1:
                self.skip(done - 1)
            self.update(done - work.done, remark)

    def prepare(self, what: str, steps: int | None) -> Callable[[int], Any] | None:
        """An `itd.weights.prepare.OnPrepare`."""
        if steps is not None:
            self.start(steps, "steps", what=what)
        elif self.mode == "bar":
            return None
        else:
            self.say(what)
        return self.update

    def say(self, what: str) -> None:
        """A line of what begins, where nobody can tell how far it is."""
        if self.mode != "none":
            self._print(what)

    def tick(self) -> None:
        """Says how far the work is where nothing was said for long."""
        with self._lock:
            if self.mode == "log" and self._work is not None:
                now_s = self._clock()
                if now_s - self._work.line_s >= SILENCE_S:
                    self._print_line(self._work, now_s)

    def close(self) -> None:
        """Ends the piece of work, whole or not."""
        with self._lock:
            self._end()

    def _advance(self, work: Work, count: int) -> None:
        tenth = work.tenth
        count = min(count, work.total * work.grains - work.done)  # a chunk that was halved may have counted twice
        work.done += count
        now_s = self._clock()
        if self._bar is not None:
            self._bar.bar_format = _format(work.text(now_s, percent=False))
            self._bar.update(count)
        elif work.tenth > tenth or now_s - work.line_s >= SILENCE_S:
            self._print_line(work, now_s)
        if work.ended:
            self._end()

    def _end(self) -> None:
        self._closed.set()
        self._work = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_line(self, work: Work, now_s: float) -> None:
        work.line_s = now_s
        self._print(work.text(now_s))

    def _print(self, text: str) -> None:
        print(f"itd: {text}", file=self.stream, flush=True)

    def _never_silent(self, closed: threading.Event) -> None:
        while not closed.wait(1.0):
            try:
                self.tick()
            except OSError:  # nobody reads any more, which the command itself will find out
                return


def progress_option(command: F) -> F:
    """`--progress MODE`; the command is given a `Progress`, which is closed when it ends."""

    def made(ctx: click.Context, _: click.Parameter, mode: str) -> Progress:
        progress = Progress(mode)
        ctx.call_on_close(progress.close)
        return progress

    return click.option(
        "--progress",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        callback=made,
        help="A bar, or a line at each 10% and each minute; auto: a bar on a terminal, else lines.",
    )(command)


def _bar(work: Work, stream: TextIO) -> Any:
    from tqdm import tqdm

    text = _format(work.text(work.started_s, percent=False))
    size: dict[str, Any] = {"dynamic_ncols": True} if _has_size(stream) else {"ncols": 80, "nrows": 24}
    return tqdm(total=work.total * work.grains, file=stream, bar_format=text, **size)


def _has_size(stream: TextIO) -> bool:
    """Whether a terminal says how large it is; those that programs make often say 0."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _format(text: str) -> str:
    """tqdm's template of a bar with a text that stands as it is."""
    return "{percentage:3.0f}%|{bar}| " + text.replace("{", "{{").replace("}", "}}")


def per_second(rate: float, grain: str) -> str:
    """A rate with as many digits as say something.

    >>> per_second(3400.5, "rows"), per_second(0.123, "rows")
    ('3,400 rows/s', '0.12 rows/s')
    """
    return f"{rate:,.0f} {grain}/s" if rate >= 10 else f"{rate:.2g} {grain}/s"


def until(left_s: float, now: datetime.datetime | None = None) -> str:
    """When work of more than ten minutes will have ended, by this machine's clock; empty of what ends sooner.

    >>> until(8000, datetime.datetime(2026, 1, 5, 22, 0)), until(3600, datetime.datetime(2026, 1, 5, 22, 0)), until(60)
    (' (until Tue 00:13)', ' (until 23:00)', '')
    """
    if not 600 < left_s < 1e8:
        return ""
    now = now or datetime.datetime.now()
    end = now + datetime.timedelta(seconds=left_s)
    days = (end.date() - now.date()).days
    day = "" if days == 0 else f"{end:%a} " if days < 7 else f"{end:%d %b} "
    return f" (until {day}{end:%H:%M})"


def span(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> span(8.2), span(200), span(8000)
    ('8 s', '3 min', '2 h 13 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
