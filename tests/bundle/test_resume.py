"""A training that is killed without warning goes on where its last epoch ended."""

import csv
import os
import signal
import subprocess
import sys
import time

import torch
from bundle_helpers import HIPPOCAMPUS, QUICK, as_arguments, run_monai


def test_sigkill_in_mid_epoch_resumes_with_the_same_optimizer_schedule_and_epoch(small_phantom, tmp_path):
    settings = {**QUICK, "dataset_dir": small_phantom, "output_dir": tmp_path, "epochs": 3, "warmup_epochs": 1}
    settings |= {"iterations_per_epoch": 3}
    endless = {**settings, "iterations_per_epoch": 3}
    command = [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", str(HIPPOCAMPUS / "configs" / "train.yaml"),
        "--bundle_root", str(HIPPOCAMPUS), *as_arguments(endless),
    ]  # fmt: skip
    checkpoint = tmp_path / "checkpoint_latest.pt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)  # an epoch takes longer than this loop's sleep: the second has begun
    assert process.wait() == -signal.SIGKILL
    killed = torch.load(checkpoint, weights_only=True)
    assert killed["epoch"] in (1, 2)

    result = run_monai("train", settings)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Resuming after epoch {killed['epoch']}" in result.stdout
    after = torch.load(checkpoint, weights_only=True)
    assert after["epoch"] == 3
    with (tmp_path / "training_log.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    rates = [float(r["learning_rate"]) for r in rows]
    assert rates[0] == 0.5e-3  # warm-up: half of the peak
    assert rates[1] == 1e-3
    assert rates[2] == torch.tensor(1e-3 * 0.5**0.9, dtype=torch.float64).item()
    # nine steps in all: the optimizer was not started anew
    steps = {int(s["step"]) for s in after["optimizer"]["state"].values()}
    assert steps == {9}
    assert {int(s["step"]) for s in killed["optimizer"]["state"].values()} == {3 * killed["epoch"]}
