import os
import subprocess
import sys
import time

_RUN = """
import os, time
from mednextv2.comparison.parent import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
_START = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); input()"


def test_a_process_ends_after_the_one_that_started_it_was_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", _START, _RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process = int(parent.stdout.readline())
    time.sleep(1.5)
    assert os.path.exists(f"/proc/{process}")  # as long as the other one lives
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(process)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"  # an ended process may wait for its new parent
    except FileNotFoundError:
        return False
