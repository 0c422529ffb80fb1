"""How long workers of different speeds wait at the end of a result that they share by claims: a simulation.

The policy of `itd.runner.shares` without its files: each worker takes units in the order of the list and a few ahead of
the one that it computes, and one that finds none free takes the last unit that another has taken and not begun.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tail:
    """idle: the share of all workers' time, from the beginning to the last end, that they had nothing to do. longest:
    the share of that time that the worker which ended first was idle. stolen: units."""

    idle: float
    longest: float
    stolen: int


def share_out(units: int, speeds: Sequence[float], ahead: int, *, steal: bool = True) -> Tail:
    """The end of a result of equal units. speeds: units a second of each worker. ahead: units taken for next.

    >>> share_out(8, [1.0, 1.0, 2.0], ahead=1).idle
    0.0
    """
    free, stolen = deque(range(units)), 0
    next_up: list[deque[int]] = [deque() for _ in speeds]
    ends = [0.0] * len(speeds)
    events = [(0.0, worker) for worker in range(len(speeds))]
    heapq.heapify(events)
    while events:
        now_s, worker = heapq.heappop(events)
        ends[worker] = now_s
        while free and len(next_up[worker]) < ahead + 1:
            next_up[worker].append(free.popleft())
        if not next_up[worker] and steal:
            other = max((w for w in range(len(speeds)) if next_up[w]), key=lambda w: next_up[w][-1], default=None)
            if other is not None:
                next_up[worker].append(next_up[other].pop())
                stolen += 1
        if next_up[worker]:
            next_up[worker].popleft()
            heapq.heappush(events, (now_s + 1 / speeds[worker], worker))
    end_s = max(ends)
    idle = [(end_s - one) / end_s for one in ends]
    return Tail(sum(idle) / len(idle), max(idle), stolen)
