"""The processes that tests fork from a server are like new interpreters, and none outlives its time unnoticed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from support.forked import Forked, forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server asks /proc for its threads")


def test_it_has_arguments_streams_an_environment_and_an_end_of_its_own(tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ.get('X')); sys.stderr.write('e'); sys.exit(7)"
    done = forked(code, "a", 1, cwd=tmp_path, env={"X": "y"})
    assert (done.returncode, done.stdout, done.stderr) == (7, f"['a', '1'] {tmp_path} y\n", "e")


@pytest.mark.parametrize(("code", "ends"), [
    ("raise ValueError('no')", 1), ("import sys; sys.stdout.close()", 0), ("import os; os._exit(5)", 5),
    ("import os; os.kill(os.getpid(), 9)", -9), ("import atexit; atexit.register(print, 'last')", 0),
])  # fmt: skip
def test_it_ends_as_an_interpreter_does(code, ends):
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    done = forked(code)
    assert done.returncode == new.returncode == ends and done.stdout == new.stdout
    assert done.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_one_that_takes_too_long_is_an_error():
    with pytest.raises(subprocess.TimeoutExpired):
        forked("import time; time.sleep(60)", timeout=0.3)


def test_one_whose_own_process_keeps_its_stream_is_an_error():
    code = "import subprocess; print(subprocess.Popen(['sleep', '3']).pid, flush=True)"
    with pytest.raises(subprocess.TimeoutExpired, match="what process"):
        forked(code, timeout=1)


def test_it_can_be_sent_signals():
    with Forked("print('up', flush=True); import time; time.sleep(60)") as child:
        assert child.stdout.readline() == "up\n" and child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == -signal.SIGTERM
