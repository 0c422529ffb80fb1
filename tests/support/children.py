"""Python in a process of its own, within limits of time and of address space: what it does there ends no test run."""

from __future__ import annotations

import subprocess

from support.forked import forked

_LIMIT = """
import os, resource, sys
def limit():
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + {spare},) * 2)
"""


def in_child(code: str, *args: object, spare_bytes: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """How Python code ends.

    It calls `limit()` once it has loaded what it needs: from there on it has as much address space as it has then, and
    `spare_bytes` beyond. A child that takes longer than `seconds` fails the test.
    """
    return forked(_LIMIT.format(spare=spare_bytes) + code, *args, timeout=seconds)
