"""Files, images, folders and command lines that nobody meant: never a traceback, a signal or a hang.

Cases are drawn in children with limits of time and address space. They are the same ones each time; with ITD_SOAK=N
they are N times as many, of another seed each time, which is printed: ITD_SOAK_SEED=S draws the same again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.forked import MODULE, forked
from support.fuzzing import GROUPS, LAST, SOAK


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_that_is_drawn_is_a_traceback_a_signal_or_a_hang(group: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "ITD_CACHE": str(tmp_path / "cache")}
    limit_s = 300 * max(1, SOAK)
    done = forked(MODULE, "support.fuzzing", group, tmp_path, env=environment, cwd=tmp_path, timeout=limit_s)
    print(done.stdout)
    last = tmp_path / LAST
    case = last.read_text("utf-8") if last.exists() else "none"
    assert done.returncode == 0, (
        f"{done.stderr[-6000:]}\n{done.stdout[-2000:]}\nended in {done.returncode}; last: {case}"
    )
    assert done.stdout.count(" cases in ") >= 2
