"""SIGKILL of workers, drivers and whole commands at random moments: the rows of a run that was never interrupted.

A hundred kills over all ways of running take four to ten minutes, so they run with ITD_SOAK alone; ITD_SOAK_KILLS is
another number of them.

What is counted, by the log of `support.counted`. `lost`: how many units a killed process had begun to compute and
others computed again, as {units: processes}; never more than the one that it computed or was writing. `again`: all of
those, and of no unit two computations that were not killed. `whole`: units whose computation had ended each time.
`cleared`: results in which a process was killed when no other one was left, so that its claims stayed until the next
command.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from itd.process import Process, is_gone, machine
from itd.store import at_work, verify
from itd.store.claim import list_claims
from support.counted import IMAGES, PER_UNIT, lost_units, read_log, started, times_again
from support.fuzzing import SOAK
from support.work import WAIT_S, wait_for

KILLS = int(os.environ.get("ITD_SOAK_KILLS") or 100)
INLINE: dict[str, Any] = {"device": "cpu"}
SHARDS: list[dict[str, Any]] = [{"device": "cpu", "shard": (i, 2), "help_others": True} for i in (1, 2)]
WAYS: dict[str, list[dict[str, Any]]] = {
    "inline": [INLINE],
    "cpu*2": [{"devices": "cpu*2"}],
    "concurrent": [INLINE, INLINE],
    "shards": SHARDS,
    "ray": [{"engine": "ray", "workers_per_node": 2}],
}
"""Each as the commands that run at once."""
OFTEN = {"inline": 4, "cpu*2": 5, "concurrent": 5, "shards": 4, "ray": 1}
WITH_WORKERS = ("cpu*2", "ray")


def raw_rows(out: Path) -> pd.DataFrame:
    """All rows of all parts, as they lie on the disk."""
    parts = [pd.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))]
    return pd.concat(parts).sort_values(["config", "sample"], ignore_index=True)


class Kills:
    """A campaign. expected: the rows of a run that was never interrupted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.choose, self.seed = folder, random.Random(seed), seed
        self.kills: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.lost: Counter[int] = Counter()
        self.killed: list[int] = []
        self.out, self.log = folder / "whole.parquet", folder / "whole.log"
        self.ended(WAYS["inline"])
        self.expected = raw_rows(self.out)

    @property
    def count(self) -> int:
        return sum(self.kills.values())

    def start(self, commands: list[dict[str, Any]]) -> list[ForkServerProcess]:
        pause_s = self.choose.choice([0.0, 0.02, 0.05])
        return [started(self.out, self.log, pause_s, how) for how in commands]

    def ended(self, commands: list[dict[str, Any]]) -> None:
        """Commands that nobody interrupts."""
        self.require_ended(self.start(commands))

    def require_ended(self, children: list[ForkServerProcess]) -> None:
        for child in children:
            child.join(WAIT_S)
            assert child.exitcode == 0, f"seed {self.seed}: {child.exitcode}"

    def result(self, ways: list[str]) -> None:
        """One result, which is begun by one way, killed in it, and ended by the same or others."""
        number = self.counts["results"]
        self.out, self.log = self.folder / f"r{number}.parquet", self.folder / f"r{number}.log"
        self.killed, before = [], self.count
        begun_by = ways[0]
        for way in ways:
            self.ended_by = way
            if self.interrupted(way):
                break
        else:
            self.ended_by = self.choose.choice([begun_by, *(name for name in WAYS if name != "ray")])
            self.ended(WAYS[self.ended_by])
        self.check(self.count - before)
        self.counts["mixed"] += self.ended_by != begun_by and self.count > before

    def interrupted(self, way: str) -> bool:
        """Runs the commands of a way and kills some of their processes; whether one of the commands came to its end."""
        running = self.start(WAYS[way])
        for _ in range(self.choose.randint(1, 3 if way in WITH_WORKERS else len(running))):
            self.kill_one(way, running)
        left = [child for child in running if child.pid not in self.killed]
        self.require_ended(left)
        return bool(left)

    def kill_one(self, way: str, running: list[ForkServerProcess]) -> None:
        choose, driver = self.choose, running[0].pid
        if way in WITH_WORKERS and choose.random() < 0.7:
            pids = self.waited_for(lambda: self.workers() - {driver}, running)
        else:
            pids = {child.pid for child in running if child.pid}
        self.waited_for(self.moment(), running)
        pid = choose.choice(sorted(pids)) if pids else None
        if pid is None or pid in self.killed or is_gone(Process(machine(), pid)):
            return
        also = self.workers() if way in WITH_WORKERS and pid == driver else set()
        os.kill(pid, signal.SIGKILL)
        self.killed += [pid, *(also - {pid})]
        self.kills[f"{way}, the driver" if way in WITH_WORKERS and pid == driver else way] += 1
        for child in running:
            if child.pid == pid:
                child.join()
        dead = [Process(machine(), number) for number in (pid, *also)]
        wait_for("the end of what was killed", lambda: all(map(is_gone, dead)))

    def workers(self) -> set[int]:
        return {one.pid for one in at_work(self.out)}

    def moment(self) -> Callable[[], bool]:
        """A random one: after so many units were begun and a little, or simply after a while."""
        begun = len(read_log(self.log)["begun"]) + self.choose.randint(0, IMAGES // PER_UNIT // 2)
        until_s = time.monotonic() + self.choose.uniform(0.0, 1.5)
        if self.choose.random() < 0.3:
            return lambda: time.monotonic() > until_s
        pause_s = self.choose.uniform(0.0, 0.08)

        def come() -> bool:
            if sum(read_log(self.log)["begun"].values()) < begun:
                return False
            time.sleep(pause_s)
            return True

        return come

    def waited_for(self, ready: Callable[[], Any], running: list[ForkServerProcess]) -> Any:
        """What `ready` says, once it is true or all commands have ended."""
        until_s = time.monotonic() + WAIT_S
        while not (found := ready()) and any(child.is_alive() for child in running):
            assert time.monotonic() < until_s, f"seed {self.seed}: a run does nothing"
            time.sleep(0.002)
        return found

    def check(self, kills: int) -> None:
        where = f"ITD_SOAK_SEED={self.seed}, {self.out.name}, ended by {self.ended_by}, after {kills} kills"
        pd.testing.assert_frame_equal(raw_rows(self.out), self.expected)
        assert verify(self.out).complete, where
        if list_claims(self.out / "_itd"):  # of one that was killed when the others had ended
            self.ended(WAYS["inline"])
            self.counts["cleared"] += 1
            assert not list_claims(self.out / "_itd"), where
        noted = read_log(self.log)
        lived = Counter(first for first, pid in noted["begun"].elements() if pid not in self.killed)
        assert max(lived.values(), default=0) <= 1, f"{where}: computed twice, and nobody was killed over it: {lived}"
        lost = [lost_units(noted, pid) for pid in self.killed]
        assert max(lost, default=0) <= 1, f"{where}: a process that was killed cost {lost} units"
        self.lost += Counter(lost)
        self.counts += Counter(
            results=1,
            again=times_again(noted["begun"]),
            whole=times_again(noted["ended"]),
            processes=len(self.killed),
            temporaries=len(list((self.out / "_itd").glob("tmp-*"))),
        )


@pytest.mark.skipif(not SOAK, reason="a hundred kills of sweeps; set ITD_SOAK")
def test_a_hundred_kills_of_workers_lose_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    seed = int(os.environ.get("ITD_SOAK_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ITD_SOAK_SEED={seed}", flush=True)
    kills, began_s = Kills(tmp_path, seed), time.monotonic()
    while kills.count < KILLS:
        ways = kills.choose.choices(list(OFTEN), list(OFTEN.values()), k=kills.choose.randint(1, 3))
        kills.result(ways)
        print(kills.count, ways, dict(kills.counts), flush=True)
    print(f"{kills.count} kills in {time.monotonic() - began_s:.0f} s: {dict(kills.kills)}")
    print(f"{dict(kills.counts)}, lost {dict(kills.lost)}")
