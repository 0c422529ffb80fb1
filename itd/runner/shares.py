"""Which units a run computes, of those that it shares with other runs on the same result."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from itd.store import Claims, FailedUnit, ResultWriter, Unit

LONG_S = 60.0
"""A run with nothing else to do computes a unit itself that another has claimed for so long, or for three times as long
as its own slowest one took."""
LOOK_S = 0.25
"""Between two looks at the units that others have claimed, where there is nothing else to do."""
ELSEWHERE_S = 2.0
"""Between two looks at what others have written, while this run computes."""


class Shares:
    """The units of one attempt, as far as no other run has them.

    claims: of this run; without them every unit is its own. noted: the units that had failed before, by their place.
    last: places of the units to take one at a time, when nothing else is left, as a worker died over one of them.
    Units are handed out by `rounds`, in the thread that decodes; all else is called by the thread that computes.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        writer: ResultWriter,
        claims: Claims | None,
        noted: Mapping[tuple[int, int], FailedUnit],
        last: Collection[tuple[int, int]] = (),
    ) -> None:
        self.writer, self.claims, self.noted, self.last = writer, claims, noted, frozenset(last)
        self._waiting = {(unit.first, unit.last): unit for unit in units}
        self._taken: dict[tuple[int, int], Unit] = {}
        self._since_s: dict[tuple[int, int], float] = {}
        self._written: list[Unit] = []
        self._failed: list[FailedUnit] = []
        self._lock = threading.Lock()
        self._slowest_s = 0.0
        self._settled_s = self._looked_s = time.monotonic()

    def rounds(self) -> Iterator[Iterator[Unit] | None]:
        """The units that this run is to compute, in rounds: first those that nobody has, in order; then, while other
        runs have some, what those have not begun, what they gave up, and what they have had for long. None where there
        is nothing to do but wait: nothing that decodes is started for that."""
        while self._waiting:
            units = self._free(self._waiting.keys() - self.last)
            first = next(units, None) or self._stolen()
            if first is None:
                first, units = next(self._free(self.last), None), iter(())
            if first is None:
                yield None
                if self._waiting:
                    time.sleep(LOOK_S)
                continue
            self._settled_s = time.monotonic()
            yield itertools.chain([first], units)

    def settle(self, unit: Unit) -> None:
        """A unit is written, or has failed: this run has it no longer."""
        now_s = time.monotonic()
        self._slowest_s, self._settled_s = max(self._slowest_s, now_s - self._settled_s), now_s
        self._give_up(unit)

    def leave(self, unit: Unit) -> None:
        """Another run has taken a unit that this one had not begun."""
        del self._taken[unit.first, unit.last]
        self._waiting[unit.first, unit.last] = unit

    def elsewhere(self) -> tuple[int, list[FailedUnit]]:
        """(images that other runs have written, the units that they set aside), since this was last asked."""
        if time.monotonic() - self._looked_s > ELSEWHERE_S:
            for unit in [unit for place, unit in list(self._waiting.items()) if place in self._since_s]:
                self._is_settled(unit)
            self._looked_s = time.monotonic()
        with self._lock:
            written, self._written = self._written, []
            failed, self._failed = self._failed, []
        return sum(map(len, written)), failed

    @property
    def unsettled(self) -> list[Unit]:
        """The units of which nobody knows yet what comes of them."""
        return [*self._taken.values(), *self._waiting.values()]

    def close(self) -> None:
        """Gives back what this run has taken and not settled."""
        for unit in list(self._taken.values()):
            self._give_up(unit)

    def _free(self, places: Collection[tuple[int, int]]) -> Iterator[Unit]:
        """Those of some units that this run can have."""
        for unit in [unit for place, unit in list(self._waiting.items()) if place in places]:
            if (unit.first, unit.last) in self._waiting and not self._is_settled(unit) and self._take(unit):
                yield unit

    def _stolen(self) -> Unit | None:
        """A unit that another run has taken for next, the last one that there is."""
        if self.claims is None:
            return None
        can = self.claims.stealable() - self.last
        for unit in [unit for place, unit in reversed(list(self._waiting.items())) if place in can]:
            if self.claims.steal(unit.first, unit.last):
                self._own(unit)
                return unit
        return None

    def _take(self, unit: Unit) -> bool:
        place, now_s = (unit.first, unit.last), time.monotonic()
        since_s = self._since_s.setdefault(place, now_s)
        if self.claims is not None and not self.claims.take(*place):
            if now_s - since_s <= max(LONG_S, 3 * self._slowest_s):
                return False
        elif self._is_settled(unit):  # between the look and the claim
            if self.claims is not None:
                self.claims.release(*place)
            return False
        self._own(unit)
        return True

    def _own(self, unit: Unit) -> None:
        self._taken[unit.first, unit.last] = self._waiting.pop((unit.first, unit.last))

    def _give_up(self, unit: Unit) -> None:
        self._taken.pop((unit.first, unit.last), None)
        if self.claims is not None:
            self.claims.release(unit.first, unit.last)

    def _is_settled(self, unit: Unit) -> bool:
        """Whether another run has written a unit, or set it aside, since this run began."""
        place = unit.first, unit.last
        failed = self.writer.noted_failure(*place)
        written = self.writer.holds(unit)
        if not written and (failed is None or failed == self.noted.get(place)):
            return False
        with self._lock:
            if self._waiting.pop(place, None) is None:
                return True  # the other thread was first
            if written:
                self._written.append(unit)
            elif failed is not None:
                self._failed.append(failed)
        return True
