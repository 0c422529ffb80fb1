"""Memory that is freed and used again, as the system sees it."""

from __future__ import annotations

import os
import platform

import pytest

from support.forked import forked

CHILD = """
import resource
import torch
from itd.runner.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
torch.ones(25_000_000)
print(first, faults())
"""
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_unless_the_environment_says_how_to_allocate():
    first, then = map(int, forked(CHILD, env=PLAIN).stdout.split())
    assert 3 * then < first
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        first, then = map(int, forked(CHILD, env=PLAIN | {name: "1"}).stdout.split())
        assert 2 * then > first
