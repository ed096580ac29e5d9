"""A comparison that is interrupted in a training, as a user starts it: the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from bundle_helpers import read_csv
from comparison_helpers import QUICK, as_options, network_file

from mednextv2.comparison.watch import read_progress


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_a_run_goes_on_from_its_last_epoch(way, phantom, tmp_path):
    settings = {**QUICK, "iterations_per_epoch": 40, "epochs": 4, "bundle": "mednextv2_hippocampus"}
    words = [phantom, network_file(tmp_path, "mini"), *as_options({**settings, "output": tmp_path / "out"})]
    command = [sys.executable, "-m", "mednextv2", "compare", *map(str, words)]
    run = tmp_path / "out" / "runs" / "mini" / "fold_0_seed_0"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 300
    while not read_progress(run / "progress.json").seconds and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(way)
    _, err = process.communicate(timeout=60)
    if way == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == (
            f"stopped by Ctrl-C; the same command goes on with the comparison in {tmp_path / 'out'}"
        )
    time.sleep(3)  # the run's process ends after the comparison's, even if that was killed
    before = read_progress(run / "progress.json")
    assert not before.finished
    assert not (run / "outcome.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    after = read_progress(run / "progress.json")
    assert after.seconds[: len(before.seconds)] == before.seconds
    assert after.steps == [40, 80, 120, 160]
    assert f"Resuming after epoch {len(before.seconds)}" in (run / "log.txt").read_text()
    assert [row["steps"] for row in read_csv(tmp_path / "out" / "comparison.csv")] == ["160"]
