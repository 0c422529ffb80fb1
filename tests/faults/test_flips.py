"""One flipped bit in any file of a result is found, or harmless; where it is found, the result can be brought back.

Forty of each kind of file, the same ones each time; with ITD_SOAK, 300 of another seed, which is printed. In a child,
as over damaged Parquet pyarrow could end the process.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from support.flipped import KINDS, UNMENDED
from support.forked import MODULE, forked
from support.fuzzing import SOAK

ALL_FOUND = ("part", "configs", "samples")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_or_harmless(kind: str, tmp_path: Path) -> None:
    count = 300 if SOAK else 40
    seed = int(os.environ.get("ITD_SOAK_SEED") or random.SystemRandom().randrange(2**32)) if SOAK else 0
    done = forked(MODULE, "support.flipped", kind, count, seed, tmp_path, timeout=600)
    assert done.returncode == 0, f"ITD_SOAK_SEED={seed}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    print(f"{kind}: {found} (ITD_SOAK_SEED={seed})")
    assert found["found"] + found["unread"] + found["harmless"] == count and found["found"] >= count // 2
    assert kind not in ALL_FOUND or found["harmless"] == 0
    assert (found["mended"] > 0) is (kind not in UNMENDED)
