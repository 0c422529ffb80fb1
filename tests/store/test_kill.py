"""SIGKILL at any moment and the same command again: the same rows, none missing, none twice."""

from __future__ import annotations

import signal
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import pandas as pd

from itd.store import open_result, verify
from support import synthetic
from support.forked import Forked

IMAGES, CONFIGS = 24, 6

CHILD = """
import os, pathlib, signal, sys
from support import synthetic as s
folder, moment = pathlib.Path(sys.argv[1]), int(sys.argv[2])
scores = s.make_scores(6, 24)
left = moment

def die(event, args):  # at the moment-th step on the disk: each open, rename, unlink or listing of the result
    global left
    if moment and event in ("open", "os.rename", "os.remove", "os.mkdir", "os.scandir") and str(folder) in str(args[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
writer = s.open_writer(folder, 24, images_per_unit=2)
for unit in writer.todo():
    here = slice(unit.first, unit.last + 1)
    writer.write(unit, missing=s.np.zeros(len(unit), bool), **{k: v[..., here] for k, v in scores.items()})
    print(unit.first, flush=True)
"""


def start(folder: Path, moment: int) -> Forked:
    return Forked(CHILD, folder, moment, stderr=DEVNULL)


def check_same_rows(folder: Path, tmp_path: Path) -> None:
    whole = synthetic.make_result(tmp_path / "whole", synthetic.make_scores(CONFIGS, IMAGES), images_per_unit=2)
    order = ["config", "sample"]
    here = pd.read_parquet(folder).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(here, pd.read_parquet(whole).sort_values(order, ignore_index=True))
    assert verify(folder).ok
    assert np.array_equal(open_result(folder).samples, np.arange(IMAGES))
    assert not [p for p in (folder / "_itd").iterdir() if p.name.startswith("tmp-")]


def test_killed_at_many_steps_on_the_disk(tmp_path):
    """Each run dies one step later in its work than the one before, from creating the folder to renaming a part."""
    folder = tmp_path / "r"
    for moment in [*range(1, 12), 13, 15, 17, 19, 21, 23]:
        with start(folder, moment) as child:
            child.communicate()
        assert child.returncode == -signal.SIGKILL, f"the run ended before step {moment}"
        if (folder / "_itd/manifest.json").exists():
            assert not verify(folder).damaged
    with start(folder, 0) as child:
        child.communicate()
    assert child.returncode == 0
    check_same_rows(folder, tmp_path)


def test_killed_from_outside_while_it_writes(tmp_path):
    folder = tmp_path / "r"
    for lines in (1, 2, 3, 1):
        with start(folder, 0) as child:
            for _ in range(lines):
                child.stdout.readline()
            child.kill()
        assert not verify(folder).damaged
    with start(folder, 0) as child:
        child.communicate()
    check_same_rows(folder, tmp_path)
