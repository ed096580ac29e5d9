"""A GPU that is not there, and kernels that do what a test says, for processes that try them.

The number of channels says what the kernels of a problem do. Every trial adds a line to the file TRIAL_LOG.
"""

import os
import signal
import sys
import time
import types
from pathlib import Path

import torch

from mednextv2.ops import _trial_store as store
from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops import trial
from mednextv2.ops.problem_sizes import Problem

DEVICE = torch.device("cuda", 0)
NAME = "Stand-in 9000"
RIGHT, WRONG, KILLED, HANGING, FULL, ILLEGAL, TOO_LARGE, KILLED_ONCE, ENDED = range(1, 10)  # channels


def problem(channels, dtype=torch.bfloat16):
    return Problem(3, channels, 1024, channels, 3, 1, False, True, True, dtype)


def install(set_attribute=setattr, capability=(9, 0)):
    """Let PyTorch find the GPU, and the trial the kernels of this file."""
    properties = types.SimpleNamespace(name=NAME, major=capability[0], minor=capability[1], total_memory=80 * 2**30)
    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": capability,
        "get_device_name": NAME, "get_device_properties": properties, "is_current_stream_capturing": False,
    }  # fmt: skip
    for name, answer in answers.items():
        set_attribute(torch.cuda, name, lambda *_, answer=answer: answer)
    set_attribute(store, "_driver", lambda: "580.1")
    set_attribute(children, "RUNNER", __name__)


def lines(caplog):
    """Return what was logged."""
    return [record.getMessage() for record in caplog.records]


def new_process(monkeypatch):
    """Forget what this process knows, as a new one does not know it."""
    monkeypatch.setattr(trial, "_known", {})


def trials():
    """Return the channels of what was tried so far, in order."""
    log = Path(os.environ["TRIAL_LOG"])
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def prepare(device):
    """Take the place of `_trial_kernels_against_torch.prepare`."""
    what = os.environ.get("TRIAL_PREPARE")
    if what == "compiler":
        from triton.runtime.build import compile_module_from_src

        compile_module_from_src("int nothing;", "nothing")
    if what == "exit":
        raise SystemExit("the driver said no")
    if what == "headers":
        print("main.c:1:10: fatal error: Python.h: No such file or directory", file=sys.stderr)
        raise RuntimeError("Command '['/usr/bin/gcc']' returned non-zero exit status 1.")
    if what == "sleep":
        time.sleep(3600)
    if what == "exclusive":
        try:
            Path(os.environ["TRIAL_LOG"]).with_name("taken").touch(exist_ok=False)
        except FileExistsError:
            what = "busy"
    if what == "busy":
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
    return what if what == "Another GPU" else NAME


def compare(problem, device, alive):
    """Take the place of `_trial_kernels_against_torch.compare`."""
    channels, before = problem.channels, trials()
    with open(os.environ["TRIAL_LOG"], "a") as file:
        file.write(f"{channels}\n")
    print("a library that writes to the standard output")
    alive()
    if channels == WRONG:
        return "gave other numbers than PyTorch: gradient of w1 differs by 3e-01"
    if channels == KILLED or (channels == KILLED_ONCE and channels not in before):
        os.kill(os.getpid(), signal.SIGSEGV)
    if channels == ENDED:
        os.kill(os.getpid(), signal.SIGKILL)
    if channels == HANGING:
        time.sleep(3600)
    if channels == FULL:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    if channels == ILLEGAL:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")
    if channels == TOO_LARGE:
        from triton.runtime.errors import OutOfResources

        raise OutOfResources(264192, 232448, "shared memory")
    return None
