"""SIGKILL at each step on the disk of a compaction and of a split: the result opens whole, and the command finishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import itd
from itd.store import open_result, verify
from support import synthetic
from support.forked import forked
from support.rows import in_order, part_names

IMAGES, CONFIGS = 10, 4
SCORES = synthetic.make_scores(CONFIGS, IMAGES, seed=4)
GONE = np.isin(np.arange(IMAGES), [5])

CHILD = """
import os, pathlib, shutil, signal, sys
import itd
from support import synthetic as s
source, where, what = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
itd.compact  # is loaded here, once

def act(folder, moment):  # in a process of its own, which dies before the moment-th change of the result
    left = moment

    def die(event, args):
        nonlocal left
        changes = event in ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if event == "open":
            changes = bool(set("xwa") & set(str(args[1] or "")) or args[2] & (os.O_CREAT | os.O_WRONLY))
        if changes and str(folder) in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    if what == "compact":
        itd.compact(folder)
    else:
        s.open_writer(folder, 10, space=s.make_space(4), retry_missing=True)

moment, code = 0, 1
while code != 0:
    moment += 1
    folder = where / str(moment)
    shutil.copytree(source, folder)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(folder, moment)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
print(moment)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three parts, with an image of null rows."""
    return synthetic.make_result(tmp_path / "source", SCORES, missing=GONE)


def killed_at_each_step(source: Path, where: Path, what: str) -> list[Path]:
    """A copy of the result for each step at which a process died; the last one ended by itself."""
    where.mkdir()
    done = forked(CHILD, source, where, what, timeout=120)
    assert done.returncode == 0, done.stderr
    return [where / str(number) for number in range(1, int(done.stdout) + 1)]


def as_read(folder: Path) -> pd.DataFrame:
    assert verify(folder).complete
    return open_result(folder).to_pandas()


def test_a_compaction_that_is_killed_loses_nothing_and_the_same_command_finishes(source, tmp_path):
    table, rows = as_read(source), in_order(source)
    folders = killed_at_each_step(source, tmp_path / "killed", "compact")
    states = set()
    for folder in folders:
        states.add(tuple(part_names(folder)))
        pd.testing.assert_frame_equal(as_read(folder), table)
        itd.compact(folder)
        assert part_names(folder) == ["0-9"] and in_order(folder).equals(rows, check_metadata=True)
        pd.testing.assert_frame_equal(as_read(folder), table)
        left = [one.name for one in (folder / "_itd").iterdir() if one.name.startswith(("tmp-", "part-"))]
        assert len(left) == 1 and left[0].startswith("part-00000000-00000009."), left
    assert len(states) == 5, "as it was; with the file; less one part, two, three"
    assert len(folders) > 15


def test_a_sweep_goes_on_with_what_a_killed_compaction_left(source, tmp_path):
    whole = synthetic.make_result(tmp_path / "whole", SCORES)
    for folder in killed_at_each_step(source, tmp_path / "killed", "compact")[::3]:
        writer = synthetic.open_writer(folder, IMAGES, space=synthetic.make_space(CONFIGS), retry_missing=True)
        synthetic.write_units(writer, SCORES)
        assert in_order(folder).equals(in_order(whole)) and verify(folder).complete


def test_a_split_that_is_killed_loses_nothing_and_the_same_command_finishes(source, tmp_path):
    table, rows = as_read(source), in_order(source)
    itd.compact(source)
    folders = killed_at_each_step(source, tmp_path / "killed", "retry")
    states = set()
    for folder in folders:
        states.add(tuple(part_names(folder)))
        pd.testing.assert_frame_equal(as_read(folder), table)
        writer = synthetic.open_writer(folder, IMAGES, space=synthetic.make_space(CONFIGS), retry_missing=True)
        assert [(unit.first, unit.last) for unit in writer.todo()] == [(4, 7)]
        assert part_names(folder) == ["0-3", "4-7", "8-9"] and in_order(folder).equals(rows)
        assert not list((folder / "_itd").glob("tmp-*"))
    assert len(states) == 5 and len(folders) > 20
