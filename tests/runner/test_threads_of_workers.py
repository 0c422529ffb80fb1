"""How many threads a worker has."""

from __future__ import annotations

import pytest

from itd.runner.member import threads_of


@pytest.mark.parametrize(
    ("said", "threads"),
    [("3", 3), (" 3 ", 3), ("3,2", 3), ("", 4), ("0", 4), ("-3", 4), ("many", 4), ("²", 4), ("9" * 20, 4)],
)
def test_what_no_number_of_threads_is_says_nothing(said: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_of(2, of_cores=8) == threads
