"""Commands whose standard streams were closed, as by `2>&-` or by what starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import synthetic
from support.rows import part_names

RUN = "from itd_cli.main import main; main()"


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", ">&-"])
def test_a_command_ends_well_and_no_file_gets_the_number_of_a_stream(closed: str, tmp_path: Path) -> None:
    path = synthetic.make_result(tmp_path / "r.parquet", synthetic.make_scores(3, 8))
    shell = f'exec "$@" {closed}'
    ended = subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", RUN, "compact", str(path)], timeout=100)
    assert ended.returncode == 0 and part_names(path) == ["0-7"]
