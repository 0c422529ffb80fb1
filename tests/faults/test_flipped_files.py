"""Single-bit flips in files that are no part of a result's folder: found in one line, or harmless, never silent.

A child reads them, so that what ends a process is seen. Thirty of each kind, the same ones each time; with ITD_SOAK,
300 of another seed, which is printed.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from itd.errors import ItdError, ItdWarning
from itd.selectors.selector import load_selector
from itd.space import Setting
from itd.space.listed import SpaceList, read_space, write_space
from support.forked import MODULE, forked
from support.fuzzed_files import some_selector
from support.fuzzing import SOAK

USUAL, SOAKED = 30, 300
KINDS = 7


def test_flips_are_found_or_harmless(tmp_path: Path) -> None:
    count, seed = (SOAKED, random.SystemRandom().randrange(2**32)) if SOAK else (USUAL, 0)
    seed = int(os.environ.get("ITD_SOAK_SEED") or seed)
    print(f"ITD_SOAK_SEED={seed}")
    done = forked(MODULE, "support.flipped_files", count, seed, tmp_path, timeout=120 * max(1, count / USUAL))
    print(done.stdout)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:], done.stdout)
    kinds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kinds) == KINDS
    for said in kinds:
        assert not said["silent"] and said["found"] > count / 3, said


def test_a_selector_of_other_numbers_is_refused_and_one_without_a_hash_opens_with_a_note(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "s.safetensors"
    some_selector("logistic").save(path)
    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    arrays["bias"][0] += 1e-9
    save_file(arrays, path, metadata=header)
    with pytest.raises(ItdError, match="is damaged: it is not what its hash says"):
        load_selector(path)
    save_file(arrays, path, metadata={"itd.selector": header["itd.selector"]})
    with pytest.warns(ItdWarning, match=r"s\.safetensors has no hash, as of an earlier itd") as notes:
        load_selector(path)
    assert len(notes) == 1


def test_a_space_of_other_values_is_refused_and_one_without_a_hash_opens_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_space(path, SpaceList(("stride",), ({"A": Setting(stride=2)}, {}), {"from": ["a"]}))
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole)))  # another layout of the same
    assert read_space(path).origin == {"from": ["a"]}
    path.write_text(whole.replace('"stride": 2', '"stride": 3'))
    with pytest.raises(ItdError, match="is not what its sha256 says"):
        read_space(path)
    held = {name: value for name, value in json.loads(whole).items() if name != "sha256"}
    path.write_text(json.dumps(held))
    with pytest.warns(ItdWarning, match="has no sha256") as notes:
        assert read_space(path).configs[0]["A"].stride == 2
    assert len(notes) == 1
